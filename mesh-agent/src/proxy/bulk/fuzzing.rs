// SPDX-License-Identifier: Apache-2.0

//! What the other end of a bulk session says before the bytes, and the heads of its records.

use super::{
    header::{self, ANSWER, REQUEST, Request},
    record,
};

/// A request for stream 7, an answer, and the head of a record.
pub const BULK_SEEDS: &[&[u8]] = &[
    b"\x01\0\0\0aaaaaaaaaaaaaaaa\0\0\0\x07",
    b"\0\xc8",
    b"\x17\x03\x03\x40\x11",
];

/// What is taken is what would be put, and a record is never longer than there is room for.
pub fn bulk_header(bytes: &[u8]) {
    if let Some(first) = bytes.first_chunk::<REQUEST>()
        && let Ok(request) = Request::parse(*first)
    {
        assert_eq!(request.put(), *first);
    }
    if let Some(first) = bytes.first_chunk::<ANSWER>()
        && let Ok(status) = header::parse_answer(*first)
    {
        assert_eq!(header::put_answer(status), *first);
    }
    if let Ok(Some(length)) = record::record_length(bytes) {
        assert!((record::HEAD..=record::MAX_RECORD).contains(&length));
    }
}
