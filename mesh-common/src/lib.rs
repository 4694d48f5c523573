// SPDX-License-Identifier: Apache-2.0

//! What the kernel programs and the agent share: map layouts, names, numbers, counters.
//!
//! Every shared type is `repr(C)`, `Copy`, made of unsigned integers and arrays, has explicit
//! padding and a size that is asserted beside it, so both sides see the same bytes. Byte order is
//! part of a field's name; the conversions live here, with tests that run on the host.
//!
//! Knows nothing of sockets, files or aya (but for `aya::Pod` behind the feature `user`).
//! Invariant: any change of a layout, a map's type or size, or the meaning of a value changes
//! [`ABI_VERSION`]: maps of one version are adopted as they are. A byte that was reserved may get a
//! meaning, if zero means what was done before and older programs do no harm without it.
#![no_std]

pub mod address;
pub mod counter;
pub mod layout;
pub mod names;

pub use self::{
    address::{Address, Endpoint, Tuple, sock_ops_local_port, sock_ops_remote_port},
    counter::Counter,
    layout::{
        AddressKind, FlowRecord, InboundMode, MeshEntry, NodeConfig, OnDeath, OutboundReach,
        PodConfig, PodState, Tag, TagKind, UnknownValue,
    },
};

/// The version of everything that is pinned: layouts, map types and sizes, meanings of values.
pub const ABI_VERSION: u32 = 3;

/// The mark on captured packets between the egress hook and the policy rule that makes their
/// destination local. A pod that forges it only breaks its own connection.
pub const CAPTURE_MARK: u32 = 0x1e5a_0000;

/// The routing table that makes every address local for captured packets.
pub const CAPTURE_TABLE: u32 = 7999;

/// The preference of the rule that sends captured packets to [`CAPTURE_TABLE`].
pub const CAPTURE_RULE_PREFERENCE: u32 = 50;

/// The first of the source ports that the agent uses towards applications.
///
/// Outside `net.ipv4.ip_local_port_range`: a port that the kernel picks walks the same sequence as
/// the client's own and collides with it on one node.
pub const LEG_PORT_FIRST: u16 = 2048;

/// How many ports there are from [`LEG_PORT_FIRST`] on.
pub const LEG_PORT_COUNT: u16 = 30_000;

/// The longest chain of IPv6 extension headers that is walked to find the TCP header.
pub const MAX_EXTENSION_HEADERS: usize = 6;
