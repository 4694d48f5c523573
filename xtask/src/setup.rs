// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask setup`: makes a Debian 12 machine with rustup and root able to build and test.
//!
//! Every command calls [`ensure`] for what it needs itself, so nobody has to run set-up by hand.
//! Knows nothing of versions (`pins`). Invariants: what is there is left alone and costs
//! milliseconds to find; what is installed is announced with its reason; what cannot be
//! installed (no root, another distribution) is listed in full, and nothing is half done.
//! Reference: `mesh-agent/docs/adr/0001-toolchain-pin.md`.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    time::Instant,
};

use anyhow::{Context, Result};

use crate::{
    command::{self, root, spell},
    pins,
};

mod go;
mod mounts;
mod packages;
mod tools;

pub(crate) use self::{go::directory as go_directory, tools::cargo_deny};

/// What a command is going to do, and so needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Compile the agent with its kernel programs.
    Build,
    /// Check dependencies.
    Check,
    /// Run agents and applications on nodes made of network namespaces.
    Nodes,
    /// Run applications and clients in other languages there.
    Applications,
    /// Measure data planes there.
    Benchmark,
    /// Boot other kernels.
    Kernels,
    /// Run a real Kubernetes.
    Cluster,
}

/// One thing that the machine lacks.
#[derive(Debug)]
pub(crate) struct Need {
    /// Its name.
    what: String,
    /// What it is for.
    why: &'static str,
    /// The command that gets it.
    how: String,
    fix: Fix,
}

