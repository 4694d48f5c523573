// SPDX-License-Identifier: Apache-2.0

//! The datapath on a real kernel, invariant by invariant: two pods, a trivial relay, no mocks.
//!
//! Needs root. Each test has pods and a pin directory of its own, so they run side by side.

mod capture;
mod inbound;
mod kubelet;
mod lifecycle;
mod older;
mod pods;
mod programs;
mod relay;
mod sandboxes;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use mesh_agent::datapath::{Change, Datapath, DatapathError, DatapathSettings, OnAgentDeath, Stop};
use pods::{Pod, eventually, snapshot};
use relay::Relay;

const PORT: u16 = 8080;

static NEXT_NODE: AtomicU32 = AtomicU32::new(0);

/// Written while a node waits for pods: it holds back every namespace that is new, of other tests,
/// too.
static WAITING: RwLock<()> = RwLock::new(());

enum Neighbours {
    Many {
        _guard: RwLockReadGuard<'static, ()>,
    },
    None {
        _guard: RwLockWriteGuard<'static, ()>,
    },
}

impl Neighbours {
    fn many() -> Self {
        let _guard = WAITING.read().unwrap_or_else(PoisonError::into_inner);
        Self::Many { _guard }
    }

    fn none() -> Self {
        let _guard = WAITING.write().unwrap_or_else(PoisonError::into_inner);
        Self::None { _guard }
    }
}

/// An agent of one node: datapath and relay.
struct Node {
    datapath: Option<Datapath>,
    relay: Option<Relay>,
    settings: DatapathSettings,
    _neighbours: Neighbours,
}

impl Node {
    fn new(on_agent_death: OnAgentDeath) -> Self {
        let mut node = Self::stopped(on_agent_death, Neighbours::many());
        node.start();
        node
    }

    /// One that is still to be started.
    fn stopped(on_agent_death: OnAgentDeath, neighbours: Neighbours) -> Self {
        let number = NEXT_NODE.fetch_add(1, Ordering::Relaxed);
        let name = format!("kernel-{}.{number}", std::process::id());
        Self {
            datapath: None,
            relay: None,
            settings: DatapathSettings {
                pin_dir: Path::new("/sys/fs/bpf/mesh-agent-tests").join(name),
                on_agent_death,
                ..DatapathSettings::default()
            },
            _neighbours: neighbours,
        }
    }

    fn start(&mut self) {
        let mut datapath = None;
        // A program that another test is just starting has our descriptors until it is executed, and
        // so holds the lock of an agent that is gone.
        eventually("the lock is free", || {
            match Datapath::start(&self.settings) {
                Ok(started) => datapath.replace(started).is_none(),
                Err(DatapathError::InUse { .. }) => false,
                Err(error) => panic!("the kernel takes the programs: {error}"),
            }
        });
        let datapath = datapath.expect("it was started");
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
        self.carry_out(changes);
        for pod in self.datapath().observe().pods {
            assert_eq!(pod.error, None, "{}", pod.uid);
        }
    }

    fn reconcile(&mut self) {
        let changes = self.datapath().reconcile();
        self.carry_out(changes);
    }

    /// Does what changed, and captures what is to be captured; how many pods were captured and
    /// released.
    fn carry_out(&mut self, mut changes: Vec<Change>) -> (usize, usize) {
        while let Some(more) = self.datapath().capture_next() {
            changes.extend(more);
        }
        let captured = |change: &&Change| matches!(change, Change::Captured(_));
        let count = changes.iter().filter(captured).count();
        let counts = (count, changes.len() - count);
        self.relay().carry_out(changes);
        counts
    }

    /// As after SIGKILL: sockets and descriptors are closed, pins stay.
    fn crash(&mut self) {
        self.relay = None;
        self.datapath
            .take()
            .expect("it is started")
            .stop(Stop::Leave);
    }

    /// As an upgrade: a successor beside us. Returns the old relay, which drains.
    fn succeed(&mut self) -> (Datapath, Relay) {
        self.datapath().hand_over();
        let datapath = self.datapath.take().expect("it is started");
        let relay = self.relay.take().expect("it is started");
        self.start();
        (datapath, relay)
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

/// Sends a byte and reads all: the peer that the application saw.
#[track_caller]
fn ask(stream: std::io::Result<TcpStream>) -> SocketAddr {
    stream.and_then(try_ask).expect("the application answers")
}

fn try_ask(mut stream: TcpStream) -> std::io::Result<SocketAddr> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"x")?;
    let mut line = String::new();
    stream.read_to_string(&mut line)?;
    line.trim().parse().map_err(std::io::Error::other)
}

/// A connection that stays open: the application has answered once and echoes from now on.
struct Echo {
    stream: TcpStream,
    /// The peer that the application saw.
    peer: SocketAddr,
}

impl Echo {
    #[track_caller]
    fn open(stream: std::io::Result<TcpStream>) -> Self {
        let mut stream = stream.expect("connects");
        let timeout = Some(Duration::from_secs(5));
        stream.set_read_timeout(timeout).expect("it is a socket");
        stream.write_all(b"e").expect("sends");
        let mut line = String::new();
        let mut reader = std::io::BufReader::with_capacity(1, &stream);
        std::io::BufRead::read_line(&mut reader, &mut line).expect("the application answers");
        let peer = line.trim().parse().expect("it says its peer");
        Self { stream, peer }
    }

    #[track_caller]
    fn check(&mut self) {
        self.stream.write_all(b"ping").expect("sends");
        let mut answer = [0; 4];
        self.stream.read_exact(&mut answer).expect("it echoes");
        assert_eq!(&answer, b"ping");
    }

    /// Whether the connection has been ended.
    fn is_over(&mut self) -> bool {
        let sent = self.stream.write_all(b"ping");
        sent.is_err() || !matches!(self.stream.read(&mut [0; 4]), Ok(4))
    }
}

fn both(pod: &Pod, port: u16) -> [SocketAddr; 2] {
    [SocketAddr::new(pod.v4, port), SocketAddr::new(pod.v6, port)]
}
