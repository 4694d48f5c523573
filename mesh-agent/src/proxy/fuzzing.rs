// SPDX-License-Identifier: Apache-2.0

//! What peers and applications send, fed to those who read it first.

use tokio::io::AsyncWriteExt;

pub use super::{
    bulk::fuzzing::{BULK_SEEDS, bulk_header},
    http1::fuzzing::{
        ANSWER_SEEDS, BODY_SEEDS, REQUEST_SEEDS, http1_answer, http1_body, http1_request,
    },
    mux::fuzzing::{MUX_SEEDS, mux_frames, mux_session},
};
use super::{
    hbone::{self, HboneLimits},
    hello::{self, Hello},
    sniff::{self, First},
};
use crate::model::SpiffeId;

/// An HTTP/2 preface, SETTINGS, and HEADERS of a CONNECT.
pub const HBONE_SEED: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
    \0\0\x17\x01\x04\0\0\0\x01\x02\x07:method\x07CONNECT\x41\x0310.0.0.1:80";

/// A verdict is never taken back, and there always is one in the end.
pub fn sniff(bytes: &[u8]) {
    let mut verdict = First::Undecided;
    for end in 0..=bytes.len().min(sniff::ENOUGH) {
        let now = sniff::first(&bytes[..end]);
        assert!(
            verdict == First::Undecided || verdict == now,
            "{verdict:?} became {now:?}"
        );
        verdict = now;
    }
    assert!(bytes.len() < sniff::ENOUGH || verdict != First::Undecided);
}

/// A ClientHello with a server name.
pub const HELLO_SEED: &[u8] = b"\x16\x03\x01\0\x3b\x01\0\0\x37\x03\x03\
    \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
    \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
    \0\0\x02\x13\x01\x01\0\0\x0c\0\0\0\x08\0\x06\0\0\x03a.b";

/// A verdict is never taken back, there always is one in the end, and a name is one that a rule could
/// have.
pub fn client_hello(bytes: &[u8]) {
    let whole = hello::hello(bytes);
    assert!(bytes.len() < hello::ENOUGH || whole != Hello::Undecided);
    if let Hello::Tls(Some(name)) = &whole {
        let plain = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
        assert!(!name.is_empty() && name.bytes().all(plain), "{name:?}");
    }
    // Of a large input only some beginnings: all of them would take too long.
    for end in (0..bytes.len()).step_by(bytes.len() / 64 + 1) {
        let now = hello::hello(&bytes[..end]);
        assert!(
            now == Hello::Undecided || now == whole,
            "{now:?} became {whole:?}"
        );
    }
}

/// What comes over a tunnel once TLS is there: nothing panics, and it comes to an end.
pub fn hbone_server(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(async {
        // What a peer sends, whole, then its end; what it is told fits as well.
        let (mut client, server) = tokio::io::duplex(bytes.len() + (1 << 20));
        client.write_all(bytes).await.expect("there is room");
        client.shutdown().await.expect("there is room");
        let builder = hbone::builder(&HboneLimits::default());
        let Ok(mut connection) = builder.handshake(server).await else {
            return;
        };
        let peer = SpiffeId::new("cluster.local", "default", "web");
        while let Some(Ok((request, respond))) = connection.accept().await {
            hbone::hand_on(peer.clone(), request, respond, &drop);
        }
    });
}
