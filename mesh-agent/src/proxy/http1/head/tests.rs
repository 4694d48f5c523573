// SPDX-License-Identifier: Apache-2.0

//! Heads that are plain, and the many ways not to be.

use super::*;

#[track_caller]
fn check_request(head: &str, want: Option<(Framing, bool)>) {
    let mut room = room();
    let judged = request(head.as_bytes(), &mut room);
    let is = match &judged {
        Judged::Plain(plain) => Some((plain.body, plain.close)),
        Judged::Odd => None,
        Judged::Partial => panic!("{head:?} has ended"),
    };
    assert_eq!(is, want, "{head:?}");
}

#[track_caller]
fn check_odd(fields: &str) {
    check_request(
        &format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"),
        None,
    );
}

#[track_caller]
fn check_answer(head: &str, to_head: bool, want: Result<(Framing, bool), BadHead>) {
    let mut room = room();
    let judged = response(head.as_bytes(), &mut room, to_head);
    let is = judged.map(|head| {
        let head = head.expect("the head has ended");
        (head.body, head.close)
    });
    assert_eq!(is, want, "{head:?}");
}

#[test]
fn plain_requests_say_how_their_body_ends() {
    let with = |fields: &str| format!("POST /a?b HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    check_request(&with(""), Some((Framing::Empty, false)));
    check_request(
        &with("Content-Length: 0\r\n"),
        Some((Framing::Empty, false)),
    );
    check_request(
        &with("content-LENGTH:  12 \r\n"),
        Some((Framing::Length(12), false)),
    );
    check_request(
        &with("Transfer-Encoding: Chunked\r\n"),
        Some((Framing::Chunked, false)),
    );
    check_request(
        &with("Connection: x, CLOSE\r\n"),
        Some((Framing::Empty, true)),
    );
}

#[test]
fn every_prefix_of_a_plain_request_is_partial() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nX-Long: abc def\r\n\r\n";
    for end in 0..head.len() {
        let mut room = room();
        let judged = request(&head.as_bytes()[..end], &mut room);
        assert!(matches!(judged, Judged::Partial), "{end}");
    }
}

#[test]
fn a_request_that_could_be_read_in_two_ways_is_not_plain() {
    check_odd("Content-Length: 3\r\nTransfer-Encoding: chunked");
    check_odd("Transfer-Encoding: chunked\r\nContent-Length: 3");
    check_odd("Content-Length: 3\r\nContent-Length: 3");
    check_odd("Content-Length: 3\r\nContent-Length: 4");
    check_odd("Content-Length: 3, 3");
    check_odd("Content-Length: +3");
    check_odd("Content-Length: 0x3");
    check_odd("Content-Length: 3 3");
    check_odd("Content-Length:");
    check_odd("Content-Length: 9999999999999999999");
    check_odd("Transfer-Encoding: gzip, chunked");
    check_odd("Transfer-Encoding: chunked, identity");
    check_odd("Transfer-Encoding: xchunked");
    check_odd("Transfer-Encoding: \"chunked\"");
    check_odd("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked");
    check_odd("Transfer-Encoding : chunked");
    check_odd("Transfer-Encoding: chunked\n");
    check_odd("X: a\nTransfer-Encoding: chunked");
    check_odd("X: a\r\n folded");
    check_odd("X: a\rTransfer-Encoding: chunked");
    check_odd("X: a\0b");
    check_odd("Host: b");
    check_odd(" Leading: space");
    check_odd("No colon");
}

#[test]
fn a_request_that_wants_more_than_an_answer_is_not_plain() {
    for fields in [
        "Upgrade: websocket",
        "Expect: 100-continue",
        "TE: trailers",
        "Trailer: X-Sum",
        "HTTP2-Settings: AAMA",
        "Content-Type: application/grpc",
    ] {
        check_odd(fields);
    }
}

#[test]
fn odd_request_lines_are_not_plain() {
    for line in [
        "GET / HTTP/1.0",
        "GET http://a/ HTTP/1.1",
        "CONNECT a:443 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /\t HTTP/1.1",
        "get / HTTP/1.1",
        "\r\nGET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/2.0",
        "GET /",
    ] {
        check_request(&format!("{line}\r\nHost: a\r\n\r\n"), None);
    }
    check_request("GET / HTTP/1.1\r\n\r\n", None);
    check_request("GET / HTTP/1.1\nHost: a\n\n", None);
    let many = "A: b\r\n".repeat(MAX_FIELDS);
    check_request(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), None);
}

#[test]
fn answers_say_how_their_body_ends() {
    let ok = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    let length = "Content-Length: 5\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    check_answer(&ok(""), false, Ok((Framing::Close, true)));
    check_answer(
        &ok("Content-Length: 0\r\n"),
        false,
        Ok((Framing::Empty, false)),
    );
    check_answer(&ok(length), false, Ok((Framing::Length(5), false)));
    check_answer(&ok(length), true, Ok((Framing::Empty, false)));
    check_answer(&ok(chunked), false, Ok((Framing::Chunked, false)));
    check_answer(
        &ok("Connection: close\r\n"),
        true,
        Ok((Framing::Empty, true)),
    );
    for status in ["204 No Content", "304 Not Modified", "103 Early Hints"] {
        let head = format!("HTTP/1.1 {status}\r\n{length}\r\n");
        check_answer(&head, false, Ok((Framing::Empty, false)));
    }
    let old = |fields: &str| format!("HTTP/1.0 200 OK\r\n{fields}\r\n");
    check_answer(&old(length), false, Ok((Framing::Length(5), true)));
    let kept = "Content-Length: 5\r\nConnection: keep-alive\r\n";
    check_answer(&old(kept), false, Ok((Framing::Length(5), false)));
}

#[test]
fn an_answer_that_could_be_read_in_two_ways_is_bad() {
    let ok = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
    for (fields, why) in [
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            BadHead::Both,
        ),
        ("Content-Length: 5\r\nContent-Length: 5", BadHead::Length),
        ("Content-Length: 5, 5", BadHead::Length),
        ("Content-Length: -1", BadHead::Length),
        ("Transfer-Encoding: gzip", BadHead::Coding),
        ("Transfer-Encoding: chunked, chunked", BadHead::Coding),
        (
            "Transfer-Encoding : chunked",
            BadHead::Syntax(httparse::Error::HeaderName),
        ),
        (
            "X: a\r\n folded",
            BadHead::Syntax(httparse::Error::HeaderName),
        ),
    ] {
        check_answer(&ok(fields), false, Err(why));
    }
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    check_answer(old, false, Err(BadHead::Both));
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n";
    check_answer(switch, false, Err(BadHead::Switches));
}
