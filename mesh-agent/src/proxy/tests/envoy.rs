// SPDX-License-Identifier: Apache-2.0

//! A real Envoy beside the proxy of a test.
//!
//! `ENVOY_BIN` names the program; `cargo xtask test` gets it and sets that. Knows nothing of what the
//! Envoy is asked to do.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// How long Envoy may take to listen.
const START: Duration = Duration::from_secs(20);

/// An Envoy, until it is dropped.
pub(super) struct Envoy {
    child: Child,
    directory: PathBuf,
    listen: SocketAddr,
}

impl Envoy {
    /// Starts one with what `bootstrap` makes of an address to listen at.
    pub(super) fn start(bootstrap: impl FnOnce(SocketAddr) -> Value) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let listen = port.local_addr().expect("bound");
        drop(port);
        let name = format!("mesh-agent-envoy-{}-{}", std::process::id(), listen.port());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("a directory for temporary files");
        let config = directory.join("envoy.json");
        fs::write(&config, bootstrap(listen).to_string()).expect("room");
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
        let mut envoy = Self {
            child,
            directory,
            listen,
        };
        envoy.wait();
        envoy
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.listen
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + START;
        while TcpStream::connect(self.listen).is_err() {
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

/// A socket, as Envoy's configuration writes it.
pub(super) fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// A filter with its fields; `kind` is its message's name behind `envoy.extensions.filters.`.
pub(super) fn filter(name: &str, kind: &str, mut fields: Value) -> Value {
    fields["@type"] = json!(format!(
        "type.googleapis.com/envoy.extensions.filters.{kind}"
    ));
    json!({"name": name, "typed_config": fields})
}

/// What sends requests on.
pub(super) fn router() -> Value {
    filter(
        "envoy.filters.http.router",
        "http.router.v3.Router",
        json!({}),
    )
}

/// What reads requests.
pub(super) fn manager(fields: Value) -> Value {
    filter(
        "envoy.filters.network.http_connection_manager",
        "network.http_connection_manager.v3.HttpConnectionManager",
        fields,
    )
}
