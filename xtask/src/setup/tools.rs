// SPDX-License-Identifier: Apache-2.0

//! Rust toolchains by rustup, and programs built by cargo.
//!
//! Programs are built once into the cache (they take minutes) and copied to where cargo has its
//! own programs, so that plain `cargo build` finds the linker. Invariant: a program counts as
//! there only if it runs and says the pinned version.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use super::{Fix, Need, Scope};
use crate::{
    command::{self, cache, cargo, cargo_bin, program},
    pins::{self, Tool, Toolchain},
};

/// Adds the toolchains that are missing, or incomplete.
pub(super) fn survey_toolchains(needs: &mut Vec<Need>) {
    if !command::installed("rustup") {
        needs.push(Need {
            what: "rustup".to_owned(),
            why: "installs the pinned Rust toolchains",
            how: "see https://rustup.rs".to_owned(),
            fix: Fix::Person,
        });
        return;
    }
    for toolchain in [&pins::STABLE, &pins::NIGHTLY] {
        if !is_complete(toolchain) {
            needs.push(Need {
                what: format!(
                    "Rust {} with {}",
                    toolchain.name,
                    toolchain.components.join(", ")
                ),
                why: toolchain.why,
                how: format!("rustup {}", arguments(toolchain).join(" ")),
                fix: Fix::Toolchain(toolchain),
            });
        }
    }
}

/// Installs the toolchain and its components.
pub(super) fn install_toolchain(toolchain: &Toolchain) -> Result<()> {
    command::run_aside(program("rustup").args(arguments(toolchain)))
}

fn arguments(toolchain: &Toolchain) -> Vec<&'static str> {
    let mut words = vec!["toolchain", "install", toolchain.name, "--no-self-update"];
    words.extend(["--profile", "minimal"]);
    for component in toolchain.components {
        words.extend(["--component", component]);
    }
    words
}

fn is_complete(toolchain: &Toolchain) -> bool {
    let mut list = program("rustup");
    list.args([
        "component",
        "list",
        "--installed",
        "--toolchain",
        toolchain.name,
    ]);
    let installed = command::output(&mut list).unwrap_or_default();
    // Lines are `clippy-x86_64-unknown-linux-gnu` or `rust-src`.
    let has = |component: &str| installed.lines().any(|line| line.starts_with(component));
    has("rustc") && toolchain.components.iter().all(|component| has(component))
}

/// Adds the programs that are missing, or of another version.
pub(super) fn survey_tools(scopes: &[Scope], needs: &mut Vec<Need>) {
    if !is_pinned(Path::new(pins::BPF_LINKER.name), &pins::BPF_LINKER) {
        needs.push(need(&pins::BPF_LINKER));
    }
    if scopes.contains(&Scope::Check) && cargo_deny().is_none() {
        needs.push(need(&pins::CARGO_DENY));
    }
}

fn need(tool: &'static Tool) -> Need {
    let environment = tool
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value} "));
    let toolchain = pins::STABLE.name;
    Need {
        what: format!("{} {}", tool.name, tool.version),
        why: tool.why,
        how: format!(
            "{}cargo +{toolchain} install {} --version ={} --locked {}",
            environment.collect::<String>(),
            tool.name,
            tool.version,
            tool.arguments.join(" ")
        ),
        fix: Fix::Tool(tool),
    }
}

/// The path or name of the pinned cargo-deny, if it is there.
pub(crate) fn cargo_deny() -> Option<std::path::PathBuf> {
    let name = pins::CARGO_DENY.name;
    let cached = cache().ok()?.join("tools/bin").join(name);
    [cached, name.into()]
        .into_iter()
        .find(|path| is_pinned(path, &pins::CARGO_DENY))
}

/// Copies the program from the cache to cargo's programs; builds it first if it is not there.
pub(super) fn install_tool(tool: &Tool) -> Result<()> {
    let tools = cache()?.join("tools");
    let built = tools.join("bin").join(tool.name);
    if !is_pinned(&built, tool) {
        let mut install = cargo(&pins::STABLE);
        install.args(["install", tool.name, "--locked", "--force"]);
        install.arg("--version").arg(format!("={}", tool.version));
        install.args(tool.arguments).arg("--root").arg(&tools);
        command::run_aside(install.envs(tool.environment.iter().copied()))?;
        ensure!(
            is_pinned(&built, tool),
            "{} was built and does not run",
            built.display()
        );
    }
    let place = cargo_bin()?;
    fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
    let target = place.join(tool.name);
    eprintln!("    {} -> {}", built.display(), target.display());
    // Replaced by a rename, so that a build that runs now keeps its linker.
    let fresh = place.join(format!(".{}.new", tool.name));
    fs::copy(&built, &fresh).with_context(|| format!("copy to {}", fresh.display()))?;
    fs::rename(&fresh, &target).with_context(|| format!("replace {}", target.display()))
}

fn is_pinned(path: &Path, tool: &Tool) -> bool {
    let version = command::output(program(path).arg("--version")).unwrap_or_default();
    version.trim() == format!("{} {}", tool.name, tool.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_the_linker_names_version_features_and_llvm() {
        assert_eq!(
            need(&pins::BPF_LINKER).how,
            "LLVM_PREFIX=/usr/lib/llvm-22 cargo +1.99.1 install bpf-linker --version =0.13.0 \
             --locked --no-default-features --features llvm-22"
        );
    }

    #[test]
    fn every_component_is_asked_for() {
        let words = arguments(&pins::NIGHTLY).join(" ");
        assert!(words.starts_with("toolchain install nightly-"), "{words}");
        assert!(words.contains("--component rust-src"), "{words}");
    }
}
