// SPDX-License-Identifier: Apache-2.0

//! A client and an application of HTTP/2, of a thread each.
//!
//! Knows nothing of what is measured.

use std::{
    convert::Infallible,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::{BodyExt, Empty, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{runtime::Builder, task::LocalSet};

use crate::tasks::Tasks;

type Client = hyper::client::conn::http2::SendRequest<Empty<Bytes>>;

/// What sends so many requests over `client`, one after the other, to the application that accepts at `app`.
pub(super) fn begin(app: TcpListener, client: TcpStream) -> impl FnMut(usize) {
    drop(thread::spawn(move || {
        on_this_thread(async move {
            let (stream, _) = app.accept().expect("one is enough");
            serve(stream).await;
        });
    }));
    let (asked, questions) = mpsc::channel::<usize>();
    let (done, answers) = mpsc::channel::<()>();
    drop(thread::spawn(move || {
        on_this_thread(async move {
            let mut client = open(client).await;
            while let Ok(times) = questions.recv() {
                for _ in 0..times {
                    ask(&mut client).await;
                }
                done.send(()).expect("somebody waits");
            }
        });
    }));
    move |times| {
        asked.send(times).expect("it lives");
        answers.recv().expect("all were answered");
    }
}

fn on_this_thread(work: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), work);
}

fn asynchronous(stream: TcpStream) -> TokioIo<tokio::net::TcpStream> {
    stream.set_nonblocking(true).expect("a socket");
    TokioIo::new(tokio::net::TcpStream::from_std(stream).expect("a runtime"))
}

async fn serve(stream: TcpStream) {
    let answer = service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(asynchronous(stream), answer)
        .await
        .ok();
}

async fn open(stream: TcpStream) -> Client {
    let opened =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), asynchronous(stream)).await;
    let (client, connection) = opened.expect("HTTP/2");
    Tasks::new().spawn_local("client", connection.map(drop));
    client
}

async fn ask(client: &mut Client) {
    let request = Request::get("http://shop/items/7")
        .header("user-agent", "test")
        .header("accept", "*/*")
        .body(Empty::new())
        .expect("a request");
    client.ready().await.expect("it lives");
    let answer = client.send_request(request).await.expect("an answer");
    let body = answer.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), "ok");
}
