// SPDX-License-Identifier: Apache-2.0

//! Connections that a pod had before it was captured.
//!
//! They go around the mesh until they end, or until a deadline at which they are ended. Those that
//! others opened to a port that is STRICT are ended at once: there is no plaintext to such a port.
//! Known to the agent that captured the pod, not to its successors. Connections within the pod are
//! none of the mesh's business.
//!
//! Invariant: a socket that was captured is never among them.

use std::{collections::HashSet, fs, io, ops::RangeInclusive};

use super::{
    accepts::Directions,
    diag::{self, OpenSocket},
    ledger::Direction,
    netns::Netns,
    observe::ExistingConnection,
    route::Addresses,
};
use crate::model::{InboundPolicy, MtlsMode};

/// Where the kernel takes ports from for those who connect. `/proc/sys/net` is that of the calling
/// thread.
const EPHEMERAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Those of one pod that are open as far as is known.
#[derive(Debug, Default)]
pub(super) struct Existing {
    sockets: Vec<Older>,
}

#[derive(Clone, Debug)]
struct Older {
    socket: OpenSocket,
    direction: Direction,
}

impl Existing {
    /// Lists them, in the pod's namespace, before anything is captured there.
    pub(super) fn list(addresses: &Addresses) -> io::Result<Self> {
        let own = addresses.all();
        let listeners = diag::listeners()?;
        let listened: HashSet<u16> = listeners.iter().map(|it| it.local.port()).collect();
        let ephemeral = ephemeral_ports();
        let direction = |socket: &OpenSocket| {
            let port = socket.local.port();
            match listened.contains(&port) || !ephemeral.contains(&port) {
                true => Direction::Inbound,
                false => Direction::Outbound,
            }
        };
        let mut sockets = diag::open_sockets()?;
        sockets.retain(|socket| !own.contains(&socket.remote.ip()));
        let sockets = sockets.into_iter().map(|socket| Older {
            direction: direction(&socket),
            socket,
        });
        Ok(Self {
            sockets: sockets.collect(),
        })
    }

    /// How many there are, by direction.
    pub(super) fn count(&self) -> Directions {
        let of = |direction| {
            let sockets = self.sockets.iter();
            sockets.filter(|it| it.direction == direction).count() as u64
        };
        Directions {
            outbound: of(Direction::Outbound),
            inbound: of(Direction::Inbound),
        }
    }

    /// Those that are still open.
    pub(super) fn observe(&self, netns: &Netns) -> Vec<ExistingConnection> {
        let open = self.still_open(netns).unwrap_or_default();
        open.iter()
            .map(|older| ExistingConnection {
                local: older.socket.local,
                remote: older.socket.remote,
                direction: older.direction,
            })
            .collect()
    }

    /// Ends those that are still open; returns how many that were. What the kernel refuses is
    /// tried again at the next call.
    pub(super) fn close(&mut self, netns: &Netns) -> io::Result<usize> {
        self.close_where(netns, |_| true)
    }

    /// Ends those to ports that take no plaintext, likewise.
    pub(super) fn close_refused(
        &mut self,
        netns: &Netns,
        policy: &InboundPolicy,
    ) -> io::Result<usize> {
        self.close_where(netns, |older| {
            older.direction == Direction::Inbound
                && policy.mode(older.socket.local.port()) == MtlsMode::Strict
        })
    }

    fn close_where(
        &mut self,
        netns: &Netns,
        is_over: impl Fn(&Older) -> bool,
    ) -> io::Result<usize> {
        self.sockets = self.still_open(netns)?;
        let over = || self.sockets.iter().filter(|older| is_over(older));
        let count = over().count();
        if count > 0 {
            netns.within(|| over().try_for_each(|older| diag::destroy(&older.socket)))??;
            self.sockets.retain(|older| !is_over(older));
        }
        Ok(count)
    }

    fn still_open(&self, netns: &Netns) -> io::Result<Vec<Older>> {
        if self.sockets.is_empty() {
            return Ok(Vec::new());
        }
        let found = netns.within(diag::open_sockets)??;
        let mut open = self.sockets.clone();
        open.retain(|older| found.contains(&older.socket));
        Ok(open)
    }
}

/// The kernel's usual ones if it does not tell.
fn ephemeral_ports() -> RangeInclusive<u16> {
    let text = fs::read_to_string(EPHEMERAL_PORTS).unwrap_or_default();
    parse_ports(&text).unwrap_or(32_768..=60_999)
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ports = text.split_ascii_whitespace().map(str::parse);
    let (first, last) = (ports.next()?.ok()?, ports.next()?.ok()?);
    Some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_ports_is_read() {
        assert_eq!(parse_ports("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(parse_ports(""), None);
        assert_eq!(parse_ports("1 x"), None);
    }
}
