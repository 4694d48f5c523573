// SPDX-License-Identifier: Apache-2.0

//! Certificates that are revoked: whom the verifiers let through, and what becomes of own ones.

use super::*;
use crate::model::{
    authorization::Pattern,
    revoked::{IssuedBefore, Revoked, Serial},
};

fn serials(texts: &[&str]) -> Revoked {
    let serials = texts.iter().map(|text| Serial::parse(text).unwrap());
    Revoked::new(serials, Vec::new())
}

fn issued_before(account: &str, before: i64) -> Revoked {
    let identity = Pattern::new(&format!("{DOMAIN}/ns/default/sa/{account}"));
    Revoked::new([], vec![IssuedBefore { identity, before }])
}

async fn pair() -> Identities {
    let (identities, _) = moody(DAY);
    identities.want([id("web"), id("db")]);
    identities.ready(&id("web")).await;
    identities.ready(&id("db")).await;
    identities
}

fn serial(identities: &Identities, account: &str) -> String {
    let list = identities.list();
    let found = list.iter().find(|view| view.identity == id(account));
    found.expect("it is wanted").serial.clone()
}

/// Whether a server of another agent, with the same roots, gets through.
async fn is_let_in(near: &Identities, far: &Identities) -> Result<(), String> {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let connector = near.client(&id("web"), &[id("db")], Alpn::Hbone).unwrap();
    let acceptor = far.server(&id("db"), Alpn::Hbone).unwrap();
    let name = ServerName::try_from("10.0.0.1").unwrap();
    let (client, server) = tokio::join!(connector.connect(name, client), acceptor.accept(server));
    for ended in [client.map(drop), server.map(drop)] {
        if let Err(error) = ended
            && let Some(refusal) = refusal(&error)
        {
            return Err(refusal.to_string());
        }
    }
    Ok(())
}

#[tokio::test]
async fn neither_side_lets_a_revoked_certificate_through() {
    let (near, far) = (pair().await, pair().await);
    near.trust(far.roots());
    far.trust(near.roots());
    assert_eq!(is_let_in(&near, &far).await, Ok(()));
    let (server, client) = (serial(&far, "db"), serial(&near, "web"));
    near.revoke(serials(&["0102", &server]));
    let refused = is_let_in(&near, &far).await.unwrap_err();
    let want = format!("spiffe://{DOMAIN}/ns/default/sa/db with serial number {server} is revoked");
    assert!(refused.contains(&want), "{refused}");
    near.revoke(Revoked::default());
    assert_eq!(is_let_in(&near, &far).await, Ok(()));
    far.revoke(serials(&[&client]));
    let refused = is_let_in(&near, &far).await.unwrap_err();
    assert!(refused.contains("sa/web with serial number"), "{refused}");
    far.revoke(issued_before("web", i64::MAX));
    assert!(is_let_in(&near, &far).await.is_err());
    far.revoke(issued_before("web", 1));
    assert_eq!(is_let_in(&near, &far).await, Ok(()));
    far.revoke(issued_before("other", i64::MAX));
    assert_eq!(is_let_in(&near, &far).await, Ok(()));
}

#[tokio::test]
async fn a_session_of_a_revoked_certificate_is_not_taken_even_if_it_is_resumed() {
    let identities = pair().await;
    let other = pair().await;
    let (client, server) = session(&identities, &[id("db")]).await.unwrap();
    drop((client, server));
    let (client, server) = session(&identities, &[id("db")]).await.unwrap();
    let kind = client.get_ref().1.handshake_kind().unwrap();
    assert_eq!(kind, HandshakeKind::Resumed);
    let seat = |session: &rustls::CommonState| {
        let seat = other.seat(session, &id("web"), Side::Server, None);
        seat.map(|seat| seat.peer().clone())
            .map_err(|error| error.to_string())
    };
    assert_eq!(seat(client.get_ref().1), Ok(id("db")));
    other.revoke(serials(&[&serial(&identities, "db")]));
    let refused = seat(client.get_ref().1).unwrap_err();
    assert!(refused.ends_with("is revoked"), "{refused}");
    assert_eq!(seat(server.get_ref().1), Ok(id("web")));
}

#[tokio::test]
async fn an_own_certificate_that_is_revoked_is_replaced_at_once() {
    let identities = pair().await;
    let (web, db) = (serial(&identities, "web"), serial(&identities, "db"));
    let first = identities.generation(&id("web"));
    identities.revoke(serials(&[&web]));
    let mut table = identities.0.core.table.subscribe();
    let replaced = table.wait_for(|table| {
        table
            .live(&id("web"))
            .is_ok_and(|live| live.generation > first)
    });
    drop(replaced.await);
    assert_ne!(serial(&identities, "web"), web);
    assert_eq!(serial(&identities, "db"), db);
}

#[tokio::test]
async fn a_list_that_cannot_be_used_leaves_the_last_one_in_force_and_is_told() {
    let identities = pair().await;
    identities.revoke(serials(&["01"]));
    identities.note_bad_list("entry 1".to_owned());
    let view = identities.revoked();
    assert_eq!((view.serials, view.identities), (1, 0));
    assert_eq!(view.problem.as_deref(), Some("entry 1"));
    identities.revoke(serials(&["01"]));
    assert_eq!(identities.revoked().problem, None);
}
