// SPDX-License-Identifier: Apache-2.0

//! Attaches programs, in place of earlier ones wherever there are any.
//!
//! A hook that has a pinned link (tcx, sk_lookup, cgroup) gets the new program by updating that
//! link: at every moment exactly one generation is attached. That holds across ABI versions too:
//! the link of another version is updated, pinned at its new place and only then unpinned at the
//! old. Without tcx (before 6.6) there is a clsact filter at a fixed priority and handle, which is
//! replaced in place likewise; it outlives the process by itself.
//!
//! Invariant: a link that is attached is pinned before anybody is told, so a crash detaches
//! nothing.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use mesh_common::names;

use super::{
    load::PodInstance,
    netlink::{self, Direction},
    netns::Netns,
    observe::Hook,
    pins::Pins,
    sys::{self, LinkTarget},
};

/// What is attached for one pod.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) interface: Interface,
    pub(super) hook: Hook,
    capture_outbound: OwnedFd,
    guard_inbound: OwnedFd,
    links: Vec<(&'static str, OwnedFd)>,
}

/// An interface of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
}

/// A program could not be attached.
#[derive(Debug, thiserror::Error)]
#[error("cannot attach {program}")]
pub(super) struct AttachError {
    pub(super) program: &'static str,
    #[source]
    source: io::Error,
}

/// The pin of a program's link.
pub(super) fn link_name(program: &str) -> String {
    format!("{program}_link")
}

/// Attaches `program`, or updates the link that an earlier agent pinned, and pins it at `pin`.
pub(super) fn attach_link(
    pins: &Pins,
    pin: &Path,
    program: impl AsFd,
    target: LinkTarget<'_>,
) -> io::Result<OwnedFd> {
    for candidate in pins.link_candidates(pin) {
        let link = match sys::object_get(&candidate) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // A link whose interface or namespace is gone refuses (ENOLINK): a new one takes its place.
        if let Err(error) = sys::link_update(&link, &program) {
            tracing::debug!(path = %candidate.display(), %error, "a pinned link is dead");
            fs::remove_file(&candidate)?;
            continue;
        }
        if candidate != pin {
            sys::object_pin(&link, pin)?;
            fs::remove_file(&candidate)?;
        }
        return Ok(link);
    }
    let link = sys::link_create(program, target)?;
    sys::object_pin(&link, pin)?;
    Ok(link)
}

impl Attachment {
    /// Attaches a pod's programs. The calling thread must be in the pod's namespace.
    ///
    /// The choice of listeners first: what is captured outbound may come back to the pod itself.
    pub(super) fn attach(
        pins: &Pins,
        directory: &Path,
        netns: &Netns,
        interface: Interface,
        instance: PodInstance,
    ) -> Result<Self, AttachError> {
        let failed = |program| move |source| AttachError { program, source };
        let pin = |program| directory.join(link_name(program));
        let picker = attach_link(
            pins,
            &pin(names::PICK_LISTENER),
            &instance.pick_listener,
            LinkTarget::SkLookup(netns.file().as_fd()),
        )
        .map_err(failed(names::PICK_LISTENER))?;
        let mut links = vec![(names::PICK_LISTENER, picker)];
        let mut attachment = Self {
            interface,
            hook: Hook::Tcx,
            capture_outbound: instance.capture_outbound,
            guard_inbound: instance.guard_inbound,
            links: Vec::new(),
        };
        match attachment.attach_tcx(pins, directory) {
            Ok(tcx) => links.extend(tcx),
            Err(error) if is_tcx_missing(&error) => {
                attachment.hook = Hook::Clsact;
                attachment.attach_clsact()?;
            }
            Err(error) => return Err(error),
        }
        attachment.links = links;
        Ok(attachment)
    }

    fn attach_tcx(
        &self,
        pins: &Pins,
        directory: &Path,
    ) -> Result<[(&'static str, OwnedFd); 2], AttachError> {
        let attach = |program, fd: &OwnedFd, target| {
            let pin = directory.join(link_name(program));
            attach_link(pins, &pin, fd, target)
                .map(|link| (program, link))
                .map_err(|source| AttachError { program, source })
        };
        let index = self.interface.index;
        // Each waits for all processors once it is in force: what cannot wait comes first.
        Ok([
            attach(
                names::CAPTURE_OUTBOUND,
                &self.capture_outbound,
                LinkTarget::TcxEgress(index),
            )?,
            attach(
                names::GUARD_INBOUND,
                &self.guard_inbound,
                LinkTarget::TcxIngress(index),
            )?,
        ])
    }

    fn attach_clsact(&self) -> Result<(), AttachError> {
        for (program, direction, fd) in self.filters() {
            netlink::replace_filter(self.interface.index, direction, fd, program)
                .map_err(|source| AttachError { program, source })?;
        }
        Ok(())
    }

    fn filters(&self) -> [(&'static str, Direction, &OwnedFd); 2] {
        [
            (
                names::GUARD_INBOUND,
                Direction::Ingress,
                &self.guard_inbound,
            ),
            (
                names::CAPTURE_OUTBOUND,
                Direction::Egress,
                &self.capture_outbound,
            ),
        ]
    }

    /// Whether the interface is still in the namespace: who may administer both may move it, programs
    /// and all. In the pod's namespace.
    pub(super) fn is_in_place(&self) -> io::Result<bool> {
        let of_capture = |(program, _): &&(&str, OwnedFd)| *program == names::CAPTURE_OUTBOUND;
        match self.links.iter().find(of_capture) {
            Some((_, link)) => sys::is_on_egress(link, self.interface.index),
            None => sys::interface_index(&self.interface.name)
                .map(|index| index == self.interface.index)
                .or_else(|error| match error.raw_os_error() {
                    Some(libc::ENODEV) => Ok(false),
                    _ => Err(error),
                }),
        }
    }

    /// Puts back filters that the pod removed; returns how many. In the pod's namespace.
    pub(super) fn reconcile(&self) -> io::Result<u64> {
        if self.hook == Hook::Tcx {
            return Ok(0);
        }
        let mut repairs = 0;
        for (program, direction, fd) in self.filters() {
            let missing = netlink::ensure_filter(self.interface.index, direction, fd, program)?;
            repairs += u64::from(missing);
        }
        Ok(repairs)
    }

    /// Removes the filters; links go with their pins. In the pod's namespace.
    pub(super) fn detach(&self) -> io::Result<()> {
        if self.hook == Hook::Tcx {
            return Ok(());
        }
        for (_, direction, _) in self.filters() {
            netlink::remove_filter(self.interface.index, direction)?;
        }
        Ok(())
    }

    /// The programs that the kernel says are attached.
    pub(super) fn attached(&self) -> Vec<&'static str> {
        let mut programs: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| sys::link_is_attached(link).unwrap_or(false))
            .map(|(program, _)| *program)
            .collect();
        if self.hook == Hook::Clsact {
            // Seen and put back by the last reconcile.
            programs.extend(self.filters().map(|(program, ..)| program));
        }
        programs
    }
}

/// `bpf_mprog_attach` came with 6.6; before, the attach type is unknown.
fn is_tcx_missing(error: &AttachError) -> bool {
    error.source.raw_os_error() == Some(libc::EINVAL)
}
