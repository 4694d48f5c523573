// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask gen`: files that are made from the program's own types.
//!
//! The agent prints them, this writes them. Knows nothing of what they say. Invariant: nobody edits
//! them; `cargo xtask check` fails when they are not what the agent prints.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    artefacts,
    command::{self, program},
    setup::{self, Lacking, Scope},
};

/// Where CustomResourceDefinitions are.
const CRDS: &str = "deploy/crds";

const HEAD: &str = "\
# SPDX-License-Identifier: Apache-2.0
# Made from the agent's types by `cargo xtask gen`: do not edit.
";

/// The command itself.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let check_only = match words[..] {
        [] => false,
        ["--check"] => true,
        _ => return Err(Lacking::usage("gen takes --check or nothing".to_owned())),
    };
    setup::ensure(&[Scope::Build])?;
    if check_only { check() } else { write() }
}

/// Fails if a file is not what would be written.
pub(crate) fn check() -> Result<()> {
    let made = make()?;
    let place = command::root().join(CRDS);
    let stale: Vec<String> = made
        .iter()
        .filter(|(name, text)| fs::read_to_string(place.join(name)).ok().as_ref() != Some(*text))
        .map(|(name, _)| format!("{CRDS}/{name} is not what the types say"))
        .chain(
            strangers(&place, &made)?
                .iter()
                .map(|path| format!("{} belongs to no type", path.display())),
        )
        .collect();
    if stale.is_empty() {
        return Ok(());
    }
    bail!("{}: run `cargo xtask gen`", stale.join("; "))
}

fn write() -> Result<()> {
    let made = make()?;
    let place = command::root().join(CRDS);
    fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
    for path in strangers(&place, &made)? {
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    for (name, text) in made {
        let path = place.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

/// File names and texts.
fn make() -> Result<BTreeMap<String, String>> {
    let agent = artefacts::agent()?;
    let printed =
        command::output(program(agent).arg("crds")).context("the agent prints no CRDs")?;
    let made = split(&printed)?;
    ensure!(!made.is_empty(), "the agent prints no CRDs");
    Ok(made)
}

/// The documents of a stream, each of which begins with a comment that names it.
fn split(stream: &str) -> Result<BTreeMap<String, String>> {
    let mut made = BTreeMap::new();
    for document in stream.split("---\n").filter(|part| !part.trim().is_empty()) {
        let (name, body) = document
            .strip_prefix("# ")
            .and_then(|rest| rest.split_once('\n'))
            .context("a document without a name")?;
        made.insert(format!("{name}.yaml"), format!("{HEAD}{body}"));
    }
    Ok(made)
}

/// Files in `place` that are not made.
fn strangers(place: &Path, made: &BTreeMap<String, String>) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(place) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", place.display()))?;
        let is_made = entry
            .file_name()
            .to_str()
            .is_some_and(|name| made.contains_key(name));
        if !is_made {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_becomes_a_file_per_document() {
        let made = split("---\n# a.example\nx: 1\n---\n# b.example\ny: 2\n").expect("both named");
        let names: Vec<&str> = made.keys().map(String::as_str).collect();
        assert_eq!(names, ["a.example.yaml", "b.example.yaml"]);
        assert!(made["a.example.yaml"].ends_with("do not edit.\nx: 1\n"));
    }

    #[test]
    fn a_document_without_a_name_is_refused() {
        assert!(split("---\nx: 1\n").is_err());
    }
}
