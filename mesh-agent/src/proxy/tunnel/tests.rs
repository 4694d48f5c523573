// SPDX-License-Identifier: Apache-2.0

//! What the pool promises, and what it does with peers that are not who or how they must be.
//!
//! Both ends are ours. Knows nothing of applications: they are a few lines in each test.

mod many;

use std::cell::Cell;

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::oneshot,
};

use super::{
    super::{
        hbone::{ConnectRequest, HboneLimits},
        tunnel_fixture::{
            DAY, DOMAIN, Mesh, Server, beside, chain, echo, exchange, identities, on_each_tunnel,
            on_tunnel, tunnels, workload,
        },
    },
    *,
};
use crate::{
    identity::{CertificateAuthority, PeerError},
    model::SpiffeId,
};

#[test]
fn a_peer_that_allows_fewer_streams_gets_more_connections() {
    on_each_tunnel(async || {
        let server_limits = HboneLimits {
            max_streams: 10,
            ..HboneLimits::default()
        };
        let mesh = Mesh::with(DAY, TunnelLimits::default(), server_limits, echo).await;
        drop(
            exchange(mesh.open().await.unwrap(), b"its settings are known now")
                .await
                .unwrap(),
        );
        let streams: Vec<_> = join_all((0..35).map(|_| mesh.open())).await;
        assert!(streams.iter().all(Result::is_ok), "{streams:?}");
        assert!(mesh.server.accepted() >= 4, "{}", mesh.server.accepted());
    });
}

#[test]
fn peers_that_know_only_one_kind_of_tunnel_are_spoken_to() {
    for (client, server) in [(Alpn::Mux, Alpn::Hbone), (Alpn::Hbone, Alpn::Mux)] {
        on_tunnel(client, server, async || {
            let mesh = Mesh::new(echo).await;
            let stream = mesh.open().await.unwrap();
            assert!(format!("{stream:?}").contains("Hbone"), "{stream:?}");
            assert_eq!(exchange(stream, b"ping").await.unwrap(), b"ping");
        });
    }
    on_tunnel(Alpn::Mux, Alpn::Mux, async || {
        let mesh = Mesh::new(echo).await;
        let stream = mesh.open().await.unwrap();
        assert!(format!("{stream:?}").contains("Mux"), "{stream:?}");
        assert_eq!(exchange(stream, b"ping").await.unwrap(), b"ping");
    });
}

#[test]
fn after_goaway_live_streams_finish_and_new_ones_go_elsewhere() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(echo).await;
        let mut live = mesh.open().await.unwrap();
        live.write_all(b"before ").await.unwrap();
        let drained = mesh.server.drain();
        for _ in 0..20 {
            let answer = exchange(mesh.open().await.unwrap(), b"new").await.unwrap();
            assert_eq!(answer, b"new");
        }
        assert_eq!(mesh.server.accepted(), 2);
        assert_eq!(exchange(live, b"after").await.unwrap(), b"before after");
        assert_eq!(drained.drained(Duration::from_secs(10)).await, []);
    });
}

#[test]
fn goaway_under_load_fails_nothing() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(echo).await;
        let load = join_all((0..20).map(|_| async {
            for _ in 0..50 {
                let answer = exchange(mesh.open().await.unwrap(), b"ping").await.unwrap();
                assert_eq!(answer, b"ping");
            }
        }));
        let drains = async {
            for _ in 0..10 {
                let served = mesh.server.accepted();
                mesh.server.drain();
                while mesh.server.accepted() == served {
                    tokio::task::yield_now().await;
                }
            }
        };
        // The drains come to stand still once the load has ended.
        tokio::select! {
            _ = load => {}
            () = async { drains.await; std::future::pending().await } => {}
        }
    });
}

#[test]
fn certificates_rotate_under_load_without_a_failure() {
    on_each_tunnel(async || {
        let ttl = Duration::from_secs(2);
        let limits = TunnelLimits::default();
        let mesh = Mesh::with(ttl, limits, HboneLimits::default(), echo).await;
        let first = mesh.identities.generation(&mesh.client.identity);
        let mut long = mesh.open().await.unwrap();
        let served = Cell::new(0_u32);
        join_all((0..10).map(|_| async {
            while mesh.identities.generation(&mesh.client.identity) < first + 8 {
                let answer = exchange(mesh.open().await.unwrap(), b"ping").await.unwrap();
                assert_eq!(answer, b"ping");
                served.set(served.get() + 1);
            }
        }))
        .await;
        assert!(served.get() > 100, "{}", served.get());
        // Its certificate has expired meanwhile; its stream lives on.
        long.write_all(b"still ").await.unwrap();
        assert_eq!(exchange(long, b"here").await.unwrap(), b"still here");
        let accepted = mesh.server.accepted();
        assert!((4..=9).contains(&accepted), "{accepted} connections");
        assert_eq!(mesh.server.errors(), [""; 0]);
    });
}

