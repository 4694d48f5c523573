// SPDX-License-Identifier: Apache-2.0

//! Faults, whole answers, CORS, retries and mirrors, over real sockets.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::mpsc::{self, UnboundedReceiver},
};

use super::mesh::{
    Mesh, cluster, connect, get, nobody, read_answer, read_head, read_text, rule, to,
};
use crate::model::{
    AbortStatus, Backend, Cors, DirectAnswer, Fault, HttpRule, Mirror, Protocol, RetryOn,
    RetryPolicy, Share, TextMatch, Treatment,
};

/// A rule to `endpoints` with a treatment.
fn treated(endpoints: &[SocketAddr], treatment: Treatment) -> HttpRule {
    HttpRule {
        treatment: Some(Arc::new(treatment)),
        ..rule(vec![(1, to(cluster(endpoints)))], None)
    }
}

fn retry(attempts: u32, on: &str) -> Treatment {
    Treatment {
        retry: Some(RetryPolicy {
            attempts,
            per_try_timeout: None,
            on: RetryOn::parse(on).expect("conditions"),
            base_interval: Duration::from_millis(1),
            max_interval: Duration::from_millis(1),
            avoids_tried: true,
            goes_elsewhere: false,
        }),
        ..Treatment::default()
    }
}

fn abort(share: f64, status: AbortStatus) -> Option<Fault> {
    let share = Share::percent(share).expect("a share");
    Some(Fault {
        delay: None,
        abort: Some((share, status)),
    })
}

