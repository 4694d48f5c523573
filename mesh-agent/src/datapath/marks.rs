// SPDX-License-Identifier: Apache-2.0

//! What tells connections that the mesh knows of from those that go around it.
//!
//! Nothing is remembered for that: whatever came of a connection is in the kernel, beside its socket.
//! A socket of an application that opened one has the tag of the one decision about it; the agent's
//! have theirs; one that accepted a connection of the agent or of a probe is tagged as such. Under
//! programs of an earlier version it was not: then the agent's socket is its other end, in the same
//! namespace, and probes are noted where they come from. So every agent finds the same, whichever
//! captured the pod.
//!
//! Knows nothing of policy. Invariant: only the programs and the agent write tags.

use std::{collections::HashSet, io, net::SocketAddr, os::fd::OwnedFd};

use mesh_common::{Endpoint, TagKind, Tuple, names};

use super::{
    diag::{self, OpenSocket},
    pins::Pins,
    sys,
};

/// The maps that tell.
#[derive(Debug)]
pub(super) struct Marks {
    /// Of this version first. What others tagged, and carry still, is known by theirs.
    tags: Vec<OwnedFd>,
    /// Probes under way.
    probes: OwnedFd,
}

impl Marks {
    /// Opens them; the node's maps must be pinned.
    pub(super) fn open(pins: &Pins) -> io::Result<Self> {
        let mut tags = vec![sys::object_get(&pins.node(names::TAGS))?];
        let others = pins.other_generations().into_iter();
        tags.extend(others.filter_map(|it| sys::object_get(&it.join(names::TAGS)).ok()));
        Ok(Self {
            tags,
            probes: sys::object_get(&pins.node(names::HOST_FLOWS))?,
        })
    }

    /// The connections of the calling thread's namespace, open or begun, whose other end is not the
    /// agent.
    pub(super) fn connections(&self) -> io::Result<Vec<OpenSocket>> {
        let mut sockets = diag::connections(&self.tags)?;
        let legs = sockets.iter().filter(|it| is(it, TagKind::APP_LEG));
        let legs: HashSet<(SocketAddr, SocketAddr)> =
            legs.map(|leg| (leg.remote, leg.local)).collect();
        sockets.retain(|socket| {
            let may_carry = socket.is_open() || socket.is_begun();
            may_carry && !legs.contains(&(socket.local, socket.remote))
        });
        Ok(sockets)
    }

    /// Whether the node opened it as a probe, which is let through.
    pub(super) fn is_probe(&self, socket: &OpenSocket) -> bool {
        let end = |it: SocketAddr| Endpoint::new(it.ip(), it.port());
        let tuple = Tuple {
            source: end(socket.remote),
            destination: end(socket.local),
        };
        // What cannot be known is none: it is shown rather than hidden.
        sys::map_has(&self.probes, &tuple).unwrap_or(false)
    }
}

/// Whether it was decided about that very connection, or it is the agent's. What an application
/// accepted may have its listener's tag, which is about another.
pub(super) fn is_decided(socket: &OpenSocket, is_accepted: bool) -> bool {
    let Some(tag) = socket.tag else {
        return false;
    };
    match TagKind(tag.kind) {
        TagKind::EARLY => false,
        TagKind::CAPTURED | TagKind::PASSED if is_accepted => {
            tag.destination == Endpoint::new(socket.remote.ip(), socket.remote.port())
        }
        _ => true,
    }
}

fn is(socket: &OpenSocket, kind: TagKind) -> bool {
    socket.tag.is_some_and(|tag| tag.kind == kind.0)
}
