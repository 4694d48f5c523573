// SPDX-License-Identifier: Apache-2.0

//! Bytes of the mux, as a peer may send them.

use super::{
    MuxLimits,
    decode::{Decoder, Piece},
    frame::{Frame, FrameError},
    session::{Role, Session},
};

/// HELLO, a PING, an OPEN of stream 1 with DATA, GOAWAY.
pub const MUX_SEEDS: &[&[u8]] = &[
    b"\x01\0\0\x04\0\0\0\0\0\0\x03\xe8",
    b"\x08\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\x01",
    b"\x02\0\0\x10\0\0\0\x01\0\x01\0\0\0\x50\x04\x0a\0\0\x01\0\0\0\0\0\0\0\0",
    b"\0\0\0\x03\0\0\0\x01abc",
    b"\x0a\0\0\x05\0\0\0\0\0\0\0\0\0",
];

/// All frames, with DATA joined.
type Found = (Vec<Frame>, Vec<(u32, Vec<u8>)>, Option<FrameError>);

fn decode(bytes: &[u8], step: usize) -> Found {
    let mut decoder = Decoder::default();
    let (mut frames, mut data) = (Vec::new(), Vec::<(u32, Vec<u8>)>::new());
    for mut chunk in bytes.chunks(step.max(1)) {
        loop {
            match decoder.next(&mut chunk) {
                Ok(Some(Piece::Frame(frame))) => frames.push(frame),
                Ok(Some(Piece::Data { stream, bytes })) => match data.last_mut() {
                    Some((last, all)) if *last == stream => all.extend_from_slice(bytes),
                    _ => data.push((stream, bytes.to_vec())),
                },
                Ok(None) if chunk.is_empty() => break,
                Ok(None) => {}
                Err(error) => return (frames, data, Some(error)),
            }
        }
    }
    (frames, data, None)
}

/// However bytes are cut, the same is found in them; and what is found can be sent again.
pub fn mux_frames(bytes: &[u8]) {
    let whole = decode(bytes, bytes.len());
    for step in [1, 3, 7] {
        let parts = decode(bytes, step);
        assert_eq!(
            (&parts.0, &parts.1),
            (&whole.0, &whole.1),
            "cut every {step} bytes"
        );
        assert_eq!(
            parts.2.is_some(),
            whole.2.is_some(),
            "cut every {step} bytes"
        );
    }
    let mut again = Vec::new();
    whole.0.iter().for_each(|frame| frame.put(&mut again));
    let (frames, _, error) = decode(&again, again.len());
    assert!(error.is_none() && frames == whole.0, "{error:?}");
}

/// Neither end of a session panics, whatever the other sends, and what it then sends is well formed.
pub fn mux_session(bytes: &[u8]) {
    let limits = MuxLimits {
        max_streams: 10,
        stream_window: 256 * 1024,
    };
    for role in [Role::Client, Role::Server] {
        let mut session = Session::new(role, limits);
        for chunk in bytes.chunks(100) {
            if session.receive(chunk).is_err() {
                break;
            }
            while let Some((stream, _)) = session.next_arrival() {
                session.accept(stream, None);
            }
        }
        let mut sent = Vec::new();
        session.fill(&mut sent, 64 * 1024);
        let (_, _, error) = decode(&sent, sent.len());
        assert!(error.is_none(), "{error:?}");
    }
}
