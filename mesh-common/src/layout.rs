// SPDX-License-Identifier: Apache-2.0

//! The values in the shared maps.
//!
//! Closed sets are `u8` newtypes with constants; a value that this version does not know is an
//! error in user space ([`UnknownValue`]) and falls to the safe side in the kernel.

use crate::address::{Address, Endpoint, Tuple};

/// A byte that is no member of its set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownValue(pub u8);

macro_rules! closed_set {
    ($(#[$attr:meta])* $name:ident { $($(#[$member_attr:meta])* $member:ident = $value:literal => $text:literal,)+ }) => {
        $(#[$attr])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
        pub struct $name(pub u8);

        impl $name {
            $($(#[$member_attr])* pub const $member: Self = Self($value);)+

            /// Its name, for status and logs.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => $text,)+
                    _ => "unknown",
                }
            }
        }

        impl TryFrom<u8> for $name {
            type Error = UnknownValue;

            fn try_from(value: u8) -> Result<Self, UnknownValue> {
                match value {
                    $($value => Ok(Self::$member),)+
                    _ => Err(UnknownValue(value)),
                }
            }
        }
    };
}

closed_set! {
    /// What a socket is to the mesh. Zero is no member: storage starts zeroed.
    TagKind {
        /// An application's socket whose packets are captured.
        CAPTURED = 1 => "captured",
        /// An application's socket that was decided to be none of the mesh's business.
        PASSED = 2 => "passed",
        /// The agent's listener, and what it accepts.
        ACCEPTED = 3 => "accepted",
        /// The agent's tunnel to another node.
        TUNNEL = 4 => "tunnel",
        /// The agent's plain connection to a destination outside the mesh.
        PLAIN = 5 => "plain",
        /// The agent's connection to an application, with the client's address as source.
        APP_LEG = 6 => "app leg",
        /// An application's socket of a pod that was not captured yet when it connected; nothing is
        /// decided about it. The namespace's cookie is in the first words of the destination.
        EARLY = 7 => "early",
    }
}

closed_set! {
    /// What is done with a pod's new connections.
    PodState {
        /// Captured.
        ACTIVE = 1 => "active",
        /// The pod left the mesh: nothing new is captured, what is under way stays redirected.
        DRAINING = 2 => "draining",
    }
}

closed_set! {
    /// What happens to new connections while no agent listens.
    OnDeath {
        /// They wait or are refused.
        CLOSED = 0 => "closed",
        /// They pass in plaintext, but for strict inbound ports.
        OPEN = 1 => "open",
    }
}

closed_set! {
    /// Which of a pod's new connections are captured.
    OutboundReach {
        /// Those to the mesh.
        MESH = 0 => "mesh",
        /// All: what is none of the mesh's is for the agent to refuse.
        EVERYTHING = 1 => "everything",
    }
}

closed_set! {
    /// How a port treats plaintext peers.
    InboundMode {
        /// Plaintext and mutual TLS.
        PERMISSIVE = 1 => "permissive",
        /// Mutual TLS only.
        STRICT = 2 => "strict",
    }
}

closed_set! {
    /// What an entry of the mesh map means.
    MeshEntry {
        /// Connections to the endpoint are captured (port 0: to any port).
        CAPTURE = 1 => "capture",
        /// Some port of the address is captured: later fragments to it are not let out alone.
        ADDRESS = 2 => "address",
    }
}

closed_set! {
    /// Whose a local address of a pod's namespace is.
    AddressKind {
        /// The pod's: what arrives for it is inbound.
        POD = 1 => "pod",
        /// Another of the namespace's, which is left alone.
        OTHER = 2 => "other",
    }
}

/// A socket's storage: what it is, decided once.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tag {
    /// What the socket is ([`TagKind`]).
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The destination that was decided about; a socket that connects anew is decided anew.
    pub destination: Endpoint,
}
const _: () = assert!(size_of::<Tag>() == 24);

impl Tag {
    /// A tag for an application's socket in a namespace whose pod is about to be captured.
    #[expect(clippy::cast_possible_truncation, reason = "the halves of a word")]
    pub const fn early(namespace_cookie: u64) -> Self {
        let mut tag = Self::own(TagKind::EARLY);
        tag.destination.address.words_be[0] = (namespace_cookie >> 32) as u32;
        tag.destination.address.words_be[1] = namespace_cookie as u32;
        tag
    }

    /// The namespace of [`Tag::early`].
    pub const fn namespace_cookie(&self) -> u64 {
        let [high, low, ..] = self.destination.address.words_be;
        (high as u64) << 32 | low as u64
    }

    /// A tag for one of the agent's own sockets.
    pub const fn own(kind: TagKind) -> Self {
        Self {
            kind: kind.0,
            reserved: [0; 3],
            destination: Endpoint {
                address: Address::NONE,
                port: 0,
            },
        }
    }
}

/// What the programs of one pod know about it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PodConfig {
    /// [`PodState`]; zero before the pod is ready, when nothing is touched.
    pub state: u8,
    /// [`OnDeath`].
    pub on_death: u8,
    /// [`InboundMode`] of every port that has none of its own.
    pub default_mode: u8,
    /// 1 if `lo.accept_local` was 0 before capture, and is to be 0 again after it.
    pub accept_local_was_off: u8,
    /// [`OutboundReach`]; programs older than this field leave it at the mesh.
    pub outbound: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<PodConfig>() == 8);

/// What all programs of a node know about it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NodeConfig {
    /// The cookie of the node's own network namespace, where probes come from.
    pub host_cookie: u64,
    /// 1 while pods are waited for: a namespace that is not decided about may be one's.
    pub holds_unknown: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<NodeConfig>() == 16);

/// What the kernel knew about a connection when it closed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowRecord {
    /// The connection: source is the local end.
    pub tuple: Tuple,
    /// Smoothed round-trip time, in microseconds.
    pub srtt_us: u32,
    /// Segments sent again, in all.
    pub total_retrans: u32,
    /// Bytes that the peer acknowledged.
    pub bytes_acked: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// What the socket was ([`TagKind`]).
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 7],
}
const _: () = assert!(size_of::<FlowRecord>() == 72);

/// The kernel keeps a socket's smoothed round-trip time in eighths of a microsecond.
#[inline(always)]
pub const fn srtt_us(field: u32) -> u32 {
    field >> 3
}

#[cfg(feature = "user")]
#[allow(unsafe_code, reason = "aya::Pod is an unsafe marker trait")]
mod user {
    use super::*;

    // SAFETY: every type below is `repr(C)`, `Copy`, made of unsigned integers only and without
    // implicit padding (their size asserts add up the fields). Safe code cannot say so to aya.
    unsafe impl aya::Pod for Address {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Endpoint {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Tuple {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Tag {}
    // SAFETY: as above.
    unsafe impl aya::Pod for PodConfig {}
    // SAFETY: as above.
    unsafe impl aya::Pod for NodeConfig {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FlowRecord {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_outside_its_set_is_refused() {
        assert_eq!(TagKind::try_from(1), Ok(TagKind::CAPTURED));
        assert_eq!(TagKind::try_from(0), Err(UnknownValue(0)));
        assert_eq!(PodState::try_from(9), Err(UnknownValue(9)));
        assert_eq!(InboundMode::STRICT.name(), "strict");
        assert_eq!(OnDeath(7).name(), "unknown");
    }

    #[test]
    fn round_trip_times_are_whole_microseconds() {
        assert_eq!(srtt_us(8 * 250 + 7), 250);
    }
}
