// SPDX-License-Identifier: Apache-2.0

//! Peers whose certificates are revoked: what they had is cut, and they get nothing new.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    identity::Alpn,
    model::{
        authorization::Pattern,
        revoked::{IssuedBefore, Revoked},
    },
    proxy::{
        tunnel::TunnelStream,
        tunnel_fixture::{DOMAIN, Mesh, chain, echo, on_each_tunnel, on_tunnel},
    },
};

/// All certificates of an account, those to come among them.
fn all_of(account: &str) -> Revoked {
    let identity = Pattern::new(&format!("{DOMAIN}/ns/default/sa/{account}"));
    let before = i64::MAX;
    Revoked::new([], vec![IssuedBefore { identity, before }])
}

async fn say_hello(stream: &mut TunnelStream) {
    stream.write_all(b"hello").await.unwrap();
    stream.flush().await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
}

/// Whoever is revoked has what is live cut, and gets nothing new until that is taken back.
async fn check_cut(mesh: &Mesh, mut live: TunnelStream, account: &str) {
    mesh.identities.revoke(all_of(account));
    let error = live.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{account}");
    let error = mesh.open().await.unwrap_err();
    let said = match account {
        "server" => chain(&error),
        _ => mesh.server.errors().join("; "),
    };
    let want = format!("sa/{account} with serial number");
    assert!(
        said.contains(&want) && said.contains("is revoked"),
        "{said}"
    );
    mesh.identities.revoke(Revoked::default());
    say_hello(&mut mesh.open().await.unwrap()).await;
}

#[test]
fn what_a_revoked_peer_had_is_cut_and_it_gets_nothing_new() {
    on_each_tunnel(async || {
        for account in ["client", "server"] {
            let mesh = Mesh::new(echo).await;
            let mut live = mesh.open().await.unwrap();
            say_hello(&mut live).await;
            check_cut(&mesh, live, account).await;
        }
    });
}

#[test]
fn a_stream_in_a_session_of_its_own_is_cut_too() {
    on_tunnel(Alpn::Mux, Alpn::Mux, async || {
        for account in ["client", "server"] {
            let mesh = Mesh::new(echo).await;
            let mut live = mesh.open().await.unwrap();
            live.may_move();
            let block = vec![7; 64 * 1024];
            let mut got = vec![0; block.len()];
            while !format!("{live:?}").contains("BulkStream") {
                live.write_all(&block).await.unwrap();
                live.flush().await.unwrap();
                live.read_exact(&mut got).await.unwrap();
            }
            check_cut(&mesh, live, account).await;
        }
    });
}

#[test]
fn who_is_not_on_the_list_is_not_disturbed() {
    on_each_tunnel(async || {
        let mesh = Mesh::new(echo).await;
        let mut live = mesh.open().await.unwrap();
        say_hello(&mut live).await;
        mesh.identities.revoke(all_of("somebody"));
        say_hello(&mut live).await;
        assert_eq!(mesh.server.accepted(), 1);
    });
}
