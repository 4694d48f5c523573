// SPDX-License-Identifier: Apache-2.0

//! Sessions over real sockets: a client is told once, and keeps to its endpoint.

use std::sync::Arc;

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::mesh::{Mesh, cluster, connect, nobody, read_answer, rule, to};
use crate::model::{HttpRule, Protocol, Session, Treatment};

/// A GET with a cookie, if there is one; head and body of the answer.
async fn get(client: &mut TcpStream, cookie: Option<&str>) -> (String, String) {
    let cookie = cookie.map(|cookie| format!("Cookie: {cookie}\r\n"));
    let cookie = cookie.unwrap_or_default();
    let request = format!("GET / HTTP/1.1\r\nHost: shop\r\n{cookie}\r\n");
    client
        .write_all(request.as_bytes())
        .await
        .expect("the proxy reads");
    read_answer(client).await
}

/// The cookie that an answer gives.
fn given(head: &str) -> Option<&str> {
    let mut lines = head.lines();
    let line = lines.find(|line| line.to_ascii_lowercase().starts_with("set-cookie: "))?;
    line["set-cookie: ".len()..].split(';').next()
}

fn keeping(rule: HttpRule) -> HttpRule {
    HttpRule {
        treatment: Some(Arc::new(Treatment {
            session: Some(Arc::new(Session::Cookie("stay".to_owned()))),
            ..Treatment::default()
        })),
        ..rule
    }
}

#[tokio::test]
async fn a_client_keeps_to_the_endpoint_that_its_cookie_names() {
    let mesh = Mesh::start();
    let (one, two) = (mesh.http_app("one").await, mesh.http_app("two").await);
    let rule = rule(
        vec![(1, to(cluster(&[one]))), (1, to(cluster(&[two])))],
        None,
    );
    let rules = vec![keeping(rule)];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    let (head, first) = get(&mut client, None).await;
    let cookie = given(&head).expect("a cookie").to_owned();
    for _ in 0..5 {
        let (head, body) = get(&mut client, Some(&cookie)).await;
        assert_eq!(body, first);
        assert_eq!(given(&head), None, "it has the cookie already");
    }
    let (head, other) = get(&mut client, Some("stay=0123456789abcdef")).await;
    assert!(given(&head).is_some(), "the cookie named nobody");
    assert!(other == "one" || other == "two");
}

#[tokio::test]
async fn a_client_whose_endpoint_is_gone_is_given_another() {
    let mesh = Mesh::start();
    let (up, down) = (mesh.http_app("up").await, nobody());
    let rules = |endpoints: &[std::net::SocketAddr]| {
        vec![keeping(rule(vec![(1, to(cluster(endpoints)))], None))]
    };
    let to_all = rules(&[down, up]);
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), to_all).await;
    let mut named = http::HeaderMap::new();
    let token = crate::model::session::Token::of(down);
    Session::Cookie("stay".to_owned()).give(token, &mut named);
    let said = named["set-cookie"].to_str().expect("text");
    let cookie = said.split(';').next().expect("a pair");
    let (head, body) = get(&mut connect(vip).await, Some(cookie)).await;
    assert_eq!(body, "up", "{head}");
    assert!(given(&head).is_some_and(|other| other != cookie), "{head}");
}
