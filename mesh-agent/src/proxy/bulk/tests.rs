// SPDX-License-Identifier: Apache-2.0

//! Streams that move from the mux to sessions of their own, between both ends of ours.
//!
//! Knows nothing of applications: they are a few lines in each test.

use std::{cell::Cell, rc::Rc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use super::super::{
    hbone::ConnectRequest,
    tunnel::TunnelStream,
    tunnel_fixture::{Mesh, echo, on_tunnel},
};
use crate::identity::Alpn;

/// More than a stream carries on the mux.
const MUCH: usize = 3 * 1024 * 1024;

fn on_mux(test: impl AsyncFn()) {
    on_tunnel(Alpn::Mux, Alpn::Mux, test);
}

/// Bytes that differ everywhere.
fn pattern(seed: u64, count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; count];
    random.fill(&mut bytes);
    bytes
}

fn is_moved(stream: &TunnelStream) -> bool {
    format!("{stream:?}").contains("BulkStream")
}

/// Sends and gets back as much as it takes for the stream to move.
async fn exercise(stream: &mut TunnelStream) {
    let sent = pattern(1, 64 * 1024);
    let mut got = vec![0; sent.len()];
    for _ in 0..1000 {
        stream.write_all(&sent).await.unwrap();
        stream.flush().await.unwrap();
        stream.read_exact(&mut got).await.unwrap();
        assert!(got == sent, "bytes changed");
        if is_moved(stream) {
            return;
        }
    }
    panic!("the stream did not move: {stream:?}");
}

/// An application that hands its end of each stream to the test.
fn handing() -> (
    impl Fn(ConnectRequest) + Clone + 'static,
    mpsc::UnboundedReceiver<TunnelStream>,
) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let accept = move |request: ConnectRequest| {
        sender.send(request.accept("")).unwrap();
    };
    (accept, receiver)
}

#[test]
fn a_stream_that_carries_much_moves_and_loses_nothing() {
    on_mux(async || {
        let mesh = Mesh::new(echo).await;
        let mut stream = mesh.open().await.unwrap();
        stream.may_move();
        exercise(&mut stream).await;
        assert_eq!(mesh.server.accepted(), 2);
        let sent = pattern(2, MUCH);
        let (mut read, mut write) = tokio::io::split(stream);
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(read.read_to_end(&mut got), writing);
        read.unwrap();
        assert!(got == sent, "bytes changed");
        assert_eq!(mesh.server.errors(), [""; 0]);
    });
}

#[test]
fn both_directions_move_while_they_are_busy() {
    on_mux(async || {
        let (accept, mut ends) = handing();
        let mesh = Mesh::new(accept).await;
        let mut near = mesh.open().await.unwrap();
        near.may_move();
        let far = ends.recv().await.unwrap();
        let there = pattern(3, 40 * 1024 * 1024);
        let back = pattern(4, 30 * 1024 * 1024);
        let (mut near_read, mut near_write) = tokio::io::split(near);
        let (mut far_read, mut far_write) = tokio::io::split(far);
        let (mut got_there, mut got_back) = (Vec::new(), Vec::new());
        let all = tokio::join!(
            async {
                near_write
                    .write_all(&there)
                    .await
                    .and(near_write.shutdown().await)
            },
            async {
                far_write
                    .write_all(&back)
                    .await
                    .and(far_write.shutdown().await)
            },
            far_read.read_to_end(&mut got_there),
            near_read.read_to_end(&mut got_back),
        );
        assert!(matches!(all, (Ok(()), Ok(()), Ok(_), Ok(_))), "{all:?}");
        assert!(got_there == there && got_back == back, "bytes changed");
        assert_eq!(mesh.server.accepted(), 2);
        assert_eq!(mesh.server.errors(), [""; 0]);
    });
}

