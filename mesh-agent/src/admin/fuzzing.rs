// SPDX-License-Identifier: Apache-2.0

//! What is asked at the admin socket, and what an agent answers its successor.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::{Builder, Runtime},
};

use super::{Scope, answer, hand_over, samples::Sample, serve};

/// A question of each kind.
pub const REQUEST_SEEDS: &[&[u8]] = &[
    b"GET /status HTTP/1.1\r\nHost: agent\r\n\r\n",
    b"GET /proxy-config/routes?pod=default%2Fweb HTTP/1.1\r\nHost: agent\r\n\r\n",
    b"PUT /log?level=debug HTTP/1.1\r\nHost: agent\r\nContent-Length: 0\r\n\r\n",
    b"POST /hand-over?version=1&abi=7&socket=%2Frun%2Fa.sock HTTP/1.1\r\nHost: agent\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: agent\r\nAccept: application/openmetrics-text\r\n\r\n",
    b"GET /config_dump HTTP/1.0\r\n\r\n",
];

/// What is answered is far less than this.
const ROOM: usize = 1 << 20;

thread_local! {
    /// One for all inputs: most of the time would be its start.
    static AGENT: (Runtime, Sample) = {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let sample = runtime.block_on(Sample::ready());
        (runtime, sample)
    };
}

/// Whatever is asked on whichever listener is answered by HTTP or not at all, and never grants a hand-over that
/// nobody is there to grant.
pub fn request(bytes: &[u8]) {
    AGENT.with(|(runtime, sample)| {
        for scope in [Scope::All, Scope::Metrics, Scope::ZtunnelDump] {
            let answer = runtime.block_on(asked(bytes, scope, sample));
            let is_answer = answer.is_empty() || answer.starts_with(b"HTTP/1.");
            assert!(is_answer, "{:?}", String::from_utf8_lossy(&answer));
        }
    });
}

async fn asked(bytes: &[u8], scope: Scope, sample: &Sample) -> Vec<u8> {
    let (mut client, server) = tokio::io::duplex(bytes.len() + ROOM);
    client.write_all(bytes).await.expect("there is room");
    client.shutdown().await.expect("there is room");
    let views = std::sync::Arc::new(sample.views.clone());
    serve::exchange(server, scope, views, sample.tasks.clone()).await;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("it has ended");
    answer
}

/// Any query is read, or refused.
pub fn query(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let query = answer::query(&text);
    assert!(query.len() <= text.split('&').count());
    // Only that it does not panic: most queries are no successor's.
    drop(answer::successor(&query));
}

/// An answer is read, or none.
pub fn answer(bytes: &[u8]) {
    if let Some((status, body)) = hand_over::parse(bytes) {
        assert!(status < 1000 && body.len() < bytes.len());
    }
}
