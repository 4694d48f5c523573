// SPDX-License-Identifier: Apache-2.0

//! Clusters with limits, outlier detection and cookies, over real sockets.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{
        Semaphore,
        mpsc::{self, UnboundedReceiver},
    },
};

use super::{
    mesh::{Mesh, cluster, connect, get, read_answer, read_head, rule, to},
    treated::{OK, UNAVAILABLE, script},
};
use crate::model::{
    Balancer, Cluster, HashPolicy, HttpRule, Limits, Outlier, Position, Protocol, UpstreamPolicy,
    UpstreamUse,
    hashing::{HashCookie, HashKey, TableKind},
    upstream::Upkeep,
};

/// A rule to `endpoints` of a cluster that is used like this.
fn used(endpoints: &[SocketAddr], policy: UpstreamPolicy) -> HttpRule {
    let plain = cluster(endpoints);
    let upstream = UpstreamUse::new(policy, Position::default(), &plain.endpoints, None);
    let cluster = Cluster::new(
        plain.service.clone(),
        Arc::clone(&plain.hostname),
        plain.port,
        None,
        None,
        plain.endpoints.clone(),
    );
    let cluster = cluster.used(Some(Arc::new(upstream)));
    rule(vec![(1, to(Arc::new(cluster)))], None)
}

fn limited(limits: Limits) -> UpstreamPolicy {
    UpstreamPolicy {
        limits,
        ..UpstreamPolicy::default()
    }
}

