// SPDX-License-Identifier: Apache-2.0

//! Streams that move from the mux to sessions of their own, between both ends of ours.
//!
//! Knows nothing of applications: they are a few lines in each test.

use std::{cell::Cell, collections::VecDeque, rc::Rc, sync::Arc};

use rustls::{
    client::UnbufferedClientConnection, pki_types::ServerName, server::UnbufferedServerConnection,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
};

use super::{
    super::{
        hbone::ConnectRequest,
        mux::{self, MuxLimits},
        tunnel::{TunnelLimits, TunnelStream},
        tunnel_fixture::{DOMAIN, Mesh, beside, echo, exchange, on_tunnel},
        tunnel_wire::Route,
    },
    asker::{Asker, Means},
    handshake::{self, Session},
    header::Name,
    record::{HEAD, Opened, Records, record_length},
};
use crate::{datapath::Connector, identity::Alpn, model::SpiffeId};

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

/// Carries `there` and `back` at the same time, each to its end; gives the near end back.
async fn both_ways(
    near: TunnelStream,
    far: TunnelStream,
    there: &[u8],
    back: &[u8],
) -> TunnelStream {
    let (mut near_read, mut near_write) = tokio::io::split(near);
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let (mut got_there, mut got_back) = (Vec::new(), Vec::new());
    let all = tokio::join!(
        async {
            near_write
                .write_all(there)
                .await
                .and(near_write.shutdown().await)
        },
        async {
            far_write
                .write_all(back)
                .await
                .and(far_write.shutdown().await)
        },
        far_read.read_to_end(&mut got_there),
        near_read.read_to_end(&mut got_back),
    );
    assert!(matches!(all, (Ok(()), Ok(()), Ok(_), Ok(_))), "{all:?}");
    assert!(got_there == there && got_back == back, "bytes changed");
    near_read.unsplit(near_write)
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
        both_ways(near, far, &there, &back).await;
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
            let near = both_ways(near, far, &there, &back).await;
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

/// What asks the server of `mesh` for sessions for the streams of the mux called `name`.
fn asker(mesh: &Mesh, name: Name) -> Rc<Asker> {
    let means = Means {
        connector: Connector::untagged(),
        identities: mesh.identities.clone(),
        tasks: mesh.tasks.clone(),
        limits: TunnelLimits::default(),
    };
    let route = Route {
        from: Arc::clone(&mesh.client),
        netns: mesh.netns.clone(),
        to: Arc::clone(&mesh.server_pod),
        address: mesh.server.address(),
        budgets: None,
    };
    Asker::new(means, route, name)
}

/// What a server says to a request for stream 1 of a session that is `peer`'s, if it has one.
#[track_caller]
fn check_refusal(peer: Option<&'static str>, want: &'static str) {
    on_mux(async || {
        let mesh = Mesh::new(echo).await;
        let name = [9; 16];
        if let Some(peer) = peer {
            let (sessions, local) = (mesh.server.sessions().clone(), mesh.server_pod.clone());
            let limits = MuxLimits {
                max_streams: 10,
                stream_window: 64 * 1024,
            };
            beside(async move {
                let io = tokio::io::BufReader::new(tokio::io::duplex(1).0);
                let attacher = mux::server(io, limits).attacher();
                let peer = SpiffeId::new(DOMAIN, "default", peer);
                let mut offers = sessions.register(name);
                offers.settle(&attacher, &local.identity, &peer).await;
            });
            tokio::task::yield_now().await;
        }
        let error = asker(&mesh, name).begin(1).await.unwrap_err();
        assert_eq!(error.to_string(), format!("http status: {want}"));
        assert_eq!(mesh.server.errors(), [""; 0]);
    });
}

#[test]
fn a_session_that_continues_no_stream_of_its_peer_is_refused() {
    check_refusal(None, "404 Not Found");
    check_refusal(Some("somebody"), "403 Forbidden");
    check_refusal(Some("client"), "409 Conflict");
}

#[test]
fn a_peer_that_knows_no_sessions_keeps_the_stream() {
    on_tunnel(Alpn::Mux, Alpn::Hbone, async || {
        let mesh = Mesh::new(echo).await;
        let error = asker(&mesh, [9; 16]).begin(1).await.unwrap_err();
        let cause = format!("{error:?}");
        assert!(cause.contains("NoApplicationProtocol"), "{cause}");
    });
}

#[test]
fn keys_are_replaced_and_tickets_taken_on_the_way() {
    on_mux(async || {
        let mesh = Mesh::new(echo).await;
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (client, server) = tokio::join!(client_of(&mesh, near), server_of(&mesh, far));
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        client.most_records = 3;
        server.most_records = 2;
        for round in 0..20 {
            let bytes = pattern(round, 100_000);
            assert!(
                carry(&mut client, &mut server, &bytes) == bytes,
                "round {round}"
            );
            assert!(
                carry(&mut server, &mut client, &bytes) == bytes,
                "round {round}"
            );
        }
        let mut damaged = VecDeque::new();
        client.seal(b"whole", &mut damaged).unwrap();
        let last = damaged[0].len() - 1;
        damaged[0][last] ^= 1;
        assert!(server.open(&mut damaged[0]).is_err());
    });
}

/// Seals `bytes` at one end and opens them at the other.
fn carry(from: &mut Records, to: &mut Records, bytes: &[u8]) -> Vec<u8> {
    let (mut records, mut got) = (VecDeque::new(), Vec::new());
    from.seal(bytes, &mut records).unwrap();
    for mut record in records {
        assert_eq!(record_length(&record).unwrap(), Some(record.len()));
        if let Opened::Bytes(count) = to.open(&mut record).unwrap() {
            got.extend_from_slice(&record[HEAD..HEAD + count]);
        }
    }
    got
}

async fn client_of(mesh: &Mesh, mut io: DuplexStream) -> std::io::Result<Records> {
    let expected = [mesh.server_pod.identity.clone()];
    let tls = mesh
        .identities
        .client(&mesh.client.identity, &expected, Alpn::Bulk);
    let config = Arc::clone(tls.unwrap().config());
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let session = UnbufferedClientConnection::new(config, name).unwrap();
    let done = Box::pin(handshake::complete(&mut io, session, Vec::new())).await?;
    let mut records = done.session.into_records()?;
    handshake::write_record(&mut io, &mut records, b"behind the handshake").await?;
    let (mut waiting, mut opened) = (done.records, Vec::new());
    // The server's ticket comes before it.
    handshake::read_record(&mut io, &mut records, &mut waiting, &mut opened).await?;
    assert_eq!(opened, b"first word");
    Ok(records)
}

async fn server_of(mesh: &Mesh, mut io: DuplexStream) -> std::io::Result<Records> {
    let tls = mesh.identities.server(&mesh.server_pod.identity, Alpn::Mux);
    let config = Arc::clone(tls.unwrap().config());
    let session = UnbufferedServerConnection::new(config).unwrap();
    let done = Box::pin(handshake::complete(&mut io, session, Vec::new())).await?;
    let mut records = done.session.into_records()?;
    let (mut waiting, mut opened) = (done.records, done.opened);
    while opened.is_empty() {
        handshake::read_record(&mut io, &mut records, &mut waiting, &mut opened).await?;
    }
    assert_eq!(opened, b"behind the handshake");
    handshake::write_record(&mut io, &mut records, b"first word").await?;
    Ok(records)
}

#[test]
fn noise_instead_of_a_hello_harms_nobody() {
    on_mux(async || {
        let mesh = Mesh::new(echo).await;
        for seed in 0..60 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut noise = pattern(seed, random.usize(1..3000));
            if random.bool() {
                // It begins as a hello does.
                noise.splice(..0, [22, 3, 1, random.u8(..4), random.u8(..), 1, 0]);
            }
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            let mut io = socket.connect(mesh.server.address()).await.unwrap();
            io.write_all(&noise).await.ok();
            io.shutdown().await.ok();
            io.read_to_end(&mut Vec::new()).await.ok();
        }
        let stream = mesh.open().await.unwrap();
        assert_eq!(exchange(stream, b"ping").await.unwrap(), b"ping");
    });
}
