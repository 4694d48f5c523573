// SPDX-License-Identifier: Apache-2.0

//! The smallest proxy: what is captured is carried on as it came.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use mesh_agent::datapath::{Change, Connector, Leg, Netns, PodSockets, reset};
use tokio::sync::oneshot;

/// What the relay saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) inbound: bool,
    pub(crate) peer: SocketAddr,
    pub(crate) orig_dst: SocketAddr,
}

/// Relays on a thread of its own; ends when dropped, with all its connections.
pub(crate) struct Relay {
    seen: Arc<Mutex<Vec<Seen>>>,
    changes: tokio::sync::mpsc::UnboundedSender<Change>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Relay {
    pub(crate) fn new(connector: Connector) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (changes, receiver) = tokio::sync::mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let log = Arc::clone(&seen);
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be built");
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                ready.send(()).expect("the test waits");
                tokio::select! {
                    () = accept_all(connector, receiver, log) => {}
                    _ = ended => {}
                }
            });
        });
        is_ready.recv().expect("the thread is there");
        Self {
            seen,
            changes,
            end: Some(end),
            thread: Some(thread),
        }
    }

    /// Carries out what the datapath changed.
    pub(crate) fn carry_out(&self, changes: Vec<Change>) {
        for change in changes {
            self.changes.send(change).expect("the relay runs");
        }
    }

    /// What was accepted so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !thread::panicking() {
                ended.expect("the relay does not panic");
            }
        }
    }
}

async fn accept_all(
    connector: Connector,
    mut changes: tokio::sync::mpsc::UnboundedReceiver<Change>,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    let mut pods = std::collections::HashMap::new();
    while let Some(change) = changes.recv().await {
        match change {
            Change::Released(uid) => drop(pods.remove(&uid)),
            Change::Captured(sockets) => {
                let PodSockets {
                    workload,
                    netns,
                    outbound,
                    inbound,
                    addresses: _,
                    accepts: _,
                } = sockets;
                let mut accepting = tokio::task::JoinSet::new();
                let all = outbound
                    .into_iter()
                    .map(|listener| (listener, false))
                    .chain(inbound.into_iter().map(|listener| (listener, true)));
                for (listener, inbound) in all {
                    accepting.spawn_local(accept(
                        connector.clone(),
                        netns.clone(),
                        listener,
                        inbound,
                        Arc::clone(&seen),
                    ));
                }
                pods.insert(workload.uid.clone(), accepting);
            }
        }
    }
    std::future::pending::<()>().await;
}

#[allow(clippy::disallowed_methods, reason = "tests have no task tracker")]
async fn accept(
    connector: Connector,
    netns: Netns,
    listener: TcpListener,
    inbound: bool,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("it is non-blocking");
    loop {
        let Ok((mut stream, peer)) = listener.accept().await else {
            continue;
        };
        let orig_dst = stream.local_addr().expect("it is accepted");
        seen.lock().expect("nobody panics with it").push(Seen {
            inbound,
            peer,
            orig_dst,
        });
        if inbound && connector.is_own_upstream(peer) {
            reset(stream);
            continue;
        }
        let leg = if inbound {
            Leg::App { client: peer }
        } else {
            Leg::Plain
        };
        let (connector, netns) = (connector.clone(), netns.clone());
        tokio::task::spawn_local(async move {
            match connector.connect(&netns, leg, orig_dst).await {
                Ok(mut upstream) => {
                    // Either end may go away: that is what tests look at.
                    drop(tokio::io::copy_bidirectional(&mut stream, &mut upstream).await);
                }
                Err(_refused) => reset(stream),
            }
        });
    }
}