#[test]
fn a_connection_that_died_in_the_pool_costs_no_stream() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(echo).await;
        for round in 1..=5 {
            let answer = exchange(mesh.open().await.unwrap(), b"ping").await.unwrap();
            assert_eq!(answer, b"ping");
            assert_eq!(mesh.server.accepted(), round);
            mesh.server.cut();
        }
    });
}

#[test]
fn pods_that_share_an_identity_share_no_tunnel() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(echo).await;
        let mut twin = Workload::clone(&mesh.client);
        twin.uid = WorkloadUid("uid-twin".into());
        let twin = Arc::new(twin);
        let mut successor = Workload::clone(&mesh.server_pod);
        successor.uid = WorkloadUid("uid-successor".into());
        let successor = Arc::new(successor);
        let pod = &mesh.server_pod;
        for (from, to, connections) in [
            (&mesh.client, pod, 1),
            (&mesh.client, pod, 1),
            (&twin, pod, 2),
            (&mesh.client, &successor, 3),
        ] {
            let stream = mesh.open_as(from, to).await.unwrap();
            assert_eq!(exchange(stream, b"ping").await.unwrap(), b"ping");
            assert_eq!(mesh.server.accepted(), connections);
        }
    });
}

#[test]
fn tunnels_to_a_pod_that_is_gone_take_no_new_streams() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(echo).await;
        let live = mesh.open().await.unwrap();
        mesh.tunnels.close_to(&mesh.server_pod.uid);
        assert_eq!(mesh.tunnels.connections(), 0);
        assert_eq!(exchange(live, b"to the end").await.unwrap(), b"to the end");
        mesh.open().await.unwrap();
        assert_eq!(mesh.server.accepted(), 2);
    });
}

#[test]
fn a_tunnel_without_streams_is_let_go() {
    on_each_tunnel(async || {
        let limits = TunnelLimits {
            idle_timeout: Duration::from_millis(50),
            keep_alive: KeepAliveLimits {
                interval: Duration::from_millis(20),
                timeout: Duration::from_secs(10),
            },
            ..TunnelLimits::default()
        };
        let mesh = Mesh::with(DAY, limits, HboneLimits::default(), echo).await;
        drop(exchange(mesh.open().await.unwrap(), b"ping").await.unwrap());
        assert_eq!(mesh.tasks.drained(Duration::from_secs(10)).await, []);
        assert_eq!(mesh.tunnels.connections(), 0);
        assert_eq!(mesh.server.errors(), [""; 0]);
    });
}

#[test]
fn a_drain_lets_streams_finish_and_tunnels_go() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(echo).await;
        let live = mesh.open().await.unwrap();
        mesh.tasks.begin_drain();
        let left = mesh.tasks.drained(Duration::from_millis(100)).await;
        assert_eq!(left, [("tunnel", 1)]);
        assert_eq!(exchange(live, b"to the end").await.unwrap(), b"to the end");
        assert_eq!(mesh.tasks.drained(Duration::from_secs(10)).await, []);
    });
}

#[test]
fn a_peer_that_is_someone_else_is_refused() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(echo).await;
        let mut other = Workload::clone(&mesh.server_pod);
        other.identity = SpiffeId::new(DOMAIN, "default", "somebody");
        let error = mesh
            .open_as(&mesh.client, &Arc::new(other))
            .await
            .unwrap_err();
        let expected: Arc<[SpiffeId]> = [SpiffeId::new(DOMAIN, "default", "somebody")].into();
        let presented = mesh.server_pod.identity.clone();
        let want = PeerError::Unexpected {
            expected,
            presented,
        };
        match &error {
            TunnelError::Identity(IdentityError::Peer(refusal)) => assert_eq!(*refusal, want),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            chain(&error),
            "expected spiffe://cluster.local/ns/default/sa/somebody, \
             the peer presented spiffe://cluster.local/ns/default/sa/server"
        );
    });
}

