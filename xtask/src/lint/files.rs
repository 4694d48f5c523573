// SPDX-License-Identifier: Apache-2.0

//! What a file may be called, how it begins, how long it is, and what it may not hold.
//!
//! Knows nothing of modules. Invariant: an exception stands in a list here, with its reason.

use std::path::Path;

use super::{
    Finding,
    source::{Source, is_word},
};
use crate::pins;

/// Everything that `ls` shows in the root.
const ROOT: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "deploy",
    "mesh-agent",
    "mesh-common",
    "mesh-ebpf",
    "tests",
    "xtask",
];

/// Directories of the root that hold our files.
pub(super) const PACKAGES: &[&str] = &[
    "deploy",
    "mesh-agent",
    "mesh-common",
    "mesh-ebpf",
    "tests",
    "xtask",
];

/// Visible in the root of a checkout, and ignored by git.
pub(super) const IGNORED: &[&str] = &["target", "rust-toolchain.toml"];

const MOST_LINES: usize = 500;

/// Files that may be longer, and why.
const LONG: &[(&str, &str)] = &[];

/// Words that say nothing about what a file owns.
const BANNED: &[&str] = &[
    "manager", "managers", "handler", "handlers", "util", "utils", "helper", "helpers", "info",
    "data", "process", "misc",
];

/// Compares the visible entries of the root with the list.
pub(super) fn root_entries(names: &[String]) -> Vec<Finding> {
    let finding = |name: &str, text: &str| Finding {
        path: name.to_owned(),
        line: 0,
        text: text.to_owned(),
    };
    let extra = names.iter().filter(|name| !ROOT.contains(&name.as_str()));
    let lost = ROOT
        .iter()
        .filter(|want| !names.iter().any(|name| name == *want));
    extra
        .map(|name| {
            finding(
                name,
                "does not belong in the root: move it below a package, or hide it",
            )
        })
        .chain(lost.map(|name| finding(name, "is missing in the root")))
        .collect()
}

/// Checks the name of any file.
pub(super) fn name(name: &str) -> Option<Finding> {
    let stem = Path::new(name)
        .file_stem()?
        .to_string_lossy()
        .to_lowercase();
    let banned = stem
        .split(|letter: char| !letter.is_alphanumeric())
        .find(|word| BANNED.contains(word));
    let text = match banned {
        Some(word) => format!("{word:?} says nothing: name the file for what it owns"),
        None if name.ends_with("/mod.rs") => "write foo.rs beside foo/, not foo/mod.rs".to_owned(),
        None => return None,
    };
    Some(Finding {
        path: name.to_owned(),
        line: 0,
        text,
    })
}

/// The licence comes first, then what the file owns.
pub(super) fn header(name: &str, text: &str) -> Vec<Finding> {
    let mut lines = text.lines();
    let licence = if name.starts_with("mesh-ebpf/") {
        "// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only"
    } else {
        "// SPDX-License-Identifier: Apache-2.0"
    };
    let finding = |line, text| Finding {
        path: name.to_owned(),
        line,
        text,
    };
    let mut findings = Vec::new();
    if lines.next() != Some(licence) {
        findings.push(finding(1, format!("the first line is not {licence:?}")));
    }
    if !lines.take(2).any(|line| line.starts_with("//!")) {
        findings.push(finding(
            3,
            "no `//!` header that says what the file owns".to_owned(),
        ));
    }
    findings
}

/// Files have a size that can be read in one sitting.
pub(super) fn length(name: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    if lines <= MOST_LINES || LONG.iter().any(|(known, _)| *known == name) {
        return None;
    }
    let text = format!(
        "{lines} lines, {MOST_LINES} at most: split it, or give a reason in {}",
        file!()
    );
    Some(Finding {
        path: name.to_owned(),
        line: 0,
        text,
    })
}

