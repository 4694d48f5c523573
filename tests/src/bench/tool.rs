// SPDX-License-Identifier: Apache-2.0

//! What load tools print, made into numbers.
//!
//! Knows nothing of how they are started. Invariant: output that is not understood is an error
//! and never zero.

use serde_json::Value;

/// Requests that a tool made.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Requests {
    pub(super) answered: f64,
    /// Per second; of tools that say it.
    pub(super) rate: Option<f64>,
    /// Answers with an error status, and failures of sockets.
    pub(super) errors: f64,
}

/// `wrk`: a summary with a line for each kind of error, where there are any.
pub(super) fn wrk(output: &str) -> Result<Requests, String> {
    let errors = after(output, "Non-2xx or 3xx responses:").unwrap_or(0.0);
    let sockets = output.lines().find_map(|line| {
        let counts = line.trim().strip_prefix("Socket errors:")?;
        let words = counts.split([' ', ',']);
        Some(words.filter_map(|word| word.parse::<f64>().ok()).sum())
    });
    Ok(Requests {
        answered: before(output, " requests in ").ok_or_else(|| missing("wrk", output))?,
        rate: Some(after(output, "Requests/sec:").ok_or_else(|| missing("wrk", output))?),
        errors: errors + sockets.unwrap_or(0.0),
    })
}

/// `h2load`: one line with all counts.
pub(super) fn h2load(output: &str) -> Result<Requests, String> {
    let line = output.lines().find(|line| line.starts_with("requests: "));
    let line = line.ok_or_else(|| missing("h2load", output))?;
    let count = |word: &str| before(line, &format!(" {word}"));
    Ok(Requests {
        answered: count("succeeded").ok_or_else(|| missing("h2load", output))?,
        rate: None,
        errors: count("failed").unwrap_or(0.0) + count("errored").unwrap_or(0.0),
    })
}

/// Bytes that arrived, and in how many seconds.
#[derive(Debug, PartialEq)]
pub(super) struct Bulk {
    pub(super) bytes: f64,
    pub(super) bits_per_second: f64,
}

/// `iperf3 --json`: what the receiver saw.
pub(super) fn iperf3(output: &str) -> Result<Bulk, String> {
    let report: Value =
        serde_json::from_str(output).map_err(|error| format!("iperf3: {error}: {output:.300}"))?;
    let sum = &report["end"]["sum_received"];
    let number = |key: &str| sum[key].as_f64().ok_or_else(|| missing("iperf3", output));
    Ok(Bulk {
        bytes: number("bytes")?,
        bits_per_second: number("bits_per_second")?,
    })
}

/// Latencies in rising order, and what went wrong.
#[derive(Debug, PartialEq)]
pub(super) struct Latencies {
    pub(super) microseconds: Vec<u32>,
    pub(super) errors: f64,
    /// Requests that could not be sent when they were planned.
    pub(super) late: f64,
}

/// Our own `load fixed`.
pub(super) fn fixed(output: &str) -> Result<Latencies, String> {
    let report: Value = serde_json::from_str(output).map_err(|error| format!("fixed: {error}"))?;
    let list = report["microseconds"].as_array();
    let values = list.into_iter().flatten().filter_map(Value::as_u64);
    let number = |key: &str| report[key].as_f64().ok_or_else(|| missing("fixed", key));
    Ok(Latencies {
        microseconds: values
            .map(|value| u32::try_from(value).unwrap_or(u32::MAX))
            .collect(),
        errors: number("errors")?,
        late: number("late")?,
    })
}

/// Our own `load hold`: how many connections are held, and how many are not.
pub(super) fn held(line: &str) -> Result<(f64, f64), String> {
    let number = |word: &str| after(line, word).ok_or_else(|| missing("hold", line));
    Ok((number("held ")?, number("failed ")?))
}

fn missing(tool: &str, output: &str) -> String {
    format!("{tool} did not say what came of it: {output:.300}")
}

/// The number behind the first `mark`.
fn after(text: &str, mark: &str) -> Option<f64> {
    let (_, rest) = text.split_once(mark)?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The number before the first `mark`.
fn before(text: &str, mark: &str) -> Option<f64> {
    let (rest, _) = text.split_once(mark)?;
    rest.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_understood() {
        let output = "Running 2s test @ http://app:8080/\n  2 threads and 16 connections\n\
                      \x20 18250 requests in 2.00s, 22.31MB read\n\
                      \x20 Socket errors: connect 1, read 2, write 0, timeout 4\n\
                      \x20 Non-2xx or 3xx responses: 3\nRequests/sec:   9123.45\n";
        let want = Requests {
            answered: 18_250.0,
            rate: Some(9123.45),
            errors: 10.0,
        };
        assert_eq!(wrk(output), Ok(want));
        assert!(wrk("unable to connect").is_err());
    }

    #[test]
    fn h2load_is_understood() {
        let output = "finished in 2.00s, 41000.00 req/s\nrequests: 82160 total, 82160 started, \
                      82000 done, 81990 succeeded, 10 failed, 3 errored, 0 timeout\n";
        let found = h2load(output).expect("it is h2load's");
        assert_eq!((found.answered, found.errors), (81_990.0, 13.0));
        assert!(h2load("").is_err());
    }

    #[test]
    fn iperf3_is_understood() {
        let output = r#"{"end": {"sum_received": {"bytes": 1000, "bits_per_second": 4000.5}}}"#;
        let found = iperf3(output).expect("it is iperf3's");
        assert_eq!(found.bits_per_second, 4000.5);
        assert!(iperf3(r#"{"error": "refused"}"#).is_err());
    }

    #[test]
    fn our_own_tools_are_understood() {
        let found = fixed(r#"{"errors": 1, "late": 2, "microseconds": [5, 6]}"#);
        assert_eq!(found.expect("it is ours").microseconds, [5, 6]);
        assert_eq!(held("held 4990 failed 10\n"), Ok((4990.0, 10.0)));
    }
}
