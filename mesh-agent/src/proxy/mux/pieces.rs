// SPDX-License-Identifier: Apache-2.0

//! Frames of DATA.

use super::{decode::Decoder, frame};

/// What one frame carries here, in bytes.
const PAYLOAD: usize = 1024;

fn put(out: &mut Vec<u8>, payload: &[u8]) {
    frame::put_data_header(out, 1, payload.len());
    out.extend_from_slice(payload);
}

/// Frames 1 KiB into a buffer that is there.
pub(crate) fn frame() -> Box<dyn FnMut() -> usize> {
    let (payload, mut out) = ([b'x'; PAYLOAD], Vec::new());
    Box::new(move || {
        out.clear();
        put(&mut out, &payload);
        out.len()
    })
}

/// Finds 64 frames of 1 KiB in a buffer.
pub(crate) fn unframe() -> Box<dyn FnMut() -> usize> {
    let mut bytes = Vec::new();
    for _ in 0..64 {
        put(&mut bytes, &[b'x'; PAYLOAD]);
    }
    Box::new(move || {
        let (mut decoder, mut rest, mut count) = (Decoder::default(), bytes.as_slice(), 0);
        while let Ok(Some(_)) = decoder.next(&mut rest) {
            count += 1;
        }
        count
    })
}
