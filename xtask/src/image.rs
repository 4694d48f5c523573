// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask image`: the agent as a container image, and the images of programs for tests.
//!
//! Owns the names of the images. No registry is needed: they are archives (`archive`) that nodes
//! import. Knows nothing of clusters. Invariant: the agent's image holds the agent as the sources
//! are now; a test program's image is packed once for each version of the program.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    artefacts::{self, Profile},
    command::{self, cache, program},
    programs::{self, Program},
    setup::{self, Lacking, Scope},
};

mod archive;
mod tar;

use self::archive::{Image, stripped};

/// The agent.
pub(crate) const AGENT: &str = "mesh-agent.local/mesh-agent:dev";
/// The first process of every pod.
pub(crate) const PAUSE: &str = "mesh-agent.local/pause:1";
/// The Go applications of the scenarios.
const APPLICATIONS: &str = "mesh-agent.local/applications:dev";
/// Istio's control plane.
const ISTIOD: &str = "mesh-agent.local/istiod:dev";
/// What Gateway API's manifests of its conformance suite ask for.
pub(crate) const ECHO: &str = "registry.k8s.io/gateway-api/echo-advanced:v1.5.1";

/// The command itself.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let (mut out, mut profile) = (None, artefacts::PROFILE);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--release" => profile = Profile::Release,
            "--out" => {
                let path = rest.next().map(PathBuf::from);
                out = Some(path.ok_or_else(|| Lacking::usage("--out takes a file".to_owned()))?);
            }
            other => {
                return Err(Lacking::usage(format!(
                    "image does not know {other:?}: --out FILE, --release"
                )));
            }
        }
    }
    setup::ensure(&[Scope::Build])?;
    let image = agent(profile)?;
    let image = match out {
        Some(out) => {
            fs::copy(&image, &out).with_context(|| format!("write {}", out.display()))?;
            out
        }
        None => image,
    };
    eprintln!("    {AGENT} in {}", image.display());
    eprintln!("    cargo xtask cluster load {}", image.display());
    Ok(())
}

/// Builds the agent and packs it; returns the archive.
pub(crate) fn agent(profile: Profile) -> Result<PathBuf> {
    let program = stripped(&artefacts::agent_of(profile)?)?;
    let mut image = Image::new(AGENT, "/mesh-agent")?;
    image.program(&program, "/mesh-agent")?;
    let to = command::target().join("images").join("mesh-agent.tar");
    image.write(&to)?;
    Ok(to)
}

/// What tells this image from others of the same name.
pub(crate) fn digest(archive: &Path) -> Result<String> {
    let said = command::output(program("sha256sum").arg(archive)).unwrap_or_default();
    let digest = said.split_whitespace().next().map(str::to_owned);
    digest.with_context(|| format!("no digest of {}", archive.display()))
}

/// The archive of the image that every pod starts with.
pub(crate) fn pause() -> Result<PathBuf> {
    of_program(PAUSE, &programs::PAUSE, "/pause")
}

/// The archives of the programs that tests run in pods.
pub(crate) fn for_tests() -> Result<Vec<PathBuf>> {
    let applications = of_program(APPLICATIONS, &programs::APPLICATIONS, "/applications")?;
    Ok(vec![applications])
}

/// The same with Istio's control plane.
pub(crate) fn with_istiod() -> Result<Vec<PathBuf>> {
    let mut images = for_tests()?;
    images.push(of_program(ISTIOD, &programs::ISTIOD, "/pilot-discovery")?);
    Ok(images)
}

/// The archive of Istio's echo: what the conformance suite runs in pods.
pub(crate) fn echo() -> Result<PathBuf> {
    let client = programs::ECHO_CLIENT.get()?;
    let server = programs::ECHO_SERVER.get()?;
    let to = place(&server)?;
    if to.is_file() {
        return Ok(to);
    }
    let (key, certificate) = (to.with_extension("key"), to.with_extension("crt"));
    let mut issue = program("openssl");
    issue.args(["req", "-x509", "-newkey", "ec", "-pkeyopt"]);
    issue.args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650"]);
    issue.args(["-subj", "/CN=echo", "-keyout"]).arg(&key);
    let done = command::output(issue.arg("-out").arg(&certificate));
    done.context("openssl makes no certificate for the echo server")?;
    let mut image = Image::new(ECHO, "/usr/local/bin/server")?;
    image.program(&client, "/usr/local/bin/client")?;
    image.program(&server, "/usr/local/bin/server")?;
    image.file(&certificate, "/cert.crt", 0o644)?;
    image.file(&key, "/cert.key", 0o644)?;
    image.write(&to)?;
    Ok(to)
}

fn of_program(reference: &str, program: &Program, entrypoint: &str) -> Result<PathBuf> {
    let path = program.get()?;
    let to = place(&path)?;
    if !to.is_file() {
        let mut image = Image::new(reference, entrypoint)?;
        image.program(&path, entrypoint)?;
        image.write(&to)?;
    }
    Ok(to)
}

/// Where the image of a program in the cache is kept: its version is in the program's name.
fn place(program: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program has a name")?;
    let directory = cache()?.join("images");
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    Ok(directory.join(name).with_extension("tar"))
}
