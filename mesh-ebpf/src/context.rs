// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

//! Reads of context fields at constant offsets.
//!
//! LLVM merges `if v6 { context.a } else { context.b }` into one load from a computed pointer,
//! which the verifier refuses ("dereference of modified ctx ptr"). Inline assembly cannot be
//! merged. Offsets are those of `struct bpf_sock_ops` and `struct bpf_sk_lookup` in
//! `include/uapi/linux/bpf.h`, which never move.

/// Loads the 32-bit field at a constant offset of a context.
macro_rules! load_u32 {
    ($context:expr, $offset:expr) => {{
        let value: u64;
        // SAFETY: the offset is that of a 32-bit field of the context, which is valid for the
        // whole run; the load has no other effect.
        unsafe {
            core::arch::asm!(
                "{0} = *(u32 *)({1} + {2})",
                out(reg) value, in(reg) $context, const $offset,
                options(pure, readonly, nostack)
            );
        }
        value as u32
    }};
}

/// Loads the 16-bit field at a constant offset of a context.
macro_rules! load_u16 {
    ($context:expr, $offset:expr) => {{
        let value: u64;
        // SAFETY: as for `load_u32`, with a 16-bit field.
        unsafe {
            core::arch::asm!(
                "{0} = *(u16 *)({1} + {2})",
                out(reg) value, in(reg) $context, const $offset,
                options(pure, readonly, nostack)
            );
        }
        value as u16
    }};
}

/// Loads the 64-bit field at a constant offset of a context.
macro_rules! load_u64 {
    ($context:expr, $offset:expr) => {{
        let value: u64;
        // SAFETY: as for `load_u32`, with a 64-bit field.
        unsafe {
            core::arch::asm!(
                "{0} = *(u64 *)({1} + {2})",
                out(reg) value, in(reg) $context, const $offset,
                options(pure, readonly, nostack)
            );
        }
        value
    }};
}

/// Loads the four words of an IPv6 address at a constant offset of a context.
macro_rules! load_address {
    ($context:expr, $offset:expr) => {
        mesh_common::Address::from_v6_be([
            $crate::context::load_u32!($context, $offset),
            $crate::context::load_u32!($context, $offset + 4),
            $crate::context::load_u32!($context, $offset + 8),
            $crate::context::load_u32!($context, $offset + 12),
        ])
    };
}

pub(crate) use load_address;
pub(crate) use load_u16;
pub(crate) use load_u32;
pub(crate) use load_u64;

/// `AF_INET`, as contexts give the family.
pub(crate) const FAMILY_V4: u32 = 2;
/// `AF_INET6`.
pub(crate) const FAMILY_V6: u32 = 10;
/// `IPPROTO_TCP`.
pub(crate) const PROTOCOL_TCP: u32 = 6;
