// SPDX-License-Identifier: Apache-2.0

//! From the agent's JSON to what a person reads.
//!
//! Headers and paddings of `proxy-status` and `proxy-config` are those of istioctl 1.10.3.
//! Invariant: an answer of an older or newer agent is printed as far as it is understood.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::{CliError, table::table};
use crate::settings::Output;

/// Prints `answer` in `form`.
pub(super) fn output(
    form: Output,
    answer: &Value,
    as_table: impl Fn(&Value) -> String,
) -> Result<(), CliError> {
    match form {
        Output::Table => text(&as_table(answer)),
        Output::Json => text(&format!("{answer:#}\n")),
        Output::Yaml => text(&serde_yaml_ng::to_string(answer).map_err(CliError::Yaml)?),
    }
}

/// `ready`, or what is missing, a line each.
pub(super) fn ready(answer: &Value) -> String {
    let missing = answer["missing"].as_array().into_iter().flatten();
    let lines: String = missing
        .filter_map(Value::as_str)
        .map(|line| format!("{line}\n"))
        .collect();
    if lines.is_empty() {
        "ready\n".to_owned()
    } else {
        lines
    }
}

/// Prints `content` as it is.
pub(super) fn text(content: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(content.as_bytes()).and_then(|()| out.flush()) {
        // `| head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(CliError::Output),
    }
}

/// What stands in a cell.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| format!("{name}={}", cell(value)))
            .collect::<Vec<_>>()
            .join(","),
    }
}

/// A table of the objects in `rows`: for each column its header and the field that it shows.
fn columns(rows: &Value, shown: &[(&str, &str)], padding: usize) -> String {
    let headers: Vec<&str> = shown.iter().map(|(header, _)| *header).collect();
    let rows: Vec<Vec<String>> = rows
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| shown.iter().map(|(_, field)| cell(&row[field])).collect())
        .collect();
    table(&headers, &rows, padding)
}

/// `proxy-status`.
pub(super) fn proxy_status(answer: &Value) -> String {
    columns(
        answer,
        &[
            ("NAME", "name"),
            ("CDS", "cds"),
            ("LDS", "lds"),
            ("EDS", "eds"),
            ("RDS", "rds"),
            ("ISTIOD", "istiod"),
            ("VERSION", "version"),
        ],
        5,
    )
}

/// `proxy-config listeners`.
pub(super) fn listeners(answer: &Value) -> String {
    columns(
        answer,
        &[
            ("ADDRESS", "address"),
            ("PORT", "port"),
            ("MATCH", "match"),
            ("DESTINATION", "destination"),
        ],
        1,
    )
}

/// `proxy-config clusters`.
pub(super) fn clusters(answer: &Value) -> String {
    columns(
        answer,
        &[
            ("SERVICE FQDN", "serviceFqdn"),
            ("PORT", "port"),
            ("SUBSET", "subset"),
            ("DIRECTION", "direction"),
            ("TYPE", "type"),
            ("DESTINATION RULE", "destinationRule"),
        ],
        5,
    )
}

/// `proxy-config routes`.
pub(super) fn routes(answer: &Value) -> String {
    columns(
        answer,
        &[
            ("NAME", "name"),
            ("DOMAINS", "domains"),
            ("MATCH", "match"),
            ("VIRTUAL SERVICE", "virtualService"),
        ],
        5,
    )
}

/// `proxy-config endpoints`.
pub(super) fn endpoints(answer: &Value) -> String {
    columns(
        answer,
        &[
            ("ENDPOINT", "endpoint"),
            ("STATUS", "status"),
            ("OUTLIER CHECK", "outlierCheck"),
            ("CLUSTER", "cluster"),
        ],
        5,
    )
}

/// Where configuration comes from, and how old that is; what is wrong with it.
fn source(source: &Value) -> String {
    let state = if source["synced"] == true {
        "in step"
    } else {
        "NOT in step"
    };
    let mut text = format!(
        "Source:   {}, {state} for {}",
        cell(&source["kind"]),
        seconds(&source["sinceSeconds"]),
    );
    if source["lastEventSeconds"].is_number() {
        let last = seconds(&source["lastEventSeconds"]);
        text.push_str(&format!(", last heard of {last} ago"));
    }
    text.push('\n');
    if source["fromDiskAgeSeconds"].is_number() {
        let age = seconds(&source["fromDiskAgeSeconds"]);
        text.push_str(&format!("          - from disk, {age} old\n"));
    }
    for kind in source["kinds"].as_array().into_iter().flatten() {
        if !kind["error"].is_null() {
            let (name, error) = (cell(&kind["kind"]), cell(&kind["error"]));
            text.push_str(&format!("          - {name}: {error}\n"));
        }
    }
    text
}

