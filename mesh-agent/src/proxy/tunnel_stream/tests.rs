// SPDX-License-Identifier: Apache-2.0

//! What a stream promises as a byte stream, between both ends of ours.
//!
//! Knows nothing of applications: they are a few lines in each test.

use std::{cell::RefCell, future::poll_fn, net::SocketAddr, rc::Rc, time::Duration};

use aws_lc_rs::digest::{Context as Digest, SHA256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
};

use super::{
    super::{
        hbone::ConnectRequest,
        tunnel::ConnectHeaders,
        tunnel_fixture::{Mesh, beside, echo, exchange, on_each_tunnel},
    },
    *,
};

/// What both sides of the bulk test send, in bytes.
const BULK: usize = 64 * 1024 * 1024;

/// Sends `BULK` bytes that depend on `seed`, in writes of many sizes, and returns their hash.
async fn send_bulk(mut write: impl AsyncWriteExt + Unpin, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut digest = Digest::new(&SHA256);
    let block: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
        .take(300_000)
        .collect();
    let mut left = BULK;
    while left > 0 {
        let count = random.usize(1..=block.len()).min(left);
        digest.update(&block[..count]);
        write.write_all(&block[..count]).await.unwrap();
        left -= count;
    }
    write.shutdown().await.unwrap();
    digest.finish().as_ref().to_vec()
}

/// Reads to the end and returns the hash and the count.
async fn receive_bulk(mut read: impl AsyncReadExt + Unpin) -> (Vec<u8>, usize) {
    let (mut digest, mut count) = (Digest::new(&SHA256), 0);
    let mut buffer = vec![0; 50_000];
    loop {
        match read.read(&mut buffer).await.unwrap() {
            0 => return (digest.finish().as_ref().to_vec(), count),
            some => {
                digest.update(&buffer[..some]);
                count += some;
            }
        }
    }
}

#[test]
fn bytes_arrive_unchanged_in_both_directions_at_once() {
    on_each_tunnel(async || {
        let (sender, receiver) = oneshot::channel();
        let sender = Rc::new(RefCell::new(Some(sender)));
        let mesh = Mesh::new(move |request: ConnectRequest| {
            let sender = sender.take().unwrap();
            beside(async move {
                let (read, write) = tokio::io::split(request.accept(""));
                drop(sender.send(tokio::join!(send_bulk(write, 2), receive_bulk(read))));
            });
        })
        .await;
        let (read, write) = tokio::io::split(mesh.open().await.unwrap());
        let (sent, (got, count)) = tokio::join!(send_bulk(write, 1), receive_bulk(read));
        let (server_sent, (server_got, server_count)) = receiver.await.unwrap();
        assert_eq!((count, server_count), (BULK, BULK));
        assert_eq!((got, server_got), (server_sent, sent));
    });
}

#[test]
fn chunks_are_handed_on_without_copies() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(echo).await;
        let mut stream = mesh.open().await.unwrap();
        let mut sent = Bytes::from(vec![7; 100_000]);
        while !sent.is_empty() {
            poll_fn(|context| stream.poll_send(context, &mut sent))
                .await
                .unwrap();
        }
        stream.shutdown().await.unwrap();
        let mut got = 0;
        while let Some(chunk) = poll_fn(|context| stream.poll_data(context)).await {
            got += chunk.unwrap().len();
        }
        assert_eq!(got, 100_000);
    });
}

#[test]
fn the_client_may_end_first_and_still_read() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(|request| {
            beside(async move {
                let mut stream = request.accept("");
                let mut got = String::new();
                stream.read_to_string(&mut got).await.unwrap();
                stream
                    .write_all(format!("got {got}").as_bytes())
                    .await
                    .unwrap();
                stream.shutdown().await.unwrap();
            });
        })
        .await;
        let stream = mesh.open().await.unwrap();
        assert_eq!(exchange(stream, b"all").await.unwrap(), b"got all");
    });
}

