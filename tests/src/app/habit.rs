// SPDX-License-Identifier: Apache-2.0

//! TCP servers with one habit each, for what a byte stream must survive.
//!
//! Knows nothing of HTTP but for [`Habit::Head`], which repeats a request's head as it came.

use std::{hash::Hasher as _, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{self, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::Seen;

/// What a TCP server does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Sends back what it gets, and half-closes when the client does.
    Echo,
    /// Reads to the end, then says `<bytes> <hash>` in decimal.
    Digest,
    /// Says who its peer is, and closes.
    Peer,
    /// Sends so many bytes of [`pattern`] at once, whatever the client does.
    Source(u64),
    /// Greets first like an SMTP server, then echoes.
    Banner,
    /// Says `bye` and closes before the client says anything.
    CloseFirst,
    /// Answers each HTTP/1.1 request head with that head, byte for byte, as body.
    Head,
    /// Resets the connection at the first byte.
    Reset,
    /// Never reads.
    Stall,
}

/// The greeting of [`Habit::Banner`].
pub const BANNER: &[u8] = b"220 lab.example ESMTP ready\r\n";

const PIECE: usize = 64 * 1024;

/// What [`Habit::Source`] sends and what uploads are made of: `length` bytes that begin at
/// `offset` of an endless stream without short periods.
pub fn pattern(offset: u64, length: usize) -> Vec<u8> {
    let word = |index: u64| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 13).to_le_bytes();
    let words = offset / 8..=(offset + length as u64) / 8;
    let skip = usize::try_from(offset % 8).expect("less than 8");
    words.flat_map(word).skip(skip).take(length).collect()
}

/// A hash over a stream, the same however it is cut.
#[derive(Default)]
pub struct Digest {
    hasher: std::hash::DefaultHasher,
    bytes: u64,
}

impl Digest {
    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// `<bytes> <hash>`, as [`Habit::Digest`] says it.
    pub fn text(&self) -> String {
        format!("{} {}", self.bytes, self.hasher.finish())
    }

    /// How many bytes were taken in.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}

/// Serves one connection; an error of the peer's is the end of it.
pub(super) async fn serve(habit: Habit, seen: Arc<Seen>, mut stream: TcpStream, peer: SocketAddr) {
    let served = match habit {
        Habit::Echo => echo(&mut stream, &seen).await,
        Habit::Digest => digest(&mut stream, &seen).await,
        Habit::Peer => stream.write_all(peer.to_string().as_bytes()).await,
        Habit::Source(bytes) => source(&mut stream, bytes).await,
        Habit::Banner => match stream.write_all(BANNER).await {
            Ok(()) => echo(&mut stream, &seen).await,
            error => error,
        },
        Habit::CloseFirst => stream.write_all(b"bye").await,
        Habit::Head => head(&mut stream, &seen).await,
        Habit::Reset => reset(&mut stream).await,
        Habit::Stall => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Ok(())
        }
    };
    // What a client does to a connection is the test's to judge, at the client.
    drop(served);
}

async fn echo(stream: &mut TcpStream, seen: &Seen) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = stream.read(&mut piece).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        seen.work
            .fetch_add(length as u64, std::sync::atomic::Ordering::Relaxed);
        stream.write_all(&piece[..length]).await?;
    }
}

async fn digest(stream: &mut TcpStream, seen: &Seen) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut digest = Digest::default();
    loop {
        let length = stream.read(&mut piece).await?;
        if length == 0 {
            stream.write_all(digest.text().as_bytes()).await?;
            return stream.shutdown().await;
        }
        seen.work
            .fetch_add(length as u64, std::sync::atomic::Ordering::Relaxed);
        digest.update(&piece[..length]);
    }
}

async fn source(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes {
        let length = usize::try_from((bytes - sent).min(PIECE as u64)).expect("at most a piece");
        stream.write_all(&pattern(sent, length)).await?;
        sent += length as u64;
    }
    stream.shutdown().await
}

async fn head(stream: &mut TcpStream, seen: &Seen) -> io::Result<()> {
    let mut request = Vec::new();
    loop {
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await?);
        }
        seen.work.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let head = format!(
            "HTTP/1.1 200 OK\r\nX-CamelCase-Header: Kept\r\nContent-Length: {}\r\n\r\n",
            request.len()
        );
        stream
            .write_all(&[head.as_bytes(), &request].concat())
            .await?;
        request.clear();
    }
}

async fn reset(stream: &mut TcpStream) -> io::Result<()> {
    stream.read_u8().await?;
    stream.set_zero_linger()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_is_the_same_however_it_is_cut() {
        let whole = pattern(0, 1000);
        let pieces = [pattern(0, 13), pattern(13, 500), pattern(513, 487)].concat();
        assert_eq!(whole, pieces);
    }

    #[test]
    fn a_digest_is_the_same_however_the_stream_is_cut() {
        let (mut whole, mut pieces) = (Digest::default(), Digest::default());
        whole.update(&pattern(0, 1000));
        for piece in pattern(0, 1000).chunks(7) {
            pieces.update(piece);
        }
        assert_eq!(whole.text(), pieces.text());
    }
}
