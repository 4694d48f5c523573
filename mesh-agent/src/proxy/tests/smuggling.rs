// SPDX-License-Identifier: Apache-2.0

//! Requests and answers made to be read in two ways: no endpoint may see a request that its client
//! did not send as one, and no client an answer that was not to its request.

use super::differential::{Bench, End, script::Script};
use crate::proxy::Http1Engine;

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

/// What follows the request line and Host; `{}` is where a request is hidden.
const REQUESTS: &[&str] = &[
    // Two lengths.
    "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{}",
    "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{}",
    "Content-Length: 0\r\nContent-Length: 41\r\n\r\n{}",
    "Content-Length: 41\r\nContent-Length: 0\r\n\r\n{}",
    "Content-Length: 0, 41\r\n\r\n{}",
    // Lengths that parsers read differently.
    "Content-Length: +0\r\n\r\n{}",
    "Content-Length: -0\r\n\r\n{}",
    "Content-Length: 0x0\r\n\r\n{}",
    "Content-Length: 0 0\r\n\r\n{}",
    "Content-Length : 0\r\n\r\n{}",
    "Content-Length\t: 0\r\n\r\n{}",
    "Content_Length: 41\r\nContent-Length: 18446744073709551616\r\n\r\n{}",
    // Codings that parsers read differently.
    "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{}",
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{}",
    "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n{}",
    "Transfer-Encoding:\x00chunked\r\n\r\n0\r\n\r\n{}",
    "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{}",
    "Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n{}",
    "Transfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n{}",
    "X: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{}",
    "X: a\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{}",
    "X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{}",
    // Chunks that parsers read differently.
    "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n{}",
    "Transfer-Encoding: chunked\r\n\r\n0\n\n{}",
    "Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n0\r\n\r\n{}",
    "Transfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n{}",
    "Transfer-Encoding: chunked\r\n\r\n1\r\nx0\r\n\r\n{}",
    "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n{}",
    "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n{}",
    "Transfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n{}",
    // A length that must not be named away.
    "Connection: Content-Length\r\nContent-Length: 34\r\n\r\n{}",
    "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n22\r\n{}\r\n0\r\n\r\n",
];

/// Answers that could be read in two ways.
const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab",
    "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\nab",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nab\n0\n\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "HTTP/1.1 20 OK\r\n\r\n",
    "HTTP/2.0 200 OK\r\n\r\n",
    "SSH-2.0-OpenSSH\r\n\r\n",
];

#[tokio::test]
async fn no_endpoint_sees_a_request_that_was_hidden_in_another() {
    for engine in [Http1Engine::Fast, Http1Engine::Hyper] {
        let bench = Bench::start(engine).await;
        for request in REQUESTS {
            let request = request.replace("{}", HIDDEN);
            let script = Script {
                pieces: vec![format!("POST /open HTTP/1.1\r\nHost: a\r\n{request}").into_bytes()],
                methods: vec!["POST".into()],
                client_ends: true,
                ..Script::default()
            };
            let seen = bench.play(&script).await;
            assert_ne!(seen.end, End::Stalled, "{script:?}");
            let hidden = |line: &str| line.contains("/hidden");
            assert!(
                !seen.asked.iter().any(|asked| hidden(&asked.line)),
                "{engine:?}: {script:#?}\n{seen:#?}"
            );
            assert!(
                seen.answers.len() <= 1,
                "{engine:?}: {script:#?}\n{seen:#?}"
            );
        }
    }
}

#[tokio::test]
async fn an_answer_that_could_be_read_in_two_ways_is_not_passed_on() {
    let bench = Bench::start(Http1Engine::Fast).await;
    for answer in ANSWERS {
        let script = Script {
            pieces: vec![b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec()],
            methods: vec!["POST".into()],
            answer: answer.as_bytes().to_vec(),
            endpoint_closes: true,
            ..Script::default()
        };
        let seen = bench.play(&script).await;
        let statuses: Vec<&str> = seen.answers.iter().map(|one| one.status.as_str()).collect();
        assert_eq!(statuses, ["HTTP/1.1 502"], "{answer:?}");
    }
    bench
        .mesh
        .metric(&[
            "istio_requests_total",
            "response_flags=\"UPE\"",
            "response_code=\"502\"",
        ])
        .await;
}

#[tokio::test]
async fn an_answer_nobody_asked_for_is_given_to_nobody() {
    let bench = Bench::start(Http1Engine::Fast).await;
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo";
    for _ in 0..20 {
        let script = Script {
            pieces: vec![b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec()],
            methods: vec!["GET".into()],
            answer: two.as_bytes().to_vec(),
            ..Script::default()
        };
        let seen = bench.play(&script).await;
        assert_eq!(seen.answers.len(), 1);
        assert_eq!(seen.answers[0].body, b"one");
    }
}
