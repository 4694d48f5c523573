// SPDX-License-Identifier: Apache-2.0

//! Requests: routes, pools, refusals, time limits, clients and pods that go away.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use super::{
    mesh::{
        cluster, cluster_of, connect, get, nobody, read_answer, read_head, refused, rule, to,
        workload,
    },
    start,
};
use crate::model::{Backend, PathEdit, Protocol, Redirect, ResponseFlag, UrlRewrite};

#[tokio::test]
async fn ninety_to_ten_is_exact_over_connections_and_threads() {
    let mesh = start();
    let (v1, v2) = (mesh.http_app("v1").await, mesh.http_app("v2").await);
    let split = rule(
        vec![(90, to(cluster(&[v1]))), (10, to(cluster(&[v2])))],
        None,
    );
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[]), vec![split])
        .await;
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(connect(vip).await);
    }
    for turn in 0..1000 {
        let (_, body) = get(&mut clients[turn % 8], "/").await;
        *answers.entry(body).or_default() += 1;
    }
    assert_eq!(answers, [("v1".into(), 900), ("v2".into(), 100)].into());
}

#[tokio::test]
async fn refusals_have_istios_codes_and_flags() {
    let mesh = start();
    let unmatched = {
        let mut rule = rule(vec![(1, to(cluster(&[])))], None);
        rule.backends.clear();
        rule.schedule = crate::model::Schedule::new(&[], Default::default());
        rule
    };
    for (number, backend, code, flag) in [
        (1, to(cluster(&[])), 503, "UH"),
        (2, to(cluster(&[nobody()])), 503, "UF"),
        (3, refused(503, ResponseFlag::NoCluster), 503, "NC"),
        (4, refused(404, ResponseFlag::NoRoute), 404, "NR"),
        (5, refused(500, ResponseFlag::None), 500, "-"),
    ] {
        let rules = vec![rule(vec![(1, backend)], None)];
        let vip = mesh
            .service(number, Protocol::Http, cluster(&[]), rules)
            .await;
        let mut client = connect(vip).await;
        // The connection lives on after a refusal.
        for _ in 0..2 {
            let (head, _) = get(&mut client, "/").await;
            assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{head}");
        }
        let code = format!("response_code=\"{code}\"");
        let flag = format!("response_flags=\"{flag}\"");
        mesh.metric(&["istio_requests_total", &code, &flag, " 2"])
            .await;
    }
    let vip = mesh
        .service(6, Protocol::Http, cluster(&[]), vec![unmatched])
        .await;
    let (head, _) = get(&mut connect(vip).await, "/").await;
    assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mesh = start();
    let app = mesh.http_app("ok").await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    let request = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
    client
        .write_all(request.repeat(5).as_bytes())
        .await
        .expect("room");
    for _ in 0..5 {
        let (_, body) = read_answer(&mut client).await;
        assert_eq!(body, "ok");
    }
}

