// SPDX-License-Identifier: Apache-2.0

//! A second client with a server of its own, which floods: what its neighbours suffer from is measured.
//!
//! Its programs run with the least priority: the machine serves its neighbours' first, so that what they wait
//! for is the data plane. Knows nothing of figures. Invariant: a flood ends when it is dropped, and by itself
//! soon after.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{
    congestion,
    stage::{HTTP1, nginx},
};
use crate::{Lab, Pod, command, foreign::Server};

/// The Service, and the host name of its requests.
const HOST: &str = "rival";

/// Of `nice`: everybody else first.
const LEAST: [&str; 2] = ["-n", "19"];

/// What is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flood {
    /// Requests on 64 connections, as fast as they go.
    Requests,
    /// A connection for each request, 64 at a time.
    Connections,
    /// Bodies of 1 MiB on 16 connections.
    Bytes,
}

/// The second client, with its server.
pub(super) struct Rival {
    client: Pod,
    target: String,
    _server: Server,
}

/// A flood that goes on.
pub(super) struct Flooding(Child);

impl Rival {
    /// Sets it beside what is in `lab`; as there, clients use the Service's address if there is somebody to serve it.
    #[track_caller]
    pub(super) fn set(lab: &Lab, one_node: bool, with_service: bool, pace: &str) -> Self {
        let client = lab.pod("rival-client").account(HOST).start();
        let server = lab.pod("rival-server").label("app", HOST).account(HOST);
        let server = if one_node { server } else { server.on_b() }.start();
        congestion::choose(pace, &[&client.netns, &server.netns]);
        let (service, _) = lab.service(HOST).port("http", HTTP1, HTTP1).create();
        let address = if with_service {
            service
        } else {
            server.v4.clone()
        };
        let directory = lab.directory().join("rival");
        fs::create_dir_all(&directory).expect("the lab's directory can be written");
        let mut niced = server.command("nice");
        niced.args(LEAST).arg("nginx");
        let served = Server::start(&server, HTTP1, nginx(niced, &directory), &directory);
        Self {
            client,
            target: format!("{address}:{HTTP1}"),
            _server: served,
        }
    }

    /// Begins to flood, for so many seconds at most.
    ///
    /// # Errors
    /// When the tool does not start.
    pub(super) fn flood(&self, flood: Flood, seconds: u32) -> Result<Flooding, String> {
        let mut command: Command = self.client.command("nice");
        command
            .args(LEAST)
            .args(["wrk", "-t", "1", "--timeout", "5s"]);
        command.args(["-d", &format!("{seconds}s"), "-H", &format!("Host: {HOST}")]);
        let (connections, path) = match flood {
            Flood::Requests | Flood::Connections => ("64", "/"),
            Flood::Bytes => ("16", "/large"),
        };
        command.args(["-c", connections]);
        if flood == Flood::Connections {
            command.args(["-H", "Connection: close"]);
        }
        command.arg(format!("http://{}{path}", self.target));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let spawned = command.stderr(Stdio::null()).spawn();
        spawned
            .map(Flooding)
            .map_err(|error| format!("{command:?}: {error}"))
    }
}

impl Flooding {
    /// Whether it still goes on: what was measured beside a flood that ended says nothing.
    pub(super) fn goes_on(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Flooding {
    fn drop(&mut self) {
        command::stop(&mut self.0, Duration::from_secs(1));
    }
}
