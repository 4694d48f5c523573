// SPDX-License-Identifier: Apache-2.0

//! What is to be seen on the link between the nodes.
//!
//! A capture runs from [`Wire::listen`] to [`Wire::stop`]; what it saw can be searched for bytes
//! and read as TLS records. Knows nothing of who sent it. Invariant: nothing that crossed the link
//! in between is missing: the capture is in place before `listen` returns, and the kernel's count
//! of dropped packets is checked.

use std::{
    io::{BufRead, BufReader},
    net::UdpSocket,
    path::PathBuf,
    process::{Child, ChildStderr, Stdio},
};

use rustix::process::Signal;

use crate::{
    capture_file::{self, Streams},
    command,
    topology::{LINK, Lab},
    wait,
};

/// A capture that is running.
pub struct Wire {
    tcpdump: Child,
    errors: BufReader<ChildStderr>,
    file: PathBuf,
    last: UdpSocket,
}

/// The last packet of a capture. tcpdump ends at once when it is told to, and leaves unread what
/// is still in its queue; so the end is sent behind everything else, and waited for.
const LAST: &[u8] = b"the-last-packet-of-this-capture";

/// What crossed the link.
pub struct Crossed {
    /// All packets as they were, one after the other.
    pub bytes: Vec<u8>,
    /// How many packets.
    pub packets: usize,
    /// TCP payload by stream.
    pub streams: Streams,
}

impl Wire {
    /// Starts to listen on the link between the nodes of `lab`.
    ///
    /// # Panics
    /// When tcpdump is missing or not allowed to.
    #[track_caller]
    pub fn listen(lab: &Lab) -> Self {
        let file = lab.directory().join("wire.pcap");
        let netns = &lab.a.netns;
        let last = netns.run(|| {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            // Discarded at the other node, or refused: both are well.
            socket.connect((lab.b.addresses().0, 9))?;
            Ok::<_, std::io::Error>(socket)
        });
        let last = last.expect("a UDP socket can be made");
        let mut tcpdump = netns.command("tcpdump");
        tcpdump.args([
            "--immediate-mode",
            "-i",
            LINK,
            "-s",
            "0",
            "-B",
            "65536",
            "-U",
            "-w",
        ]);
        tcpdump.arg(&file).args(["-Z", "root"]);
        tcpdump
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut tcpdump = tcpdump
            .spawn()
            .unwrap_or_else(|error| panic!("tcpdump does not start: {error}"));
        let mut errors = BufReader::new(tcpdump.stderr.take().expect("standard error was piped"));
        let mut said = String::new();
        // "listening on" comes when packets are taken.
        while !said.contains("listening on") {
            let read = errors.read_line(&mut said).expect("tcpdump writes text");
            assert!(read > 0, "tcpdump ended: {said}");
        }
        Self {
            tcpdump,
            errors,
            file,
            last,
        }
    }

    /// Ends the capture and reads it.
    ///
    /// # Panics
    /// When packets were lost.
    #[track_caller]
    pub fn stop(mut self) -> Crossed {
        self.last.send(LAST).expect("a datagram can be sent");
        wait::until("the end of the capture", wait::PATIENCE, || {
            let file = std::fs::read(&self.file).unwrap_or_default();
            let tail = &file[file.len().saturating_sub(64 * 1024)..];
            if count(tail, LAST) > 0 {
                Ok(())
            } else {
                let ended = self.tcpdump.try_wait().ok().flatten();
                let state = ended.map_or("tcpdump runs".to_owned(), |how| how.to_string());
                Err((file.len(), state))
            }
        });
        command::signal(&self.tcpdump, Signal::INT);
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.errors, &mut said).expect("tcpdump writes text");
        self.tcpdump.wait().expect("an own child can be waited for");
        let lost = said
            .lines()
            .find(|line| line.ends_with("dropped by kernel"));
        assert_eq!(lost, Some("0 packets dropped by kernel"), "{said}");
        let file = std::fs::read(&self.file).expect("tcpdump wrote its file");
        let packets = capture_file::packets(&file);
        Crossed {
            bytes: packets.concat(),
            packets: packets.len(),
            streams: capture_file::streams(&packets),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Stopped already, or the test is failing.
        drop(self.tcpdump.kill());
        drop(self.tcpdump.wait());
    }
}

impl Crossed {
    /// How often `marker` is to be read in packets or in joined streams.
    pub fn hits(&self, marker: &[u8]) -> usize {
        let streams = self.streams.values().map(|stream| count(stream, marker));
        count(&self.bytes, marker).max(streams.sum())
    }

    /// Bytes of TCP payload.
    pub fn payload_bytes(&self) -> usize {
        self.streams.values().map(Vec::len).sum()
    }

    /// How many TLS records all streams consist of.
    ///
    /// # Errors
    /// A stream and the place in it where something else than a record is.
    pub fn tls_records(&self) -> Result<usize, String> {
        self.streams
            .iter()
            .map(|(name, stream)| records(name, stream))
            .sum()
    }
}

fn count(text: &[u8], marker: &[u8]) -> usize {
    text.windows(marker.len())
        .filter(|window| *window == marker)
        .count()
}

/// Counts the TLS records of one stream; the last may be cut by the end of the capture.
fn records(name: &str, stream: &[u8]) -> Result<usize, String> {
    let mut rest = stream;
    let mut found = 0;
    while let [kind, major, minor, high, low, ..] = *rest {
        // Change cipher spec, alert, handshake or application bytes; legacy versions 3.1 and 3.3.
        if !(20..=23).contains(&kind) || major != 3 || !matches!(minor, 1 | 3) {
            let at = stream.len() - rest.len();
            let shown = String::from_utf8_lossy(&rest[..rest.len().min(60)]).into_owned();
            return Err(format!("{name}: no TLS record at byte {at}: {shown:?}"));
        }
        found += 1;
        let length = 5 + usize::from(u16::from_be_bytes([high, low]));
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_one_after_the_other() {
        let stream = [&[22, 3, 1, 0, 2, 1, 2][..], &[23, 3, 3, 0, 1, 9]].concat();
        assert_eq!(records("x", &stream), Ok(2));
    }

    #[test]
    fn plain_text_is_no_record() {
        let seen = records("x", b"GET / HTTP/1.1\r\n").expect_err("it is plain text");
        assert!(seen.contains("no TLS record at byte 0"), "{seen}");
    }
}
