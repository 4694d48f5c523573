// SPDX-License-Identifier: Apache-2.0

//! Applications that pods run: an HTTP server that tells what it saw, and TCP servers with one
//! habit each.
//!
//! An application is a thread of the test that entered the pod's network, with a runtime of its
//! own. Knows nothing of the mesh: what it reports is what a socket tells any program. Invariant:
//! an application listens before its constructor returns, and is gone after its drop.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use tokio::{
    net::TcpStream,
    sync::oneshot,
    task::{JoinSet, LocalSet},
};

use crate::pod::Pod;

pub mod habit;
mod http;

pub use self::habit::Habit;

/// What an application counted.
#[derive(Debug, Default)]
pub struct Seen {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections that are open now.
    pub open: AtomicU64,
    /// HTTP requests begun, or bytes read by a TCP server.
    pub work: AtomicU64,
}

/// A running application.
pub struct App {
    /// What it counted so far.
    pub seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Who an HTTP server says it is.
#[derive(Debug)]
struct Identity {
    pod: String,
    version: String,
}

impl App {
    /// An HTTP/1.1 and HTTP/2 (prior knowledge) server on all addresses of `pod`.
    ///
    /// It answers `/` with JSON (`pod version peer protocol method path authority headers
    /// body_bytes body_hash`); `/slow?ms=N` the same after N milliseconds; `/status/CODE`;
    /// `/stream?chunks=N&size=M`; `/trailers`; `/close`; and `Upgrade: echo` by echoing bytes.
    ///
    /// # Panics
    /// When the port is taken.
    #[track_caller]
    pub fn http(pod: &Pod, port: u16) -> Self {
        let identity = Identity {
            pod: pod.name.clone(),
            version: pod.label("version"),
        };
        Self::serve(pod, port, move |seen| {
            let server = Rc::new(http::Server::new(identity, seen));
            move |stream, peer| http::serve(Rc::clone(&server), stream, peer)
        })
    }

    /// A TCP server with a habit on all addresses of `pod`.
    ///
    /// # Panics
    /// When the port is taken.
    #[track_caller]
    pub fn tcp(pod: &Pod, port: u16, habit: Habit) -> Self {
        Self::serve(pod, port, move |seen| {
            move |stream, peer| habit::serve(habit, Arc::clone(&seen), stream, peer)
        })
    }

    #[track_caller]
    fn serve<Made, Connection, Served>(
        pod: &Pod,
        port: u16,
        make: impl FnOnce(Arc<Seen>) -> Made + Send + 'static,
    ) -> Self
    where
        Made: Fn(TcpStream, SocketAddr) -> Served + 'static,
        Served: Future<Output = Connection> + 'static,
        Connection: 'static,
    {
        let listener = pod.run(|| TcpListener::bind(("::", port)));
        let listener = listener
            .unwrap_or_else(|error| panic!("{} cannot listen on {port}: {error}", pod.name));
        listener
            .set_nonblocking(true)
            .expect("a socket can be made non-blocking");
        let seen = Arc::<Seen>::default();
        let (stop, stopped) = oneshot::channel();
        let counters = Arc::clone(&seen);
        let thread = pod.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.expect("a runtime can be made");
            let accept = accept(listener, make(Arc::clone(&counters)), counters);
            LocalSet::new().block_on(&runtime, async {
                // Neither has anything to lose: both end with the application.
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            seen,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// How many connections it accepted.
    pub fn connections(&self) -> u64 {
        self.seen.connections.load(Ordering::Relaxed)
    }

    /// How many connections are open.
    pub fn open(&self) -> u64 {
        self.seen.open.load(Ordering::Relaxed)
    }

    /// How many requests were begun, or bytes read.
    pub fn work(&self) -> u64 {
        self.seen.work.load(Ordering::Relaxed)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // An application that ended by itself no longer listens for this.
        self.stop
            .take()
            .map_or(Ok(()), |stop| stop.send(()))
            .unwrap_or(());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "an application panicked"
            );
        }
    }
}

async fn accept<Served: Future + 'static>(
    listener: TcpListener,
    serve: impl Fn(TcpStream, SocketAddr) -> Served,
    seen: Arc<Seen>,
) where
    Served::Output: 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener).expect("it does not block");
    let mut connections = JoinSet::new();
    loop {
        // Out of files or a connection that is gone already: the next one may do.
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        seen.connections.fetch_add(1, Ordering::Relaxed);
        seen.open.fetch_add(1, Ordering::Relaxed);
        let served = serve(stream, plain(peer));
        let seen = Arc::clone(&seen);
        connections.spawn_local(async move {
            served.await;
            seen.open.fetch_sub(1, Ordering::Relaxed);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// An IPv4 peer of a dual-stack socket as what it is.
fn plain(peer: SocketAddr) -> SocketAddr {
    match peer.ip() {
        IpAddr::V6(v6) => SocketAddr::new(v6.to_canonical(), peer.port()),
        IpAddr::V4(_) => peer,
    }
}
