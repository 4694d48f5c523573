// SPDX-License-Identifier: Apache-2.0

//! Unary gRPC over HTTP/2 and TLS: a server that dispatches by path, a client that keeps one
//! connection, and the messages of the services that are spoken.
//!
//! Just as much of gRPC as these need: one message each way (of a stream the first), no compression, deadlines, status in
//! trailers. Knows nothing of certificates and nodes; TLS configurations are handed in.
//!
//! Invariant: what the other side sends costs a bounded amount of memory and time, and every call
//! ends in a message or a [`Status`].
//! Reference: gRPC over HTTP/2 (PROTOCOL-HTTP2.md of grpc/grpc).

mod client;
pub mod discovery;
pub mod ext_authz;
mod frame;
pub mod messages;
mod server;
mod status;

#[cfg(test)]
mod tests;

pub use self::{
    client::{Client, Endpoint, TlsSource, unary_answer},
    server::{Acceptor, Call, Limits, Router, serve},
    status::{Code, Status},
};
use crate::tasks::Tasks;

/// The body of a call: one message.
pub fn unary_body(message: &impl prost::Message) -> bytes::Bytes {
    frame::encode(message)
}

/// Decodes what an authority answers.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn decode_certificates(
    message: &[u8],
) -> Result<messages::CreateCertificateResponse, Status> {
    frame::decode(bytes::Bytes::copy_from_slice(message))
}

/// Runs HTTP/2's own tasks.
#[derive(Clone)]
struct Executor(Tasks);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn("grpc http/2", task);
    }
}
