// SPDX-License-Identifier: Apache-2.0

//! Programs in Go that tests run beside the agent: Kubernetes, CoreDNS, suites, applications.
//!
//! Each comes from a module of `tests/` that pins its version, and is built once into the cache;
//! its name there carries a digest of the module's own files, so another version is another file.
//! Knows nothing of what they do. Invariant: a file in the cache is whole: it is built under
//! another name, under a lock, and then renamed.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{self, cache, program, root, spell},
    setup,
};

/// One program.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its name in the cache.
    name: &'static str,
    /// The directory of its module, below `tests/`.
    module: &'static str,
    /// The first words for `go`.
    build: &'static [&'static str],
    package: &'static str,
    /// Whether it may be linked with the C library; without it, it runs anywhere.
    c_library: bool,
}

/// The version that the API server says; that of the module in `tests/kubernetes`.
const KUBERNETES_VERSION: &str =
    "-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3";
const SMALL: &str = "-ldflags=-s -w";

/// All of Kubernetes, kubectl and etcd.
pub(crate) const KUBERNETES: Program = Program {
    name: "kubernetes",
    module: "kubernetes",
    build: &["build", "-trimpath", "-buildvcs=false", KUBERNETES_VERSION],
    package: ".",
    c_library: true,
};

/// The first process of every pod.
pub(crate) const PAUSE: Program = Program {
    name: "pause",
    module: "kubernetes",
    build: &["build", "-trimpath", "-buildvcs=false", SMALL],
    package: "./pause",
    c_library: false,
};

/// Cluster DNS.
pub(crate) const COREDNS: Program = Program {
    name: "coredns",
    module: "coredns",
    build: &["build", "-trimpath", "-buildvcs=false", SMALL],
    package: ".",
    c_library: true,
};

/// Gateway API's conformance suite.
pub(crate) const CONFORMANCE: Program = Program {
    name: "conformance",
    module: "conformance",
    build: &["test", "-c", "-trimpath", "-buildvcs=false", SMALL],
    package: ".",
    c_library: true,
};

/// The client of Istio's echo, which the conformance suite calls inside pods.
pub(crate) const ECHO_CLIENT: Program = Program {
    name: "echo-client",
    module: "istio-echo",
    build: &["build", "-mod=mod", "-buildvcs=false"],
    package: "istio.io/istio/pkg/test/echo/cmd/client",
    c_library: false,
};

/// Its server.
pub(crate) const ECHO_SERVER: Program = Program {
    name: "echo-server",
    module: "istio-echo",
    build: &["build", "-mod=mod", "-buildvcs=false"],
    package: "istio.io/istio/pkg/test/echo/cmd/server",
    c_library: false,
};

/// Istio's control plane: a certificate authority that other people wrote.
pub(crate) const ISTIOD: Program = Program {
    name: "istiod",
    module: "istiod",
    // As the echo programs, with which it shares most packages.
    build: &["build", "-mod=mod", "-buildvcs=false", SMALL],
    package: "istio.io/istio/pilot/cmd/pilot-discovery",
    c_library: false,
};

/// The Go applications of the scenarios.
pub(crate) const APPLICATIONS: Program = Program {
    name: "applications",
    module: "go",
    build: &["build", "-trimpath", "-buildvcs=false", SMALL],
    package: ".",
    c_library: false,
};

impl Program {
    /// Returns the path of the program; builds it first when it is not there.
    pub(crate) fn get(&self) -> Result<PathBuf> {
        let path = cache()?.join(format!("{}-{:016x}", self.name, self.digest()?));
        if path.is_file() {
            return Ok(path);
        }
        let started = Instant::now();
        eprintln!("--- build {} (once, into the cache)", self.name);
        self.build(&path)?;
        self.forget_others(&path)?;
        eprintln!("--- build {}: ok, {}", self.name, spell(started.elapsed()));
        Ok(path)
    }

    /// Where its module lies.
    pub(crate) fn directory(&self) -> PathBuf {
        root().join("tests").join(self.module)
    }

