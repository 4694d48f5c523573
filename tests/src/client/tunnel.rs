// SPDX-License-Identifier: Apache-2.0

//! A tunnel client that says what it likes: HTTP/2 by hand over `openssl s_client`.
//!
//! Written out so that headers, and whose certificate is shown, are what the test says. Knows nothing
//! of the mesh. Invariant: one call is one connection with one stream.

use std::{
    io::{self, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{command, pod::Pod};

/// Answers must have come by then.
const PATIENCE: Duration = Duration::from_secs(10);

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_HEADERS: u8 = 4;
const DATA: u8 = 0;
const STREAM: u32 = 1;

/// What became of a CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// Status of the answer; None if the tunnel did not come about.
    pub status: Option<u16>,
    /// What came through the stream.
    pub body: Vec<u8>,
    /// What `openssl` had to say.
    pub said: String,
}

/// Opens a tunnel from `pod` to `tunnel` (`ip:port`) with the certificate and key in `credentials`, asks
/// for a stream to `authority` with further `headers`, and sends `text` in it once it is accepted.
///
/// # Panics
/// When openssl cannot be started.
#[track_caller]
pub fn connect(
    pod: &Pod,
    tunnel: &str,
    credentials: &Path,
    authority: &str,
    headers: &[(&str, &str)],
    text: &str,
) -> Connected {
    let mut openssl = pod.command("openssl");
    openssl.args(["s_client", "-quiet", "-tls1_3", "-alpn", "h2"]);
    openssl.args(["-connect", tunnel]);
    openssl
        .arg("-cert")
        .arg(credentials.join("certificate.pem"));
    openssl.arg("-key").arg(credentials.join("key.pem"));
    exchange(openssl, authority, headers, text)
}

fn exchange(
    mut openssl: Command,
    authority: &str,
    headers: &[(&str, &str)],
    text: &str,
) -> Connected {
    let piped = [Stdio::piped(), Stdio::piped(), Stdio::piped()];
    let [input, output, errors] = piped;
    openssl.stdin(input).stdout(output).stderr(errors);
    let mut child = openssl
        .spawn()
        .unwrap_or_else(|error| panic!("{openssl:?} does not start: {error}"));
    let mut errors = child.stderr.take().expect("standard error was piped");
    let said = thread::spawn(move || {
        let mut said = Vec::new();
        drop(errors.read_to_end(&mut said));
        String::from_utf8_lossy(&said).into_owned()
    });
    let mut connected = Connected::default();
    // A tunnel that breaks has said what there was.
    drop(converse(
        &mut child,
        authority,
        headers,
        text,
        &mut connected,
    ));
    command::stop(&mut child, Duration::from_secs(2));
    connected.said = said.join().unwrap_or_default();
    connected
}

fn converse(
    child: &mut Child,
    authority: &str,
    headers: &[(&str, &str)],
    text: &str,
    connected: &mut Connected,
) -> io::Result<()> {
    let mut input = child.stdin.take().expect("standard input was piped");
    let mut output = child.stdout.take().expect("standard output was piped");
    let mut block = Vec::new();
    for (name, value) in [(":method", "CONNECT"), (":authority", authority)] {
        literal(&mut block, name, value);
    }
    for (name, value) in headers {
        literal(&mut block, name, value);
    }
    let mut opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    opening.extend(frame(SETTINGS, 0, 0, b""));
    opening.extend(frame(HEADERS, END_HEADERS, STREAM, &block));
    input.write_all(&opening)?;
    input.flush()?;
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let (kind, flags, stream, payload) = read(&mut output)?;
        match (kind, stream) {
            (SETTINGS, _) if flags & 1 == 0 => input.write_all(&frame(SETTINGS, 1, 0, b""))?,
            (HEADERS, STREAM) => {
                connected.status = status(&payload);
                if connected.status != Some(200) {
                    return Ok(());
                }
                input.write_all(&frame(DATA, 0, STREAM, text.as_bytes()))?;
            }
            (DATA, STREAM) => {
                connected.body.extend(&payload);
                if flags & 1 == 1 {
                    return Ok(());
                }
            }
            // RST_STREAM and GOAWAY.
            (3, STREAM) | (7, _) => return Ok(()),
            _ => {}
        }
        input.flush()?;
    }
    Ok(())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames of tests are short");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn read(output: &mut impl Read) -> io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    output.read_exact(&mut head)?;
    let [a, b, c, kind, flags, d, e, f, g] = head;
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).expect("24 bits fit");
    let mut payload = vec![0; length];
    output.read_exact(&mut payload)?;
    Ok((
        kind,
        flags,
        u32::from_be_bytes([d & 0x7f, e, f, g]),
        payload,
    ))
}

/// A header that is in no table, its strings as they are (RFC 7541, 6.2.2).
fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
        block.push(length.expect("headers of tests are short"));
        block.extend(text.as_bytes());
    }
}

/// The status that a header block begins with.
fn status(block: &[u8]) -> Option<u16> {
    // A change of the table's size may come first.
    let rest = match block {
        [first, rest @ ..] if first >> 5 == 1 => rest,
        all => all,
    };
    let known = [200, 204, 206, 304, 400, 404, 500];
    match *rest {
        [indexed, ..] if indexed & 0x80 != 0 => {
            let index = usize::from(indexed & 0x7f).checked_sub(8)?;
            known.get(index).copied()
        }
        [_, length, ref rest @ ..] => {
            let text = rest.get(..usize::from(length & 0x7f))?;
            match length & 0x80 {
                0 => std::str::from_utf8(text).ok()?.parse().ok(),
                _ => digits(text).parse().ok(),
            }
        }
        _ => None,
    }
}

/// Digits in Huffman's code of HPACK: `0` to `2` have five bits, the others six.
fn digits(coded: &[u8]) -> String {
    let bits: Vec<u8> = coded
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |place| byte >> place & 1))
        .collect();
    let mut rest = bits.as_slice();
    let mut text = String::new();
    let number = |bits: &[u8]| bits.iter().fold(0_u8, |sum, bit| sum << 1 | bit);
    while rest.len() >= 5 {
        let (length, digit) = match number(&rest[..5]) {
            digit @ 0..=2 => (5, digit),
            _ if rest.len() >= 6 => match number(&rest[..6]) {
                code @ 0x19..=0x1f => (6, code - 0x19 + 3),
                _ => break,
            },
            _ => break,
        };
        text.push(char::from(b'0' + digit));
        rest = &rest[length..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_in_every_form() {
        assert_eq!(status(&[0x88, 0x01]), Some(200));
        assert_eq!(status(&[0x20, 0x8c]), Some(400));
        assert_eq!(status(&[0x48, 3, b'5', b'0', b'3']), Some(503));
        assert_eq!(status(&[0x48, 0x82, 0x68, 0x01]), Some(401));
        assert_eq!(status(&[0x48, 0x83, 0x6c, 0x0c, 0xff]), Some(503));
        assert_eq!(status(&[]), None);
    }
}
