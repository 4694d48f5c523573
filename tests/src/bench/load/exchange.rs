// SPDX-License-Identifier: Apache-2.0

//! One HTTP/1.1 request and its answer, with as little work as can be between clock and socket.
//!
//! Knows nothing of rates. Invariant: an exchange that fails closes its connection, and the next
//! one opens another.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// No answer for so long is a failure.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A whole answer of the benchmark's small body fits.
const BUFFER: usize = 16 * 1024;

/// A connection, and the request that is repeated on it.
#[derive(Debug)]
pub(super) struct Exchange {
    address: SocketAddr,
    request: Vec<u8>,
    stream: Option<TcpStream>,
    buffer: Box<[u8]>,
}

impl Exchange {
    /// A request for `/` of `host`, not yet connected.
    pub(super) fn new(address: SocketAddr, host: &str) -> Self {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: mesh-bench\r\n\r\n");
        Self {
            address,
            request: request.into_bytes(),
            stream: None,
            buffer: vec![0; BUFFER].into_boxed_slice(),
        }
    }

    /// Connects ahead of the first request; a failure shows there.
    pub(super) fn open(&mut self) {
        self.stream = connect(self.address).ok();
    }

    /// Sends the request and reads the answer.
    pub(super) fn ask(&mut self) -> io::Result<()> {
        let mut stream = match self.stream.take() {
            Some(open) => open,
            None => connect(self.address)?,
        };
        stream.write_all(&self.request)?;
        read_answer(&mut stream, &mut self.buffer)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// The open connection.
    pub(super) fn into_stream(self) -> io::Result<TcpStream> {
        self.stream
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Reads one answer of status 200 to its end.
fn read_answer(stream: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    let (head, whole) = loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        let seen = &buffer[..filled];
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).into_owned();
            let length = content_length(&head)?;
            break (head, end + 4 + length);
        }
    };
    let mut left = whole.saturating_sub(filled);
    while left > 0 {
        let most = left.min(buffer.len());
        match stream.read(&mut buffer[..most])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => left -= read,
        }
    }
    if head.split(' ').nth(1) == Some("200") {
        Ok(())
    } else {
        Err(io::Error::other(head))
    }
}

/// How long the body is that follows `head`.
fn content_length(head: &str) -> io::Result<usize> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = fields.filter(|(key, _)| key.eq_ignore_ascii_case("content-length"));
    let length = lengths
        .next()
        .and_then(|(_, text)| text.trim().parse().ok());
    length.ok_or_else(|| io::Error::other(format!("no length in: {head}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wire: &[u8], want: bool) {
        // In pieces, as a socket may give them.
        let mut pieces = wire.chunks(7).map(<[u8]>::to_vec).collect::<Vec<_>>();
        pieces.reverse();
        let read = read_answer(&mut Pieces(pieces), &mut [0; 64]);
        assert_eq!(read.is_ok(), want, "{read:?}");
    }

    struct Pieces(Vec<Vec<u8>>);

    impl io::Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(mut piece) = self.0.pop() else {
                return Ok(0);
            };
            let taken = piece.len().min(buffer.len());
            buffer[..taken].copy_from_slice(&piece[..taken]);
            if taken < piece.len() {
                self.0.push(piece.split_off(taken));
            }
            Ok(taken)
        }
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let body = "x".repeat(200);
        let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n{body}");
        check(whole.as_bytes(), true);
        check(&whole.as_bytes()[..100], false);
    }

    #[test]
    fn another_status_or_no_length_is_a_failure() {
        check(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", false);
        check(b"HTTP/1.1 200 OK\r\n\r\n", false);
    }
}
