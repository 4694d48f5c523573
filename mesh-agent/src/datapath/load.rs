// SPDX-License-Identifier: Apache-2.0

//! Loads the kernel programs, for the node and for each pod, onto pinned maps.
//!
//! One object is loaded once per pod: node maps are shared through their pins, pod maps are the
//! pod's own. A pinned map of this version is adopted as it is; aya compares its type and sizes.
//! Loading the node's instance loads every program, so a kernel that lacks something is found out
//! at start, by name, before any pod is touched.
//!
//! Knows nothing of hooks and namespaces.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapError},
    pin::PinError,
    programs::{Program, ProgramError},
};
use mesh_common::names;

use super::{DatapathError, pins::Pins};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh"));

/// The oldest kernel by design.
const KERNEL_FLOOR: (u32, u32) = (5, 15);

/// `AYA_LOG_LEVEL`: nothing, or everything up to debug.
const LOG_OFF: u8 = 0;
const LOG_DEBUG: u8 = aya_log::Level::Debug as u8;

/// Every program, and what would be missing without it.
const PROGRAMS: [(&str, &str); 5] = [
    (
        names::CAPTURE_OUTBOUND,
        "takes connections to the mesh to the agent",
    ),
    (
        names::GUARD_INBOUND,
        "keeps others from posing as the agent",
    ),
    (
        names::PICK_LISTENER,
        "takes inbound connections to the agent",
    ),
    (
        names::NOTE_SOCKETS,
        "tells the agent's connections and probes from others",
    ),
    (
        names::HOLD_EARLY,
        "holds what a pod opens before it is captured",
    ),
];

/// The node's instance: every node map, and the programs for the cgroup.
pub(super) struct NodeInstance {
    pub(super) ebpf: Ebpf,
    pub(super) note_sockets: OwnedFd,
    pub(super) hold_early: OwnedFd,
}

/// A pod's instance: its maps and programs.
pub(super) struct PodInstance {
    pub(super) ebpf: Ebpf,
    pub(super) capture_outbound: OwnedFd,
    pub(super) guard_inbound: OwnedFd,
    pub(super) pick_listener: OwnedFd,
}

/// A pod's instance could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("cannot make the pin directory")]
    Directory(#[source] io::Error),
    #[error("cannot make the maps")]
    Maps(#[source] EbpfError),
    #[error("the kernel refuses the program {name}")]
    Program {
        name: &'static str,
        #[source]
        source: ProgramError,
    },
    #[error("cannot pin the map {name}")]
    Pin {
        name: &'static str,
        #[source]
        source: PinError,
    },
    #[error("cannot use the map {name}")]
    Map {
        name: &'static str,
        #[source]
        source: MapError,
    },
}

/// The running kernel's release, for example `6.18.44-generic`.
pub(super) fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|release| release.trim().to_owned())
        .unwrap_or_default()
}

/// Refuses kernels below the floor, and a build without programs.
pub(super) fn preflight() -> Result<(), DatapathError> {
    if OBJECT.is_empty() {
        return Err(DatapathError::NoPrograms);
    }
    let release = kernel_release();
    if version(&release).is_some_and(|version| version < KERNEL_FLOOR) {
        return Err(DatapathError::KernelTooOld { release });
    }
    Ok(())
}

/// Loads the node's instance, and probes every program.
pub(super) fn load_node(pins: &Pins, debug_log: bool) -> Result<NodeInstance, DatapathError> {
    let mut loader = loader(debug_log);
    for name in names::NODE_MAPS {
        loader.map_pin_path(name, pins.node(name));
    }
    let mut ebpf = loader.load(OBJECT).map_err(|source| {
        if is_forbidden(&source) {
            DatapathError::NotPrivileged
        } else {
            DatapathError::Object {
                source: Box::new(source),
            }
        }
    })?;
    let release = kernel_release();
    let (mut note_sockets, mut hold_early) = (None, None);
    for (name, purpose) in PROGRAMS {
        let program = load_program(&mut ebpf, name).map_err(|source| DatapathError::Refused {
            program: name,
            purpose,
            release: release.clone(),
            has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            source: Box::new(source),
        })?;
        match name {
            names::NOTE_SOCKETS => note_sockets = Some(program),
            names::HOLD_EARLY => hold_early = Some(program),
            _ => {}
        }
    }
    Ok(NodeInstance {
        ebpf,
        note_sockets: note_sockets.expect("it is one of the programs"),
        hold_early: hold_early.expect("it is one of the programs"),
    })
}

