// SPDX-License-Identifier: Apache-2.0

//! What the programs count: every verdict and every failure, per CPU.
//!
//! One closed set for all maps of counters, so that a name means the same everywhere.

/// The index of a counter in the maps `COUNTERS` and `POD_COUNTERS`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Counter(u8);

macro_rules! counters {
    ($($(#[$attr:meta])* $name:ident => $text:literal,)+) => {
        #[repr(u8)]
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "only numbers the constants below")]
        enum Index { $($name,)+ }

        impl Counter {
            $($(#[$attr])* pub const $name: Self = Self(Index::$name as u8);)+

            /// All counters, in the order of their indices.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name, in metrics and status.
            pub const fn name(self) -> &'static str {
                const NAMES: &[&str] = &[$($text,)+];
                NAMES[self.0 as usize]
            }
        }
    };
}

counters! {
    /// SYNs to the mesh that were captured.
    CAPTURED_SYN => "captured_syn",
    /// Later packets of captured application sockets.
    CAPTURED_PACKET => "captured_packet",
    /// Packets that belong to one of the agent's transparent sockets, found by their tuple.
    REPLY_REDIRECTED => "reply_redirected",
    /// Packets of the agent's own sockets.
    OWN_PASSED => "own_passed",
    /// SYNs to destinations outside the mesh.
    SYN_PASSED => "syn_passed",
    /// Other packets that are none of the mesh's business.
    PACKET_PASSED => "packet_passed",
    /// SYNs of a pod that has left the mesh and still drains.
    DRAINING_PASSED => "draining_passed",
    /// SYNs to the mesh let through because no agent listens and the pod fails open.
    FAILED_OPEN => "failed_open",
    /// Later fragments without a socket to a mesh address, dropped.
    FRAGMENT_DROPPED => "fragment_dropped",
    /// Packets whose headers could not be read, dropped.
    UNREADABLE_DROPPED => "unreadable_dropped",
    /// SYNs dropped because the socket could not be tagged.
    TAG_FAILED => "tag_failed",
    /// Redirected packets whose destination address could not be cleared, dropped.
    CLEAR_FAILED => "clear_failed",
    /// SYNs that reached the pod from outside.
    INBOUND_SYN => "inbound_syn",
    /// Packets from outside that claimed a tuple of the agent's, dropped.
    GUARD_DROPPED => "guard_dropped",
    /// Lookups given to the inbound listener.
    INBOUND_PICKED => "inbound_picked",
    /// Lookups given to the outbound listener.
    OUTBOUND_PICKED => "outbound_picked",
    /// Lookups for the agent's own connections to the application.
    EXPECTED_PASSED => "expected_passed",
    /// Lookups for the node's own probes.
    HOST_FLOW_PASSED => "host_flow_passed",
    /// Lookups for connections of a pod to itself.
    SELF_PASSED => "self_passed",
    /// Inbound connections given to the application because no agent listens.
    INBOUND_FAILED_OPEN => "inbound_failed_open",
    /// Inbound connections refused because no agent listens.
    INBOUND_FAILED_CLOSED => "inbound_failed_closed",
    /// Captured connections dropped because no agent listens.
    OUTBOUND_FAILED_CLOSED => "outbound_failed_closed",
    /// Listeners that the kernel would not take.
    ASSIGN_FAILED => "assign_failed",
    /// The agent's connections to applications, noted before their SYN.
    EXPECT_NOTED => "expect_noted",
    /// The same, taken back at their close.
    EXPECT_FORGOTTEN => "expect_forgotten",
    /// Expected tuples that did not fit the map.
    EXPECT_FULL => "expect_full",
    /// The node's connections to declared probe ports, noted before their SYN.
    HOST_FLOW_NOTED => "host_flow_noted",
    /// Such connections that could not be noted.
    HOST_FLOW_FULL => "host_flow_full",
    /// Records of closed flows given to the agent.
    FLOW_NOTED => "flow_noted",
    /// Records lost because the agent did not read them in time.
    FLOW_LOST => "flow_lost",
    /// Sockets whose close could not be asked for.
    CALLBACK_FAILED => "callback_failed",
    /// SYNs of pods that were about to be captured, dropped; they are sent again.
    EARLY_HELD => "early_held",
}

/// The number of counters: the size of the maps.
pub const COUNTERS: usize = Counter::ALL.len();
const _: () = assert!(COUNTERS <= 64);

impl Counter {
    /// Its index in the maps.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_own_name_and_index() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counter.index() as usize, index, "{}", counter.name());
            let same_name = Counter::ALL
                .iter()
                .filter(|other| other.name() == counter.name());
            assert_eq!(same_name.count(), 1, "{}", counter.name());
        }
    }
}