#[derive(Debug)]
enum Fix {
    Toolchain(&'static pins::Toolchain),
    Package(&'static str),
    Tool(&'static pins::Tool),
    Go,
    Mount(&'static mounts::Mount),
    /// Only a person can give it.
    Person,
}

/// The machine lacks something that we cannot give it: exit code 2.
#[derive(Debug)]
pub(crate) struct Lacking(String);

impl Lacking {
    /// The command line is wrong.
    pub(crate) fn usage(text: String) -> anyhow::Error {
        Self(text).into()
    }

    /// Returns an error unless we are root; `why` says what root is needed for.
    pub(crate) fn unless_root(why: &str) -> Result<()> {
        if command::is_root() {
            return Ok(());
        }
        Err(Self(format!("root is missing: {why}; run the command as root")).into())
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Lacking {}

/// The command itself: everything for all other commands, or only what building takes.
pub(crate) fn run(words: &[String]) -> Result<()> {
    match words {
        [] => ensure(&[
            Scope::Build,
            Scope::Check,
            Scope::Nodes,
            Scope::Applications,
            Scope::Benchmark,
            Scope::Kernels,
            Scope::Cluster,
        ]),
        [word] if word == "build" => ensure(&[Scope::Build]),
        [word, ..] => Err(Lacking::usage(format!(
            "setup takes `build` or nothing, got {word:?}"
        ))),
    }
}

/// Installs what is missing for `scopes`, or says what is missing and how to get it.
pub(crate) fn ensure(scopes: &[Scope]) -> Result<()> {
    let started = Instant::now();
    let needs = survey(scopes);
    if needs.is_empty() {
        write_toolchain_file()?;
        eprintln!("--- set-up: all there, {}", spell(started.elapsed()));
        return Ok(());
    }
    if let Some(obstacle) = obstacle(&needs, command::is_root(), packages::is_debian_12()) {
        return Err(Lacking(list(&needs, &obstacle)).into());
    }
    eprintln!("--- set-up: {} to get", needs.len());
    for need in &needs {
        eprintln!("    {}: {}", need.what, need.why);
    }
    install(&needs)?;
    write_toolchain_file()?;
    eprintln!("--- set-up: ok, {}", spell(started.elapsed()));
    Ok(())
}

fn survey(scopes: &[Scope]) -> Vec<Need> {
    let mut needs = Vec::new();
    tools::survey_toolchains(&mut needs);
    // LLVM's packages are only needed to build the linker, not to run it.
    let mut building = Vec::new();
    tools::survey_tools(scopes, &mut building);
    packages::survey(scopes, building.iter().any(Need::is_linker), &mut needs);
    needs.append(&mut building);
    if scopes.contains(&Scope::Applications) || scopes.contains(&Scope::Cluster) {
        go::survey(&mut needs);
    }
    if scopes.contains(&Scope::Nodes) || scopes.contains(&Scope::Cluster) {
        mounts::survey(&mut needs);
    }
    needs
}

impl Need {
    fn is_linker(&self) -> bool {
        matches!(self.fix, Fix::Tool(tool) if tool.name == pins::BPF_LINKER.name)
    }

    fn needs_root(&self) -> bool {
        matches!(self.fix, Fix::Package(_) | Fix::Mount(_))
    }
}

/// Why we cannot install all of `needs`, if so.
fn obstacle(needs: &[Need], is_root: bool, is_debian: bool) -> Option<String> {
    let packages = needs.iter().any(|need| matches!(need.fix, Fix::Package(_)));
    if needs.iter().any(|need| matches!(need.fix, Fix::Person)) {
        return Some("a part of it only you can install".to_owned());
    }
    if packages && !is_debian {
        return Some("this is not Debian 12, whose packages set-up knows".to_owned());
    }
    if needs.iter().any(Need::needs_root) && !is_root {
        return Some(
            "set-up is not run by root, who alone may install packages and mount".to_owned(),
        );
    }
    None
}

fn list(needs: &[Need], obstacle: &str) -> String {
    let mut text = format!(
        "this machine lacks {} thing(s), and {obstacle}:",
        needs.len()
    );
    for need in needs {
        text.push_str(&format!(
            "\n  {} ({})\n      {}",
            need.what, need.why, need.how
        ));
    }
    text
}

fn install(needs: &[Need]) -> Result<()> {
    let wanted: Vec<&str> = needs
        .iter()
        .filter_map(|need| match need.fix {
            Fix::Package(name) => Some(name),
            _ => None,
        })
        .collect();
    packages::install(&wanted)?;
    for need in needs {
        match need.fix {
            Fix::Toolchain(toolchain) => tools::install_toolchain(toolchain),
            Fix::Tool(tool) => tools::install_tool(tool),
            Fix::Go => go::install(),
            Fix::Mount(mount) => mount.mount(),
            Fix::Package(_) | Fix::Person => Ok(()),
        }
        .with_context(|| format!("get {}; by hand: {}", need.what, need.how))?;
    }
    Ok(())
}

/// Makes plain `cargo` in this checkout use the pinned toolchain, now that it is installed.
fn write_toolchain_file() -> Result<()> {
    let path = root().join("rust-toolchain.toml");
    let want = format!(
        "# Written by `cargo xtask setup`; the pins are in xtask/src/pins.rs.\n\
         [toolchain]\nchannel = \"{}\"\ncomponents = {:?}\nprofile = \"minimal\"\n",
        pins::STABLE.name,
        pins::STABLE.components,
    );
    if fs::read_to_string(&path).is_ok_and(|text| text == want) {
        return Ok(());
    }
    match fs::write(&path, want) {
        // A read-only checkout can be built as well: xtask names the toolchain to every cargo.
        Err(error) if read_only(&error) => Ok(()),
        result => result.with_context(|| format!("write {}", path.display())),
    }
}

fn read_only(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> Need {
        Need {
            what: "Debian package cpio".to_owned(),
            why: "packs",
            how: "apt-get install cpio".to_owned(),
            fix: Fix::Package("cpio"),
        }
    }

    fn toolchain() -> Need {
        Need {
            what: "Rust 1.99.1".to_owned(),
            why: "builds",
            how: "rustup toolchain install 1.99.1".to_owned(),
            fix: Fix::Toolchain(&pins::STABLE),
        }
    }

    #[test]
    fn root_on_debian_may_install_everything() {
        assert_eq!(obstacle(&[package(), toolchain()], true, true), None);
    }

    #[test]
    fn toolchains_need_neither_root_nor_debian() {
        assert_eq!(obstacle(&[toolchain()], false, false), None);
    }

    #[test]
    fn packages_need_root_and_debian() {
        assert!(obstacle(&[package()], false, true).is_some_and(|text| text.contains("root")));
        assert!(obstacle(&[package()], true, false).is_some_and(|text| text.contains("Debian 12")));
    }

    #[test]
    fn what_is_missing_is_listed_with_the_command_that_gets_it() {
        let text = list(&[package(), toolchain()], "you are not root");
        assert!(text.contains("apt-get install cpio"), "{text}");
        assert!(text.contains("rustup toolchain install 1.99.1"), "{text}");
    }
}
