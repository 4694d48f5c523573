// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

//! Egress of a cgroup: what a pod opens before it is captured waits until it is.
//!
//! Attached only while a pod is found and not captured yet. `note_sockets` tags the sockets that
//! such a pod connects; all they have sent is SYNs, which are dropped here as long as the pod's
//! namespace is held. TCP sends them again, and then they are captured like any other.
//!
//! Fails open: an entry ends by itself at its time, whatever has become of the agent, and the link
//! goes with the agent's process. Sockets of other namespaces are never touched.

use aya_ebpf::{
    EbpfContext as _,
    bindings::__sk_buff,
    helpers::generated::{bpf_ktime_get_ns, bpf_sk_fullsock},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use mesh_common::{Counter, TagKind};

use crate::maps::{self, HELD, count};

const PASS: i32 = 1;
const DROP: i32 = 0;

/// Drops what is held.
#[cgroup_skb(egress)]
pub(crate) fn hold_early(context: SkBuffContext) -> i32 {
    match is_held(&context) {
        Some(true) => {
            count(Counter::EARLY_HELD);
            DROP
        }
        Some(false) | None => PASS,
    }
}

#[inline(always)]
fn is_held(context: &SkBuffContext) -> Option<bool> {
    // SAFETY: the context is valid for the whole run.
    let socket = unsafe { (*context.as_ptr().cast::<__sk_buff>()).__bindgen_anon_2.sk };
    if socket.is_null() {
        return None;
    }
    // SAFETY: a socket of the context that is not null.
    let socket = unsafe { bpf_sk_fullsock(socket) };
    if socket.is_null() {
        return None;
    }
    // SAFETY: a full socket of the context.
    let tag = unsafe { maps::tag_of(socket.cast()) }?;
    if tag.kind != TagKind::EARLY.0 {
        return None;
    }
    let cookie = tag.namespace_cookie();
    // SAFETY: the value is copied at once.
    let until = unsafe { HELD.get(&cookie) }.copied()?;
    // SAFETY: takes no pointers.
    Some(unsafe { bpf_ktime_get_ns() } < until)
}