#[test]
fn a_stream_may_end_at_any_moment_of_its_move() {
    on_mux(async || {
        let mut random = fastrand::Rng::with_seed(5);
        let moved = Rc::new(Cell::new(0));
        let (accept, mut ends) = handing();
        let mesh = Mesh::new(accept).await;
        for round in 0..60 {
            let mut near = mesh.open().await.unwrap();
            near.may_move();
            let far = ends.recv().await.unwrap();
            // Around the threshold and what arrives while the peer is asked.
            let there = pattern(round, random.usize(900_000..6_000_000));
            let back = pattern(round + 1000, random.usize(0..2_000_000));
            let (mut near_read, mut near_write) = tokio::io::split(near);
            let (mut far_read, mut far_write) = tokio::io::split(far);
            let (mut got_there, mut got_back) = (Vec::new(), Vec::new());
            let all = tokio::join!(
                async {
                    near_write
                        .write_all(&there)
                        .await
                        .and(near_write.shutdown().await)
                },
                async {
                    far_write
                        .write_all(&back)
                        .await
                        .and(far_write.shutdown().await)
                },
                far_read.read_to_end(&mut got_there),
                near_read.read_to_end(&mut got_back),
            );
            assert!(matches!(all, (Ok(()), Ok(()), Ok(_), Ok(_))), "{all:?}");
            assert!(got_there == there && got_back == back, "bytes changed");
            let near = near_read.unsplit(near_write);
            moved.set(moved.get() + u32::from(is_moved(&near)));
        }
        eprintln!("{} of 60 moved", moved.get());
        assert_eq!(mesh.server.errors(), [""; 0]);
    });
}

#[test]
fn a_moved_stream_that_is_dropped_never_looks_like_an_orderly_end() {
    on_mux(async || {
        for is_client in [true, false] {
            let (accept, mut ends) = handing();
            let mesh = Mesh::new(accept).await;
            let mut near = mesh.open().await.unwrap();
            near.may_move();
            let mut far = ends.recv().await.unwrap();
            while !is_moved(&near) || !is_moved(&far) {
                let block = pattern(6, 64 * 1024);
                let mut got = vec![0; block.len()];
                let (sent, read) = tokio::join!(
                    async { near.write_all(&block).await.and(near.flush().await) },
                    far.read_exact(&mut got)
                );
                sent.unwrap();
                read.unwrap();
            }
            far.write_all(b"heard").await.unwrap();
            far.flush().await.unwrap();
            near.read_exact(&mut [0; 5]).await.unwrap();
            let (gone, mut left) = if is_client { (near, far) } else { (far, near) };
            drop(gone);
            let error = left.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    });
}

#[test]
fn half_closes_work_in_a_session_of_its_own() {
    on_mux(async || {
        let (accept, mut ends) = handing();
        let mesh = Mesh::new(accept).await;
        let mut near = mesh.open().await.unwrap();
        near.may_move();
        let mut far = ends.recv().await.unwrap();
        let application = async {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            far.write_all(format!("got {}", got.len()).as_bytes())
                .await
                .unwrap();
            far.shutdown().await.unwrap();
            far
        };
        let client = async {
            let block = pattern(7, 64 * 1024);
            let mut sent = 0;
            while !is_moved(&near) {
                near.write_all(&block).await.unwrap();
                sent += block.len();
                tokio::task::yield_now().await;
            }
            near.write_all(b"the last").await.unwrap();
            near.shutdown().await.unwrap();
            let mut answer = String::new();
            near.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, format!("got {}", sent + 8));
            near
        };
        let (_far, _near) = tokio::join!(application, client);
        assert_eq!(mesh.server.errors(), [""; 0]);
    });
}

#[test]
fn small_messages_never_move_a_stream() {
    on_mux(async || {
        let mesh = Mesh::new(echo).await;
        let mut stream = mesh.open().await.unwrap();
        stream.may_move();
        let block = pattern(8, 8 * 1024);
        let mut got = vec![0; block.len()];
        for _ in 0..400 {
            stream.write_all(&block).await.unwrap();
            stream.read_exact(&mut got).await.unwrap();
        }
        assert!(!is_moved(&stream), "{stream:?}");
        assert_eq!(mesh.server.accepted(), 1);
    });
}

#[test]
fn a_stream_outlives_the_leaving_of_its_peer_in_a_session_of_its_own() {
    on_mux(async || {
        let mesh = Mesh::new(echo).await;
        let mut stream = mesh.open().await.unwrap();
        stream.may_move();
        exercise(&mut stream).await;
        let drained = mesh.server.drain();
        for _ in 0..3 {
            stream.write_all(b"still here").await.unwrap();
            stream.flush().await.unwrap();
            let mut got = [0; 10];
            stream.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"still here");
        }
        assert!(
            !drained.live().is_empty(),
            "the session outlives its streams"
        );
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
        drop(stream);
        let left = drained.drained(std::time::Duration::from_secs(10)).await;
        assert_eq!(left, []);
    });
}