/// Loads a pod's instance onto the maps pinned in `directory`, which is made.
pub(super) fn load_pod(
    pins: &Pins,
    directory: &Path,
    debug_log: bool,
) -> Result<PodInstance, LoadError> {
    fs::create_dir_all(directory).map_err(LoadError::Directory)?;
    let mut loader = loader(debug_log);
    for name in names::NODE_MAPS {
        loader.map_pin_path(name, pins.node(name));
    }
    for name in names::POD_MAPS {
        loader.map_pin_path(name, directory.join(name));
    }
    load_instance(&mut loader)
}

/// Loads an instance for a pod that is still to come; its node maps are pinned in `generation`.
pub(super) fn load_spare(generation: &Path, debug_log: bool) -> Result<PodInstance, LoadError> {
    let mut loader = loader(debug_log);
    for name in names::NODE_MAPS {
        loader.map_pin_path(name, generation.join(name));
    }
    load_instance(&mut loader)
}

fn load_instance(loader: &mut EbpfLoader<'_>) -> Result<PodInstance, LoadError> {
    let mut ebpf = loader.load(OBJECT).map_err(LoadError::Maps)?;
    let mut load =
        |name| load_program(&mut ebpf, name).map_err(|source| LoadError::Program { name, source });
    let capture_outbound = load(names::CAPTURE_OUTBOUND)?;
    let guard_inbound = load(names::GUARD_INBOUND)?;
    let pick_listener = load(names::PICK_LISTENER)?;
    Ok(PodInstance {
        ebpf,
        capture_outbound,
        guard_inbound,
        pick_listener,
    })
}

impl PodInstance {
    /// Pins its maps in `directory`, which is made, as those of the pod that it is for now.
    pub(super) fn pin(&self, directory: &Path) -> Result<(), LoadError> {
        fs::create_dir_all(directory).map_err(LoadError::Directory)?;
        for name in names::POD_MAPS {
            let map = self.ebpf.map(name).expect("the object has every map");
            map.pin(directory.join(name))
                .map_err(|source| LoadError::Pin { name, source })?;
        }
        Ok(())
    }
}

/// Takes a map out of an instance, as its type.
pub(super) fn take_map<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, LoadError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).expect("the object has every map");
    M::try_from(map).map_err(|source| LoadError::Map { name, source })
}

fn loader(debug_log: bool) -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    let level = if debug_log { &LOG_DEBUG } else { &LOG_OFF };
    loader.override_global(names::LOG_LEVEL, level, true);
    loader
}

fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<OwnedFd, ProgramError> {
    let program = ebpf
        .program_mut(name)
        .expect("the object has every program");
    match program {
        Program::SchedClassifier(program) => program.load()?,
        Program::SkLookup(program) => program.load()?,
        Program::SockOps(program) => program.load()?,
        Program::CgroupSkb(program) => program.load()?,
        _ => unreachable!("the object has no other kinds"),
    }
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

fn is_forbidden(error: &EbpfError) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error() == Some(libc::EPERM);
        }
        source = error.source();
    }
    false
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read() {
        assert_eq!(version("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(version("5.15.0-91-generic"), Some((5, 15)));
        assert_eq!(version("6.1"), Some((6, 1)));
        assert_eq!(version("odd"), None);
        assert!(version("5.4.1") < Some(KERNEL_FLOOR));
    }
}