#[tokio::test]
async fn a_request_and_its_answer_keep_their_headers_and_case() {
    let mesh = start();
    let (told, mut hear) = mpsc::unbounded_channel();
    let app = mesh
        .app(move |mut stream| {
            let told = told.clone();
            async move {
                let head = read_head(&mut stream).await.expect("a request");
                told.send(head).expect("the test waits");
                let answer = "HTTP/1.1 200 Fine\r\nX-CASE: Kept\r\nConnection: X-Hop\r\n\
                              X-Hop: 1\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.expect("room");
            }
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    let request = "GET /a%20b?c=%2f HTTP/1.1\r\nHOST: Shop:80\r\nX-Odd-CASE: Kept\r\n\
                   Connection: keep-alive, X-Private\r\nX-Private: 1\r\nAccept: */*\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("room");
    assert_eq!(
        hear.recv().await.expect("the application tells"),
        "GET /a%20b?c=%2f HTTP/1.1\r\nHOST: Shop:80\r\nX-Odd-CASE: Kept\r\nAccept: */*\r\n\r\n"
    );
    assert_eq!(
        read_head(&mut client).await.expect("an answer"),
        "HTTP/1.1 200 Fine\r\nX-CASE: Kept\r\nContent-Length: 0\r\n\r\n"
    );
}

#[tokio::test]
async fn connections_to_an_endpoint_are_used_again() {
    let mesh = start();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    let app = mesh
        .app(move |mut stream| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                while read_head(&mut stream).await.is_some() {
                    let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
                    stream.write_all(answer).await.expect("room");
                }
            }
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    // One after the other, on connections of their own.
    for _ in 0..20 {
        let (head, _) = get(&mut connect(vip).await, "/").await;
        assert_eq!(head, "HTTP/1.1 204 No Content\r\n\r\n");
    }
    // One per data thread at most.
    assert!(opened.load(Ordering::Relaxed) <= 2);
}

#[tokio::test]
async fn an_endpoint_that_closes_idle_connections_fails_no_request() {
    let mesh = start();
    let app = mesh
        .app(|mut stream| async move {
            // Answers once, then closes without having said so.
            if read_head(&mut stream).await.is_some() {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                stream.write_all(answer).await.expect("room");
            }
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    for _ in 0..50 {
        let (head, body) = get(&mut client, "/").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && body == "ok", "{head}");
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_acted_upon_is_not_sent_again() {
    let mesh = start();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let app = mesh
        .app(move |mut stream| {
            let count = Arc::clone(&count);
            async move {
                read_head(&mut stream).await.expect("a request");
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).await.expect("room");
                // The next one on this connection gets no answer.
                if read_head(&mut stream).await.is_some() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    get(&mut client, "/").await;
    let request = "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("room");
    let (head, body) = read_answer(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(body.starts_with("upstream connect error"), "{body}");
    assert_eq!(seen.load(Ordering::Relaxed), 1);
    mesh.metric(&["istio_requests_total", "response_flags=\"UC\""])
        .await;
    // A GET is sent again, on a fresh connection.
    get(&mut client, "/").await;
    let (head, _) = get(&mut client, "/").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_along() {
    let mesh = start();
    let (told, mut hear) = mpsc::unbounded_channel();
    let app = mesh
        .app(move |mut stream| {
            let told = told.clone();
            async move {
                read_head(&mut stream).await.expect("a request");
                told.send("asked").expect("the test waits");
                // Ends when the proxy gives the request up.
                stream.read_u8().await.expect_err("nothing more is sent");
                told.send("gone").expect("the test waits");
            }
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .expect("room");
    assert_eq!(hear.recv().await, Some("asked"));
    drop(client);
    assert_eq!(hear.recv().await, Some("gone"));
    mesh.metric(&[
        "istio_requests_total",
        "response_flags=\"DC\"",
        "response_code=\"0\"",
    ])
    .await;
}

#[tokio::test]
async fn a_route_has_a_time_limit() {
    let mesh = start();
    let app = mesh
        .app(|mut stream| async move {
            read_head(&mut stream).await.expect("a request");
            stream.read_u8().await.expect_err("given up");
        })
        .await;
    let limited = rule(
        vec![(1, to(cluster(&[app])))],
        Some(Duration::from_millis(50)),
    );
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[]), vec![limited])
        .await;
    let (head, body) = get(&mut connect(vip).await, "/").await;
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    assert_eq!(body, "upstream request timeout");
    mesh.metric(&["istio_requests_total", "response_flags=\"UT\""])
        .await;
}

#[tokio::test]
async fn connections_to_a_pod_that_is_gone_are_closed() {
    let mesh = start();
    let (told, mut hear) = mpsc::unbounded_channel();
    let app = mesh
        .app(move |mut stream| {
            let told = told.clone();
            async move {
                read_head(&mut stream).await.expect("a request");
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).await.expect("room");
                stream.read_u8().await.expect_err("nothing more is sent");
                told.send("closed").expect("the test waits");
            }
        })
        .await;
    let pod = Arc::new(workload("pod"));
    mesh.add(&pod).await;
    let endpoints = cluster_of(vec![(app, Some(Arc::clone(&pod)))]);
    let vip = mesh.service(1, Protocol::Http, endpoints, vec![]).await;
    let mut client = connect(vip).await;
    get(&mut client, "/").await;
    mesh.remove(&pod).await;
    assert_eq!(hear.recv().await, Some("closed"));
}

#[tokio::test]
async fn a_drain_ends_keep_alive_after_the_answer_under_way() {
    let mesh = start();
    let (told, mut hear) = mpsc::unbounded_channel();
    let app = mesh
        .app(move |mut stream| {
            let told = told.clone();
            async move {
                read_head(&mut stream).await.expect("a request");
                told.send("asked").expect("the test waits");
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlo")
                    .await
                    .expect("room");
                tokio::time::sleep(Duration::from_millis(100)).await;
                stream.write_all(b"ng").await.expect("room");
            }
        })
        .await;
    let vip = mesh
        .service(1, Protocol::Http, cluster(&[app]), vec![])
        .await;
    let mut client = connect(vip).await;
    let (answer, left) = tokio::join!(get(&mut client, "/"), async {
        assert_eq!(hear.recv().await, Some("asked"));
        mesh.proxy.drain(Duration::from_secs(10)).await
    });
    assert_eq!((answer.1.as_str(), left), ("long", 0));
    assert_eq!(client.read(&mut [0]).await.expect("an orderly end"), 0);
}

#[tokio::test]
async fn a_redirect_is_answered_and_counted() {
    let mesh = start();
    let redirect = Backend::Redirect(Arc::new(Redirect {
        status: 307,
        scheme: None,
        host: Some("elsewhere".into()),
        port: Some(80),
        path: None,
        edits: None,
    }));
    let rules = vec![rule(vec![(1, redirect)], None)];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    for _ in 0..2 {
        let (head, body) = get(&mut client, "/a?b").await;
        assert!(head.starts_with("HTTP/1.1 307 "), "{head}");
        let head = head.to_ascii_lowercase();
        assert!(
            head.contains("\r\nlocation: http://elsewhere/a?b\r\n"),
            "{head}"
        );
        assert_eq!(body, "");
    }
    let (code, flag) = ("response_code=\"307\"", "response_flags=\"-\"");
    mesh.metric(&["istio_requests_total", code, flag, " 2"])
        .await;
}

#[tokio::test]
async fn a_rewritten_request_is_what_the_endpoint_sees() {
    let mesh = start();
    let (told, mut hear) = mpsc::unbounded_channel();
    let app = mesh
        .app(move |mut stream| {
            let told = told.clone();
            async move {
                let head = read_head(&mut stream).await.expect("a request");
                told.send(head).expect("the test waits");
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.expect("room");
            }
        })
        .await;
    let backend = Backend::Cluster {
        cluster: cluster(&[app]),
        edits: None,
        rewrite: Some(Arc::new(UrlRewrite {
            authority: Some("inside".parse().expect("a host")),
            path: Some(PathEdit::full("/new").expect("a path")),
        })),
        treatment: None,
    };
    let rules = vec![rule(vec![(1, backend)], None)];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    let request = "GET /old?q=1 HTTP/1.1\r\nHOST: shop\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("room");
    let head = hear.recv().await.expect("the application tells");
    assert!(head.starts_with("GET /new?q=1 HTTP/1.1\r\n"), "{head}");
    assert!(
        head.to_ascii_lowercase().contains("\r\nhost: inside\r\n"),
        "{head}"
    );
}
