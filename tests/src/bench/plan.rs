// SPDX-License-Identifier: Apache-2.0

//! What is measured, and on which planes.
//!
//! Knows nothing of how. Invariants: what idles is measured before anything else has warmed the
//! proxies up, and what fills their memory last; keys are stable, since results are compared by
//! them.

use super::{
    plane::{Kind, Wanted},
    rival::Flood,
};

/// What a load tool is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Nothing: memory is looked at.
    Idle,
    /// As fast as it goes, on connections that stay open.
    Http1 { connections: u32 },
    /// The same with a body of 1 MiB.
    Large { connections: u32 },
    /// As fast as it goes, ten streams on each connection.
    Http2 { connections: u32 },
    /// Unary calls, ten at a time on each connection.
    Grpc { connections: u32 },
    /// Requests at a fixed rate on 16 connections, for their latency.
    Fixed { rate: u32 },
    /// A connection for every request, 16 at a time.
    NewConnections,
    /// Bytes of one TCP connection.
    Bulk,
    /// Requests at a fixed rate, first alone, then beside a neighbour that floods.
    Neighbour { flood: Flood },
    /// Connections that idle: memory is looked at.
    Hold { connections: u32 },
}

/// When a measure is taken on planes of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SameNode {
    Never,
    Full,
    Always,
}

/// One line of the plan.
#[derive(Debug)]
pub(super) struct Measure {
    pub(super) key: &'static str,
    pub(super) label: &'static str,
    pub(super) load: Load,
    quick: bool,
    same_node: SameNode,
}

const MEASURES: &[Measure] = &[
    line("idle", "idle", Load::Idle, true, SameNode::Full),
    http1("h1_c1", 1, "HTTP/1.1, 1 connection"),
    Measure {
        same_node: SameNode::Always,
        ..quick(http1("h1_c16", 16, "HTTP/1.1, 16 connections"))
    },
    quick(http1("h1_c64", 64, "HTTP/1.1, 64 connections")),
    http1("h1_c256", 256, "HTTP/1.1, 256 connections"),
    line(
        "h1_1mib_c16",
        "HTTP/1.1, 16 connections, bodies of 1 MiB",
        Load::Large { connections: 16 },
        false,
        SameNode::Full,
    ),
    line(
        "h2_c16",
        "HTTP/2, 16 connections x 10 streams",
        Load::Http2 { connections: 16 },
        true,
        SameNode::Full,
    ),
    line(
        "grpc_c16",
        "gRPC unary, 16 connections x 10 streams",
        Load::Grpc { connections: 16 },
        false,
        SameNode::Full,
    ),
    line(
        "fixed_1000",
        "1,000 requests/s on 16 connections",
        Load::Fixed { rate: 1000 },
        true,
        SameNode::Always,
    ),
    line(
        "newconn",
        "a connection per request, 16 at a time",
        Load::NewConnections,
        true,
        SameNode::Full,
    ),
    line(
        "bulk",
        "bulk TCP, 1 stream",
        Load::Bulk,
        true,
        SameNode::Full,
    ),
    neighbour(
        "neighbour_requests",
        Flood::Requests,
        "beside a flood of requests",
    ),
    neighbour(
        "neighbour_connections",
        Flood::Connections,
        "beside a flood of connections",
    ),
    neighbour("neighbour_bytes", Flood::Bytes, "beside a flood of bytes"),
    line(
        "hold_1000",
        "1,000 idle connections",
        Load::Hold { connections: 1000 },
        false,
        SameNode::Never,
    ),
    line(
        "hold_5000",
        "5,000 idle connections",
        Load::Hold { connections: 5000 },
        true,
        SameNode::Never,
    ),
];

const fn line(
    key: &'static str,
    label: &'static str,
    load: Load,
    quick: bool,
    same_node: SameNode,
) -> Measure {
    Measure {
        key,
        label,
        load,
        quick,
        same_node,
    }
}

const fn http1(key: &'static str, connections: u32, label: &'static str) -> Measure {
    let load = Load::Http1 { connections };
    line(key, label, load, false, SameNode::Full)
}

const fn neighbour(key: &'static str, flood: Flood, label: &'static str) -> Measure {
    line(key, label, Load::Neighbour { flood }, false, SameNode::Full)
}

