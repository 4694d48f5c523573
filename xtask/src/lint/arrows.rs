// SPDX-License-Identifier: Apache-2.0

//! Which module of the agent may name which, and which foreign crate.
//!
//! Crates forbid by not depending; modules cannot, so this table does. Knows nothing of types:
//! it looks for `crate::module`, `super::..::module` and `foreign::` in code. Unit tests may name
//! what they need. Invariant: a module that is not in the table may not exist.

use super::{
    Finding,
    source::{Source, is_word},
};

/// What each module may name of ours. `agent` and `control` compose and are named by `main` only.
const MAY_NAME: &[(&str, &[&str])] = &[
    (
        "main",
        &["settings", "cli", "agent", "control", "telemetry"],
    ),
    ("settings", &["model", "telemetry"]),
    ("cli", &["settings", "config", "model"]),
    (
        "agent",
        &[
            "settings",
            "admin",
            "config",
            "proxy",
            "datapath",
            "identity",
            "grpc",
            "telemetry",
            "tasks",
            "model",
        ],
    ),
    (
        "control",
        &[
            "settings",
            "admin",
            "config",
            "identity",
            "grpc",
            "telemetry",
            "tasks",
            "model",
        ],
    ),
    (
        "admin",
        &[
            "config",
            "proxy",
            "datapath",
            "identity",
            "telemetry",
            "tasks",
            "model",
        ],
    ),
    ("config", &["telemetry", "tasks", "model"]),
    (
        "proxy",
        &[
            "datapath",
            "identity",
            "grpc",
            "telemetry",
            "tasks",
            "model",
        ],
    ),
    ("datapath", &["telemetry", "tasks", "model"]),
    ("identity", &["grpc", "telemetry", "tasks", "model"]),
    ("grpc", &["telemetry", "tasks"]),
    // What it feeds is behind a feature.
    (
        "fuzzing",
        &["admin", "config", "datapath", "identity", "model", "proxy"],
    ),
    ("pieces", &["identity", "proxy"]),
    ("telemetry", &["model"]),
    ("tasks", &[]),
    ("model", &[]),
];

/// Foreign crates that belong to some modules only.
const ONLY_IN: &[(&[&str], &[&str])] = &[
    (&["kube", "k8s_openapi"], &["config", "control"]),
    (&["notify"], &["config"]),
    (&["serde_yaml_ng"], &["config", "cli"]),
    (&["schemars"], &["config"]),
    (&["aya", "aya_log", "mesh_common"], &["datapath"]),
    (&["h2", "httparse"], &["proxy"]),
    (
        &["hyper", "hyper_util"],
        &["proxy", "admin", "cli", "control", "grpc", "identity"],
    ),
    (&["prost"], &["grpc"]),
    (&["rustls", "tokio_rustls"], &["identity", "proxy", "grpc"]),
    (&["rcgen", "x509_parser", "aws_lc_rs"], &["identity"]),
    (&["clap"], &["main", "settings", "cli"]),
    (&["anyhow"], &["main", "agent", "cli", "control"]),
    (&["prometheus_client", "tracing_subscriber"], &["telemetry"]),
];

/// Paths that some modules may not name, and what to do instead.
const NOT_IN: &[(&[&str], &[&str], &str)] = &[
    (
        &["model"],
        &[
            "tokio",
            "tracing",
            "fastrand",
            "libc",
            "socket2",
            "std::env",
            "std::fs",
            "std::io",
            "std::thread",
            "std::process",
            "std::time::Instant",
            "std::time::SystemTime",
            "std::sync::Mutex",
            "std::sync::RwLock",
            "std::net::TcpStream",
            "std::net::TcpListener",
        ],
        "the model decides on values it is given: no clock, no I/O, no lock, no chance",
    ),
    (
        &["telemetry", "tasks", "config", "identity"],
        &["libc", "socket2"],
        "sockets are the datapath's",
    ),
];

/// Modules that may read the environment.
const READS_ENVIRONMENT: &[&str] = &["main", "settings"];

