// SPDX-License-Identifier: Apache-2.0

//! Connections that a pod had before it was captured.
//!
//! They are left alone, and so go around the mesh until they end, or until a deadline at which
//! they are ended. Known to the agent that captured the pod, not to its successors. Connections
//! within the pod are none of the mesh's business.
//!
//! Invariant: a socket that was captured is never among them.

use std::io;

use super::{
    diag::{self, OpenSocket},
    netns::Netns,
    observe::ExistingConnection,
    route::Addresses,
};

/// Those of one pod that are open as far as is known.
#[derive(Debug, Default)]
pub(super) struct Existing {
    sockets: Vec<OpenSocket>,
}

impl Existing {
    /// Lists them, in the pod's namespace, before anything is captured there.
    pub(super) fn list(addresses: &Addresses) -> io::Result<Self> {
        let own = addresses.all();
        let mut sockets = diag::open_sockets()?;
        sockets.retain(|socket| !own.contains(&socket.remote.ip()));
        Ok(Self { sockets })
    }

    /// Those that are still open.
    pub(super) fn observe(&self, netns: &Netns) -> Vec<ExistingConnection> {
        let open = self.still_open(netns).unwrap_or_default();
        open.iter()
            .map(|socket| ExistingConnection {
                local: socket.local,
                remote: socket.remote,
            })
            .collect()
    }

    /// Forgets those that have ended.
    pub(super) fn refresh(&mut self, netns: &Netns) {
        if let Ok(open) = self.still_open(netns) {
            self.sockets = open;
        }
    }

    /// Ends those that are still open; returns how many that were. What the kernel refuses is
    /// tried again at the next call.
    pub(super) fn close(&mut self, netns: &Netns) -> io::Result<usize> {
        self.sockets = self.still_open(netns)?;
        netns.within(|| self.sockets.iter().try_for_each(diag::destroy))??;
        Ok(std::mem::take(&mut self.sockets).len())
    }

    fn still_open(&self, netns: &Netns) -> io::Result<Vec<OpenSocket>> {
        if self.sockets.is_empty() {
            return Ok(Vec::new());
        }
        let mut open = netns.within(diag::open_sockets)??;
        open.retain(|socket| self.sockets.contains(socket));
        Ok(open)
    }
}
