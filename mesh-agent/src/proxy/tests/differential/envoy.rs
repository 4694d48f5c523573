// SPDX-License-Identifier: Apache-2.0

//! HTTP/1 by hand against Envoy: no request may mean to us what it does not mean to those that our users
//! come from. What may differ, and why, is in [`Story`] and in the tests.
//!
//! Knows nothing of meshes: this Envoy leads every request to one endpoint.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::SocketAddr,
};

use serde_json::{Value, json};

use super::{
    super::envoy::{self, Envoy},
    Bench, Seen, Table, exchanges,
    script::Script,
};
use crate::proxy::Http1Engine;

/// The last request of a connection.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// An Envoy, and what it leads to.
struct Beside {
    /// Until the test ends.
    _envoy: Envoy,
    table: Table,
}

impl Beside {
    /// Starts an Envoy in front of `table`'s endpoint.
    fn start(mut table: Table, endpoint: SocketAddr) -> Self {
        let envoy = Envoy::start(|listen| bootstrap(listen, endpoint));
        table.through = envoy.address();
        Self {
            _envoy: envoy,
            table,
        }
    }
}

fn bootstrap(listen: SocketAddr, endpoint: SocketAddr) -> Value {
    let manager = envoy::manager(json!({
        "stat_prefix": "in", "codec_type": "HTTP1", "stream_idle_timeout": "0s",
        "generate_request_id": false, "delayed_close_timeout": "0.02s",
        "http_filters": [envoy::router()],
        "server_header_transformation": "PASS_THROUGH",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": ""}, "route": {"cluster": "app", "timeout": "0s"}},
        ]}]},
    }));
    json!({"static_resources": {
        "listeners": [{
            "name": "in", "address": envoy::address(listen),
            "filter_chains": [{"filters": [manager]}],
        }],
        "clusters": [{
            "name": "app", "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": envoy::address(endpoint)}},
            ]}]},
        }],
    }})
}

/// What an exchange comes to, without what proxies rightly do each in its own way: fields that they add or
/// take away, words of their own in a body.
#[derive(Debug, PartialEq, Eq)]
struct Story {
    /// Request lines and bodies, as the endpoint got them.
    asked: Vec<(String, String)>,
    /// Status lines up to the number; of what the endpoint answered the bodies, too.
    answers: Vec<(String, String)>,
}

/// Answers of the proxies' own, which the endpoint never gives.
const OWN: [&str; 5] = ["400", "431", "501", "502", "505"];

impl Story {
    fn of(seen: &Seen) -> Self {
        let asked = seen.asked.iter();
        let last = seen
            .answers
            .iter()
            .filter(|answer| !answer.status.contains(" 10"));
        Self {
            asked: asked
                .map(|one| (one.line.clone(), text(&one.body)))
                .collect(),
            answers: last
                .map(|one| {
                    let is_own = OWN.iter().any(|own| one.status.ends_with(own));
                    let body = if is_own {
                        String::new()
                    } else {
                        text(&one.body)
                    };
                    (one.status.clone(), body)
                })
                .collect(),
        }
    }
}

/// A body that can be read, and told from another.
fn text(body: &[u8]) -> String {
    if body.len() <= 64 {
        return String::from_utf8_lossy(body).into_owned();
    }
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    format!("{} bytes, {:x}", body.len(), hasher.finish())
}

/// Envoy ends with a client that ends its side: here clients ask for the end instead.
fn asking_for_the_end(mut script: Script) -> Script {
    script.client_ends = false;
    let close = b"Connection: close\r\n";
    if !script
        .pieces
        .concat()
        .windows(close.len())
        .any(|part| part == close)
    {
        script.pieces.push(LAST.to_vec());
        script.methods.push("GET".to_owned());
    }
    script
}

async fn start() -> (Bench, Beside) {
    let bench = Bench::start(Http1Engine::Fast).await;
    let (table, endpoint) = Table::set(&bench.mesh).await;
    (bench, Beside::start(table, endpoint))
}

/// What Envoy refuses although HTTP allows it, so that it need not be refused here.
const ALLOWED: &[(&str, &str)] = &[
    (
        "X-ODD ",
        "methods of one's own are allowed (RFC 9110 section 9.1)",
    ),
    ("connection: host", "Host is kept all the same"),
    (
        "HTTP/1.0",
        "older clients are served, as in HTTP/1.1's own rules",
    ),
    ("OPTIONS *", "concerns the server, which answers"),
    ("#fragment", "is taken off, for rules and for the endpoint"),
    (
        "\u{e9} HTTP",
        "bytes that are no ASCII are carried as they are",
    ),
    // RFC 9112 section 6.3: the coding counts, and the length is taken off.
    (
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "one reading goes on",
    ),
    (
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "one reading goes on",
    ),
    (
        "Content-Length: 3\r\nContent-Length: 3",
        "one length goes on",
    ),
    ("Content-Length: 3, 3", "one length goes on"),
    // Refused as by Envoy, which ends the connection, too.
    ("CONNECT ", "the connection goes on"),
    (
        "gzip, chunked",
        "the connection goes on: where the body ends is known",
    ),
];

fn is_allowed(script: &Script) -> bool {
    let sent = script.pieces.concat();
    let sent = String::from_utf8_lossy(&sent);
    ALLOWED.iter().any(|(what, _why)| sent.contains(what))
}

#[tokio::test]
async fn plain_requests_and_their_answers_are_carried_as_envoy_does() {
    let (bench, envoy) = start().await;
    let mut compared = 0;
    for seed in 0..exchanges() {
        let script = asking_for_the_end(Script::random(seed));
        if is_allowed(&script) {
            continue;
        }
        let (ours, its) = tokio::join!(bench.play(&script), envoy.table.play(&script));
        assert_eq!(Story::of(&ours), Story::of(&its), "{seed}: {script:.2000?}");
        compared += 1;
    }
    assert!(compared > 10, "{compared}");
}

#[tokio::test]
async fn what_envoy_does_not_carry_out_is_not_carried_out() {
    let (bench, envoy) = start().await;
    for seed in 0..exchanges() {
        let script = asking_for_the_end(Script::odd(seed));
        if is_allowed(&script) {
            continue;
        }
        let (ours, its) = tokio::join!(bench.play(&script), envoy.table.play(&script));
        let (ours, its) = (Story::of(&ours), Story::of(&its));
        let is_known = |asked| its.asked.contains(asked);
        assert!(
            ours.asked.iter().all(is_known),
            "{seed}: {script:#?}\nours: {ours:#?}\nits: {its:#?}"
        );
    }
}
