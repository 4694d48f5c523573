// SPDX-License-Identifier: Apache-2.0

//! What peers and applications send, fed to those who read it first.

use tokio::io::AsyncWriteExt;

pub use super::mux::fuzzing::{MUX_SEEDS, count_frames, mux_frames, mux_session};
use super::{
    hbone::{self, HboneLimits},
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
