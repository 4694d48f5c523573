// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

//! sock_ops of a cgroup: notes tuples before their SYN, and flows at their close.
//!
//! * The agent's connections to applications (known by socket storage) are expected from
//!   TCP_CONNECT to TCP_CLOSE. Not to ESTABLISHED: with SYN cookies the last packet of the
//!   handshake is looked up again, after the client's side is established.
//! * The node's own connections to declared probe ports (known by the namespace cookie) are noted
//!   alike, so that probes pass untouched.
//! * Connections of a pod that is about to be captured are tagged, for `hold_early` to hold; so are
//!   those of a namespace that nobody has decided about, while pods are waited for.
//! * What an application accepts of those two is tagged as what it is, so that it is known when its other
//!   end is gone: the one as captured, whose answers are the agent's, the other as passed.
//! * Captured application sockets and the agent's tunnels leave a record when they close.
//!
//! Fails open: it decides nothing. A tuple that does not fit is counted; the agent has reserved
//! its own before and fails that connection, a probe is then judged like any other peer.
//!
//! Another program may overwrite the flags by which we are called at close; the agent therefore
//! removes its own tuples too, and the map of probes forgets the oldest.

use aya_ebpf::{
    bindings::bpf_sock_ops,
    helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set},
    macros::sock_ops,
    programs::SockOpsContext,
};
use mesh_common::{
    Address, Counter, Endpoint, FlowRecord, Tag, TagKind, Tuple, layout, names,
    sock_ops_local_port, sock_ops_remote_port,
};

use crate::{
    context::{FAMILY_V4, FAMILY_V6, load_address, load_u32, load_u64},
    maps::{self, DECIDED, EXPECT, FLOWS, HELD, HOST_FLOWS, NODE, PROBES, count},
};

/// Lets the answers of other programs on the cgroup stand.
const CONTINUE: u32 = 1;

const TCP_CONNECT: u32 = 3;
const ACTIVE_ESTABLISHED: u32 = 4;
const PASSIVE_ESTABLISHED: u32 = 5;
const STATE_CHANGED: u32 = 10;
const CLOSE: u32 = 7;
const STATE_FLAG: u32 = 1 << 2;

/// Notes sockets.
#[sock_ops]
pub(crate) fn note_sockets(context: SockOpsContext) -> u32 {
    try_note_sockets(context.ops).unwrap_or(CONTINUE)
}

#[inline(always)]
fn try_note_sockets(ops: *mut bpf_sock_ops) -> Option<u32> {
    let operation = load_u32!(ops, 0);
    if operation != TCP_CONNECT
        && operation != ACTIVE_ESTABLISHED
        && operation != PASSIVE_ESTABLISHED
        && operation != STATE_CHANGED
    {
        return None;
    }
    if operation == STATE_CHANGED && load_u32!(ops, 8) != CLOSE {
        return None;
    }
    // SAFETY: the context is valid for the whole run.
    let socket = unsafe { (*ops).__bindgen_anon_2.sk };
    if socket.is_null() {
        return None;
    }
    // SAFETY: a socket of the context that is not null.
    let kind = unsafe { maps::tag_of(socket.cast()) }.map(|tag| TagKind(tag.kind));
    match operation {
        TCP_CONNECT => note_connect(ops, kind),
        ACTIVE_ESTABLISHED => {
            if kind == Some(TagKind::CAPTURED) {
                call_at_close(ops);
            }
        }
        PASSIVE_ESTABLISHED => {
            if kind.is_none() {
                note_accept(ops);
            }
        }
        _ => note_close(ops, kind),
    }
    None
}

/// Tags what an application accepts of the agent, or of a probe.
#[inline(always)]
fn note_accept(ops: *mut bpf_sock_ops) {
    let Some(own) = tuple_of(ops) else { return };
    let opened = Tuple {
        source: own.destination,
        destination: own.source,
    };
    // SAFETY: only its presence is looked at.
    let kind = if unsafe { EXPECT.get(&opened) }.is_some() {
        TagKind::CAPTURED
    // SAFETY: only its presence is looked at.
    } else if unsafe { HOST_FLOWS.get(&opened) }.is_some() {
        TagKind::PASSED
    } else {
        return;
    };
    let tag = Tag {
        kind: kind.0,
        reserved: [0; 3],
        destination: own.destination,
    };
    // SAFETY: the context is valid for the whole run.
    let socket = unsafe { (*ops).__bindgen_anon_2.sk };
    if !socket.is_null() {
        // Without memory for it it is known as long as its other end is there.
        // SAFETY: a socket of the context that is not null.
        unsafe { maps::set_tag(socket.cast(), tag) };
    }
}

