// SPDX-License-Identifier: Apache-2.0

//! Frames of HTTP/2 as no library would write them, and what is read in answer.
//!
//! Reference: RFC 9113 sections 4.1 and 6, RFC 7541.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub(in crate::proxy) const DATA: u8 = 0;
pub(in crate::proxy) const HEADERS: u8 = 1;
pub(in crate::proxy) const RST_STREAM: u8 = 3;
pub(in crate::proxy) const SETTINGS: u8 = 4;
pub(in crate::proxy) const PING: u8 = 6;
pub(in crate::proxy) const GOAWAY: u8 = 7;
pub(in crate::proxy) const CONTINUATION: u8 = 9;

/// How long a peer may take for anything: it answers or ends at once, or never.
const PATIENCE: Duration = Duration::from_secs(20);

/// One frame.
#[derive(Debug)]
pub(in crate::proxy) struct Frame {
    pub(in crate::proxy) kind: u8,
    pub(in crate::proxy) stream: u32,
    pub(in crate::proxy) payload: Vec<u8>,
}

impl Frame {
    /// The code of RST_STREAM, or of GOAWAY.
    pub(in crate::proxy) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        let code = self.payload[at..at + 4].try_into().expect("four bytes");
        u32::from_be_bytes(code)
    }
}

/// The preface, and empty SETTINGS.
pub(in crate::proxy) fn hello() -> Vec<u8> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    [preface, frame(SETTINGS, 0, 0, &[])].concat()
}

/// The bytes of a frame.
pub(in crate::proxy) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field that is not to be indexed, name and all.
pub(in crate::proxy) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    text(name, &mut bytes);
    text(value, &mut bytes);
    bytes
}

/// The fields of a GET.
pub(in crate::proxy) fn get() -> Vec<u8> {
    [vec![0x82, 0x86, 0x84], field(":authority", "shop")].concat()
}

/// A text with its length, which may be long.
fn text(text: &str, bytes: &mut Vec<u8>) {
    let mut rest = text.len();
    if rest < 127 {
        bytes.push(u8::try_from(rest).expect("less than 127"));
    } else {
        bytes.push(127);
        rest -= 127;
        while rest >= 128 {
            bytes.push(u8::try_from(rest % 128 + 128).expect("a byte"));
            rest /= 128;
        }
        bytes.push(u8::try_from(rest).expect("less than 128"));
    }
    bytes.extend(text.as_bytes());
}

/// The next frame; `None` at the end, however that came.
pub(in crate::proxy) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let reading = async {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("short")];
        stream.read_exact(&mut payload).await.ok()?;
        let number = head[5..9].try_into().expect("four bytes");
        Some(Frame {
            kind: head[3],
            stream: u32::from_be_bytes(number),
            payload,
        })
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    read.expect("an answer or the end")
}

/// The next frame of the kind.
pub(in crate::proxy) async fn read_kind(
    stream: &mut (impl AsyncRead + Unpin),
    kind: u8,
) -> Option<Frame> {
    loop {
        let frame = read(stream).await?;
        if frame.kind == kind {
            return Some(frame);
        }
    }
}

/// Writes `bytes` again and again until the peer takes no more, or has ended; says how many it took.
pub(in crate::proxy) async fn write_on(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    most: usize,
) -> usize {
    let mut written = 0;
    while written < most {
        // Who reads no more does not for so long either.
        let writing = tokio::time::timeout(Duration::from_secs(2), stream.write_all(bytes));
        match writing.await {
            Ok(Ok(())) => written += bytes.len(),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    written
}
