// SPDX-License-Identifier: Apache-2.0

//! HTTP/1 by hand against Envoy: no request may mean to us what it does not mean to those that our users
//! come from. What may differ, and why, is in [`Story`] and in the tests.
//!
//! `ENVOY_BIN` names the program; `cargo xtask test` gets it and sets that. Knows nothing of meshes:
//! this Envoy leads every request to one endpoint.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Bench, Seen, Table, exchanges, script::Script};
use crate::proxy::Http1Engine;

/// The last request of a connection.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// How long Envoy may take to listen.
const START: Duration = Duration::from_secs(20);

/// An Envoy, and what it leads to.
struct Envoy {
    child: Child,
    directory: PathBuf,
    table: Table,
}

impl Envoy {
    /// Starts one in front of `table`'s endpoint.
    fn start(mut table: Table, endpoint: SocketAddr) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let listen = port.local_addr().expect("bound");
        drop(port);
        let name = format!("mesh-agent-envoy-{}-{}", std::process::id(), listen.port());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("a directory for temporary files");
        let config = directory.join("envoy.json");
        fs::write(&config, bootstrap(listen, endpoint).to_string()).expect("room");
        let log = File::create(directory.join("log")).expect("room");
        let child = Command::new(program())
            .arg("--config-path")
            .arg(config)
            .args(["--concurrency", "1", "--use-dynamic-base-id"])
            .args(["--log-level", "warning"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("ENVOY_BIN can be run");
        table.through = listen;
        let mut envoy = Self {
            child,
            directory,
            table,
        };
        envoy.wait();
        envoy
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + START;
        while TcpStream::connect(self.table.through).is_err() {
            let ended = self.child.try_wait().expect("it is our child");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "Envoy does not listen: {}",
                fs::read_to_string(self.directory.join("log")).unwrap_or_default()
            );
            std::thread::yield_now();
        }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir_all(&self.directory).ok();
    }
}

fn program() -> PathBuf {
    let named = std::env::var_os("ENVOY_BIN");
    named
        .expect("ENVOY_BIN names an Envoy: `cargo xtask test unit` gets one and sets it")
        .into()
}

fn bootstrap(listen: SocketAddr, endpoint: SocketAddr) -> Value {
    let address = |address: SocketAddr| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let extension = |name: &str, kind: &str, mut fields: Value| {
        fields["@type"] = json!(format!(
            "type.googleapis.com/envoy.extensions.filters.{kind}"
        ));
        json!({"name": name, "typed_config": fields})
    };
    let router = extension(
        "envoy.filters.http.router",
        "http.router.v3.Router",
        json!({}),
    );
    let manager = extension(
        "envoy.filters.network.http_connection_manager",
        "network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "in", "codec_type": "HTTP1", "stream_idle_timeout": "0s",
            "generate_request_id": false, "delayed_close_timeout": "0.02s", "http_filters": [router],
            "server_header_transformation": "PASS_THROUGH",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": ""}, "route": {"cluster": "app", "timeout": "0s"}},
            ]}]},
        }),
    );
    json!({"static_resources": {
        "listeners": [{
            "name": "in", "address": address(listen),
            "filter_chains": [{"filters": [manager]}],
        }],
        "clusters": [{
            "name": "app", "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": address(endpoint)}},
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

async fn start() -> (Bench, Envoy) {
    let bench = Bench::start(Http1Engine::Fast).await;
    let (table, endpoint) = Table::set(&bench.mesh).await;
    (bench, Envoy::start(table, endpoint))
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