#[inline(always)]
fn note_connect(ops: *mut bpf_sock_ops, kind: Option<TagKind>) {
    match kind {
        Some(TagKind::APP_LEG) => {
            let noted = tuple_of(ops).is_some_and(|tuple| EXPECT.insert(&tuple, &1, 0).is_ok());
            count(if noted {
                Counter::EXPECT_NOTED
            } else {
                Counter::EXPECT_FULL
            });
            call_at_close(ops);
        }
        Some(TagKind::TUNNEL) => call_at_close(ops),
        None if note_early(ops) => {}
        None if is_of_host(ops) => {
            let Some(tuple) = tuple_of(ops) else { return };
            // SAFETY: only its presence is looked at.
            if unsafe { PROBES.get(&tuple.destination) }.is_none() {
                return;
            }
            if HOST_FLOWS.insert(&tuple, &1, 0).is_ok() {
                count(Counter::HOST_FLOW_NOTED);
                call_at_close(ops);
            } else {
                count(Counter::HOST_FLOW_FULL);
            }
        }
        _ => {}
    }
}

/// Tags the socket if its namespace is held; says whether it is.
#[inline(always)]
fn note_early(ops: *mut bpf_sock_ops) -> bool {
    // SAFETY: the context is valid for the whole run.
    let cookie = unsafe { bpf_get_netns_cookie(ops.cast()) };
    // SAFETY: only its presence is looked at.
    if unsafe { HELD.get(&cookie) }.is_none() && !hold_unknown(cookie) {
        return false;
    }
    // SAFETY: the context is valid for the whole run.
    let socket = unsafe { (*ops).__bindgen_anon_2.sk };
    if !socket.is_null() {
        // Without memory for it the connection is not held, and decided about like any other.
        // SAFETY: a socket of the context that is not null.
        unsafe { maps::set_tag(socket.cast(), Tag::early(cookie)) };
    }
    true
}

/// Holds a namespace that may be of a pod that is waited for; says whether it does.
#[inline(always)]
fn hold_unknown(cookie: u64) -> bool {
    let Some(node) = NODE.get(0) else {
        return false;
    };
    if node.holds_unknown == 0 || node.host_cookie == cookie {
        return false;
    }
    // SAFETY: only its presence is looked at.
    if unsafe { DECIDED.get(&cookie) }.is_some() {
        return false;
    }
    // SAFETY: takes no pointers.
    let until = unsafe { bpf_ktime_get_ns() } + names::UNKNOWN_HOLD_NS;
    const ONLY_NEW: u64 = 1;
    // There already if another of its connections was first.
    HELD.insert(&cookie, &until, ONLY_NEW).unwrap_or(());
    true
}

#[inline(always)]
fn note_close(ops: *mut bpf_sock_ops, kind: Option<TagKind>) {
    let Some(tuple) = tuple_of(ops) else { return };
    match kind {
        Some(TagKind::APP_LEG) => {
            if EXPECT.remove(&tuple).is_ok() {
                count(Counter::EXPECT_FORGOTTEN);
            }
        }
        Some(kind @ (TagKind::CAPTURED | TagKind::TUNNEL)) => {
            let record = FlowRecord {
                tuple,
                srtt_us: layout::srtt_us(load_u32!(ops, 80)),
                total_retrans: load_u32!(ops, 136),
                bytes_received: load_u64!(ops, 168),
                bytes_acked: load_u64!(ops, 176),
                kind: kind.0,
                reserved: [0; 7],
            };
            const NO_WAKEUP: u64 = 1;
            count(if FLOWS.output(&record, NO_WAKEUP).is_ok() {
                Counter::FLOW_NOTED
            } else {
                Counter::FLOW_LOST
            });
        }
        None if is_of_host(ops) => {
            // Absent if it was the least recently used one: nothing to forget.
            HOST_FLOWS.remove(&tuple).unwrap_or(());
        }
        _ => {}
    }
}

/// Asks for the state callback, keeping what other programs asked for.
#[inline(always)]
fn call_at_close(ops: *mut bpf_sock_ops) {
    let flags = load_u32!(ops, 84) | STATE_FLAG;
    // SAFETY: the context is valid for the whole run.
    if unsafe { bpf_sock_ops_cb_flags_set(ops, flags as i32) } != 0 {
        count(Counter::CALLBACK_FAILED);
    }
}

#[inline(always)]
fn is_of_host(ops: *mut bpf_sock_ops) -> bool {
    // SAFETY: the context is valid for the whole run.
    let cookie = unsafe { bpf_get_netns_cookie(ops.cast()) };
    NODE.get(0).is_some_and(|node| node.host_cookie == cookie)
}

#[inline(always)]
fn tuple_of(ops: *mut bpf_sock_ops) -> Option<Tuple> {
    let family = load_u32!(ops, 20);
    let (local, remote) = if family == FAMILY_V4 {
        (
            Address::from_v4_be(load_u32!(ops, 28)),
            Address::from_v4_be(load_u32!(ops, 24)),
        )
    } else if family == FAMILY_V6 {
        // A v6 socket to a v4 address has the v4-mapped form already.
        (load_address!(ops, 48), load_address!(ops, 32))
    } else {
        return None;
    };
    Some(Tuple {
        source: Endpoint {
            address: local,
            port: sock_ops_local_port(load_u32!(ops, 68)),
        },
        destination: Endpoint {
            address: remote,
            port: sock_ops_remote_port(load_u32!(ops, 64)),
        },
    })
}