/// An application that gives these answers in turn, the last for ever, and tells what it was asked,
/// head and body.
pub(super) async fn script(
    mesh: &Mesh,
    answers: &'static [&'static str],
) -> (SocketAddr, UnboundedReceiver<String>) {
    let (told, hear) = mpsc::unbounded_channel();
    let turn = Arc::new(AtomicUsize::new(0));
    let app = mesh
        .app(move |mut stream| {
            let (told, turn) = (told.clone(), Arc::clone(&turn));
            async move {
                while let Some(asked) = read_request(&mut stream).await {
                    // Nobody may be there to hear it any more.
                    told.send(asked).ok();
                    let turn = turn.fetch_add(1, Ordering::Relaxed);
                    let answer = answers[turn.min(answers.len() - 1)];
                    if answer.is_empty() || stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
    (app, hear)
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let head = read_head(stream).await?;
    let lower = head.to_ascii_lowercase();
    let mut lines = lower.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let body = read_text(stream, length.unwrap_or(0)).await;
    Some(head + &body)
}

async fn post(stream: &mut TcpStream, body: &str) -> (String, String) {
    let length = body.len();
    let head = format!("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: {length}\r\n\r\n");
    let sent = stream.write_all((head + body).as_bytes()).await;
    sent.expect("the proxy reads");
    read_answer(stream).await
}

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
pub(super) const UNAVAILABLE: &str = "HTTP/1.1 503 Later\r\ncontent-length: 5\r\n\r\nlater";

#[tokio::test]
async fn an_aborted_request_reaches_nobody() {
    let mesh = Mesh::start();
    let (app, mut hear) = script(&mesh, &[OK]).await;
    let treatment = Treatment {
        fault: abort(100.0, AbortStatus::Http(418)),
        ..Treatment::default()
    };
    let rules = vec![treated(&[app], treatment)];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let (head, body) = get(&mut connect(vip).await, "/").await;
    assert!(head.starts_with("HTTP/1.1 418 "), "{head}");
    assert_eq!(body, "fault filter abort");
    mesh.metric(&[
        "istio_requests_total",
        "response_code=\"418\"",
        "response_flags=\"FI\"",
    ])
    .await;
    assert!(hear.try_recv().is_err());
}

#[tokio::test]
async fn half_of_the_requests_are_aborted() {
    let mesh = Mesh::start();
    let (app, _hear) = script(&mesh, &[OK]).await;
    let treatment = Treatment {
        fault: abort(50.0, AbortStatus::Http(500)),
        ..Treatment::default()
    };
    let rules = vec![treated(&[app], treatment)];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    let mut aborted = 0;
    for _ in 0..400 {
        let (head, _) = get(&mut client, "/").await;
        aborted += usize::from(head.starts_with("HTTP/1.1 500 "));
    }
    // Seven standard deviations to either side.
    assert!((130..=270).contains(&aborted), "{aborted}");
}

#[tokio::test]
async fn an_abort_with_a_grpc_status_has_grpcs_form() {
    let mesh = Mesh::start();
    let treatment = Treatment {
        fault: abort(100.0, AbortStatus::Grpc(14)),
        ..Treatment::default()
    };
    let rules = vec![treated(&[], treatment)];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    let request = "POST /a/b HTTP/1.1\r\nHost: shop\r\ncontent-type: application/grpc\r\n\
                   content-length: 0\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("room");
    let (head, _) = read_answer(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("grpc-status: 14\r\n"), "{head}");
    let (head, _) = get(&mut client, "/").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
}

#[tokio::test]
async fn a_delayed_request_goes_on_and_says_so() {
    let mesh = Mesh::start();
    let (app, _hear) = script(&mesh, &[OK]).await;
    let treatment = Treatment {
        fault: Some(Fault {
            delay: Some((Share::ALL, Duration::from_millis(20))),
            abort: None,
        }),
        ..Treatment::default()
    };
    let rules = vec![treated(&[app], treatment)];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let began = std::time::Instant::now();
    let (_, body) = get(&mut connect(vip).await, "/").await;
    assert_eq!(body, "ok");
    assert!(began.elapsed() >= Duration::from_millis(20));
    mesh.metric(&["istio_requests_total", "response_flags=\"DI\""])
        .await;
}

#[tokio::test]
async fn an_answer_of_the_configuration_is_given_in_full() {
    let mesh = Mesh::start();
    let answer = |body: &'static [u8]| {
        let mut headers = HeaderMap::new();
        headers.insert("x-why", HeaderValue::from_static("closed"));
        let answer = DirectAnswer {
            status: StatusCode::SERVICE_UNAVAILABLE,
            headers,
            body: Arc::from(body),
        };
        vec![rule(vec![(1, Backend::Answer(Arc::new(answer)))], None)]
    };
    let rules = answer(b"closed");
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let (head, body) = get(&mut connect(vip).await, "/").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(head.contains("x-why: closed\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain\r\n"), "{head}");
    assert_eq!(body, "closed");
    mesh.metric(&[
        "istio_requests_total",
        "response_code=\"503\"",
        "response_flags=\"-\"",
    ])
    .await;
    let rules = answer(b"");
    let vip = mesh.service(2, Protocol::Http, cluster(&[]), rules).await;
    let (head, body) = get(&mut connect(vip).await, "/").await;
    assert!(!head.contains("content-type"), "{head}");
    assert_eq!(body, "");
}

#[tokio::test]
async fn answers_to_an_allowed_origin_are_marked_and_preflights_stay_here() {
    let mesh = Mesh::start();
    let marked = "HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\ncontent-length: 0\r\n\r\n";
    let marked: &'static [&'static str] = vec![marked].leak();
    let (app, mut hear) = script(&mesh, marked).await;
    let treatment = Treatment {
        cors: Some(Cors {
            origins: vec![TextMatch::Exact("https://a".into())],
            ..Cors::default()
        }),
        ..Treatment::default()
    };
    let rules = vec![treated(&[app], treatment)];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    let request = "OPTIONS / HTTP/1.1\r\nHost: shop\r\nOrigin: https://a\r\n\
                   Access-Control-Request-Method: PUT\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("room");
    let (head, _) = read_answer(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        head.contains("access-control-allow-origin: https://a\r\n"),
        "{head}"
    );
    assert!(hear.try_recv().is_err());
    let request = "GET / HTTP/1.1\r\nHost: shop\r\nOrigin: https://a\r\n\r\n";
    client.write_all(request.as_bytes()).await.expect("room");
    let (head, _) = read_answer(&mut client).await;
    let said = head.to_ascii_lowercase();
    assert!(
        said.contains("access-control-allow-origin: https://a\r\n"),
        "{head}"
    );
    assert!(!said.contains("access-control-allow-origin: *"), "{head}");
}

#[tokio::test]
async fn a_request_with_a_body_is_retried_as_often_as_the_route_says() {
    let mesh = Mesh::start();
    let (app, mut hear) = script(&mesh, &[UNAVAILABLE, UNAVAILABLE, OK]).await;
    let rules = vec![treated(&[app], retry(2, "503"))];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let (head, body) = post(&mut connect(vip).await, "two potatoes").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body == "ok", "{head}");
    for _ in 0..3 {
        let asked = hear.recv().await.expect("three tries");
        assert!(asked.ends_with("\r\n\r\ntwo potatoes"), "{asked}");
    }
    assert!(hear.try_recv().is_err());
    mesh.metric(&[
        "istio_requests_total",
        "response_code=\"200\"",
        "response_flags=\"-\"",
        " 1",
    ])
    .await;
}

#[tokio::test]
async fn when_retries_run_out_the_last_answer_goes_back_with_urx() {
    let mesh = Mesh::start();
    let (app, mut hear) = script(&mesh, &[UNAVAILABLE]).await;
    let rules = vec![treated(&[app], retry(1, "5xx"))];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let (head, body) = get(&mut connect(vip).await, "/").await;
    assert!(head.starts_with("HTTP/1.1 503 Later"), "{head}");
    assert_eq!(body, "later");
    mesh.metric(&["istio_requests_total", "response_flags=\"URX\""])
        .await;
    hear.recv().await.expect("a try");
    hear.recv().await.expect("another");
    assert!(hear.try_recv().is_err());
}

#[tokio::test]
async fn an_answer_that_is_no_reason_for_a_retry_goes_back() {
    let mesh = Mesh::start();
    let (app, mut hear) = script(&mesh, &[UNAVAILABLE, OK]).await;
    let rules = vec![treated(&[app], retry(2, "connect-failure,refused-stream"))];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let (head, _) = get(&mut connect(vip).await, "/").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    hear.recv().await.expect("a try");
    assert!(hear.try_recv().is_err());
}

#[tokio::test]
async fn what_broke_is_sent_again_only_if_the_route_says_so() {
    let mesh = Mesh::start();
    let (app, mut hear) = script(&mesh, &["", OK]).await;
    let rules = vec![treated(&[app], retry(2, "connect-failure"))];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let (head, _) = post(&mut connect(vip).await, "x").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    hear.recv().await.expect("a try");
    assert!(hear.try_recv().is_err());
    let (app, _hear) = script(&mesh, &["", OK]).await;
    let rules = vec![treated(&[app], retry(2, "reset"))];
    let vip = mesh.service(2, Protocol::Http, cluster(&[]), rules).await;
    let (head, _) = post(&mut connect(vip).await, "x").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn a_retry_goes_to_an_endpoint_that_was_not_tried() {
    let mesh = Mesh::start();
    let (good, _hear) = script(&mesh, &[OK]).await;
    let rules = vec![treated(&[nobody(), good], retry(1, "connect-failure"))];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    for _ in 0..50 {
        let (head, _) = get(&mut client, "/").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
}

#[tokio::test]
async fn without_attempts_not_even_a_connection_is_tried_again() {
    let mesh = Mesh::start();
    let (good, _hear) = script(&mesh, &[OK]).await;
    let rules = vec![treated(&[nobody(), good], retry(0, ""))];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    let mut failed = 0;
    for _ in 0..50 {
        let (head, _) = get(&mut client, "/").await;
        failed += usize::from(head.starts_with("HTTP/1.1 503 "));
    }
    assert!(failed > 0);
    mesh.metric(&["istio_requests_total", "response_flags=\"UF\""])
        .await;
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_given_up() {
    let mesh = Mesh::start();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let app = mesh
        .app(move |mut stream| {
            let count = Arc::clone(&count);
            async move {
                while read_head(&mut stream).await.is_some() {
                    if count.fetch_add(1, Ordering::Relaxed) > 0 {
                        stream.write_all(OK.as_bytes()).await.expect("room");
                    }
                }
            }
        })
        .await;
    let limited = |on| {
        let mut treatment = retry(1, on);
        if let Some(policy) = &mut treatment.retry {
            policy.per_try_timeout = Some(Duration::from_millis(100));
        }
        vec![treated(&[app], treatment)]
    };
    let rules = limited("gateway-error");
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let (head, _) = get(&mut connect(vip).await, "/").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    asked.store(0, Ordering::Relaxed);
    let rules = limited("connect-failure");
    let vip = mesh.service(2, Protocol::Http, cluster(&[]), rules).await;
    let (head, _) = get(&mut connect(vip).await, "/").await;
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
    mesh.metric(&["istio_requests_total", "response_flags=\"UT\""])
        .await;
}

#[tokio::test]
async fn a_mirror_gets_the_body_and_a_shadow_of_the_host_and_its_answer_is_dropped() {
    let mesh = Mesh::start();
    let (app, mut hear) = script(&mesh, &[OK]).await;
    let (shadow, mut mirrored) = script(&mesh, &[UNAVAILABLE]).await;
    let treatment = Treatment {
        mirrors: vec![Mirror {
            cluster: cluster(&[shadow]),
            share: Share::ALL,
        }],
        ..Treatment::default()
    };
    let rules = vec![treated(&[app], treatment)];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    for body in ["", "three potatoes"] {
        let (head, said) = post(&mut client, body).await;
        assert!(head.starts_with("HTTP/1.1 200 ") && said == "ok", "{head}");
        let asked = hear.recv().await.expect("the request");
        let copy = mirrored.recv().await.expect("the copy");
        assert!(asked.contains("Host: shop\r\n"), "{asked}");
        assert_eq!(
            copy,
            asked.replace("Host: shop\r\n", "Host: shop-shadow\r\n")
        );
    }
    let counted = "istio_requests_total";
    mesh.metric(&[counted, "response_code=\"200\"", " 2"]).await;
}

#[tokio::test]
async fn a_mirror_that_is_down_is_noticed_by_nobody() {
    let mesh = Mesh::start();
    let (app, _hear) = script(&mesh, &[OK]).await;
    let treatment = Treatment {
        mirrors: vec![Mirror {
            cluster: cluster(&[nobody()]),
            share: Share::ALL,
        }],
        ..Treatment::default()
    };
    let rules = vec![treated(&[app], treatment)];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    for _ in 0..20 {
        let (head, _) = post(&mut client, "x").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
}

#[tokio::test]
async fn a_body_too_large_to_keep_arrives_whole_and_once() {
    let mesh = Mesh::start();
    let (app, mut hear) = script(&mesh, &[UNAVAILABLE, OK]).await;
    let rules = vec![treated(&[app], retry(2, "503"))];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let body = "x".repeat(3 * 1024 * 1024);
    let (head, _) = post(&mut connect(vip).await, &body).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(hear.recv().await.expect("a try").ends_with(&body));
    assert!(hear.try_recv().is_err());
}