    fn build(&self, path: &Path) -> Result<()> {
        let parent = path.parent().context("a cached file has a directory")?;
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        let fresh = path.with_extension(format!("part{}", std::process::id()));
        let mut build = program("flock");
        build.arg(parent.join(format!("{}.lock", self.name)));
        build.arg(go()?).args(self.build).arg("-o").arg(&fresh);
        build.arg(self.package).current_dir(self.directory());
        build.env("GOTOOLCHAIN", "local").env_remove("GOFLAGS");
        if !self.c_library {
            build.env("CGO_ENABLED", "0");
        }
        command::run_aside(&mut build)?;
        ensure!(fresh.is_file(), "go built no {}", self.name);
        fs::rename(&fresh, path).with_context(|| format!("rename to {}", path.display()))
    }

    /// Removes what earlier versions of the module gave, which nobody will ask for again.
    fn forget_others(&self, path: &Path) -> Result<()> {
        let directory = path.parent().context("a cached file has a directory")?;
        let entries = fs::read_dir(directory).context("read the cache")?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let digest = name
                .strip_prefix(self.name)
                .and_then(|rest| rest.strip_prefix('-'));
            let old = digest.is_some_and(|digest| {
                digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
            if old && entry.path() != path {
                fs::remove_file(entry.path()).with_context(|| format!("remove {name}"))?;
            }
        }
        Ok(())
    }

    /// What it is built from, in a number. Another compiler of xtask may give another one, which
    /// costs a build and nothing else.
    fn digest(&self) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        (self.build, self.package, self.c_library).hash(&mut hasher);
        let mut files = Vec::new();
        sources(&self.directory(), &mut files)?;
        files.sort();
        for path in files {
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            path.strip_prefix(root()).unwrap_or(&path).hash(&mut hasher);
            bytes.hash(&mut hasher);
        }
        Ok(hasher.finish())
    }
}

/// The directory of the module `name` that `program` is built from.
pub(crate) fn module_directory(program: &Program, name: &str) -> Result<PathBuf> {
    let mut download = command::program(go()?);
    download.args(["mod", "download", name]);
    download.current_dir(program.directory());
    command::run_aside(download.env("GOTOOLCHAIN", "local"))?;
    let mut list = command::program(go()?);
    list.args(["list", "-m", "-f", "{{.Dir}}", name]);
    list.current_dir(program.directory())
        .env("GOTOOLCHAIN", "local");
    let said = command::output(&mut list).unwrap_or_default();
    ensure!(
        !said.trim().is_empty(),
        "go knows no directory of {name} in {}",
        program.directory().display()
    );
    Ok(PathBuf::from(said.trim()))
}

fn go() -> Result<PathBuf> {
    let directory = setup::go_directory().context("Go vanished since set-up")?;
    Ok(directory.join("go"))
}

fn sources(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let context = || format!("read {}", directory.display());
    for entry in fs::read_dir(directory).with_context(context)? {
        let path = entry.with_context(context)?.path();
        let kind = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() {
            sources(&path, files)?;
        } else if matches!(kind, Some("go" | "mod" | "sum")) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_a_module_that_pins_it() {
        let all = [
            &KUBERNETES,
            &PAUSE,
            &COREDNS,
            &CONFORMANCE,
            &ECHO_CLIENT,
            &ECHO_SERVER,
            &ISTIOD,
            &APPLICATIONS,
        ];
        for program in all {
            assert!(program.directory().join("go.sum").is_file(), "{program:?}");
            assert_eq!(
                program.digest().expect("the module can be read"),
                program.digest().expect("the module can be read"),
            );
        }
    }

    #[test]
    fn the_api_server_says_the_version_of_its_module() {
        let pinned = fs::read_to_string(KUBERNETES.directory().join("go.mod"))
            .expect("the module can be read");
        let said = KUBERNETES_VERSION.rsplit('=').next().expect("a version");
        assert!(
            pinned.contains(&format!("k8s.io/kubernetes {said}")),
            "{said}"
        );
    }

    #[test]
    fn all_of_istio_is_of_one_version() {
        let pinned = |program: &Program| {
            let text = fs::read_to_string(program.directory().join("go.mod"))
                .expect("the module can be read");
            let line = text.lines().find(|line| line.contains("istio.io/istio "));
            line.expect("it needs Istio").to_owned()
        };
        assert_eq!(pinned(&ISTIOD), pinned(&ECHO_SERVER));
    }
}
