// SPDX-License-Identifier: Apache-2.0

//! What the kernel hands over, of whatever length: records of the ring, values of maps that another version
//! may have written, lists of sockets.

use std::net::IpAddr;

use mesh_common::{
    Address, AddressKind, Endpoint, InboundMode, MeshEntry, OnDeath, OutboundReach, PodState,
    TagKind,
};

use super::{diag, flows::FlowLog, maps};

/// An answer of two messages: a connection, and the end.
pub const SOCKET_LIST_SEED: &[u8] = b"\x58\0\0\0\x14\0\x02\0\0\0\0\0\0\0\0\0\
    \x02\x01\0\0\x1f\x90\xc0\0\x0a\x01\x01\x03\0\0\0\0\0\0\0\0\0\0\0\0\
    \x0a\x01\x02\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \x14\0\0\0\x03\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A record is read or left out, and what is read can be shown.
pub fn flow_record(bytes: &[u8]) {
    let mut log = FlowLog::default();
    if let Some(record) = maps::read_record(bytes) {
        log.push(&record);
        let shown = format!("{:?}", log.latest());
        assert!(!shown.is_empty());
    }
}

/// A byte that is read as a member of each set is that member, and has a name.
macro_rules! members {
    ($byte:expr, $($set:ident),+) => {
        $(if let Ok(value) = $set::try_from($byte) {
            assert!(value.0 == $byte && value.name() != "unknown");
        })+
    };
}

/// An address that is read is the one that would be written, and a byte that is no member of its set is
/// said to be none.
pub fn map_values(bytes: &[u8]) {
    let word = |at: usize| {
        bytes
            .get(at..at + 4)?
            .try_into()
            .ok()
            .map(u32::from_ne_bytes)
    };
    if let (Some(w0), Some(w1), Some(w2), Some(w3)) = (word(0), word(4), word(8), word(12)) {
        let address = Address {
            words_be: [w0, w1, w2, w3],
        };
        let ip = IpAddr::from(address);
        assert_eq!(Address::from(ip), address, "{ip}");
        let port = u16::from_ne_bytes([bytes[0], bytes[1]]);
        assert_eq!(Endpoint::new(ip, port).address, address);
    }
    for byte in bytes.iter().copied() {
        members!(
            byte,
            TagKind,
            PodState,
            OnDeath,
            OutboundReach,
            InboundMode,
            MeshEntry,
            AddressKind
        );
    }
}

/// A list is read to its end, and holds no more sockets than there is room for in its bytes.
pub fn socket_list(bytes: &[u8]) {
    let mut found = Vec::new();
    // Only that it does not panic: most bytes are no list.
    drop(diag::parse(bytes, &mut found));
    assert!(found.len() * diag::SHORTEST <= bytes.len());
}
