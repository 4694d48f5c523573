// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

//! Reads the TCP tuple of a packet.
//!
//! Offsets count from the network header, so interfaces with and without a link header are read
//! alike. IPv6 extension headers are walked, at most [`MAX_EXTENSION_HEADERS`] of them: hop-by-hop,
//! routing, destination options, fragment and authentication. A first fragment is read like a
//! whole packet; a later one has no ports and is told apart. TCP that cannot be read (a header
//! cut short, a longer chain) is told apart too, so that each hook can choose its safe side.

use aya_ebpf::{
    EbpfContext as _, bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes_relative,
    programs::TcContext,
};
use mesh_common::{Address, Endpoint, MAX_EXTENSION_HEADERS, Tuple};

const ETHERTYPE_V4: u32 = 0x0800_u16.to_be() as u32;
const ETHERTYPE_V6: u32 = 0x86dd_u16.to_be() as u32;

const TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

const FLAG_SYN: u8 = 0x02;
const FLAG_ACK: u8 = 0x10;

/// A TCP segment, or the first fragment of one.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    /// Whom it is from and to.
    pub(crate) tuple: Tuple,
    /// Whether it is an IPv6 packet.
    pub(crate) v6: bool,
    /// Whether it opens a connection.
    pub(crate) syn: bool,
}

/// What a packet is to us.
pub(crate) enum Packet {
    /// TCP with its ports.
    Segment(Segment),
    /// A later fragment of TCP: ports unknown.
    LaterFragment {
        /// Whom it is to.
        destination: Address,
    },
    /// Neither IPv4 nor IPv6, or not TCP.
    Other,
    /// Looks like TCP, but cannot be read.
    Unreadable,
}

/// The packet as helpers take it.
#[inline(always)]
pub(crate) fn raw(context: &TcContext) -> *mut __sk_buff {
    context.as_ptr().cast()
}

/// Reads a packet.
#[inline(always)]
pub(crate) fn read(context: &TcContext) -> Packet {
    // SAFETY: the context is valid for the whole run.
    let protocol = unsafe { (*raw(context)).protocol };
    if protocol == ETHERTYPE_V4 {
        read_v4(context)
    } else if protocol == ETHERTYPE_V6 {
        read_v6(context)
    } else {
        Packet::Other
    }
}

#[inline(always)]
fn read_v4(context: &TcContext) -> Packet {
    let Some(header) = load::<[u32; 5]>(context, 0) else {
        return Packet::Unreadable;
    };
    let third = u32::from_be(header[2]);
    if (third >> 16) as u8 != TCP {
        return Packet::Other;
    }
    let source = Address::from_v4_be(header[3]);
    let destination = Address::from_v4_be(header[4]);
    if u32::from_be(header[1]) & 0x1fff != 0 {
        return Packet::LaterFragment { destination };
    }
    let length = ((u32::from_be(header[0]) >> 24) & 0xf) * 4;
    read_tcp(context, length, source, destination, false)
}

#[inline(always)]
fn read_v6(context: &TcContext) -> Packet {
    let Some(header) = load::<[u32; 10]>(context, 0) else {
        return Packet::Unreadable;
    };
    let source = Address::from_v6_be([header[2], header[3], header[4], header[5]]);
    let destination = Address::from_v6_be([header[6], header[7], header[8], header[9]]);
    let mut next = (u32::from_be(header[1]) >> 8) as u8;
    let mut offset = 40;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if next == TCP {
            return read_tcp(context, offset, source, destination, true);
        }
        if !matches!(
            next,
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT | AUTHENTICATION
        ) {
            return Packet::Other;
        }
        let Some(extension) = load::<[u8; 4]>(context, offset) else {
            return Packet::Unreadable;
        };
        if next == FRAGMENT {
            let position = u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8;
            if position != 0 {
                return if extension[0] == TCP {
                    Packet::LaterFragment { destination }
                } else {
                    Packet::Other
                };
            }
            offset += 8;
        } else if next == AUTHENTICATION {
            offset += (u32::from(extension[1]) + 2) * 4;
        } else {
            offset += (u32::from(extension[1]) + 1) * 8;
        }
        next = extension[0];
    }
    if next == TCP {
        read_tcp(context, offset, source, destination, true)
    } else {
        Packet::Unreadable
    }
}

#[inline(always)]
fn read_tcp(
    context: &TcContext,
    offset: u32,
    source: Address,
    destination: Address,
    v6: bool,
) -> Packet {
    let Some(header) = load::<[u16; 7]>(context, offset) else {
        return Packet::Unreadable;
    };
    let flags = u16::from_be(header[6]) as u8;
    Packet::Segment(Segment {
        tuple: Tuple {
            source: Endpoint {
                address: source,
                port: u32::from(u16::from_be(header[0])),
            },
            destination: Endpoint {
                address: destination,
                port: u32::from(u16::from_be(header[1])),
            },
        },
        v6,
        syn: flags & (FLAG_SYN | FLAG_ACK) == FLAG_SYN,
    })
}

/// Loads plain integers from `offset` bytes after the network header.
#[inline(always)]
fn load<T: Copy + Default>(context: &TcContext, offset: u32) -> Option<T> {
    const FROM_NETWORK_HEADER: u32 = 1;
    let mut value = T::default();
    // SAFETY: `value` is live, writable and of the size that is given; every bit pattern is a
    // valid array of integers, which is all that this module loads.
    let result = unsafe {
        bpf_skb_load_bytes_relative(
            context.as_ptr(),
            offset,
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            FROM_NETWORK_HEADER,
        )
    };
    (result == 0).then_some(value)
}
