// SPDX-License-Identifier: Apache-2.0

//! What the decoder makes of frames, of damaged frames, and of noise.

use super::*;
use crate::proxy::mux::frame::{MAX_DATA, put_data_header};

/// How many damaged streams are tried.
const SEEDS: u64 = 20_000;

fn open(authority: &str, text: Option<&str>) -> Open {
    Open {
        window: 256 * 1024,
        authority: authority.parse().unwrap(),
        forwarded: text.map(str::to_owned),
        baggage: None,
        traceparent: text.map(str::to_owned),
    }
}

/// One of each kind, and of each form of it.
fn frames() -> Vec<Frame> {
    let long = "é".repeat(2048);
    let status = StatusCode::SERVICE_UNAVAILABLE;
    vec![
        Frame::Hello { max_streams: 1000 },
        Frame::Open {
            stream: 1,
            open: open("10.0.0.1:80", Some("for=\"10.0.0.2:3\";host=a.b")),
        },
        Frame::Open {
            stream: MAX_STREAM,
            open: open("[fd00::1]:65535", None),
        },
        Frame::Open {
            stream: 2,
            open: open("[fd00::1]:1", Some(&long)),
        },
        Frame::Accept {
            stream: 1,
            window: EARLY_WINDOW,
            baggage: None,
        },
        Frame::Accept {
            stream: 2,
            window: MAX_WINDOW,
            baggage: Some(long),
        },
        Frame::Refuse { stream: 3, status },
        Frame::End { stream: 4 },
        Frame::Reset {
            stream: 5,
            reason: Reason::Cancelled,
        },
        Frame::Reset {
            stream: 5,
            reason: Reason::NotActedOn,
        },
        Frame::Credit {
            stream: 6,
            bytes: 1,
        },
        Frame::Ping(u64::MAX),
        Frame::Pong(0),
        Frame::GoAway {
            last: 0,
            parting: Parting::Leaving,
        },
        Frame::GoAway {
            last: MAX_STREAM,
            parting: Parting::Violation,
        },
    ]
}

fn bytes_of(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.put(&mut bytes);
    }
    bytes
}

/// Bytes of DATA, each with its stream.
type Bytes = Vec<(u32, u8)>;

/// Feeds `bytes` in pieces of random size; gives the frames and the bytes of DATA in order.
fn decode(bytes: &[u8], random: &mut fastrand::Rng) -> Result<(Vec<Frame>, Bytes), FrameError> {
    let (mut decoder, mut frames, mut data) = (Decoder::default(), Vec::new(), Vec::new());
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut piece = take(&mut rest, random.usize(1..50));
        while let Some(found) = decoder.next(&mut piece)? {
            match found {
                Piece::Frame(frame) => frames.push(frame),
                Piece::Data { stream, bytes } => {
                    data.extend(bytes.iter().map(|byte| (stream, *byte)));
                }
            }
        }
        assert!(piece.is_empty(), "the decoder stopped early");
        assert!(decoder.payload.len() <= 16 * 1024, "it holds too much");
    }
    Ok((frames, data))
}

#[track_caller]
fn check_error(bytes: &[u8], want: FrameError) {
    let mut random = fastrand::Rng::with_seed(1);
    assert_eq!(decode(bytes, &mut random), Err(want));
}

#[test]
fn every_frame_comes_back_as_it_was_however_it_is_cut() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..100 {
        let mut want = frames();
        random.shuffle(&mut want);
        let (got, data) = decode(&bytes_of(&want), &mut random).unwrap();
        assert_eq!((got, data.len()), (want, 0));
    }
}

#[test]
fn data_is_handed_on_in_order_and_between_other_frames() {
    let mut random = fastrand::Rng::with_seed(4);
    let (mut bytes, mut want) = (Vec::new(), Vec::new());
    for stream in 1..200 {
        let count = random.usize(1..=MAX_DATA);
        put_data_header(&mut bytes, stream, count);
        for _ in 0..count {
            let byte = random.u8(..);
            bytes.push(byte);
            want.push((stream, byte));
        }
        Frame::End { stream }.put(&mut bytes);
    }
    let (frames, got) = decode(&bytes, &mut random).unwrap();
    assert_eq!(frames.len(), 199);
    assert!(got == want, "bytes were lost or changed places");
}

