// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

//! tc egress of the pod's interface: what goes to the mesh goes to the agent.
//!
//! One decision per application socket, at its SYN, kept in the socket's storage; all its later
//! packets follow it, whatever becomes of policy, enrolment or the agent. Sockets older than the
//! enrolment have neither SYN nor tag and are left alone. (A socket that connects anew to another
//! destination is decided anew.) Captured packets get the mark that makes every address local,
//! and a cleared link address, so that the loopback interface takes them as its own.
//!
//! What an application accepted of the agent, which connects with the client's address, is tagged by
//! `note_sockets`, and goes back to it likewise. Packets without a tagged socket (of what was accepted
//! while no program did that; answers to a SYN; resets; last acknowledgements) are the agent's if one
//! of its transparent sockets has their tuple.
//!
//! Fails open for what is none of the mesh's business, and closed for what is: a mesh SYN whose
//! socket cannot be tagged is dropped (and sent again); with no agent listening it waits, unless
//! the pod fails open, which is decided here and now for the life of the socket. A later fragment
//! follows its socket's tag; without a socket it is dropped if its destination is in the mesh,
//! and passes otherwise. TCP that cannot be read is dropped.
//!
//! A pod that leaves the mesh is DRAINING: nothing new is captured, or decided about (should the pod come
//! back such a connection is older than that capture); tagged sockets go on as ever.
//! No security boundary: a raw socket gets around it; the destination's policy does not care.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sock_tuple},
    helpers::generated::{
        bpf_redirect, bpf_sk_fullsock, bpf_sk_release, bpf_skb_store_bytes, bpf_skc_lookup_tcp,
    },
    macros::classifier,
    programs::TcContext,
};
use aya_log_ebpf::debug;
use mesh_common::{
    Address, CAPTURE_MARK, Counter, Endpoint, MeshEntry, OnDeath, OutboundReach, PodConfig,
    PodState, Tag, TagKind, Tuple, names,
};

use crate::{
    context::PROTOCOL_TCP,
    maps::{self, MESH, POD, count_pod},
    packet::{self, Packet, Segment},
};

const PASS: i32 = -1;
const DROP: i32 = 2;
const LISTEN: u32 = 10;
/// The loopback interface's index, the same in every namespace.
const LOOPBACK: u32 = 1;

/// Takes packets to the mesh to the agent.
#[classifier]
pub(crate) fn capture_outbound(context: TcContext) -> i32 {
    try_capture_outbound(&context).unwrap_or(PASS)
}

#[inline(always)]
fn try_capture_outbound(context: &TcContext) -> Option<i32> {
    let pod = POD.get(0)?;
    if pod.state == 0 {
        return None;
    }
    match packet::read(context) {
        Packet::Segment(segment) => Some(segment_verdict(context, pod, &segment)),
        Packet::LaterFragment { destination } => Some(fragment_verdict(context, destination)),
        Packet::Unreadable => {
            count_pod(Counter::UNREADABLE_DROPPED);
            Some(DROP)
        }
        Packet::Other => None,
    }
}

#[inline(always)]
fn segment_verdict(context: &TcContext, pod: &PodConfig, segment: &Segment) -> i32 {
    let socket = socket_of(context);
    if !socket.is_null() {
        // SAFETY: a full socket of the context.
        if let Some(tag) = unsafe { maps::tag_of(socket.cast()) } {
            let anew = segment.syn && !is_same(&tag.destination, &segment.tuple.destination);
            match TagKind(tag.kind) {
                TagKind::CAPTURED if !anew => {
                    count_pod(Counter::CAPTURED_PACKET);
                    return redirect(context);
                }
                TagKind::PASSED if !anew => {
                    count_pod(Counter::PACKET_PASSED);
                    return PASS;
                }
                // A segment that is no SYN is older than the capture: held only for a while, or opened
                // while the pod was on its way out.
                TagKind::EARLY if !segment.syn => {
                    count_pod(Counter::PACKET_PASSED);
                    return PASS;
                }
                TagKind::CAPTURED | TagKind::PASSED | TagKind::EARLY => {
                    let (kind, counter) = decide(pod, segment);
                    tag.kind = kind.0;
                    tag.destination = segment.tuple.destination;
                    return carry_out(context, segment, kind, counter);
                }
                _ => {
                    count_pod(Counter::OWN_PASSED);
                    return PASS;
                }
            }
        }
    }
    if segment.syn {
        return syn_verdict(context, pod, segment, socket);
    }
    if is_agents(context, &segment.tuple, segment.v6) {
        count_pod(Counter::REPLY_REDIRECTED);
        return redirect(context);
    }
    count_pod(Counter::PACKET_PASSED);
    PASS
}

