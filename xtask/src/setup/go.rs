// SPDX-License-Identifier: Apache-2.0

//! A Go toolchain of at least the pinned version, for applications and clients written in Go.
//!
//! Debian 12's own is too old for them, but old Go can fetch new Go: toolchains are published as
//! a module, which comes through the module proxy and is checked against the checksum database
//! like any other. Knows nothing of what is built. Invariant: a Go that is installed and new
//! enough is used as it is; ours lives in the cache and is never put into anybody's `PATH`.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::{Fix, Need};
use crate::{
    command::{self, cache, program},
    pins,
};

const MODULE: &str = "golang.org/toolchain";

/// Where the files of a toolchain that have to be executable are, from its root.
const PROGRAMS: &[&str] = &["bin", "pkg/tool/linux_amd64"];

/// Adds Go, unless there is one that is new enough.
pub(super) fn survey(needs: &mut Vec<Need>) {
    if directory().is_some() {
        return;
    }
    if command::find("go").is_none() {
        needs.push(Need {
            what: "Debian package golang-go".to_owned(),
            why: "fetches a newer Go",
            how: "apt-get install golang-go".to_owned(),
            fix: Fix::Package("golang-go"),
        });
    }
    needs.push(Need {
        what: format!("Go {}", pins::GO),
        why: "builds applications and clients that are not ours",
        how: format!(
            "go mod download {MODULE}@{}, or see https://go.dev/dl",
            version()
        ),
        fix: Fix::Go,
    });
}

/// The directory that holds a `go` that is new enough.
pub(crate) fn directory() -> Option<PathBuf> {
    let installed = command::find("go");
    let cached = place().ok().map(|place| place.join("bin/go"));
    let found = installed
        .into_iter()
        .chain(cached)
        .find(|go| is_new_enough(go))?;
    found.parent().map(Path::to_path_buf)
}

/// Fetches Go into the cache.
pub(super) fn install() -> Result<()> {
    let old = command::find("go").context("no go to fetch the newer one with")?;
    let place = place()?;
    let work = place.with_extension("part");
    let mut fetch = program(old);
    fetch.args(["mod", "download", &format!("{MODULE}@{}", version())]);
    fetch.env("GOMODCACHE", &work).env("GOTOOLCHAIN", "local");
    fetch.env("GOFLAGS", "-modcacherw");
    command::run_aside(&mut fetch)?;
    let unpacked = work.join(format!("{MODULE}@{}", version()));
    for directory in PROGRAMS {
        make_executable(&unpacked.join(directory))?;
    }
    fs::rename(&unpacked, &place).with_context(|| format!("rename to {}", place.display()))?;
    fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    let go = place.join("bin/go");
    ensure!(
        is_new_enough(&go),
        "{} was fetched and does not run",
        go.display()
    );
    Ok(())
}

fn make_executable(directory: &Path) -> Result<()> {
    let context = || format!("make the programs in {} executable", directory.display());
    for entry in fs::read_dir(directory).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if path.is_file() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).with_context(context)?;
        }
    }
    Ok(())
}

/// The version of the module, which carries the platform.
fn version() -> String {
    format!("v0.0.1-go{}.linux-amd64", pins::GO)
}

fn place() -> Result<PathBuf> {
    Ok(cache()?.join(format!("go-{}", pins::GO.replace('.', "-"))))
}

fn is_new_enough(go: &Path) -> bool {
    // As it is, not what it would replace itself with.
    let mut ask = program(go);
    let said = command::output(ask.arg("version").env("GOTOOLCHAIN", "local"));
    let version = said.as_deref().and_then(named);
    version.is_some_and(|version| version >= numbers(pins::GO))
}

/// The version in `go version go1.26.8 linux/amd64`.
fn named(said: &str) -> Option<Vec<u32>> {
    let word = said.split(' ').nth(2)?;
    Some(numbers(word.strip_prefix("go")?))
}

fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map_while(|part| part.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        let old = named("go version go1.19.8 linux/amd64").expect("that is how go says it");
        assert!(old < numbers("1.26.8"));
        assert!(numbers("1.27") > numbers("1.26.8"));
        assert!(numbers("1.26.10") > numbers("1.26.8"));
    }

    #[test]
    fn a_go_that_says_nothing_is_no_go() {
        assert_eq!(named(""), None);
    }
}
