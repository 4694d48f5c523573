// SPDX-License-Identifier: Apache-2.0

//! Accept loops: room, accept, hand over; never a crash for want of descriptors.
//!
//! A loop runs on one data thread and hands each accepted socket to the least loaded one. Without
//! room in the budget of its pod it does not accept, so the kernel's backlog holds the client back; an address that
//! has its share of what a pod accepts is reset. When the process is out of descriptors a loop waits a
//! little and says so at most once a second.
//!
//! Knows nothing of what is spoken. Invariant: a loop ends only when its pod is released or the
//! agent drains, and connections it handed over live on.

use std::{
    cell::Cell,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::{
    connection::{self, Accepted},
    pod::Pod,
    threads::{Order, Thread},
};
use crate::datapath;

/// How long a loop waits when the process is out of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Which way connections of a listener go, as seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the pod's application.
    Outbound,
    /// To the pod's application.
    Inbound,
}

/// Accepts at `listener` for `pod` until what is returned is dropped.
pub(crate) fn spawn(
    thread: &Rc<Thread>,
    pod: &Arc<Pod>,
    listener: StdListener,
    way: Way,
) -> oneshot::Sender<()> {
    let (stop, stopped) = oneshot::channel();
    let (thread, pod) = (Rc::clone(thread), Arc::clone(pod));
    let tasks = thread.shared.tasks.clone();
    tasks.spawn_local("accept loop", async move {
        // Dropping the loop at an await loses no connection: what was accepted has been handed
        // over, and the rest is still in the backlog.
        tokio::select! {
            _ = stopped => {}
            () = thread.drain.requested() => {}
            ended = accept(&thread, &pod, listener, way) => {
                if let Err(error) = ended {
                    tracing::error!(pod = %pod.workload.uid, %error, "cannot accept for pod");
                }
            }
        }
    });
    stop
}

async fn accept(
    thread: &Rc<Thread>,
    pod: &Arc<Pod>,
    listener: StdListener,
    way: Way,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    datapath::accept_without_delay(&listener)?;
    if way == Way::Outbound {
        // A client is never left with half an answer that ends in order, whatever becomes of us.
        datapath::break_when_closed(&listener);
    }
    let own = canonical(listener.local_addr()?);
    let listener = TcpListener::from_std(listener)?;
    let budget = &pod.budgets.side(way).connections;
    loop {
        budget.room().await;
        match listener.accept().await {
            Ok((stream, peer)) => {
                match way {
                    Way::Outbound => pod.accepts.note_outbound(),
                    Way::Inbound => pod.accepts.note_inbound(),
                }
                let peer = canonical(peer);
                let guest = match way {
                    Way::Outbound => None,
                    Way::Inbound => match pod.budgets.peers.admit(peer.ip(), budget.left()) {
                        None => {
                            datapath::reset(stream);
                            budget.refuse(&peer.ip());
                            continue;
                        }
                        admitted => admitted,
                    },
                };
                let index = thread.lanes.least_loaded(thread.index());
                let accepted = Accepted {
                    peer,
                    own,
                    way,
                    pod: Arc::clone(pod),
                    live: thread.lanes.begin(index, pod),
                    permit: budget.take_anyway(),
                    guest,
                };
                hand_over(thread, index, stream, accepted);
            }
            Err(error) if is_shortage(&error) => {
                complain(&error.to_string());
                tokio::time::sleep(BACK_OFF).await;
            }
            // It listens no more: who may administer the pod's namespace ended it.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                pod.accepts.note_ended();
                return Err(error);
            }
            // Errors of the connection that was to be accepted (accept(2)).
            Err(error) => tracing::debug!(%error, "accept"),
        }
    }
}

/// Has thread `index` serve what was accepted.
fn hand_over(thread: &Rc<Thread>, index: usize, stream: TcpStream, accepted: Accepted) {
    if index == thread.index() {
        connection::spawn(thread, stream, accepted);
        return;
    }
    match stream.into_std() {
        Ok(stream) => thread.lanes.give(index, Order::Serve(stream, accepted)),
        Err(error) => tracing::debug!(%error, "accepted connection was already gone"),
    }
}

/// Whether accepting failed for want of descriptors or memory.
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// Says that connections have to wait, at most once a second per thread.
fn complain(why: &str) {
    thread_local!(static LAST: Cell<Option<Instant>> = const { Cell::new(None) });
    let now = Instant::now();
    let quiet = |last: Instant| now.duration_since(last) < Duration::from_secs(1);
    if !LAST.get().is_some_and(quiet) {
        LAST.set(Some(now));
        tracing::warn!(why, "new connections have to wait");
    }
}

/// An address in IPv4's form where it is IPv4's.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