#[test]
fn a_client_of_another_trust_domain_is_refused() {
    on_each_tunnel(async || {
        let ours = CertificateAuthority::in_memory(DOMAIN).unwrap();
        let theirs = CertificateAuthority::in_memory("elsewhere").unwrap();
        let (pod, stranger) = (workload(DOMAIN, "server"), workload("elsewhere", "client"));
        let here = identities(&ours, DAY, &[&pod]).await;
        let there = identities(&theirs, DAY, &[&stranger]).await;
        // The roots are known to each other: it is the name that does not fit.
        here.trust(there.roots());
        there.trust(here.roots());
        let server = Server::start(&pod, &here, HboneLimits::default(), echo).await;
        let pool = tunnels(
            &there,
            &Tasks::new(),
            TunnelLimits::default(),
            server.address(),
        );
        let (netns, to) = (
            Netns::current().unwrap(),
            SocketAddr::from(([127, 0, 0, 1], 80)),
        );
        let headers = ConnectHeaders::default();
        let error = pool
            .open(&stranger, &netns, &pod, to, &headers, None)
            .await
            .unwrap_err();
        assert!(matches!(error, TunnelError::Tls { .. }), "{error:?}");
        assert_eq!(
            server.errors(),
            ["expected an identity of trust domain cluster.local, \
              the peer presented spiffe://elsewhere/ns/default/sa/client"]
        );
    });
}

