// SPDX-License-Identifier: Apache-2.0

//! An HTTP/2 client with prior knowledge: many requests on one connection.
//!
//! Knows nothing of pods: the calling thread's network is used.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use super::{Response, TIMEOUT};

/// Sends `count` times `GET path` on one connection, at most `concurrent` at a time, and returns
/// all responses in the order they came.
///
/// # Panics
/// When the connection or a request fails: whoever counts wants all answers.
#[track_caller]
pub fn get_many(
    address: &str,
    authority: &str,
    path: &str,
    count: usize,
    concurrent: usize,
) -> Vec<Response> {
    let address: SocketAddr = address.parse().expect("the test's address is one");
    let uri = format!("http://{authority}{path}");
    block_on(async move {
        let sender = open(address).await;
        let mut answers = Vec::new();
        let mut running = JoinSet::new();
        for _ in 0..count {
            if running.len() == concurrent {
                answers.extend(running.join_next().await);
            }
            running.spawn(get(sender.clone(), uri.clone()));
        }
        while let Some(answer) = running.join_next().await {
            answers.push(answer);
        }
        answers
            .into_iter()
            .map(|answer| answer.expect("the request was answered"))
            .collect()
    })
}

/// Runs `work` on a runtime of this thread.
///
/// # Panics
/// When there can be none.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime can be made").block_on(work)
}

/// Opens a connection; it is driven on the current runtime.
///
/// # Panics
/// When it cannot be opened.
pub async fn open(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = timeout(TIMEOUT, TcpStream::connect(address)).await;
    let stream = stream.expect("connected in time").expect("connected");
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2 handshake");
    // How it ends shows in the requests.
    drop(tokio::spawn(connection));
    sender
}

async fn get(mut sender: SendRequest<Full<Bytes>>, uri: String) -> Response {
    let request = Request::get(uri)
        .body(Full::default())
        .expect("the test's URI is one");
    let exchange = async {
        sender.ready().await.expect("the connection takes requests");
        let answer = sender
            .send_request(request)
            .await
            .expect("the request was answered");
        let (head, body) = answer.into_parts();
        let collected = body.collect().await.expect("the body came whole");
        let text = |(key, value): (&http::HeaderName, &http::HeaderValue)| {
            (
                key.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        };
        let trailers = collected
            .trailers()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
        Response {
            status: head.status.as_u16(),
            headers: head.headers.iter().map(text).collect(),
            trailers,
            body: collected.to_bytes().to_vec(),
        }
    };
    timeout(TIMEOUT, exchange)
        .await
        .expect("the request was answered in time")
}