const fn quick(measure: Measure) -> Measure {
    Measure {
        quick: true,
        ..measure
    }
}

/// The measures whose keys begin with one of `only` (all, when there is none); of the quick ones
/// alone when nothing is named.
pub(super) fn choose(only: &[String], quick: bool) -> Result<Vec<&'static Measure>, String> {
    let begins = |measure: &Measure, word: &String| measure.key.starts_with(word.as_str());
    for word in only {
        if !MEASURES.iter().any(|measure| begins(measure, word)) {
            let known: Vec<_> = MEASURES.iter().map(|measure| measure.key).collect();
            let known = known.join(", ");
            return Err(format!(
                "no measure begins with {word:?}; there are {known}"
            ));
        }
    }
    let wanted = |measure: &&Measure| match only {
        [] => measure.quick || !quick,
        words => words.iter().any(|word| begins(measure, word)),
    };
    Ok(MEASURES.iter().filter(wanted).collect())
}

impl Measure {
    /// Whether it is taken on this plane. Envoy without HTTP is there for TCP alone, and with
    /// HTTP for all the rest, since both treat TCP alike.
    pub(super) fn suits(&self, wanted: &Wanted, quick: bool) -> bool {
        let least = if quick {
            SameNode::Always
        } else {
            SameNode::Full
        };
        if wanted.one_node && self.same_node < least {
            return false;
        }
        if self.wants_rival() {
            return wanted.may_have_rival();
        }
        let bulk = self.load == Load::Bulk;
        match wanted.kind {
            Kind::EnvoyTcp => bulk,
            Kind::EnvoyHttp => !bulk || wanted.one_node,
            Kind::Direct => !self.is_memory(),
            Kind::Agent | Kind::Peer { .. } => true,
        }
    }

    /// Whether only the proxies' memory is looked at; once is enough.
    pub(super) fn is_memory(&self) -> bool {
        matches!(self.load, Load::Idle | Load::Hold { .. })
    }

    /// Whether somebody else floods meanwhile.
    pub(super) fn wants_rival(&self) -> bool {
        matches!(self.load, Load::Neighbour { .. })
    }

    /// How long one sample takes, about.
    pub(super) fn cost(&self, seconds: u32, fixed_seconds: u32) -> f64 {
        match self.load {
            // A part of the rest that all planes share.
            Load::Idle => 1.0,
            Load::Hold { connections } => 3.0 + f64::from(connections) * 0.001,
            Load::Fixed { .. } => f64::from(fixed_seconds) + 1.2,
            Load::Neighbour { .. } => 2.0 * (f64::from(fixed_seconds) + 1.2) + 0.5,
            _ => f64::from(seconds) + 0.25,
        }
    }
}

/// The measure with this key.
#[cfg(test)]
pub(super) fn find(key: &str) -> Option<&'static Measure> {
    MEASURES.iter().find(|measure| measure.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plane;

    #[test]
    fn keys_are_unique_and_found() {
        for (index, measure) in MEASURES.iter().enumerate() {
            let first = MEASURES.iter().position(|other| other.key == measure.key);
            assert_eq!(first, Some(index));
            assert!(find(measure.key).is_some());
        }
    }

    #[test]
    fn a_quick_run_takes_less_than_two_and_a_half_minutes() {
        let mut seconds = 0.0;
        let measures = choose(&[], true).expect("nothing is named");
        for wanted in plane::choose(&[], &[]).expect("nothing is named") {
            for measure in measures.iter().filter(|one| one.suits(&wanted, true)) {
                let rounds = if measure.is_memory() { 1.0 } else { 2.0 };
                seconds += rounds * measure.cost(2, 3);
            }
        }
        assert!(seconds < 150.0, "{seconds}");
    }

    #[test]
    fn envoy_without_http_is_for_tcp_alone() {
        let bulk = find("bulk").expect("it is in the plan");
        let h1 = find("h1_c16").expect("it is in the plan");
        for wanted in plane::choose(&[], &[]).expect("nothing is named") {
            match wanted.kind {
                Kind::EnvoyTcp => assert!(bulk.suits(&wanted, false) && !h1.suits(&wanted, false)),
                _ => assert!(h1.suits(&wanted, false)),
            }
        }
    }
}
