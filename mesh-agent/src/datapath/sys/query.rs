// SPDX-License-Identifier: Apache-2.0

//! Asks the kernel what is attached to an interface, and which socket a descriptor is.
//!
//! Reference: bpf(2) `BPF_PROG_QUERY` (tcx: 6.6), socket(7) `SO_COOKIE` (4.12).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use super::{Attribute, bpf, link_information};

const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_TCX_EGRESS: u32 = 47;

/// More programs than this on one interface are none of ours: ours is the first.
const LINKS: usize = 64;

#[repr(C)]
struct ProgramQuery {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

impl Attribute for ProgramQuery {}

/// Whether `link` is on the egress of interface `index` of the calling thread's namespace. A link goes
/// where its interface goes, and indices may be given anew.
pub(in super::super) fn is_on_egress(link: &OwnedFd, index: u32) -> io::Result<bool> {
    let own = link_information(link)?.id;
    let mut programs = [0_u32; LINKS];
    let mut links = [0_u32; LINKS];
    let mut query = ProgramQuery {
        target: index,
        attach_type: BPF_TCX_EGRESS,
        query_flags: 0,
        attach_flags: 0,
        programs: programs.as_mut_ptr().expose_provenance() as u64,
        count: LINKS.try_into().expect("a small number"),
        padding: 0,
        program_flags: 0,
        links: links.as_mut_ptr().expose_provenance() as u64,
        link_flags: 0,
        revision: 0,
    };
    match bpf(BPF_PROG_QUERY, &mut query) {
        Ok(_) => {}
        // There are more, and as many as fit were written.
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {}
        // No such interface, or nothing on it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    Ok(links.contains(&own))
}

/// The cookie of a socket, which no other ever has.
pub(in super::super) fn socket_cookie(socket: impl AsFd) -> io::Result<u64> {
    number_option(socket, libc::SO_COOKIE)
}

/// An option of `SOL_SOCKET` that is a number of 64 bits.
pub(super) fn number_option(socket: impl AsFd, option: libc::c_int) -> io::Result<u64> {
    let mut number = 0_u64;
    let mut length = 8;
    // SAFETY: the descriptor is open; `number` and `length` are live and writable, and `length`
    // says how large `number` is. socket2 lacks these options.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_mut(&mut number).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(number)
    } else {
        Err(io::Error::last_os_error())
    }
}
