// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

//! tc ingress of the pod's interface: nothing from outside may look like the agent.
//!
//! The agent connects to applications with the client's address as source, and `pick_listener`
//! lets exactly those tuples through to the application. Such a packet is local to the namespace;
//! one that comes in from outside is forged (or a stray) and is dropped.
//!
//! Fails open, since `pick_listener` decides about everything that gets this far; but TCP whose
//! ports cannot be read is dropped, as it could carry an expected tuple. Later fragments pass:
//! without their first one they are never delivered.
//!
//! Also counts the SYNs that reach the pod: with the listener's counters, the proof of capture.

use aya_ebpf::{macros::classifier, programs::TcContext};
use mesh_common::Counter;

use crate::{
    maps::{EXPECT, count_pod},
    packet::{self, Packet},
};

const PASS: i32 = -1;
const DROP: i32 = 2;

/// Drops packets from outside that claim a tuple of the agent's.
#[classifier]
pub(crate) fn guard_inbound(context: TcContext) -> i32 {
    try_guard_inbound(&context).unwrap_or(PASS)
}

#[inline(always)]
fn try_guard_inbound(context: &TcContext) -> Option<i32> {
    let segment = match packet::read(context) {
        Packet::Segment(segment) => segment,
        Packet::Unreadable => {
            count_pod(Counter::UNREADABLE_DROPPED);
            return Some(DROP);
        }
        Packet::LaterFragment { .. } | Packet::Other => return None,
    };
    if segment.syn {
        count_pod(Counter::INBOUND_SYN);
    }
    // SAFETY: only its presence is looked at.
    if unsafe { EXPECT.get(&segment.tuple) }.is_some() {
        count_pod(Counter::GUARD_DROPPED);
        return Some(DROP);
    }
    None
}