/// A SYN of a socket that has not been decided about, or of none.
#[inline(always)]
fn syn_verdict(
    context: &TcContext,
    pod: &PodConfig,
    segment: &Segment,
    socket: *mut bpf_sock,
) -> i32 {
    let (kind, counter) = decide(pod, segment);
    // SAFETY: a full socket's fields may be read. Packet sockets own the SYNs they forge: they are
    // no connection, and their other packets are not this one's.
    if !socket.is_null() && unsafe { (*socket).protocol } == PROTOCOL_TCP {
        let tag = Tag {
            kind: kind.0,
            reserved: [0; 3],
            destination: segment.tuple.destination,
        };
        // SAFETY: a full socket of the context.
        if unsafe { maps::set_tag(socket.cast(), tag) }.is_none() {
            count_pod(Counter::TAG_FAILED);
            return if kind == TagKind::CAPTURED {
                DROP
            } else {
                PASS
            };
        }
    }
    carry_out(context, segment, kind, counter)
}

#[inline(always)]
fn carry_out(context: &TcContext, segment: &Segment, kind: TagKind, counter: Counter) -> i32 {
    count_pod(counter);
    let port = segment.tuple.destination.port;
    let last = u32::from_be(segment.tuple.destination.address.words_be[3]);
    if kind == TagKind::CAPTURED {
        debug!(context, "captured a connection to ..{:i}:{}", last, port);
        redirect(context)
    } else {
        debug!(context, "passed a connection to ..{:i}:{}", last, port);
        PASS
    }
}

/// The one decision about a connection.
#[inline(always)]
fn decide(pod: &PodConfig, segment: &Segment) -> (TagKind, Counter) {
    if pod.state != PodState::ACTIVE.0 {
        return (TagKind::EARLY, Counter::DRAINING_PASSED);
    }
    let destination = &segment.tuple.destination;
    if !is_captured(destination) {
        let mut every_port = *destination;
        every_port.port = 0;
        let every_address = Endpoint {
            address: Address::NONE,
            port: destination.port,
        };
        let reaches_all = pod.outbound == OutboundReach::EVERYTHING.0;
        if !is_captured(&every_port) && !reaches_all && !is_captured(&every_address) {
            return (TagKind::PASSED, Counter::SYN_PASSED);
        }
    }
    if pod.on_death == OnDeath::OPEN.0 {
        let index = if segment.v6 {
            names::LISTENER_OUTBOUND_V6
        } else {
            names::LISTENER_OUTBOUND_V4
        };
        let listener = maps::listener(index);
        if listener.is_null() {
            return (TagKind::PASSED, Counter::FAILED_OPEN);
        }
        // SAFETY: the reference that the lookup took, given back once.
        unsafe { bpf_sk_release(listener) };
    }
    (TagKind::CAPTURED, Counter::CAPTURED_SYN)
}

#[inline(always)]
fn is_captured(endpoint: &Endpoint) -> bool {
    // SAFETY: the value is copied at once.
    let entry = unsafe { MESH.get(endpoint) };
    entry.is_some_and(|entry| *entry == u32::from(MeshEntry::CAPTURE.0))
}

