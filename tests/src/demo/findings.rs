// SPDX-License-Identifier: Apache-2.0

//! What the demo found, as a table for people and as JSON for programs.
//!
//! Knows nothing of how it was found. Invariant: what the table calls kept, the exit code does too.

use serde_json::json;

use super::latency::Latency;

/// What was counted and measured.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub(super) requests: usize,
    pub(super) v1: usize,
    pub(super) v2: usize,
    pub(super) canary_requests: usize,
    pub(super) canary_v2: usize,
    pub(super) wire_bytes: usize,
    pub(super) wire_tls_records: usize,
    pub(super) wire_marker_hits: usize,
    pub(super) wire_control_hits: usize,
    pub(super) strict_refused: bool,
    pub(super) permissive_accepted: bool,
    pub(super) identity: String,
    pub(super) direct: Latency,
    pub(super) mesh: Latency,
}

/// One line of the table.
struct Row {
    what: &'static str,
    found: String,
    /// `None` where nothing is promised.
    kept: Option<bool>,
}

impl Findings {
    /// Whether all that is promised was found.
    pub fn promises_kept(&self) -> bool {
        self.rows().iter().all(|row| row.kept != Some(false))
    }

    fn rows(&self) -> Vec<Row> {
        let latency = |seen: &Latency| format!("p50 {} us, p99 {} us", seen.p50_us, seen.p99_us);
        let mut rows = Vec::from(self.traffic());
        rows.extend(self.security());
        for (what, seen) in [
            ("latency without the mesh", &self.direct),
            ("latency with the mesh", &self.mesh),
        ] {
            rows.push(Row {
                what,
                found: latency(seen),
                kept: None,
            });
        }
        rows
    }

    fn traffic(&self) -> [Row; 2] {
        [
            Row {
                what: "90/10 by VirtualService",
                found: format!(
                    "{} requests: {} to v1, {} to v2",
                    self.requests, self.v1, self.v2
                ),
                kept: Some(self.v1 * 10 == self.requests * 9 && self.v1 + self.v2 == self.requests),
            },
            Row {
                what: "1 % canary",
                found: format!(
                    "{} requests: {} to v2",
                    self.canary_requests, self.canary_v2
                ),
                kept: Some(
                    self.canary_requests > 0 && self.canary_v2 * 100 == self.canary_requests,
                ),
            },
        ]
    }

    fn security(&self) -> [Row; 5] {
        let (bytes, records) = (self.wire_bytes, self.wire_tls_records);
        let (inside, outside) = (self.wire_marker_hits, self.wire_control_hits);
        let verdict = |kept: bool, word: &str| format!("{}{word}", if kept { "" } else { "NOT " });
        [
            Row {
                what: "wire between the nodes",
                found: match records {
                    0 => format!("{bytes} bytes, not only TLS records"),
                    _ => format!("{bytes} bytes: {records} TLS records and nothing else"),
                },
                kept: Some(records > 0),
            },
            Row {
                what: "marker on the wire",
                found: format!("{inside} times from inside the mesh, {outside} from outside"),
                kept: Some(inside == 0 && outside > 0),
            },
            Row {
                what: "plaintext under STRICT",
                found: verdict(self.strict_refused, "refused"),
                kept: Some(self.strict_refused),
            },
            Row {
                what: "plaintext under PERMISSIVE",
                found: verdict(self.permissive_accepted, "accepted"),
                kept: Some(self.permissive_accepted),
            },
            Row {
                what: "client as the server's node saw it",
                found: self.identity.clone(),
                kept: Some(self.identity == "spiffe://cluster.local/ns/default/sa/client"),
            },
        ]
    }

    /// Columns for people.
    pub fn table(&self) -> String {
        let rows = self.rows();
        let what = rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
        let found = rows.iter().map(|row| row.found.len()).max().unwrap_or(0);
        let lines = rows.iter().map(|row| {
            let kept = match row.kept {
                Some(true) => "ok",
                Some(false) => "BROKEN",
                None => "",
            };
            let line = format!("{:what$}  {:found$}  {kept}", row.what, row.found);
            line.trim_end().to_owned()
        });
        format!("\n{}", lines.collect::<Vec<_>>().join("\n"))
    }

    /// One JSON object, on one line.
    pub fn json(&self) -> String {
        json!({
            "requests": self.requests,
            "v1": self.v1,
            "v2": self.v2,
            "canary_requests": self.canary_requests,
            "canary_v2": self.canary_v2,
            "wire_bytes": self.wire_bytes,
            "wire_tls_records": self.wire_tls_records,
            "wire_marker_hits": self.wire_marker_hits,
            "wire_control_hits": self.wire_control_hits,
            "strict_refused": self.strict_refused,
            "permissive_accepted": self.permissive_accepted,
            "server_saw_identity": self.identity,
            "direct_p50_us": self.direct.p50_us,
            "direct_p99_us": self.direct.p99_us,
            "mesh_p50_us": self.mesh.p50_us,
            "mesh_p99_us": self.mesh.p99_us,
            "promises_kept": self.promises_kept(),
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_found_is_nothing_kept() {
        assert!(!Findings::default().promises_kept());
    }
}