#[test]
fn what_no_version_one_peer_sends_is_an_error() {
    check_error(&[0, 0, 0, 0, 0, 0, 0, 1], FrameError::Kind(0));
    check_error(&[12, 0, 0, 0, 0, 0, 0, 1], FrameError::Kind(12));
    let (kind, flags) = (6, 1);
    check_error(&[6, 1, 0, 0, 0, 0, 0, 1], FrameError::Flags { kind, flags });
    for (head, kind, length) in [
        ([6, 0, 0, 1, 0, 0, 0, 1], 6, 1),
        ([5, 0, 0, 0, 0, 0, 0, 1], 5, 0),
        ([5, 0, 0x40, 1, 0, 0, 0, 1], 5, 0x4001),
        ([2, 0, 0xff, 0xff, 0, 0, 0, 1], 2, 0xffff),
        ([8, 0, 0, 3, 0, 0, 0, 1], 8, 3),
    ] {
        check_error(&head, FrameError::Length { kind, length });
    }
    for (head, kind, stream) in [
        ([6, 0, 0, 0, 0, 0, 0, 0], 6, 0),
        ([6, 0, 0, 0, 0x80, 0, 0, 0], 6, 0x8000_0000),
        ([9, 0, 0, 8, 0, 0, 0, 1], 9, 1),
    ] {
        check_error(&head, FrameError::Stream { kind, stream });
    }
    for (payload, kind) in [
        // No credit at all, too much; an unknown reason; a status that refuses nothing.
        (&[8, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0][..], 8),
        (&[8, 0, 0, 4, 0, 0, 0, 1, 0x40, 0, 0, 0], 8),
        (&[7, 0, 0, 1, 0, 0, 0, 1, 3], 7),
        (&[4, 0, 0, 2, 0, 0, 0, 1, 0, 200], 4),
        // A window that is too small, a text with a line break, one that is no UTF-8.
        (&[3, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0xff, 0xff], 3),
        (&[3, 0, 0, 5, 0, 0, 0, 1, 0, 1, 0, 0, b'\n'], 3),
        (&[3, 0, 0, 5, 0, 0, 0, 1, 0, 1, 0, 0, 0xff], 3),
    ] {
        check_error(payload, FrameError::Payload(kind));
    }
}

#[test]
fn a_text_that_cannot_be_sent_is_left_out() {
    for text in ["a\nb", &"x".repeat(4097)] {
        let frame = Frame::Open {
            stream: 1,
            open: open("10.0.0.1:80", Some(text)),
        };
        let mut random = fastrand::Rng::with_seed(5);
        let (got, _) = decode(&bytes_of(&[frame]), &mut random).unwrap();
        let want = Frame::Open {
            stream: 1,
            open: open("10.0.0.1:80", None),
        };
        assert_eq!(got, [want]);
    }
}

#[test]
fn damaged_frames_and_noise_are_errors_or_other_frames_and_never_a_panic() {
    let whole = frames();
    let (mut errors, mut passed) = (0, 0);
    for seed in 0..SEEDS {
        let mut random = fastrand::Rng::with_seed(seed);
        let first = random.usize(..whole.len());
        let mut bytes = bytes_of(&whole[first..(first + 3).min(whole.len())]);
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            match random.u8(..5) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] ^= 1 << random.u8(..8),
                2 => drop(bytes.drain(at..(at + 3).min(bytes.len()))),
                3 => bytes.insert(at, random.u8(..)),
                _ => bytes.truncate(at.max(1)),
            }
            if bytes.is_empty() {
                bytes.push(random.u8(..));
            }
        }
        if seed % 8 == 0 {
            bytes = std::iter::repeat_with(|| random.u8(..)).take(100).collect();
        }
        match decode(&bytes, &mut random) {
            Ok((frames, _)) => {
                // What passes is well formed: it can be written and read again.
                let again = decode(&bytes_of(&frames), &mut random).unwrap();
                assert_eq!(again.0, frames);
                passed += 1;
            }
            Err(_) => errors += 1,
        }
    }
    assert!(
        errors > 100 && passed > 100,
        "{errors} errors, {passed} passed"
    );
}
