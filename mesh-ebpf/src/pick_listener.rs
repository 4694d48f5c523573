// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

//! sk_lookup in the pod's namespace: which listener takes a new connection.
//!
//! To one of the pod's addresses: the agent's inbound listener, but for the exact tuples of the
//! agent's own connections to the application, the node's probes to declared ports, and the pod
//! talking to itself. To any other address that is not the namespace's own: only a captured
//! connection gets here (by the policy rule), so the agent's outbound listener. Loopback is left
//! alone. Listeners are found through a map, whatever port they have, and never by a reuseport
//! group, which a pod's process could join.
//!
//! Fails closed: with no listener a strict port is refused, any other as the pod declares; a
//! captured connection is refused (its SYN was already decided to be captured). A pod that leaves
//! the mesh gets its inbound connections itself.
//!
//! Runs for the SYN and, with SYN cookies, again for the last packet of the handshake. Nothing
//! here uses the ingress interface, which is not the one a redirected packet came in on.

use aya_ebpf::{
    helpers::generated::{bpf_sk_assign, bpf_sk_release},
    macros::sk_lookup,
    programs::SkLookupContext,
};
use aya_log_ebpf::debug;
use mesh_common::{
    Address, AddressKind, Counter, Endpoint, InboundMode, OnDeath, PodConfig, PodState, Tuple,
    names,
};

use crate::{
    context::{FAMILY_V4, PROTOCOL_TCP, load_address, load_u16, load_u32},
    maps::{self, ADDRESSES, EXPECT, HOST_FLOWS, POD, PORT_MODES, count_pod},
};

const DROP: u32 = 0;
const PASS: u32 = 1;

/// Chooses the listener of a new connection.
#[sk_lookup]
pub(crate) fn pick_listener(context: SkLookupContext) -> u32 {
    try_pick_listener(&context).unwrap_or(PASS)
}

#[inline(always)]
fn try_pick_listener(context: &SkLookupContext) -> Option<u32> {
    let lookup = context.lookup;
    if load_u32!(lookup, 12) != PROTOCOL_TCP {
        return None;
    }
    let pod = POD.get(0)?;
    if pod.state == 0 {
        return None;
    }
    let v4 = load_u32!(lookup, 8) == FAMILY_V4;
    let (remote, local) = if v4 {
        (
            Address::from_v4_be(load_u32!(lookup, 16)),
            Address::from_v4_be(load_u32!(lookup, 40)),
        )
    } else {
        (load_address!(lookup, 20), load_address!(lookup, 44))
    };
    if local.is_loopback() {
        return None;
    }
    let kind = kind_of(&local);
    if kind == u32::from(AddressKind::OTHER.0) {
        return None;
    }
    let tuple = Tuple {
        source: Endpoint {
            address: remote,
            port: u32::from(u16::from_be(load_u16!(lookup, 36))),
        },
        destination: Endpoint {
            address: local,
            port: load_u32!(lookup, 60),
        },
    };
    if kind == u32::from(AddressKind::POD.0) {
        inbound(context, pod, &tuple, v4)
    } else {
        let index = if v4 {
            names::LISTENER_OUTBOUND_V4
        } else {
            names::LISTENER_OUTBOUND_V6
        };
        if assign(context, index)? {
            count_pod(Counter::OUTBOUND_PICKED);
            Some(PASS)
        } else {
            count_pod(Counter::OUTBOUND_FAILED_CLOSED);
            Some(DROP)
        }
    }
}

#[inline(always)]
fn inbound(context: &SkLookupContext, pod: &PodConfig, tuple: &Tuple, v4: bool) -> Option<u32> {
    if kind_of(&tuple.source.address) == u32::from(AddressKind::POD.0) {
        count_pod(Counter::SELF_PASSED);
        return None;
    }
    // SAFETY: only its presence is looked at.
    if unsafe { EXPECT.get(tuple) }.is_some() {
        count_pod(Counter::EXPECTED_PASSED);
        return None;
    }
    // SAFETY: only its presence is looked at.
    if unsafe { HOST_FLOWS.get(tuple) }.is_some() {
        count_pod(Counter::HOST_FLOW_PASSED);
        return None;
    }
    if pod.state == PodState::DRAINING.0 {
        count_pod(Counter::DRAINING_PASSED);
        return None;
    }
    let index = if v4 {
        names::LISTENER_INBOUND_V4
    } else {
        names::LISTENER_INBOUND_V6
    };
    let port = tuple.destination.port;
    if assign(context, index)? {
        count_pod(Counter::INBOUND_PICKED);
        debug!(context, "gave a connection to port {} to the agent", port);
        return Some(PASS);
    }
    // SAFETY: the value is copied at once.
    let mode = unsafe { PORT_MODES.get(&port) }
        .copied()
        .unwrap_or(u32::from(pod.default_mode));
    if mode == u32::from(InboundMode::PERMISSIVE.0) && pod.on_death == OnDeath::OPEN.0 {
        count_pod(Counter::INBOUND_FAILED_OPEN);
        return None;
    }
    count_pod(Counter::INBOUND_FAILED_CLOSED);
    debug!(context, "refused a connection to port {}: no agent", port);
    Some(DROP)
}

/// Gives the lookup to the listener at `index`; false if there is none. What the kernel would not
/// take is refused.
#[inline(always)]
fn assign(context: &SkLookupContext, index: u32) -> Option<bool> {
    const NO_REUSEPORT: u64 = 2;
    let listener = maps::listener(index);
    if listener.is_null() {
        return Some(false);
    }
    // SAFETY: the lookup took a reference to a listener, which is given back once.
    let result = unsafe {
        let result = bpf_sk_assign(context.lookup.cast(), listener, NO_REUSEPORT);
        bpf_sk_release(listener);
        result
    };
    if result != 0 {
        count_pod(Counter::ASSIGN_FAILED);
        return Some(false);
    }
    Some(true)
}

/// Whose `address` is; zero if it is not local.
#[inline(always)]
fn kind_of(address: &Address) -> u32 {
    // SAFETY: the value is copied at once.
    unsafe { ADDRESSES.get(address) }.copied().unwrap_or(0)
}