#[test]
fn a_server_with_an_unknown_root_is_refused() {
    on_each_tunnel(async || {
        let (ours, theirs) = (
            CertificateAuthority::in_memory(DOMAIN).unwrap(),
            CertificateAuthority::in_memory(DOMAIN).unwrap(),
        );
        let (pod, client) = (workload(DOMAIN, "server"), workload(DOMAIN, "client"));
        let there = identities(&theirs, DAY, &[&pod]).await;
        let here = identities(&ours, DAY, &[&client]).await;
        let server = Server::start(&pod, &there, HboneLimits::default(), echo).await;
        let pool = tunnels(
            &here,
            &Tasks::new(),
            TunnelLimits::default(),
            server.address(),
        );
        let (netns, to) = (
            Netns::current().unwrap(),
            SocketAddr::from(([127, 0, 0, 1], 80)),
        );
        let headers = ConnectHeaders::default();
        let error = pool
            .open(&client, &netns, &pod, to, &headers, None)
            .await
            .unwrap_err();
        match error {
            TunnelError::Identity(IdentityError::Peer(PeerError::Untrusted {
                presented, ..
            })) => assert_eq!(presented, pod.identity),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_peer_that_answers_nothing_is_given_up_in_time() {
    on_each_tunnel(async || {
        let limits = TunnelLimits {
            connect_timeout: Duration::from_millis(100),
            ..TunnelLimits::default()
        };
        let mesh = Mesh::with(DAY, limits, HboneLimits::default(), echo).await;
        let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = tunnels(
            &mesh.identities,
            &mesh.tasks,
            limits,
            deaf.local_addr().unwrap(),
        );
        let to = SocketAddr::from(([127, 0, 0, 1], 80));
        let headers = ConnectHeaders::default();
        let (from, netns, pod) = (&mesh.client, &mesh.netns, &mesh.server_pod);
        let waiting = (0..5).map(|_| pool.open(from, netns, pod, to, &headers, None));
        for outcome in join_all(waiting).await {
            let error = outcome.unwrap_err();
            assert!(
                matches!(error, TunnelError::ConnectTimeout { .. }),
                "{error:?}"
            );
            assert!(error.to_string().contains("NetworkPolicy"), "{error}");
        }
        drop(deaf);
        let opened = pool.open(from, netns, pod, to, &headers, None);
        let error = opened.await.unwrap_err();
        assert!(matches!(error, TunnelError::Connect { .. }), "{error:?}");
    });
}

#[test]
fn a_peer_that_falls_silent_loses_its_streams() {
    on_each_tunnel(async || {
        let limits = TunnelLimits {
            keep_alive: KeepAliveLimits {
                interval: Duration::from_millis(20),
                timeout: Duration::from_millis(60),
            },
            ..TunnelLimits::default()
        };
        let mesh = Mesh::with(DAY, limits, HboneLimits::default(), echo).await;
        // A wire that can be cut without either end noticing.
        let wire = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, server) = (wire.local_addr().unwrap(), mesh.server.address());
        let (cut, is_cut) = oneshot::channel::<()>();
        beside(async move {
            let (mut near, _) = wire.accept().await.unwrap();
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            let mut far = socket.connect(server).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = is_cut => std::future::pending().await,
            }
        });
        let pool = tunnels(&mesh.identities, &mesh.tasks, limits, at);
        let to = SocketAddr::from(([127, 0, 0, 1], 80));
        let headers = ConnectHeaders::default();
        let (from, netns, pod) = (&mesh.client, &mesh.netns, &mesh.server_pod);
        let opened = pool.open(from, netns, pod, to, &headers, None);
        let mut stream = opened.await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        drop(cut);
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(pool.connections(), 0);
    });
}

#[test]
fn a_refused_stream_says_with_which_status() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(|request: ConnectRequest| {
            let status = StatusCode::from_u16(request.authority.port()).unwrap();
            request.refuse(status, "for the test");
        })
        .await;
        for status in [400, 401, 404, 503] {
            let to = SocketAddr::new(mesh.server.address().ip(), status);
            let headers = ConnectHeaders::default();
            let (from, pod) = (&mesh.client, &mesh.server_pod);
            let opened = mesh
                .tunnels
                .open(from, &mesh.netns, pod, to, &headers, None)
                .await;
            match opened.unwrap_err() {
                TunnelError::Refused(got) => assert_eq!(got.as_u16(), status),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(mesh.server.accepted(), 1);
    });
}

#[test]
fn both_ends_tell_each_other_what_they_know() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(|request: ConnectRequest| {
            assert_eq!(request.peer, SpiffeId::new(DOMAIN, "default", "client"));
            assert_eq!(
                request.forwarded.as_deref(),
                Some("for=\"10.0.0.1:5\";host=a.b")
            );
            assert_eq!(request.baggage.as_deref(), Some("service.name=client"));
            assert_eq!(request.traceparent.as_ref().map(String::len), Some(55));
            let stream = request.accept("service.name=server");
            beside(async move { drop(exchange(stream, b"ok").await) });
        })
        .await;
        let headers = ConnectHeaders {
            forwarded: Some("for=\"10.0.0.1:5\";host=a.b".to_owned()),
            baggage: Some("service.name=client".to_owned()),
            traceparent: None,
        };
        let to = SocketAddr::new(mesh.server.address().ip(), 80);
        let (from, pod) = (&mesh.client, &mesh.server_pod);
        let opened = mesh
            .tunnels
            .open(from, &mesh.netns, pod, to, &headers, None)
            .await;
        assert_eq!(opened.unwrap().baggage(), Some("service.name=server"));
    });
}

#[test]
fn a_client_that_leaves_while_it_waits_harms_no_one_else() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(echo).await;
        let impatient = tokio::time::timeout(Duration::from_micros(200), mesh.open());
        let (left, stream) = tokio::join!(impatient, mesh.open());
        drop(left);
        assert_eq!(exchange(stream.unwrap(), b"ping").await.unwrap(), b"ping");
        assert_eq!(mesh.server.accepted(), 1);
    });
}

#[test]
fn connections_that_come_before_the_first_certificate_wait_for_it() {
    on_each_tunnel(async || {
        let authority = CertificateAuthority::in_memory(DOMAIN).unwrap();
        let (client, pod) = (workload(DOMAIN, "client"), workload(DOMAIN, "server"));
        let late = identities(&authority, DAY, &[]).await;
        let server = Server::start(&pod, &late, HboneLimits::default(), echo).await;
        let pool = tunnels(
            &late,
            &Tasks::new(),
            TunnelLimits::default(),
            server.address(),
        );
        let (netns, to) = (
            Netns::current().unwrap(),
            SocketAddr::from(([127, 0, 0, 1], 80)),
        );
        let headers = ConnectHeaders::default();
        let opening = pool.open(&client, &netns, &pod, to, &headers, None);
        let (stream, ()) = tokio::join!(opening, async {
            late.want([client.identity.clone(), pod.identity.clone()]);
        });
        assert_eq!(exchange(stream.unwrap(), b"ping").await.unwrap(), b"ping");
    });
}
