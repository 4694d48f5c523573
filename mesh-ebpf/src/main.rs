// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

//! The kernel side: one file per hook, and the maps and packet reading that they share.
//!
//! | program | hook | fails |
//! | --- | --- | --- |
//! | [`capture_outbound`] | egress of the pod's interface | open for what is not the mesh's, closed for what is |
//! | [`guard_inbound`] | ingress of the pod's interface | open, but for unreadable TCP |
//! | [`pick_listener`] | socket lookups of the pod | closed |
//! | [`note_sockets`] | sockets of a cgroup | open: it only takes notes |
//! | [`hold_early`] | egress of a cgroup, while a pod is about to be captured | open, after a time |
//!
//! One object for all kernels from 5.15 on: no namespace cookies outside sock_ops, no cgroup
//! helpers, no kfuncs. Decisions are logged at debug level; the level is read-only when a program
//! is loaded, so the verifier removes the code where logging is off.
//!
//! Knows nothing of Services, policies or identities: maps say what to do.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(
    internal_features,
    reason = "atomic addition has no other way on this target"
)]
#![allow(
    unsafe_code,
    reason = "kernel helpers and context fields are raw pointers"
)]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "reading a field of the context is a dereference and a union access at once"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "helpers return registers of 64 bits; the value that counts is in the low ones"
)]

mod capture_outbound;
mod context;
mod guard_inbound;
mod hold_early;
mod maps;
mod note_sockets;
mod packet;
mod pick_listener;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses programs that could get here.
    loop {}
}

/// Helpers used here are only for programs under a GPL-compatible licence.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";
