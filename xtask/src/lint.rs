// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask lint`: the rules of layout that no compiler checks.
//!
//! Owns the walk through the sources and the report. The rules are in the files below: which
//! module may name which (`arrows`), what a file may look like (`files`). Invariant: a rule looks
//! at text that it is given, so every rule is tested on small samples; only this file reads.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use self::source::Source;
use crate::command::root;

mod arrows;
mod files;
mod source;

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Path from the root of the workspace.
    pub(crate) path: String,
    /// Counted from 1; 0 stands for the file as a whole.
    pub(crate) line: usize,
    /// What is wrong, and what to do instead.
    pub(crate) text: String,
}

/// The command itself.
pub(crate) fn run(words: &[String]) -> Result<()> {
    if let Some(word) = words.first() {
        return Err(crate::setup::Lacking::usage(format!(
            "lint takes no arguments, got {word:?}"
        )));
    }
    check()
}

/// Prints every broken rule, and fails if there is one.
pub(crate) fn check() -> Result<()> {
    let root = root();
    let mut findings = files::root_entries(&visible(&root)?);
    let mut paths = Vec::new();
    for package in files::PACKAGES {
        collect(&root.join(package), &mut paths)?;
    }
    paths.sort();
    let mut sources = 0;
    for path in &paths {
        let name = path
            .strip_prefix(&root)
            .unwrap_or(path)
            .to_string_lossy()
            .into_owned();
        findings.extend(files::name(&name));
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).with_context(|| format!("read {name}"))?;
            findings.extend(of_source(&name, &text));
            sources += 1;
        }
    }
    for Finding { path, line, text } in &findings {
        eprintln!("{path}:{line}: {text}");
    }
    if !findings.is_empty() {
        bail!("{} broken rules", findings.len());
    }
    eprintln!("    {} files, {sources} of them Rust", paths.len());
    Ok(())
}

fn of_source(name: &str, text: &str) -> Vec<Finding> {
    let source = Source::new(text);
    let mut findings = files::header(name, text);
    findings.extend(files::length(name, text));
    findings.extend(files::marks(name, &source));
    findings.extend(files::toolchain(name, text));
    if let Some(inside) = name.strip_prefix("mesh-agent/src/") {
        findings.extend(arrows::check(name, inside, &source));
    }
    findings
}

/// The names in the root that `ls` shows, without what git ignores there.
fn visible(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root).context("read the root")? {
        let name = entry
            .context("read the root")?
            .file_name()
            .to_string_lossy()
            .into_owned();
        if !name.starts_with('.') && !files::IGNORED.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let entry = entry.with_context(|| format!("read {}", directory.display()))?;
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || entry.file_name() == "target" {
            continue;
        }
        if path.is_dir() {
            collect(&path, paths)?
        } else {
            paths.push(path)
        }
    }
    Ok(())
}
