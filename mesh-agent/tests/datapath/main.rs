// SPDX-License-Identifier: Apache-2.0

//! The datapath on a real kernel, invariant by invariant: two pods, a trivial relay, no mocks.
//!
//! Needs root. Each test has pods and a pin directory of its own, so they run side by side.

mod pods;
mod relay;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use mesh_agent::datapath::{Datapath, DatapathSettings, OnAgentDeath, Stop};
use pods::{Pod, counter, eventually, snapshot};
use relay::Relay;

const PORT: u16 = 8080;

static NEXT_NODE: AtomicU32 = AtomicU32::new(0);

/// An agent of one node: datapath and relay.
struct Node {
    datapath: Option<Datapath>,
    relay: Option<Relay>,
    settings: DatapathSettings,
}

impl Node {
    fn new(on_agent_death: OnAgentDeath) -> Self {
        let number = NEXT_NODE.fetch_add(1, Ordering::Relaxed);
        let name = format!("kernel-{}.{number}", std::process::id());
        let mut node = Self {
            datapath: None,
            relay: None,
            settings: DatapathSettings {
                pin_dir: Path::new("/sys/fs/bpf/mesh-agent-tests").join(name),
                on_agent_death,
                ..DatapathSettings::default()
            },
        };
        node.start();
        node
    }

    fn start(&mut self) {
        let datapath = Datapath::start(&self.settings).expect("the kernel takes the programs");
        self.relay = Some(Relay::new(datapath.connector()));
        self.datapath = Some(datapath);
    }

    fn datapath(&mut self) -> &mut Datapath {
        self.datapath.as_mut().expect("it is started")
    }

    fn relay(&self) -> &Relay {
        self.relay.as_ref().expect("it is started")
    }

    fn apply(&mut self, workloads: impl IntoIterator<Item = mesh_agent::model::Workload>) {
        let changes = self.datapath().apply(&snapshot(workloads));
        self.relay().carry_out(changes);
        for pod in self.datapath().observe().pods {
            assert_eq!(pod.error, None, "{}", pod.uid);
        }
    }

    fn reconcile(&mut self) {
        let changes = self.datapath().reconcile();
        self.relay().carry_out(changes);
    }

    /// As after SIGKILL: sockets and descriptors are closed, pins stay.
    fn crash(&mut self) {
        self.relay = None;
        self.datapath
            .take()
            .expect("it is started")
            .stop(Stop::Leave);
    }

    fn pins(&self) -> PathBuf {
        let name = self.settings.pin_dir.file_name().expect("it has a name");
        let name = name.to_string_lossy().replace('.', "%2e");
        self.settings.pin_dir.with_file_name(name)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.relay = None;
        if let Some(mut datapath) = self.datapath.take() {
            datapath.stop(Stop::Remove);
        }
    }
}

/// Sends a byte and reads a line: the peer that the application saw.
#[track_caller]
fn ask(stream: TcpStream) -> String {
    try_ask(stream).expect("the application answers")
}

fn try_ask(mut stream: TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"x")?;
    let mut line = String::new();
    stream.read_to_string(&mut line)?;
    Ok(line.trim().to_owned())
}

fn both(pod: &Pod, port: u16) -> [SocketAddr; 2] {
    [SocketAddr::new(pod.v4, port), SocketAddr::new(pod.v6, port)]
}

#[test]
fn captured_connections_are_carried_on_and_show_the_real_client() {
    let (client, server) = (Pod::new(), Pod::new());
    server.app(PORT);
    let mut node = Node::new(OnAgentDeath::Closed);
    node.apply([client.workload(), server.workload()]);
    for to in both(&server, PORT) {
        let own = if to.is_ipv6() { client.v6 } else { client.v4 };
        assert_eq!(ask(client.connect(to).expect("connects")), own.to_string());
    }
    let seen = node.relay().seen();
    let [v4, v6] = both(&server, PORT);
    for (inbound, to) in [(false, v4), (true, v4), (false, v6), (true, v6)] {
        let hits = seen
            .iter()
            .filter(|seen| seen.inbound == inbound && seen.orig_dst == to);
        assert_eq!(hits.count(), 1, "{inbound} {to}: {seen:?}");
    }
    let observation = node.datapath().observe();
    assert_eq!(counter(&observation, &client, "captured_syn"), 2);
    assert_eq!(counter(&observation, &server, "expected_passed"), 2);
}