/// `status`.
pub(super) fn status(answer: &Value) -> String {
    let node = &answer["node"];
    let (config, threads) = (&node["config"], &node["threads"]);
    let ready = match node["ready"].as_bool() {
        Some(false) => "no".to_owned(),
        _ => cell(&node["ready"]),
    };
    let mut text = format!(
        "Node:     {} (kernel {})\n",
        cell(&node["name"]),
        cell(&node["kernel"])
    );
    text.push_str(&format!(
        "Version:  {}\nReady:    {ready}\n",
        cell(&node["version"])
    ));
    for reason in node["missing"].as_array().into_iter().flatten() {
        text.push_str(&format!("          - {}\n", cell(reason)));
    }
    text.push_str(&format!(
        "Config:   generation {} (applied {}), loaded {} ago, errors: {}, warnings: {}\n",
        cell(&config["generation"]),
        cell(&config["appliedGeneration"]),
        seconds(&config["ageSeconds"]),
        cell(&config["errors"]),
        cell(&config["warnings"]),
    ));
    text.push_str(&source(&config["source"]));
    text.push_str(&format!(
        "Threads:  {} of {} alive, connections {}\n",
        cell(&threads["alive"]),
        cell(&threads["count"]),
        cell(&threads["connections"]),
    ));
    text.push_str(&format!(
        "Dropped:  {} log lines, {} access log lines\n",
        cell(&node["droppedLogLines"]),
        cell(&node["droppedAccessLogLines"]),
    ));
    text.push_str(&revoked(&answer["revoked"]));
    text.push_str(&key_sets(&answer["keySets"]));
    text.push_str(&format!(
        "Kernel:   {}\n\n",
        counters(&node["kernelCounters"])
    ));
    text.push_str(&pods(&answer["pods"]));
    text
}

/// Who would fail, if anybody.
pub(super) fn rehearsal(answer: &Value) -> String {
    let rows = answer["failing"].as_array().map_or(&[][..], Vec::as_slice);
    let mut text = format!(
        "Without root {}: {} of {} certificates would fail, {} roots left\n",
        cell(&answer["root"]),
        rows.len(),
        cell(&answer["checked"]),
        cell(&answer["rootsLeft"]),
    );
    if rows.is_empty() {
        return text;
    }
    let headers = ["WHO", "IDENTITY", "SERIAL", "SESSIONS", "WHY"];
    let fields = ["holder", "identity", "serial", "sessions", "error"];
    let row = |row: &Value| fields.iter().map(|name| cell(&row[*name])).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    text.push_str(&table(&headers, &rows, 3));
    text
}

/// What is revoked, if anything is or should be.
fn revoked(row: &Value) -> String {
    let count = |name: &str| row[name].as_u64().unwrap_or_default();
    let (serials, identities) = (count("serials"), count("identities"));
    let mut text = String::new();
    if serials + identities > 0 || !row["error"].is_null() {
        text.push_str(&format!(
            "Revoked:  {serials} serial numbers, {identities} identities\n"
        ));
    }
    if !row["error"].is_null() {
        text.push_str(&format!(
            "          - not in force: {}\n",
            cell(&row["error"])
        ));
    }
    text
}

/// The keys of issuers whose tokens are known here.
fn key_sets(rows: &Value) -> String {
    let mut text = String::new();
    for row in rows.as_array().into_iter().flatten() {
        let url = cell(&row["url"]);
        let state = if row["keys"].is_null() {
            "never fetched: tokens of its issuer are refused".to_owned()
        } else {
            let age = seconds(&row["fetchedSecondsAgo"]);
            format!("{} keys, fetched {age} ago", cell(&row["keys"]))
        };
        text.push_str(&format!("Keys:     {url}: {state}\n"));
        if !row["error"].is_null() {
            text.push_str(&format!("          - {}\n", cell(&row["error"])));
        }
    }
    text
}

