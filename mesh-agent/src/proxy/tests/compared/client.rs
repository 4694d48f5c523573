// SPDX-License-Identifier: Apache-2.0

//! Asks for something, and reads the answer as far as it must be the same.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    super::{differential::wire, mesh::connect},
    OWN_WORDS, PATIENCE,
    case::Step,
    is_own,
};
use crate::tasks::Tasks;

/// Fields by name.
type Fields = BTreeMap<String, Vec<String>>;

/// What a client is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) status: String,
    fields: BTreeMap<String, String>,
    body: String,
}

impl Told {
    fn new(status: String, mut fields: Fields, body: &[u8], of_head: bool) -> Self {
        // A field without a value says as much as none.
        fields.retain(|name, values| !is_own(name) && values.iter().any(|one| !one.is_empty()));
        let mut body = String::from_utf8_lossy(body).into_owned();
        let message = fields.get_mut("grpc-message").into_iter().flatten();
        for message in message.filter(|message| message.starts_with(OWN_WORDS)) {
            OWN_WORDS.clone_into(message);
        }
        let own = body.starts_with(OWN_WORDS);
        if own {
            OWN_WORDS.clone_into(&mut body);
        }
        if own || of_head {
            // There is nothing that it would be the length of.
            fields.retain(|name, _| name != "content-length" && name != "transfer-encoding");
        }
        let joined = fields.into_iter();
        let joined = joined.map(|(name, values)| (name, values.join(",").replace(", ", ",")));
        Self {
            status,
            fields: joined.collect(),
            body,
        }
    }

    /// A field of the answer.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// Takes a field away; whether it was there.
    pub(super) fn take(&mut self, name: &str) -> bool {
        self.fields.remove(name).is_some()
    }
}

/// Asks `host` over HTTP/1.1, on a connection of its own.
pub(super) async fn http1(to: SocketAddr, host: &str, step: &Step) -> Told {
    let mut client = connect(to).await;
    let (method, path) = (step.method, &step.path);
    let length = match step.body.is_empty() {
        true => String::new(),
        false => format!("Content-Length: {}\r\n", step.body.len()),
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{}{length}\r\n{}",
        step.head, step.body
    );
    client.write_all(request.as_bytes()).await.expect("room");
    let mut got = Vec::new();
    let read = timeout(PATIENCE, client.read_to_end(&mut got)).await;
    read.expect("an answer in time").expect("no reset");
    let answers = wire::answers(&got, &[method.to_owned()]);
    let answer = answers.into_iter().next().expect("an answer");
    assert!(answer.whole, "{answer:?}");
    Told::new(answer.status, answer.fields, &answer.body, method == "HEAD")
}

/// The same over HTTP/2; what comes in trailers counts as fields.
pub(super) async fn http2(tasks: &Tasks, to: SocketAddr, host: &str, step: &Step) -> Told {
    let stream = TokioIo::new(connect(to).await);
    let opened = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
    let (mut sender, connection) = opened.expect("HTTP/2");
    tasks.spawn("client", async move {
        connection.await.ok();
    });
    let mut request = Request::builder()
        .method(step.method)
        .uri(format!("http://{host}{}", step.path));
    for line in step.head.lines() {
        let (name, value) = line.split_once(": ").expect("a field");
        request = request.header(name, value);
    }
    let body = Full::new(Bytes::from(step.body.clone()));
    let request = request.body(body).expect("a request");
    let answered = timeout(PATIENCE, sender.send_request(request)).await;
    let answered = answered.expect("an answer in time").expect("no reset");
    let (head, body) = answered.into_parts();
    let body = body.collect().await.expect("a whole body");
    let mut fields = fields(&head.headers);
    if let Some(trailers) = body.trailers() {
        fields.extend(self::fields(trailers));
    }
    let status = format!("HTTP/2 {}", head.status.as_u16());
    Told::new(status, fields, &body.to_bytes(), step.method == "HEAD")
}

/// Headers by name.
pub(super) fn fields(headers: &HeaderMap) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        fields.entry(name.to_string()).or_default().push(value);
    }
    fields
}