#[inline(always)]
fn is_same(one: &Endpoint, other: &Endpoint) -> bool {
    one.port == other.port && one.address.is(&other.address)
}

#[inline(always)]
fn fragment_verdict(context: &TcContext, destination: Address) -> i32 {
    let socket = socket_of(context);
    if !socket.is_null() {
        // SAFETY: a full socket of the context.
        return match unsafe { maps::tag_of(socket.cast()) } {
            Some(tag) if tag.kind == TagKind::CAPTURED.0 => {
                count_pod(Counter::CAPTURED_PACKET);
                redirect(context)
            }
            _ => PASS,
        };
    }
    let address = Endpoint {
        address: destination,
        port: 0,
    };
    // SAFETY: only its presence is looked at.
    if unsafe { MESH.get(&address) }.is_some() {
        count_pod(Counter::FRAGMENT_DROPPED);
        DROP
    } else {
        PASS
    }
}

/// The full socket that sent the packet, or null.
#[inline(always)]
fn socket_of(context: &TcContext) -> *mut bpf_sock {
    // SAFETY: the context is valid for the whole run.
    let socket = unsafe { (*packet::raw(context)).__bindgen_anon_2.sk };
    if socket.is_null() {
        return socket;
    }
    // SAFETY: a socket of the context that is not null.
    unsafe { bpf_sk_fullsock(socket) }
}

/// Whether a socket of the namespace that is no listener would receive the packet: only the
/// agent's transparent sockets have the addresses of others.
#[inline(always)]
fn is_agents(context: &TcContext, tuple: &Tuple, v6: bool) -> bool {
    // SAFETY: all zero is a valid tuple of either family.
    let mut wanted: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let source_port = (tuple.source.port as u16).to_be();
    let destination_port = (tuple.destination.port as u16).to_be();
    let size: u32 = if v6 { 36 } else { 12 };
    // SAFETY: writes of plain integers into the union's member of the packet's family; the helper
    // reads as many bytes as that member has. The reference it takes is given back once.
    unsafe {
        if v6 {
            wanted.__bindgen_anon_1.ipv6.saddr = tuple.source.address.words_be;
            wanted.__bindgen_anon_1.ipv6.daddr = tuple.destination.address.words_be;
            wanted.__bindgen_anon_1.ipv6.sport = source_port;
            wanted.__bindgen_anon_1.ipv6.dport = destination_port;
        } else {
            wanted.__bindgen_anon_1.ipv4.saddr = tuple.source.address.words_be[3];
            wanted.__bindgen_anon_1.ipv4.daddr = tuple.destination.address.words_be[3];
            wanted.__bindgen_anon_1.ipv4.sport = source_port;
            wanted.__bindgen_anon_1.ipv4.dport = destination_port;
        }
        let same_namespace = u64::MAX;
        let found = bpf_skc_lookup_tcp(context.as_ptr(), &raw mut wanted, size, same_namespace, 0);
        if found.is_null() {
            return false;
        }
        let state = (*found).state;
        bpf_sk_release(found.cast::<c_void>());
        state != LISTEN
    }
}

/// Sends the packet in again on the loopback interface, marked.
#[inline(always)]
fn redirect(context: &TcContext) -> i32 {
    let skb = packet::raw(context);
    let none = [0_u8; 6];
    // SAFETY: the context is valid for the whole run; six live bytes are stored at the start of
    // the link header.
    let cleared = unsafe {
        (*skb).mark = CAPTURE_MARK;
        bpf_skb_store_bytes(skb, 0, (&raw const none).cast(), 6, 0)
    };
    if cleared != 0 {
        count_pod(Counter::CLEAR_FAILED);
        return DROP;
    }
    const INGRESS: u64 = 1;
    // SAFETY: takes no pointers.
    unsafe { bpf_redirect(LOOPBACK, INGRESS) as i32 }
}
