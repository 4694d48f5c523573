// SPDX-License-Identifier: Apache-2.0

//! `verify`: a row for each pod, and under them what is not as it should be.
//!
//! Invariant: the program ends well only if the agent says that everything is.

use std::process::ExitCode;

use serde_json::Value;

use super::{
    CliError,
    client::Client,
    print::{self, cell, seconds},
    table::table,
};
use crate::settings::{ClientSettings, Output};

/// Asks, prints, and says with what the program ends.
pub(super) fn run(settings: &ClientSettings) -> Result<ExitCode, CliError> {
    let answer = Client::find(settings)?.get_json("/verify")?;
    print::output(settings.output.unwrap_or(Output::Table), &answer, text)?;
    Ok(match answer["ok"].as_bool() {
        Some(true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// What a person reads.
pub(super) fn text(answer: &Value) -> String {
    let pods = || answer["pods"].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> = pods().map(row).collect();
    let headers = [
        "POD",
        "VERDICT",
        "CAPTURED SINCE",
        "INBOUND",
        "PLAINTEXT",
        "SYNS OUT",
        "ACCEPTED",
        "SYNS IN",
        "ACCEPTED",
        "PROBES",
        "LAST REFUSED",
    ];
    let mut text = table(&headers, &rows, 3);
    for reason in answer["reasons"].as_array().into_iter().flatten() {
        let node = cell(&answer["node"]);
        text.push_str(&format!("node {node}: {}\n", cell(reason)));
    }
    for pod in pods() {
        for reason in pod["reasons"].as_array().into_iter().flatten() {
            let name = cell(&pod["name"]);
            text.push_str(&format!("{name}: {}\n", cell(reason)));
        }
    }
    let verdict = match answer["ok"].as_bool() {
        Some(true) => "all is as it should be",
        _ => "NOT all is as it should be",
    };
    text.push_str(&format!("{}: {verdict}\n", cell(&answer["at"])));
    text
}

fn row(pod: &Value) -> Vec<String> {
    let (mode, ports) = (cell(&pod["mode"]["default"]), cell(&pod["mode"]["ports"]));
    let mode = match ports.is_empty() {
        true => mode,
        false => format!("{mode} ({ports})"),
    };
    vec![
        cell(&pod["name"]),
        cell(&pod["verdict"]),
        cell(&pod["capturedSince"]),
        mode,
        plaintext(&pod["plaintext"]),
        cell(&pod["outbound"]["syns"]),
        cell(&pod["outbound"]["accepted"]),
        cell(&pod["inbound"]["syns"]),
        cell(&pod["inbound"]["accepted"]),
        cell(&pod["inbound"]["probes"]),
        refused(&pod["lastRefused"]),
    ]
}

/// Plaintext connections that are open: older than the capture, and let in by the mode.
fn plaintext(open: &Value) -> String {
    let older = open["older"].as_array().map_or(0, Vec::len);
    let now = open["open"].as_u64().unwrap_or(0);
    match (older, now) {
        (0, 0) => "none".to_owned(),
        (0, now) => format!("{now} open"),
        (older, 0) => format!("{older} older"),
        (older, now) => format!("{older} older, {now} open"),
    }
}

fn refused(last: &Value) -> String {
    if last.is_null() {
        return String::new();
    }
    let who = match &last["identity"] {
        Value::String(identity) => identity.clone(),
        _ => cell(&last["address"]),
    };
    let (ago, reason) = (seconds(&last["secondsAgo"]), cell(&last["reason"]));
    format!("{ago} ago: {who} at port {}: {reason}", cell(&last["port"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_verdict_stands_beside_what_shows_it() {
        let answer = json!({
            "node": "n1", "at": "2026-01-02T03:04:05Z", "ok": false,
            "reasons": ["no data thread runs"],
            "pods": [{
                "name": "web.default", "verdict": "not ok", "reasons": ["no certificate for x"],
                "capturedSince": "2026-01-02T03:00:00Z",
                "mode": {"default": "STRICT", "ports": {"8080": "PERMISSIVE"}},
                "plaintext": {"older": [{}], "open": 2},
                "outbound": {"syns": 3, "accepted": 2},
                "inbound": {"syns": 5, "accepted": 4, "probes": 1},
                "lastRefused": {
                    "secondsAgo": 61, "address": "10.1.0.9:5", "identity": null, "port": 8080,
                    "reason": "plaintext to a port that is STRICT",
                },
            }],
        });
        let text = text(&answer);
        let lines: Vec<&str> = text.lines().collect();
        let cells: Vec<&str> = lines[1].split("   ").map(str::trim).collect();
        let cells: Vec<&str> = cells.into_iter().filter(|it| !it.is_empty()).collect();
        assert_eq!(
            cells,
            [
                "web.default",
                "not ok",
                "2026-01-02T03:00:00Z",
                "STRICT (8080=PERMISSIVE)",
                "1 older, 2 open",
                "3",
                "2",
                "5",
                "4",
                "1",
                "1m1s ago: 10.1.0.9:5 at port 8080: plaintext to a port that is STRICT",
            ]
        );
        assert_eq!(
            lines[2..],
            [
                "node n1: no data thread runs",
                "web.default: no certificate for x",
                "2026-01-02T03:04:05Z: NOT all is as it should be",
            ]
        );
    }
}
