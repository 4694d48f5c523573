// SPDX-License-Identifier: Apache-2.0

//! What clients and endpoints say, made up from a seed.

use std::fmt;

use fastrand::Rng;

/// One client connection.
#[derive(Clone)]
pub(in super::super) struct Script {
    /// What the client writes, piece by piece.
    pub(in super::super) pieces: Vec<Vec<u8>>,
    /// Of the requests that it means to send.
    pub(in super::super) methods: Vec<String>,
    /// It ends its side then.
    pub(in super::super) client_ends: bool,
    /// What the endpoint answers each request.
    pub(in super::super) answer: Vec<u8>,
    /// It ends its side then.
    pub(in super::super) endpoint_closes: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            methods: Vec::new(),
            client_ends: false,
            answer: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
            endpoint_closes: false,
        }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_struct("Script")
            .field("sent", &text(&self.pieces.concat()))
            .field("pieces", &self.pieces.len())
            .field("client_ends", &self.client_ends)
            .field("answer", &text(&self.answer))
            .field("endpoint_closes", &self.endpoint_closes)
            .finish_non_exhaustive()
    }
}

const METHODS: &[&str] = &[
    "GET", "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "X-ODD",
];

const TARGETS: &[&str] = &[
    "/",
    "/a/b?c=d&e=%2f",
    "/%00",
    "//x",
    "/a;b=c",
    "/?",
    "/~!$&'()*+,=",
];

const FIELDS: &[&str] = &[
    "Accept: */*",
    "X-Empty:",
    "x-case-Kept:  spaces around \t",
    "Cookie: a=1; b=2",
    "cookie: c=3",
    "X-Private: 1",
    "x-private: 2",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "User-Agent: test",
    "X-Request-Id: 1234",
    "Connection: keep-alive",
    "Connection: X-Private , keep-alive",
    "connection: host",
    "Forwarded: for=\"[::1]:80\"",
    "X-Bytes: \u{e9}\u{fc}",
];

/// What makes a request one that is not plain: fields, lines or whole requests.
const ODD_FIELDS: &[&str] = &[
    "Host: b",
    "Content-Length: 3\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 3",
    "Content-Length: 3\r\nContent-Length: 3",
    "Content-Length: 3\r\nContent-Length: 4",
    "Content-Length: 3, 3",
    "Content-Length: +3",
    "Content-Length: 0x3",
    "Content-Length: 99999999999999999999",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: chunked\nX: y",
    "X: a\r\n folded",
    "X: a\rb",
    "X: a\0b",
    " X: leading",
    "no colon",
    ": no name",
    "X Y: z",
    "TE: trailers",
    "TE: gzip",
    "Trailer: X-Sum",
    "Upgrade: h2c\r\nConnection: Upgrade",
    "Upgrade: nothing",
    "Content-Type: application/grpc",
];

const ODD_LINES: &[&str] = &[
    "GET / HTTP/1.0",
    "GET http://other/a HTTP/1.1",
    "GET https://other:8443/a?b HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "CONNECT a:443 HTTP/1.1",
    "GET /a#fragment HTTP/1.1",
    "GET /\u{e9} HTTP/1.1",
    "GET /a b HTTP/1.1",
    "GET  / HTTP/1.1",
    "GET\t/ HTTP/1.1",
    "GET /\"<>^`{|}\\ HTTP/1.1",
    "\r\nGET / HTTP/1.1",
    "GET / HTTP/1.1 ",
    "GET / HTTP/1.2",
    "GET / HTTP/3.0",
    "GET /",
    "GET / http/1.1",
];

impl Script {
    /// Plain requests, one or several, and answers of every kind.
    pub(super) fn random(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let count = rng.usize(1..4);
        let mut script = Self::default();
        let mut sent = Vec::new();
        for turn in 0..count {
            let method = *rng.choice(METHODS).expect("some");
            let target = *rng.choice(TARGETS).expect("some");
            sent.extend_from_slice(
                format!("{method} {target} HTTP/1.1\r\nHOST: Shop\r\n").as_bytes(),
            );
            fields(&mut rng, &mut sent);
            if turn + 1 == count && !script.client_ends {
                sent.extend_from_slice(b"Connection: close\r\n");
            }
            body(&mut rng, &mut sent, method != "GET" && method != "HEAD");
            script.methods.push(method.to_owned());
        }
        script.client_ends = rng.u8(..4) == 0;
        script.pieces = pieces(&mut rng, &sent);
        answer(&mut rng, &mut script);
        script
    }