/// Checks one file; `inside` is its path below `mesh-agent/src`.
pub(super) fn check(name: &str, inside: &str, source: &Source) -> Vec<Finding> {
    let path: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
    let module = path[0];
    if module == "lib" || path.contains(&"tests") {
        return Vec::new();
    }
    let Some((_, may_name)) = MAY_NAME.iter().find(|(known, _)| *known == module) else {
        let text = format!("module `{module}` is not in the table of xtask/src/lint/arrows.rs");
        return vec![Finding {
            path: name.to_owned(),
            line: 0,
            text,
        }];
    };
    let mut findings = Vec::new();
    for Named { words, line } in named(source.production()) {
        let found = match ours(&words, path.len()) {
            Some(other) => wrong_arrow(module, other, may_name),
            None => wrong_crate(module, &words),
        };
        findings.extend(found.map(|text| Finding {
            path: name.to_owned(),
            line,
            text,
        }));
    }
    findings
}

/// A path as it was written, with groups multiplied out: `use a::{b, c::d}` is `a::b`, `a::c::d`.
struct Named {
    words: Vec<String>,
    line: usize,
}

/// Our module that the path names, if it names one, seen from `depth` modules below the root.
fn ours(words: &[String], depth: usize) -> Option<&str> {
    let supers = words.iter().take_while(|word| *word == "super").count();
    let next = match words[0].as_str() {
        "crate" | "mesh_agent" => words.get(1),
        "super" if supers >= depth => words.get(supers),
        _ => None,
    }?;
    MAY_NAME
        .iter()
        .any(|(module, _)| module == next)
        .then_some(next)
}

fn wrong_arrow(module: &str, other: &str, may_name: &[&str]) -> Option<String> {
    if other == module || may_name.contains(&other) {
        return None;
    }
    Some(format!(
        "`{module}` may not name `{other}`; it may name: {}",
        may_name.join(", ")
    ))
}

fn wrong_crate(module: &str, words: &[String]) -> Option<String> {
    let first = words[0].as_str();
    for (crates, modules) in ONLY_IN {
        if crates.contains(&first) && !modules.contains(&module) {
            return Some(format!(
                "`{first}` belongs to {}, not to `{module}`",
                modules.join(", ")
            ));
        }
    }
    let path = words.join("::");
    let names = |wanted: &str| path == wanted || path.starts_with(&format!("{wanted}::"));
    for (modules, forbidden, why) in NOT_IN {
        if modules.contains(&module) && forbidden.iter().any(|wanted| names(wanted)) {
            return Some(format!("`{module}` may not name `{path}`: {why}"));
        }
    }
    if names("std::env") && !READS_ENVIRONMENT.contains(&module) {
        return Some(format!(
            "`{path}`: flags and environment are read once, in settings.rs"
        ));
    }
    None
}

