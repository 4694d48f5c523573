// SPDX-License-Identifier: Apache-2.0

//! The gRPC application of the benchmark: answers every unary call with what it was sent.
//!
//! A program of its own (`mesh-bench application PORT`), so that its CPU time is its own. Knows
//! nothing of meshes. Invariant: an answer is a whole gRPC answer, status in the trailers.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::{
    body::{Body, Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

/// What is called; the name says nothing.
pub const METHOD: &str = "/bench.Echo/Unary";

/// Bytes of a call's message.
const MESSAGE: usize = 1024;

/// Beyond the streams that any load tool opens on a connection.
const STREAMS: u32 = 1024;

/// The body of a call: one message of 1 KiB, uncompressed.
pub fn body() -> Vec<u8> {
    let length = u32::try_from(MESSAGE).expect("a message is small");
    let mut body = vec![0];
    body.extend(length.to_be_bytes());
    body.extend([b'x'; MESSAGE]);
    body
}

/// Serves until it is killed.
///
/// # Errors
/// When the port is not to be had.
pub fn serve(port: u16) -> io::Result<()> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("0.0.0.0", port)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            drop(tokio::spawn(connection(stream)));
        }
    })
}

async fn connection(stream: TcpStream) {
    drop(stream.set_nodelay(true));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.max_concurrent_streams(STREAMS);
    let served = builder.serve_connection(TokioIo::new(stream), service_fn(answer));
    // How a connection ends is its client's to judge.
    drop(served.await);
}

/// A message, then the status.
struct Answer {
    message: Option<Bytes>,
    status: Option<HeaderMap>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let message = self.message.take().map(Frame::data);
        let frame = message.or_else(|| self.status.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Answer>, hyper::Error> {
    let message = request.into_body().collect().await?.to_bytes();
    let status = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let mut response = Response::new(Answer {
        message: Some(message),
        status: Some(status),
    });
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", kind);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_follows_its_length() {
        let body = body();
        assert_eq!(body.len(), 5 + MESSAGE);
        assert_eq!(body[..5], [0, 0, 0, 4, 0]);
    }
}
