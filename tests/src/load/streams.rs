// SPDX-License-Identifier: Apache-2.0

//! Long-lived connections while something is done to the mesh: TCP that must echo every byte, and
//! HTTP/2 with many streams.
//!
//! Knows nothing of what is done meanwhile. Invariants: a TCP connection is never reopened; an
//! HTTP/2 request is counted as failed unless it was answered, but for one that the client knows was
//! not sent on a connection that said goodbye: that one is sent again, as RFC 9113 asks.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use tokio::{task::JoinSet, time::timeout};

use super::Tally;
use crate::{
    Pod,
    app::habit::pattern,
    client::{self, TIMEOUT, http2},
};

/// What is written before it is read back.
const PIECE: usize = 4096;

/// A rest between two pieces, so that a stream is long rather than heavy.
const REST: Duration = Duration::from_millis(2);

/// TCP connections to an echo server, each open from start to stop.
pub struct Streams {
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Streams {
    /// Opens `count` connections from `pod` to `address`.
    pub fn start(pod: &Pod, address: &str, count: usize) -> Self {
        let (stop, bytes) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let threads = (0..count).map(|_| {
            let (stop, bytes) = (Arc::clone(&stop), Arc::clone(&bytes));
            let address = address.to_owned();
            pod.spawn(move || echo(&address, &stop, &bytes))
        });
        let threads = threads.collect();
        Self {
            stop,
            bytes,
            threads,
        }
    }

    /// How many bytes came back so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends them in order.
    ///
    /// # Panics
    /// When one broke, or a byte came back wrong.
    #[track_caller]
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join().expect("a client reports, it does not panic");
            ended.unwrap_or_else(|error| panic!("a long-lived connection broke: {error:?}"));
        }
        assert!(self.bytes() > 0, "nothing was carried");
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn echo(address: &str, stop: &AtomicBool, bytes: &AtomicU64) -> io::Result<()> {
    let mut stream = client::connect(address)?;
    let mut offset = 0;
    let mut back = vec![0; PIECE];
    while !stop.load(Ordering::Relaxed) {
        let piece = pattern(offset, PIECE);
        stream.write_all(&piece)?;
        stream.read_exact(&mut back)?;
        if back != piece {
            return Err(io::Error::other(format!("wrong bytes after {offset}")));
        }
        offset += PIECE as u64;
        bytes.fetch_add(PIECE as u64, Ordering::Relaxed);
        std::thread::sleep(REST);
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    match stream.read(&mut back)? {
        0 => Ok(()),
        more => Err(io::Error::other(format!("{more} bytes after the end"))),
    }
}

/// HTTP/2 load: a connection with so many requests at a time.
pub struct Http2Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: Option<JoinHandle<Tally>>,
}

impl Http2Load {
    /// Starts it in `pod`.
    pub fn start(pod: &Pod, address: &str, authority: &str, path: &str, streams: usize) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let address: SocketAddr = address.parse().expect("the test's address is one");
        let uri = format!("http://{authority}{path}");
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread = pod.spawn(move || {
            http2::block_on(async {
                let mut tally = Tally::default();
                while !stopped.load(Ordering::Relaxed) {
                    connection(address, &uri, streams, &stopped, &counter, &mut tally).await;
                }
                tally.answered = counter.load(Ordering::Relaxed);
                tally
            })
        });
        Self {
            stop,
            answered,
            thread: Some(thread),
        }
    }

    /// How many requests were answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Ends the load and says what became of it.
    #[track_caller]
    pub fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        thread
            .join()
            .expect("a client counts failures, it does not panic")
    }
}

impl Drop for Http2Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Requests on one connection until it says goodbye or the load is stopped.
async fn connection(
    address: SocketAddr,
    uri: &str,
    streams: usize,
    stop: &AtomicBool,
    answered: &AtomicU64,
    tally: &mut Tally,
) {
    let sender = http2::open(address).await;
    let mut running = JoinSet::new();
    let mut goodbye = false;
    while !(goodbye || stop.load(Ordering::Relaxed)) || !running.is_empty() {
        while running.len() < streams && !goodbye && !stop.load(Ordering::Relaxed) {
            if sender.is_closed() {
                goodbye = true;
                break;
            }
            running.spawn(request(sender.clone(), uri.to_owned()));
        }
        match running.join_next().await {
            Some(Ok(Ok(true))) => {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Some(Ok(Ok(false))) => goodbye = true,
            Some(Ok(Err(failure))) => {
                goodbye = true;
                *tally.failures.entry(failure).or_default() += 1;
            }
            Some(Err(panic)) => count(&mut tally.failures, panic.to_string()),
            None => {}
        }
    }
}

fn count(failures: &mut BTreeMap<String, u64>, what: String) {
    *failures.entry(what).or_default() += 1;
}

/// Whether it was answered; if not, nothing of it was sent.
async fn request(mut sender: SendRequest<Full<Bytes>>, uri: String) -> Result<bool, String> {
    let request = Request::get(uri)
        .body(Full::default())
        .expect("the test's URI is one");
    let exchange = async {
        if sender.ready().await.is_err() {
            return Ok(false);
        }
        let answer = match sender.try_send_request(request).await {
            Ok(answer) => answer,
            Err(error) if error.message().is_some() => return Ok(false),
            Err(error) => return Err(format!("{:?}", error.error())),
        };
        let status = answer.status();
        let body = answer.into_body().collect().await;
        let body = body.map_err(|error| format!("body: {error:?}"))?.to_bytes();
        if status == 200 {
            Ok(true)
        } else {
            Err(format!("{status}: {}", String::from_utf8_lossy(&body)))
        }
    };
    match timeout(TIMEOUT, exchange).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err("no answer in time".to_owned()),
    }
}