/// Unfinished work and tests that are switched off.
pub(super) fn marks(name: &str, source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut look = |half: &str, marks: &[&str], why: &str| {
        for (index, line) in half.lines().enumerate() {
            for mark in marks.iter().filter(|mark| has(line, mark)) {
                let text = format!("`{mark}`: {why}");
                findings.push(Finding {
                    path: name.to_owned(),
                    line: index + 1,
                    text,
                });
            }
        }
    };
    look(
        &source.code,
        &["todo!", "unimplemented!"],
        "finish it, or leave it out",
    );
    look(&source.code, &["#[ignore"], "a test runs, or is deleted");
    look(
        &source.comments,
        &["FIXME", "XXX", "HACK", "TODO"],
        "do it, or write down why not",
    );
    findings
}

/// The build script names the nightly on its own, since it cannot read ours.
pub(super) fn toolchain(name: &str, text: &str) -> Option<Finding> {
    let other = text
        .split(|letter: char| letter != '-' && !is_word(letter))
        .find(|word| word.starts_with("nightly-20") && *word != pins::NIGHTLY.name)?;
    if name != "mesh-agent/build.rs" {
        return None;
    }
    let text = format!("{other} is not the pinned {}", pins::NIGHTLY.name);
    Some(Finding {
        path: name.to_owned(),
        line: 0,
        text,
    })
}

/// Whether `line` holds `mark`, not as part of a longer word.
fn has(line: &str, mark: &str) -> bool {
    line.match_indices(mark).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + mark.len()..].chars().next();
        let open = mark.ends_with(is_word) && mark != "#[ignore";
        !(before.is_some_and(is_word) || open && after.is_some_and(is_word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_root_holds_exactly_what_it_should() {
        assert_eq!(root_entries(&entries(ROOT)), []);
        let mut more = entries(ROOT);
        more.push("Makefile".to_owned());
        assert_eq!(root_entries(&more)[0].path, "Makefile");
        assert_eq!(root_entries(&entries(&ROOT[1..]))[0].path, "Cargo.lock");
    }

    #[test]
    fn file_names_say_something() {
        assert!(name("mesh-agent/src/proxy/http_utils.rs").is_some());
        assert!(name("mesh-agent/src/proxy/Manager.rs").is_some());
        assert!(name("mesh-agent/src/proxy/mod.rs").is_some());
        assert!(name("mesh-agent/src/datapath.rs").is_none());
        assert!(name("deploy/README.md").is_none());
    }

    #[test]
    fn a_file_begins_with_its_licence_and_its_purpose() {
        let good = "// SPDX-License-Identifier: Apache-2.0\n\n//! Owns x.\n";
        assert_eq!(header("xtask/src/a.rs", good), []);
        assert_eq!(header("mesh-ebpf/src/a.rs", good).len(), 1);
        assert_eq!(header("xtask/src/a.rs", "fn main() {}\n").len(), 2);
    }

    #[test]
    fn a_file_of_501_lines_is_too_long() {
        assert!(length("a.rs", &"\n".repeat(500)).is_none());
        assert!(length("a.rs", &"\n".repeat(501)).is_some());
    }

    #[track_caller]
    fn check_marks(text: &str, want: usize) {
        let findings = marks("a.rs", &Source::new(text));
        assert_eq!(findings.len(), want, "{findings:?}");
    }

    #[test]
    fn unfinished_work_is_found_in_code_and_comments() {
        check_marks("fn f() { todo!() }", 1);
        check_marks("#[test]\n#[ignore = \"slow\"]\nfn f() {}", 1);
        check_marks("// FIXME: later\n/* XXX */", 2);
        check_marks(
            "let a = \"todo!() FIXME\"; // prefix XXXL\nlet HACKED = 1;",
            0,
        );
    }

    #[test]
    fn the_build_script_uses_the_pinned_nightly() {
        let text = format!("const T: &str = \"{}\";", pins::NIGHTLY.name);
        assert!(toolchain("mesh-agent/build.rs", &text).is_none());
        assert!(toolchain("mesh-agent/build.rs", "\"nightly-2020-01-01\"").is_some());
    }
}
