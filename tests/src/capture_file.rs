// SPDX-License-Identifier: Apache-2.0

//! Reading a capture: packets of a pcap file, and the TCP streams in them.
//!
//! As much as an Ethernet link between two nodes needs: no VLANs, no IP fragments, no IPv6
//! extension headers. Format: draft-ietf-opsawg-pcap. Invariant: a byte of a stream stands at its
//! place by sequence number; a retransmission overwrites it, and a hole fails loudly.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// TCP payload by `source > destination`.
pub type Streams = BTreeMap<String, Vec<u8>>;

const TCP: u8 = 6;

/// The packets of a pcap file with native byte order and Ethernet frames.
///
/// # Panics
/// When it is no such file.
#[track_caller]
pub fn packets(file: &[u8]) -> Vec<&[u8]> {
    let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().expect("four bytes"));
    assert!(file.len() >= 24, "a capture without a file header");
    assert!(
        matches!(word(0), 0xa1b2_c3d4 | 0xa1b2_3c4d),
        "no pcap file of this machine"
    );
    assert_eq!(word(20), 1, "no Ethernet frames");
    let mut found = Vec::new();
    let mut at = 24;
    while at + 16 <= file.len() {
        let length = word(at + 8) as usize;
        let Some(packet) = file.get(at + 16..at + 16 + length) else {
            break;
        };
        found.push(packet);
        at += 16 + length;
    }
    found
}

struct Segment<'a> {
    name: String,
    sequence: u32,
    syn: bool,
    payload: &'a [u8],
}

/// Joins the TCP payload of `packets`, stream by stream. Streams that were open before the
/// capture begin with their first payload in it.
pub fn streams(packets: &[&[u8]]) -> Streams {
    let mut starts: BTreeMap<String, u32> = BTreeMap::new();
    let mut joined = Streams::new();
    for segment in packets.iter().filter_map(|packet| segment(packet)) {
        if segment.syn {
            // A new connection on old ports begins a new stream.
            if let Some(old) = joined.remove(&segment.name) {
                let count = joined.len();
                joined.insert(format!("{} (before, {count})", segment.name), old);
            }
            starts.insert(segment.name, segment.sequence.wrapping_add(1));
            continue;
        }
        if segment.payload.is_empty() {
            continue;
        }
        let start = *starts
            .entry(segment.name.clone())
            .or_insert(segment.sequence);
        let offset = segment.sequence.wrapping_sub(start) as usize;
        if offset > u32::MAX as usize / 2 {
            // A keep-alive or a retransmission from before the capture.
            continue;
        }
        let stream = joined.entry(segment.name).or_default();
        let end = offset + segment.payload.len();
        if stream.len() < end {
            stream.resize(end, 0);
        }
        stream[offset..end].copy_from_slice(segment.payload);
    }
    joined
}

fn segment(packet: &[u8]) -> Option<Segment<'_>> {
    let kind = u16::from_be_bytes([*packet.get(12)?, *packet.get(13)?]);
    let ip = packet.get(14..)?;
    let (source, destination, tcp): (IpAddr, IpAddr, &[u8]) = match kind {
        0x0800 if *ip.get(9)? == TCP => {
            let header = usize::from(ip[0] & 0x0f) * 4;
            let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            let address = |at: usize| {
                Some(Ipv4Addr::from(
                    <[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?,
                ))
            };
            (
                address(12)?.into(),
                address(16)?.into(),
                ip.get(header..total)?,
            )
        }
        0x86dd if *ip.get(6)? == TCP => {
            let total = 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            let address = |at: usize| {
                Some(Ipv6Addr::from(
                    <[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?,
                ))
            };
            (address(8)?.into(), address(24)?.into(), ip.get(40..total)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment {
        name: format!(
            "{} > {}",
            SocketAddr::new(source, port(0)?),
            SocketAddr::new(destination, port(2)?)
        ),
        sequence,
        syn: tcp.get(13)? & 0x02 != 0,
        payload: tcp.get(header..)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let total = u16::try_from(40 + payload.len())
            .expect("a short packet")
            .to_be_bytes();
        let mut packet = vec![0; 12];
        packet.extend([
            0x08, 0, 0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, TCP, 0, 0,
        ]);
        packet.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 80, 0, 81]);
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        packet.extend(payload);
        packet
    }

    #[test]
    fn a_stream_is_joined_by_sequence_number() {
        let packets = [
            packet(99, 2, b""),
            packet(103, 16, b"def"),
            packet(100, 16, b"abc"),
            packet(103, 16, b"def"),
        ];
        let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
        let joined = streams(&packets);
        assert_eq!(joined["10.0.0.1:80 > 10.0.0.2:81"], b"abcdef");
    }
}