#[test]
fn the_server_may_end_first_and_still_read() {
    on_each_tunnel(async || {
        let (sender, receiver) = oneshot::channel();
        let sender = Rc::new(RefCell::new(Some(sender)));
        let mesh = Mesh::new(move |request: ConnectRequest| {
            let sender = sender.take().unwrap();
            beside(async move {
                let mut stream = request.accept("");
                stream.write_all(b"220 ready").await.unwrap();
                stream.shutdown().await.unwrap();
                let mut got = String::new();
                stream.read_to_string(&mut got).await.unwrap();
                sender.send(got).unwrap();
            });
        })
        .await;
        let mut stream = mesh.open().await.unwrap();
        let mut greeting = String::new();
        stream.read_to_string(&mut greeting).await.unwrap();
        assert_eq!(greeting, "220 ready");
        stream.write_all(b"late words").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(receiver.await.unwrap(), "late words");
    });
}

#[test]
fn a_server_that_drops_the_stream_never_looks_like_an_orderly_end() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(|request| {
            beside(async move {
                let mut stream = request.accept("");
                stream.write_all(b"half of it").await.unwrap();
                let mut one = [0];
                stream.read_exact(&mut one).await.unwrap();
            });
        })
        .await;
        let mut stream = mesh.open().await.unwrap();
        let mut half = [0; 10];
        stream.read_exact(&mut half).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let error = stream.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_client_that_drops_the_stream_never_looks_like_an_orderly_end() {
    on_each_tunnel(async || {
        let (sender, receiver) = oneshot::channel();
        let sender = Rc::new(RefCell::new(Some(sender)));
        let mesh = Mesh::new(move |request: ConnectRequest| {
            let sender = sender.take().unwrap();
            beside(async move {
                let mut got = Vec::new();
                let outcome = request.accept("").read_to_end(&mut got).await;
                sender.send(outcome.unwrap_err().kind()).unwrap();
            });
        })
        .await;
        let mut stream = mesh.open().await.unwrap();
        stream.write_all(b"half of it").await.unwrap();
        drop(stream);
        assert_eq!(receiver.await.unwrap(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn readers_that_stop_hold_little_and_stall_nobody() {
    on_each_tunnel(async || {
        let kept = Rc::new(RefCell::new(Vec::new()));
        let holder = Rc::clone(&kept);
        let mesh = Mesh::new(move |request: ConnectRequest| {
            if request.authority.port() == 80 {
                holder.borrow_mut().push(request.accept(""));
            } else {
                echo(request);
            }
        })
        .await;
        let most = 2 * 256 * 1024 + 16 * 1024;
        let mut stopped = Vec::new();
        for _ in 0..99 {
            let mut stream = mesh.open().await.unwrap();
            let mut written = 0;
            let block = [0; 16 * 1024];
            // Writes until it would have to wait: that is when nothing has moved for a while.
            while let Ok(count) =
                tokio::time::timeout(Duration::from_millis(20), stream.write(&block)).await
            {
                written += count.unwrap();
            }
            assert!(
                written <= most,
                "{written} bytes are under way to a reader that stopped"
            );
            stopped.push(stream);
        }
        assert_eq!(mesh.server.accepted(), 1);
        let (to, netns) = (SocketAddr::new(mesh.server.address().ip(), 81), &mesh.netns);
        let headers = ConnectHeaders::default();
        let (from, pod) = (&mesh.client, &mesh.server_pod);
        let neighbour = mesh
            .tunnels
            .open(from, netns, pod, to, &headers, None)
            .await
            .unwrap();
        assert_eq!(
            mesh.server.accepted(),
            1,
            "the neighbour is on the same connection"
        );
        let (read, write) = tokio::io::split(neighbour);
        let (sent, (got, _)) = tokio::join!(send_bulk(write, 3), receive_bulk(read));
        assert_eq!(sent, got);
    });
}
