// SPDX-License-Identifier: Apache-2.0

//! Why the kernel side cannot work on a node.

use std::{io, path::PathBuf};

use aya::{EbpfError, programs::ProgramError};

/// Why the datapath cannot work here.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The agent was built without its kernel programs.
    #[error("this agent was built without its kernel programs (AYA_BUILD_SKIP was set)")]
    NoPrograms,
    /// The kernel is below the floor.
    #[error("kernel {release} is too old: the kernel programs need 5.15 or newer")]
    KernelTooOld {
        /// The running kernel.
        release: String,
    },
    /// The agent may not use bpf(2).
    #[error("the agent needs CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN to load kernel programs")]
    NotPrivileged,
    /// bpffs cannot be used.
    #[error("cannot pin kernel programs at {path}, so that they outlive the agent")]
    Pins {
        /// Where.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// Another agent runs for the same node.
    #[error("another agent of this node holds {path}; stop it first")]
    InUse {
        /// The pin directory.
        path: PathBuf,
    },
    /// The object cannot be loaded at all.
    #[error("cannot make the kernel maps")]
    Object {
        /// What happened.
        #[source]
        source: Box<EbpfError>,
    },
    /// A program is refused by this kernel.
    #[error(
        "kernel {release} refuses the program {program}, which {purpose}{}",
        if *.has_btf { "" } else { " (it has no BTF: CONFIG_DEBUG_INFO_BTF)" }
    )]
    Refused {
        /// Which.
        program: &'static str,
        /// What it is for.
        purpose: &'static str,
        /// The running kernel.
        release: String,
        /// Whether the kernel describes its own types.
        has_btf: bool,
        /// What the verifier says.
        #[source]
        source: Box<ProgramError>,
    },
    /// There is no cgroup2 hierarchy.
    #[error("no cgroup2 hierarchy to note probes and the agent's own connections on: {path}")]
    Cgroup {
        /// What was tried.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// A system call that should work does not.
    #[error("cannot {attempt}")]
    System {
        /// What was attempted.
        attempt: &'static str,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl DatapathError {
    /// Whether starting again cannot help: the kernel, or the agent's build, lacks something.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::NoPrograms
            | Self::KernelTooOld { .. }
            | Self::Object { .. }
            | Self::Refused { .. } => true,
            Self::NotPrivileged
            | Self::Pins { .. }
            | Self::InUse { .. }
            | Self::Cgroup { .. }
            | Self::System { .. } => false,
        }
    }
}
