// SPDX-License-Identifier: Apache-2.0

//! Budgets over real sockets: what a flood waits for, what its neighbour gets, and that all comes back.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::mesh::{Mesh, cluster, connect};
use crate::{
    model::{Protocol, WorkloadUid},
    proxy::{Budget, BudgetLimits, BudgetView, Http1Engine},
};

/// Sends every byte back.
async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await.ok();
}

fn within(connections: usize) -> Mesh {
    let limits = BudgetLimits {
        connections,
        ..BudgetLimits::default()
    };
    Mesh::start_within(Http1Engine::default(), limits)
}

/// The connections that a pod opened.
fn outbound(mesh: &Mesh, name: &str) -> BudgetView {
    let view = mesh.proxy.observe();
    let uid = WorkloadUid(format!("uid-{name}").into());
    let mut views = view.budgets[&uid].iter();
    let of_it = |view: &&BudgetView| view.side == "outbound" && view.budget == Budget::Connections;
    views.find(of_it).expect("each pod has one").clone()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    let patience = std::time::Duration::from_secs(20);
    let waited = tokio::time::timeout(patience, waiting).await;
    assert!(waited.is_ok(), "{what}");
}

/// Whether a connection carries a byte there and back.
async fn is_served(client: &mut TcpStream) {
    client.write_u8(7).await.expect("room");
    assert_eq!(client.read_u8().await.expect("an echo"), 7);
}

#[tokio::test]
async fn a_flood_of_connections_waits_and_its_neighbour_is_accepted() {
    let mesh = within(40);
    let app = mesh.app(echo).await;
    let flooded = mesh
        .service(1, Protocol::Tcp, cluster(&[app]), vec![])
        .await;
    let quiet = mesh
        .neighbour("quiet", Protocol::Tcp, cluster(&[app]))
        .await;
    let mut flood = Vec::new();
    for _ in 0..60 {
        flood.push(connect(flooded).await);
    }
    // Two sides of two pods have 5 each of their own, and a flood two thirds of the other 20.
    until("the flood is held back", || {
        let view = outbound(&mesh, "client");
        view.used == 19 && view.held_back > 0
    })
    .await;
    for _ in 0..2 {
        let mut neighbours = Vec::new();
        for _ in 0..5 {
            neighbours.push(connect(quiet).await);
        }
        for neighbour in &mut neighbours {
            is_served(neighbour).await;
        }
        drop(neighbours);
        until("they end", || outbound(&mesh, "quiet").used == 0).await;
    }
    let view = outbound(&mesh, "client");
    assert_eq!((view.used, view.limit), (19, 19), "{view:?}");
    assert_eq!(outbound(&mesh, "quiet").held_back, 0);
    // Nobody is lost: who waits is served when others have ended.
    let mut last = flood.split_off(19);
    for first in &mut flood {
        is_served(first).await;
    }
    drop(flood);
    for waiting in last.drain(..) {
        let mut waiting = waiting;
        is_served(&mut waiting).await;
    }
    for name in ["client", "quiet"] {
        until("all was given back", || outbound(&mesh, name).used == 0).await;
    }
}

#[tokio::test]
async fn a_limit_of_each_workload_holds_where_there_is_more() {
    let limits = BudgetLimits {
        workload_connections: 3,
        ..BudgetLimits::default()
    };
    let mesh = Mesh::start_within(Http1Engine::default(), limits);
    let app = mesh.app(echo).await;
    let vip = mesh
        .service(1, Protocol::Tcp, cluster(&[app]), vec![])
        .await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(connect(vip).await);
    }
    for client in &mut clients[..3] {
        is_served(client).await;
    }
    until("the rest is held back", || {
        let view = outbound(&mesh, "client");
        (view.used, view.limit, view.held_back) == (3, 3, 1)
    })
    .await;
    drop(clients.remove(0));
    is_served(&mut clients[2]).await;
}
