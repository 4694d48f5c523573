// SPDX-License-Identifier: Apache-2.0

//! What a thread or the process gives up for good: capabilities, system calls, core dumps.
//!
//! Each function is one thing to give up; what is given up where is elsewhere. Capabilities and filters are
//! threads' own and inherited by those they start.
//!
//! Invariant: nothing here can be taken back, and giving up what is gone already is no error.
//! Reference: capabilities(7), capset(2), seccomp(2), prctl(2), `include/uapi/linux/seccomp.h`.

use std::io;

/// Both halves of the sets are there.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// A number that no kernel has for a capability yet.
const CAPABILITIES: u32 = 64;

/// `CAP_SETPCAP`: without it the bounding set stays.
const SETPCAP: u32 = 8;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    thread: libc::c_int,
}

/// One half of a thread's sets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// For whom a filter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Reach {
    /// The calling thread, and those it starts.
    Thread,
    /// All threads that there are.
    Process,
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives up all capabilities of the calling thread that are not in `kept`, one bit each, so that neither it nor
/// what it starts has them ever again.
pub(in super::super) fn keep_capabilities(kept: u64) -> io::Result<()> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        thread: 0,
    };
    let mut sets = [CapabilitySets::default(); 2];
    // SAFETY: the header is live and says by its version that `sets` are two, which are writable. The
    // standard library knows no capabilities.
    let read = unsafe { libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) };
    checked(read)?;
    let mine = u64::from(sets[1].permitted) << 32 | u64::from(sets[0].permitted);
    if mine & 1 << SETPCAP != 0 {
        bound_capabilities(kept)?;
    }
    for (half, set) in sets.iter_mut().enumerate() {
        let kept = if half == 0 { kept } else { kept >> 32 };
        let kept = u32::try_from(kept & u64::from(u32::MAX)).expect("half of the bits");
        *set = CapabilitySets {
            effective: set.permitted & kept,
            permitted: set.permitted & kept,
            inheritable: 0,
        };
    }
    // SAFETY: as above; the kernel reads both. What is not inheritable is not ambient either.
    let written = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    checked(written)
}

/// Takes what is not in `kept` out of what the execution of a program could give.
fn bound_capabilities(kept: u64) -> io::Result<()> {
    for number in (0..CAPABILITIES).filter(|number| kept & 1 << number == 0) {
        let number = libc::c_ulong::from(number);
        // SAFETY: takes numbers alone.
        let has = unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) };
        if has == 1 {
            // SAFETY: takes numbers alone.
            let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
            checked(dropped.into())?;
        }
    }
    Ok(())
}

/// No program that is executed from here has more privileges than we have.
pub(in super::super) fn gain_no_privileges() -> io::Result<()> {
    // SAFETY: takes numbers alone.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    checked(result.into())
}

/// The memory of this process is never written into a file, and read by nobody without `CAP_SYS_PTRACE`.
pub(in super::super) fn never_dump() -> io::Result<()> {
    // SAFETY: takes numbers alone.
    let result = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    checked(result.into())?;
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `none` is live and initialised. std has no such call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    checked(result.into())
}

/// Has the kernel ask `program` about every system call from now on. Wants [`gain_no_privileges`] first.
pub(in super::super) fn filter(program: &[libc::sock_filter], reach: Reach) -> io::Result<()> {
    const MODE_FILTER: libc::c_ulong = 1;
    /// All threads at once, or none.
    const TSYNC: libc::c_ulong = 1;
    /// A filter is no reason to run slower against speculation: before 5.16 it was taken for one.
    const SPEC_ALLOW: libc::c_ulong = 1 << 2;
    let flags = match reach {
        Reach::Thread => SPEC_ALLOW,
        Reach::Process => SPEC_ALLOW | TSYNC,
    };
    let program = libc::sock_fprog {
        len: program.len().try_into().map_err(io::Error::other)?,
        // The kernel only reads it.
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `program` is live, points to as many instructions as it says, and is copied by the kernel, which
    // verifies it. The standard library knows no filters.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, MODE_FILTER, flags, &raw const program) };
    match result {
        // The number of a thread that has other filters.
        1.. => Err(io::Error::from(io::ErrorKind::ResourceBusy)),
        result => checked(result),
    }
}

#[cfg(test)]
pub(in super::super) mod tests {
    use std::{fs, thread};

    use super::*;

    /// Runs `work` in a thread that may give up what it likes.
    #[track_caller]
    pub(in super::super::super) fn apart(work: impl FnOnce() + Send + 'static) {
        thread::spawn(work).join().expect("what it checks holds");
    }

    /// What the kernel says of the calling thread under `name`.
    pub(in super::super::super) fn status(name: &str) -> String {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let found = status.lines().find_map(|line| line.strip_prefix(name));
        found.unwrap().trim().to_owned()
    }

    /// What the kernel answers to a call with these arguments.
    pub(in super::super::super) fn call(
        number: libc::c_long,
        first: u64,
        second: u64,
    ) -> Option<i32> {
        // SAFETY: the tests pass numbers and null, never addresses.
        let result = unsafe { libc::syscall(number, first, second, 0, 0, 0, 0) };
        match result {
            -1 => io::Error::last_os_error().raw_os_error(),
            _ => None,
        }
    }

    #[test]
    fn capabilities_are_given_up_for_good() {
        apart(|| {
            keep_capabilities(0).unwrap();
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
                assert_eq!(status(set), "0000000000000000", "{set}");
            }
            keep_capabilities(u64::MAX).unwrap();
            assert_eq!(status("CapEff:"), "0000000000000000");
        });
    }

    #[test]
    fn a_filter_is_asked_and_privileges_are_not_gained() {
        apart(|| {
            gain_no_privileges().unwrap();
            let pass = [libc::sock_filter {
                code: 0x06,
                jt: 0,
                jf: 0,
                k: 0x7fff_0000,
            }];
            filter(&pass, Reach::Thread).unwrap();
            assert_eq!(
                (status("Seccomp:").as_str(), status("NoNewPrivs:").as_str()),
                ("2", "1")
            );
            assert!(filter(&[], Reach::Thread).is_err());
        });
    }
}