/// An application that answers when it is told to, one answer for each word; tells when it was asked.
async fn gate(mesh: &Mesh) -> (SocketAddr, UnboundedReceiver<()>, Arc<Semaphore>) {
    let (told, hear) = mpsc::unbounded_channel();
    let words = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&words);
    let app = mesh
        .app(move |mut stream| {
            let (told, wait) = (told.clone(), Arc::clone(&wait));
            async move {
                while read_head(&mut stream).await.is_some() {
                    told.send(()).ok();
                    wait.acquire().await.expect("never closed").forget();
                    if stream.write_all(OK.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
    (app, hear, words)
}

async fn ask(vip: SocketAddr) -> TcpStream {
    let mut client = connect(vip).await;
    let request = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
    client.write_all(request).await.expect("the proxy reads");
    client
}

#[tokio::test]
async fn what_is_beyond_http2_max_requests_is_503_uo() {
    let mesh = Mesh::start();
    let (app, mut hear, words) = gate(&mesh).await;
    let limits = Limits {
        requests: Some(2),
        ..Limits::default()
    };
    let rules = vec![used(&[app], limited(limits))];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut first = [ask(vip).await, ask(vip).await];
    for _ in 0..2 {
        hear.recv().await.expect("two are under way");
    }
    let (head, body) = read_answer(&mut ask(vip).await).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(body.ends_with("reset reason: overflow"), "{body}");
    mesh.metric(&["istio_requests_total", "response_flags=\"UO\""])
        .await;
    words.add_permits(3);
    for client in &mut first {
        let (head, _) = read_answer(client).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
    let (head, _) = get(&mut connect(vip).await, "/").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "room again: {head}");
}

#[tokio::test]
async fn a_request_waits_for_one_of_max_connections_and_no_more_wait_than_may() {
    let mesh = Mesh::start();
    let (app, mut hear, words) = gate(&mesh).await;
    let limits = Limits {
        connections: Some(1),
        pending: Some(1),
        ..Limits::default()
    };
    let rules = vec![used(&[app], limited(limits))];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut first = ask(vip).await;
    hear.recv().await.expect("it is under way");
    let (mut second, mut third) = (ask(vip).await, ask(vip).await);
    // One of the two waits, the other is too much: whichever that is, it is answered first.
    let refused = tokio::select! {
        // Cancel-safe: what is not ready has read nothing.
        _ = second.readable() => &mut second,
        _ = third.readable() => &mut third,
    };
    let (head, _) = read_answer(refused).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    words.add_permits(2);
    let (head, _) = read_answer(&mut first).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    hear.recv().await.expect("the one that waited");
    mesh.metric(&["istio_requests_total", "response_code=\"200\"", " 2"])
        .await;
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_and_with_all_out_it_is_503_uh() {
    let mesh = Mesh::start();
    let (bad, mut asked) = script(&mesh, &[UNAVAILABLE]).await;
    let (good, _hear) = script(&mesh, &[OK]).await;
    let outlier = |max_ejected_percent| UpstreamPolicy {
        outlier: Some(Outlier {
            server_errors: 2,
            gateway_errors: 0,
            local_failures: None,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(300),
            max_ejected_percent,
            min_health_percent: 0,
        }),
        ..UpstreamPolicy::default()
    };
    let rules = vec![used(&[bad, good], outlier(50))];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    for _ in 0..100 {
        get(&mut client, "/").await;
    }
    for _ in 0..2 {
        asked.recv().await.expect("two were asked of it");
    }
    assert!(asked.try_recv().is_err(), "and no more");
    let rules = vec![used(&[bad], outlier(100))];
    let vip = mesh.service(2, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    for want in ["later", "later", "no healthy upstream"] {
        let (_, body) = get(&mut client, "/").await;
        assert_eq!(body, want);
    }
    mesh.metric(&["istio_requests_total", "response_flags=\"UH\""])
        .await;
}

#[tokio::test]
async fn a_connection_ends_after_max_requests_per_connection() {
    let mesh = Mesh::start();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    let app = mesh
        .app(move |mut stream| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                while read_head(&mut stream).await.is_some() {
                    stream.write_all(OK.as_bytes()).await.expect("room");
                }
            }
        })
        .await;
    let limits = Limits {
        requests_per_connection: Some(2),
        ..Limits::default()
    };
    let rules = vec![used(&[app], limited(limits))];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    for _ in 0..6 {
        get(&mut client, "/").await;
    }
    assert_eq!(opened.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_connection_that_idled_for_as_long_as_a_rule_says_is_not_used_again() {
    for (idle, connections) in [(Duration::ZERO, 4), (Duration::from_secs(3_600), 1)] {
        let mesh = Mesh::start();
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        let app = mesh
            .app(move |mut stream| {
                count.fetch_add(1, Ordering::Relaxed);
                async move {
                    while read_head(&mut stream).await.is_some() {
                        stream.write_all(OK.as_bytes()).await.expect("room");
                    }
                }
            })
            .await;
        let mut endpoint = cluster(&[app]).endpoints[0].clone();
        endpoint.upkeep = Some(Arc::new(Upkeep {
            idle: Some(idle),
            keepalive: None,
        }));
        let plain = cluster(&[]);
        let (name, host) = (plain.service.clone(), Arc::clone(&plain.hostname));
        let kept = Cluster::new(name, host, 80, None, None, vec![endpoint]);
        let rules = vec![rule(vec![(1, to(Arc::new(kept)))], None)];
        let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
        let mut client = connect(vip).await;
        for _ in 0..4 {
            get(&mut client, "/").await;
        }
        assert_eq!(opened.load(Ordering::Relaxed), connections);
    }
}

#[tokio::test]
async fn a_cookie_that_is_given_keeps_a_client_at_its_endpoint() {
    let mesh = Mesh::start();
    let mut apps = Vec::new();
    for body in ["a", "b", "c", "d"] {
        apps.push(mesh.http_app(body).await);
    }
    let cookie = HashCookie {
        name: "user".into(),
        path: "/".into(),
        ttl: Some(Duration::ZERO),
        attributes: Vec::new(),
    };
    let policy = UpstreamPolicy {
        balancer: Balancer::Hash(HashPolicy {
            key: HashKey::Cookie(Arc::new(cookie)),
            table: TableKind::Maglev(1009),
        }),
        ..UpstreamPolicy::default()
    };
    let rules = vec![used(&apps, policy)];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let (head, first) = get(&mut client, "/").await;
        let mut lines = head.lines();
        let said = lines.find_map(|line| line.strip_prefix("set-cookie: "));
        let (given, _) = said.expect("a cookie").split_once(';').expect("parts");
        for _ in 0..3 {
            let request = format!("GET / HTTP/1.1\r\nHost: shop\r\nCookie: {given}\r\n\r\n");
            client.write_all(request.as_bytes()).await.expect("room");
            let (head, body) = read_answer(&mut client).await;
            assert_eq!(body, first);
            assert!(!head.contains("set-cookie"), "{head}");
        }
        seen.insert(first);
    }
    assert!(seen.len() > 1, "{seen:?}");
}