    /// A request that is not plain, behind plain ones or not; the client ends its side.
    pub(super) fn odd(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x0dd);
        let mut sent = Vec::new();
        let mut script = Self {
            client_ends: true,
            ..Self::default()
        };
        for _ in 0..rng.usize(..3) {
            sent.extend_from_slice(b"GET /before HTTP/1.1\r\nHost: a\r\n\r\n");
            script.methods.push("GET".to_owned());
        }
        let by_line = rng.u8(..3) == 0;
        let line = match by_line {
            true => *rng.choice(ODD_LINES).expect("some"),
            false => "POST /odd HTTP/1.1",
        };
        sent.extend_from_slice(format!("{line}\r\nHost: a\r\n").as_bytes());
        if !by_line {
            let field = rng.choice(ODD_FIELDS).expect("some");
            sent.extend_from_slice(format!("{field}\r\n").as_bytes());
        }
        sent.extend_from_slice(b"\r\n");
        if rng.bool() {
            sent.extend_from_slice(b"3\r\nabc\r\n0\r\n\r\n");
        }
        if rng.bool() {
            sent.extend_from_slice(b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        script.methods.push("POST".to_owned());
        script.pieces = pieces(&mut rng, &sent);
        script
    }
}

fn fields(rng: &mut Rng, out: &mut Vec<u8>) {
    for _ in 0..rng.usize(..6) {
        out.extend_from_slice(rng.choice(FIELDS).expect("some").as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn data(rng: &mut Rng) -> Vec<u8> {
    let length = match rng.u8(..8) {
        0 => 0,
        1 => rng.usize(20_000..80_000),
        _ => rng.usize(1..200),
    };
    (0..length).map(|_| rng.alphanumeric() as u8).collect()
}

/// Framing fields, the end of the head, and a body.
fn body(rng: &mut Rng, out: &mut Vec<u8>, wanted: bool) {
    match rng.u8(..3) {
        0 if wanted => {
            let data = data(rng);
            let head = format!("Content-Length: {}\r\n\r\n", data.len());
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(&data);
        }
        1 if wanted => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            chunks(rng, out);
        }
        _ => out.extend_from_slice(b"\r\n"),
    }
}

fn chunks(rng: &mut Rng, out: &mut Vec<u8>) {
    for _ in 0..rng.usize(..4) {
        let data = data(rng);
        if data.is_empty() {
            continue;
        }
        let extension = if rng.u8(..4) == 0 { ";a=b" } else { "" };
        out.extend_from_slice(format!("{:X}{extension}\r\n", data.len()).as_bytes());
        out.extend_from_slice(&data);
        out.extend_from_slice(b"\r\n");
    }
    let trailers = if rng.u8(..4) == 0 { "X-Sum: 1\r\n" } else { "" };
    out.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
}

fn pieces(rng: &mut Rng, bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut pieces) = (bytes, Vec::new());
    let most = match rng.u8(..3) {
        0 => 7,
        1 => 500,
        _ => usize::MAX,
    };
    while !rest.is_empty() && pieces.len() < 100 {
        let (piece, behind) = rest.split_at(rng.usize(1..=most.min(rest.len())));
        pieces.push(piece.to_vec());
        rest = behind;
    }
    pieces.push(rest.to_vec());
    pieces
}

/// An answer that can be read in one way only.
fn answer(rng: &mut Rng, script: &mut Script) {
    let mut out = Vec::new();
    if rng.u8(..6) == 0 {
        out.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    }
    let status = rng
        .choice([
            "200 OK",
            "200 Fine",
            "404 Not Found",
            "503 Busy",
            "204 No Content",
            "304 Not Modified",
        ])
        .expect("some");
    out.extend_from_slice(format!("HTTP/1.1 {status}\r\nServer: test\r\n").as_bytes());
    fields(rng, &mut out);
    let bare = status.starts_with("204") || status.starts_with("304");
    let closes = rng.u8(..5) == 0;
    if closes {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    let any_head = script.methods.iter().any(|method| method == "HEAD");
    match rng.u8(..4) {
        _ if bare => out.extend_from_slice(b"\r\n"),
        0 if closes && !any_head => {
            out.extend_from_slice(b"\r\n");
            out.extend(data(rng));
        }
        1 if !any_head => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            chunks(rng, &mut out);
        }
        _ if any_head => out.extend_from_slice(b"Content-Length: 0\r\n\r\n"),
        _ => {
            let data = data(rng);
            out.extend_from_slice(format!("content-length: {}\r\n\r\n", data.len()).as_bytes());
            out.extend_from_slice(&data);
        }
    }
    script.answer = out;
    script.endpoint_closes = closes;
}
