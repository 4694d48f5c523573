// SPDX-License-Identifier: Apache-2.0

//! What is asked at the admin socket, and what an agent answers its successor.

use super::{answer, hand_over};

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
