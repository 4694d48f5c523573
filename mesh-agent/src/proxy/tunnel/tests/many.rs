// SPDX-License-Identifier: Apache-2.0

//! Many streams, and a pod that speaks to many others: what its agent begins and keeps for it.

use futures_util::future::join_all;

use super::{
    super::{
        super::{BudgetLimits, budgets::Budgets, hbone::HboneLimits},
        *,
    },
    DAY, Mesh, echo, exchange, on_each_tunnel,
};

#[test]
fn three_hundred_streams_take_three_connections() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(echo).await;
        let streams = join_all((0..300).map(|_| mesh.open())).await;
        assert_eq!((mesh.server.accepted(), mesh.tunnels.connections()), (3, 3));
        let answers = join_all(streams.into_iter().enumerate().map(
            |(number, stream)| async move {
                let text = format!("stream {number}");
                let answer = exchange(stream.unwrap(), text.as_bytes()).await.unwrap();
                assert_eq!(answer, text.as_bytes());
            },
        ));
        assert_eq!(answers.await.len(), 300);
        // The places are free again.
        mesh.open().await.unwrap();
        assert_eq!(mesh.server.accepted(), 3);
    });
}

/// So many pods that are all served by the server of `mesh`.
fn pods(mesh: &Mesh, count: usize) -> Vec<Arc<Workload>> {
    let pod = |number| Workload {
        uid: WorkloadUid(format!("pod {number}").into()),
        ..(*mesh.server_pod).clone()
    };
    (0..count).map(pod).map(Arc::new).collect()
}

#[test]
fn a_pod_that_speaks_to_many_keeps_the_connections_that_it_used_last() {
    on_each_tunnel(async || {
        let limits = TunnelLimits {
            max_links: 3,
            ..TunnelLimits::default()
        };
        let mesh = Mesh::with(DAY, limits, HboneLimits::default(), echo).await;
        let pods = pods(&mesh, 8);
        let held = mesh.open_as(&mesh.client, &pods[0]).await.unwrap();
        for pod in pods.iter().chain(&pods[6..]) {
            let stream = mesh.open_as(&mesh.client, pod).await.unwrap();
            assert_eq!(exchange(stream, b"ping").await.unwrap(), b"ping");
        }
        assert_eq!((mesh.server.accepted(), mesh.tunnels.connections()), (8, 3));
        assert_eq!(exchange(held, b"held").await.unwrap(), b"held");
    });
}

#[test]
fn handshakes_of_one_pod_wait_for_each_other_within_its_budget() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(echo).await;
        let limits = BudgetLimits {
            handshakes: 2,
            ..BudgetLimits::default()
        };
        let budgets = Budgets::new(&limits, 1).open(&mesh.client).tunnels;
        let authority = SocketAddr::new(mesh.server.address().ip(), 80);
        let headers = ConnectHeaders::default();
        let pods = pods(&mesh, 10);
        let opened = join_all(pods.iter().map(|pod| {
            let (from, netns) = (&mesh.client, &mesh.netns);
            mesh.tunnels
                .open(from, netns, pod, authority, &headers, Some(&budgets))
        }));
        let opened = opened.await;
        assert!(opened.iter().all(Result::is_ok), "{opened:?}");
        let handshakes = budgets.handshakes.observe();
        assert_eq!((mesh.server.accepted(), handshakes.used), (10, 0));
        assert!(handshakes.held_back > 0, "{handshakes:?}");
    });
}