/// All paths of at least two words in `code`, and the single word of `use word;`.
fn named(code: &str) -> Vec<Named> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = tokens[at].text.starts_with(is_word) && !follows_path(&tokens, at);
        // A word alone is a local name, but for `use word;`.
        let alone = tokens.get(at + 1).is_none_or(|next| next.text != "::");
        let used = at > 0 && tokens[at - 1].text == "use";
        if begins && (used || !alone) {
            at = path(&tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

fn follows_path(tokens: &[Token<'_>], at: usize) -> bool {
    let before = |distance: usize| at.checked_sub(distance).map(|index| tokens[index].text);
    before(1) == Some("::")
        && before(2).is_some_and(|text| text.starts_with(is_word) || text == ">")
}

/// Reads one path, or tree of paths, that begins at `at`; returns where it ends.
fn path(tokens: &[Token<'_>], at: usize, prefix: &[String], found: &mut Vec<Named>) -> usize {
    let mut words = prefix.to_vec();
    let line = tokens[at].line;
    let mut here = at;
    loop {
        let text = tokens.get(here).map_or("", |token| token.text);
        let continues = tokens.get(here + 1).is_some_and(|token| token.text == "::");
        if text == "{" {
            return group(tokens, here, &words, found);
        }
        if text.starts_with(is_word) {
            words.push(text.to_owned());
        }
        here += 1;
        if !continues {
            break;
        }
        here += 1;
        let next = tokens.get(here).map_or("", |token| token.text);
        if next != "{" && !next.starts_with(is_word) {
            break;
        }
    }
    found.push(Named { words, line });
    here
}

fn group(tokens: &[Token<'_>], open: usize, prefix: &[String], found: &mut Vec<Named>) -> usize {
    let mut here = open + 1;
    while let Some(token) = tokens.get(here) {
        match token.text {
            "}" => return here + 1,
            "as" => here += 2,
            text if text.starts_with(is_word) => here = path(tokens, here, prefix, found),
            _ => here += 1,
        }
    }
    here
}

struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Words, `::`, and every other character that is not blank.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (index, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = match first {
                _ if is_word(first) => rest.find(|next| !is_word(next)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            tokens.push(Token {
                text: &rest[..length],
                line: index + 1,
            });
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_file(inside: &str, text: &str, want: &[&str]) {
        let findings = check(inside, inside, &Source::new(text));
        assert_eq!(findings.len(), want.len(), "{findings:?}");
        for (finding, part) in findings.iter().zip(want) {
            assert!(finding.text.contains(part), "{finding:?} without {part:?}");
        }
    }

    #[test]
    fn arrows_point_down() {
        check_file(
            "proxy/inbound.rs",
            "use crate::{model::Snapshot, tasks::Tasks};",
            &[],
        );
        check_file(
            "model/route.rs",
            "use crate::proxy::Outcome;",
            &["`model` may not name `proxy`"],
        );
        check_file(
            "config/index.rs",
            "fn f() { crate::datapath::start() }",
            &["`datapath`"],
        );
        check_file(
            "datapath.rs",
            "use crate::{\n  model::{A, B},\n  config::C,\n};",
            &["`config`"],
        );
    }

    #[test]
    fn super_is_followed_to_the_root() {
        check_file(
            "proxy/http.rs",
            "use super::super::admin::Views;",
            &["`admin`"],
        );
        check_file("proxy/http.rs", "use super::admin::Page;", &[]);
        check_file("proxy.rs", "use super::agent::Agent;", &["`agent`"]);
    }

    #[test]
    fn nobody_names_the_agent_but_main() {
        check_file("main.rs", "mesh_agent::agent::run(settings)", &[]);
        check_file("admin.rs", "use crate::agent;", &["`agent`"]);
    }

    #[test]
    fn foreign_crates_stay_where_they_belong() {
        check_file("proxy.rs", "use aya::Ebpf;", &["`aya` belongs to datapath"]);
        check_file("datapath/load.rs", "use aya::Ebpf;", &[]);
        check_file(
            "datapath.rs",
            "fn f(x: hyper::Request<()>) {}",
            &["`hyper`"],
        );
        check_file("model.rs", "use kube;", &["`kube`"]);
        check_file("proxy/aya.rs", "let aya = 1; x.aya(); self::aya::b();", &[]);
    }

    #[test]
    fn the_model_has_no_clock_and_no_lock() {
        check_file(
            "model/balance.rs",
            "use std::{sync::{Arc, Mutex}, time::Duration};",
            &["Mutex"],
        );
        check_file(
            "model.rs",
            "let now = std::time::Instant::now();",
            &["std::time::Instant"],
        );
        check_file("model.rs", "use std::sync::atomic::AtomicU64;", &[]);
    }

    #[test]
    fn the_environment_is_read_in_settings_only() {
        check_file("settings.rs", "std::env::var_os(\"A\")", &[]);
        check_file("agent.rs", "use std::{env, fs};", &["std::env"]);
    }

    #[test]
    fn comments_literals_and_unit_tests_are_free() {
        check_file(
            "model.rs",
            "//! See crate::proxy and tokio::net.\nconst A: &str = \"aya::B\";",
            &[],
        );
        check_file(
            "model.rs",
            "fn f() {}\n#[cfg(test)]\nmod tests { use tokio::time; }",
            &[],
        );
        check_file("model/tests.rs", "use tokio::time;", &[]);
        check_file("model/a/tests/b.rs", "use tokio::time;", &[]);
    }

    #[test]
    fn an_unknown_module_is_an_error() {
        check_file("stuff/a.rs", "", &["not in the table"]);
    }

    #[test]
    fn positions_are_told() {
        let findings = check("x", "model.rs", &Source::new("\n\nuse tokio::sync;\n"));
        assert_eq!(findings[0].line, 3);
    }
}
