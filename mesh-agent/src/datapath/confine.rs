// SPDX-License-Identifier: Apache-2.0

//! What the agent gives up: capabilities that it never needs, and after its start all system calls that
//! those it has would be good for and that it does not make.
//!
//! Owns both lists. The runtime's own profile, if there is one, allows what a mesh's agent has no use for as soon as
//! a container has `SYS_ADMIN`: that is what is taken away here, wherever the agent runs. What is refused fails as
//! if there were no privilege. Threads share memory, so what a data thread lacks beyond the rest is no wall
//! against whoever runs code in it, only one thing less to be tricked into.
//!
//! Invariant: a capability that is not among those in `deploy/agent.yaml` is none that a pod needs.
//! Reference: ADR 35; seccomp(2) `struct seccomp_data`, `include/uapi/linux/bpf.h` `enum bpf_cmd`.

use std::io;

use super::sys::confine::{self, Reach};

mod filter;

use self::filter::Rule;

const DAC_READ_SEARCH: u64 = 1 << 2;
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;

/// What the agent has at most. The second is there without a container only, where manifests may be in somebody's
/// home.
const OF_ALL: u64 = SYS_ADMIN | DAC_READ_SEARCH | NET_ADMIN | SYS_PTRACE;

/// What a thread that carries bytes needs: sockets are made in pods' namespaces, with clients' addresses.
const OF_DATA: u64 = SYS_ADMIN | NET_ADMIN;

/// Calls that nothing in the agent makes after its start, and what an intruder could use them for.
const NEVER: &[libc::c_long] = &[
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Mounts, and files by other ways than their names.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Namespaces of its own.
    libc::SYS_unshare,
    // The kernel itself, its clock and its name.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Wide parts of the kernel that are known for their faults.
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Namespaces that `clone` could make.
const NEW_NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// `BPF_MAP_UPDATE_ELEM`, `BPF_MAP_DELETE_ELEM`: for sockets that are made, and gone.
const OF_MAPS: &[u32] = &[2, 3];

/// For the beginning, before any other thread: gives up core dumps, what programs could gain, and the capabilities
/// that the agent has no use for.
///
/// # Errors
/// What the kernel says.
pub fn confine_start() -> io::Result<()> {
    confine::never_dump()?;
    confine::keep_capabilities(OF_ALL)?;
    confine::gain_no_privileges()
}

/// For the end of the start, in whatever thread: refuses to all of them what none does any more. Before threads that
/// [`confine_data_thread`] was called in.
///
/// # Errors
/// What the kernel says; some do not know filters.
pub fn confine_process() -> io::Result<()> {
    confine::gain_no_privileges()?;
    confine::filter(&filter::program(&of_process()), Reach::Process)
}

/// For a thread that carries bytes: it keeps what it needs to make sockets, and of bpf(2) writing to maps.
///
/// # Errors
/// What the kernel says; some do not know filters.
pub fn confine_data_thread() -> io::Result<()> {
    confine::keep_capabilities(OF_DATA)?;
    confine::gain_no_privileges()?;
    confine::filter(&filter::program(&of_data()), Reach::Thread)
}

fn of_process() -> Vec<Rule> {
    let mut rules: Vec<Rule> = NEVER.iter().map(|call| Rule::refuse(*call)).collect();
    rules.extend([
        // Its flags are in memory, which a filter cannot see: who is told that there is no such call makes the other.
        Rule::unknown(libc::SYS_clone3),
        Rule::without(libc::SYS_clone, 0, NEW_NAMESPACES.unsigned_abs()),
        Rule::only(libc::SYS_setns, 1, vec![libc::CLONE_NEWNET.unsigned_abs()]),
    ]);
    rules
}

fn of_data() -> Vec<Rule> {
    vec![Rule::only(libc::SYS_bpf, 0, OF_MAPS.to_vec())]
}

#[cfg(test)]
mod tests {
    use super::{
        super::sys::confine::tests::{apart, call, status},
        *,
    };

    const PERMISSION: Option<i32> = Some(libc::EPERM);

    /// As if it were the only thread, which it is not in these tests.
    fn confine_this_thread() {
        confine::gain_no_privileges().unwrap();
        confine::filter(&filter::program(&of_process()), Reach::Thread).unwrap();
    }

    #[test]
    fn what_is_refused_is_refused_whoever_asks() {
        apart(|| {
            confine_this_thread();
            for number in NEVER {
                assert_eq!(call(*number, 0, 0), PERMISSION, "call {number}");
            }
            assert_eq!(call(libc::SYS_clone3, 0, 0), Some(libc::ENOSYS));
        });
    }

    #[test]
    fn namespaces_are_entered_for_their_network_alone_and_none_is_made() {
        apart(|| {
            confine_this_thread();
            let nowhere = u64::from(u32::MAX);
            let flags = |flags: libc::c_int| u64::from(flags.unsigned_abs());
            for wrong in [0, libc::CLONE_NEWNS, libc::CLONE_NEWNET | libc::CLONE_NEWNS] {
                assert_eq!(call(libc::SYS_setns, nowhere, flags(wrong)), PERMISSION);
            }
            let right = call(libc::SYS_setns, nowhere, flags(libc::CLONE_NEWNET));
            assert_eq!(right, Some(libc::EBADF), "it gets as far as the descriptor");
            for wrong in [libc::CLONE_NEWUSER, libc::CLONE_NEWNET] {
                assert_eq!(call(libc::SYS_clone, flags(wrong), 0), PERMISSION);
            }
            let thread = std::thread::spawn(|| 7);
            assert_eq!(thread.join().unwrap(), 7, "threads can be started");
        });
    }

    #[test]
    fn a_data_thread_writes_to_maps_and_loads_nothing() {
        apart(|| {
            confine_data_thread().unwrap();
            let (load, update) = (5, 2);
            assert_eq!(call(libc::SYS_bpf, load, 0), PERMISSION);
            assert_eq!(call(libc::SYS_bpf, u64::MAX, 0), PERMISSION);
            assert_ne!(call(libc::SYS_bpf, update, 0), PERMISSION);
            let kept = u64::from_str_radix(&status("CapPrm:"), 16).unwrap();
            assert_eq!(kept & !OF_DATA, 0);
        });
    }

    #[test]
    fn a_pod_is_given_what_is_kept_and_nothing_else() {
        let manifest = include_str!("../../../deploy/agent.yaml");
        let (_, added) = manifest.split_once("add:\n").unwrap();
        let mut names: Vec<&str> = added
            .lines()
            .map(str::trim)
            .take_while(|line| line.starts_with(['-', '#']))
            .filter_map(|line| line.strip_prefix("- ")?.split_whitespace().next())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]);
    }
}