fn pods(rows: &Value) -> String {
    let headers = [
        "POD",
        "CAPTURED",
        "FIRST CONTAINER",
        "HOOK",
        "INBOUND",
        "CONNECTIONS",
        "OLDER",
        "IDENTITY",
        "CERTIFICATE",
        "SERIAL",
        "EXPIRES",
        "KERNEL",
    ];
    let rows = rows.as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> = rows
        .map(|pod| {
            let captured = match pod["captured"].as_bool() {
                Some(true) => format!("for {}", seconds(&pod["capturedSeconds"])),
                _ => format!("no: {}", cell(&pod["reason"])),
            };
            let certificate = &pod["certificate"];
            vec![
                cell(&pod["name"]),
                captured,
                first_container(&pod["firstContainerAfterCaptureMs"]),
                cell(&pod["hook"]),
                inbound(&pod["inbound"], &pod["authorizationPolicies"]),
                cell(&pod["connections"]),
                older(&pod["existingConnections"]),
                cell(&pod["identity"]),
                cell(&certificate["state"]),
                shortened(&cell(&certificate["serial"])),
                seconds(&certificate["expiresInSeconds"]),
                counters(&pod["counters"]),
            ]
        })
        .collect();
    table(&headers, &rows, 3)
}

/// When the first container began: `182ms after capture`, or `12s before capture`.
fn first_container(milliseconds: &Value) -> String {
    let Some(after) = milliseconds.as_i64() else {
        return cell(milliseconds);
    };
    let apart = match after.unsigned_abs() {
        few @ 0..1_000 => format!("{few}ms"),
        many => seconds(&(many / 1_000).into()),
    };
    let side = if after < 0 { "before" } else { "after" };
    format!("{apart} {side} capture")
}

/// How many connections are older than the capture; nothing if none is.
fn older(connections: &Value) -> String {
    match connections.as_array().map_or(0, Vec::len) {
        0 => String::new(),
        count => count.to_string(),
    }
}

/// `STRICT` or `STRICT (8080=PERMISSIVE)`, and how many AuthorizationPolicies there are.
fn inbound(inbound: &Value, policies: &Value) -> String {
    let ports = cell(&inbound["ports"]);
    let mode = cell(&inbound["mode"]);
    let mode = if ports.is_empty() {
        mode
    } else {
        format!("{mode} ({ports})")
    };
    match policies.as_array().map_or(0, Vec::len) {
        0 => mode,
        1 => format!("{mode}, 1 policy"),
        count => format!("{mode}, {count} policies"),
    }
}

/// Counters that are not zero.
fn counters(counters: &Value) -> String {
    let fields = counters.as_object().into_iter().flatten();
    let counted = fields.filter(|(_, count)| count.as_u64() != Some(0));
    let shown: Vec<String> = counted
        .map(|(name, count)| format!("{name}={}", cell(count)))
        .collect();
    shown.join(" ")
}

/// Eight digits tell serial numbers apart.
fn shortened(serial: &str) -> String {
    serial.chars().take(8).collect()
}

/// A time in its two largest units, such as `3h12m`.
pub(super) fn seconds(value: &Value) -> String {
    let Some(all) = value.as_u64() else {
        return cell(value);
    };
    let (days, hours) = (all / 86_400, all / 3_600 % 24);
    let (minutes, seconds) = (all / 60 % 60, all % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{seconds}s"),
        (0, ..) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// `config dump -o table`.
pub(super) fn config(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = answer
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| match value {
            Value::Array(items) => vec![name.clone(), items.len().to_string()],
            other => vec![name.clone(), cell(other)],
        })
        .collect();
    table(&["PART", "COUNT OR VALUE"], &rows, 5)
}

/// `log`.
pub(super) fn log(answer: &Value) -> String {
    format!("{}\n", cell(&answer["level"]))
}

/// Prometheus' text as a list of samples.
pub(super) fn metrics(text: &str) -> Value {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(sample)
        .collect()
}

fn sample(line: &str) -> Option<Value> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, label_set(labels.strip_suffix('}')?)?),
        None => (series, Map::new()),
    };
    Some(json!({ "name": name, "labels": labels, "value": value.parse::<f64>().ok() }))
}

/// Reads `name="value",...`; values have `\\`, `\"` and `\n` escaped.
fn label_set(mut rest: &str) -> Option<Map<String, Value>> {
    let mut labels = Map::new();
    while !rest.is_empty() {
        let (name, tail) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = tail.char_indices();
        let end = loop {
            match characters.next()? {
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    escaped => value.push(escaped),
                },
                (at, '"') => break at,
                (_, plain) => value.push(plain),
            }
        };
        labels.insert(name.to_owned(), Value::String(value));
        rest = tail[end + 1..].trim_start_matches(',');
    }
    Some(labels)
}
