// SPDX-License-Identifier: Apache-2.0

//! Connections that a pod had before it was captured.
//!
//! They go around the mesh until they end, or until a deadline at which they are ended. Those that
//! others opened to a port that is STRICT are ended at once: there is no plaintext to such a port.
//! They are told by what the kernel knows of their sockets, so that an agent that adopts a pod finds
//! the same as the one that captured it, and what was let in while there was none. Connections
//! within the pod, and over interfaces that are not captured, are none of the mesh's business.
//!
//! They are listed when the programs are attached: whatever is opened around that moment is decided
//! about by the programs, or in the list. One that is only begun may go either way, and is followed
//! until it does.
//!
//! Invariant: a socket that was captured is never among them.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::IpAddr,
    ops::RangeInclusive,
};

use super::{
    accepts::Directions,
    diag::{self, OpenSocket},
    ledger::Direction,
    marks::{self, Marks},
    netns::Netns,
    observe::ExistingConnection,
    pins::Pins,
};
use crate::model::{InboundPolicy, MtlsMode};

/// Where the kernel takes ports from for those who connect. `/proc/sys/net` is that of the calling
/// thread.
const EPHEMERAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Those of one pod that are open as far as is known, and those that may yet be.
#[derive(Debug, Default)]
pub(super) struct Existing {
    sockets: Vec<Older>,
    /// Of all that were ever open.
    count: Directions,
    /// Nothing if there is nothing to look after.
    marks: Option<Marks>,
}

/// The addresses by which connections are told apart.
pub(super) struct Ends<'a> {
    /// The pod's: what is opened to them is captured.
    pub(super) pod: &'a [IpAddr],
    /// Those of the interface that is captured.
    pub(super) interface: &'a [IpAddr],
    /// All of the namespace's.
    pub(super) own: &'a [IpAddr],
}

#[derive(Clone, Debug)]
struct Older {
    socket: OpenSocket,
    direction: Direction,
    /// It was open when it was last looked at.
    is_open: bool,
}

impl Older {
    fn new(socket: OpenSocket, direction: Direction) -> Self {
        Self {
            is_open: socket.is_open(),
            socket,
            direction,
        }
    }

    fn is_decided(&self) -> bool {
        marks::is_decided(&self.socket, self.direction == Direction::Inbound)
    }

    /// Whether it would have been captured, had it been opened later.
    fn is_of_mesh(&self, ends: &Ends<'_>) -> bool {
        let local = self.socket.local.ip();
        let is_pods = ends.pod.contains(&local);
        let passes = match self.direction {
            Direction::Inbound => is_pods,
            Direction::Outbound => is_pods || ends.interface.contains(&local),
        };
        passes && !ends.own.contains(&self.socket.remote.ip())
    }
}

impl Existing {
    /// Lists them, in the pod's namespace, where everything is captured that is opened from now on.
    pub(super) fn list(pins: &Pins, ends: &Ends<'_>) -> io::Result<Self> {
        let marks = Marks::open(pins)?;
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
        let sockets = marks.connections()?.into_iter().map(|socket| {
            let direction = direction(&socket);
            Older::new(socket, direction)
        });
        let is_older =
            |it: &Older| it.is_of_mesh(ends) && !it.is_decided() && !marks.is_probe(&it.socket);
        let sockets: Vec<Older> = sockets.filter(is_older).collect();
        Ok(Self {
            count: open(&sockets, |_| true),
            marks: (!sockets.is_empty()).then_some(marks),
            sockets,
        })
    }

    /// How many there were, by direction.
    pub(super) fn count(&self) -> Directions {
        self.count
    }

    /// Those that are still open.
    pub(super) fn observe(&self, netns: &Netns) -> Vec<ExistingConnection> {
        let mut sockets = self.still_there(netns).unwrap_or_default();
        sockets.retain(|older| older.is_open);
        sockets
            .iter()
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
        is_meant: impl Fn(&Older) -> bool,
    ) -> io::Result<usize> {
        let begun = self.sockets.iter().filter(|older| !older.is_open);
        let begun: HashSet<u64> = begun.map(|older| older.socket.cookie()).collect();
        self.sockets = self.still_there(netns)?;
        if self.sockets.is_empty() {
            self.marks = None;
        }
        let is_new = |older: &Older| begun.contains(&older.socket.cookie());
        self.count = self.count + open(&self.sockets, is_new);
        let is_over = |older: &Older| older.is_open && is_meant(older);
        let over = || self.sockets.iter().filter(|older| is_over(older));
        let count = over().count();
        if count > 0 {
            netns.within(|| over().try_for_each(|older| diag::destroy(&older.socket)))??;
            self.sockets.retain(|older| !is_over(older));
        }
        Ok(count)
    }

    fn still_there(&self, netns: &Netns) -> io::Result<Vec<Older>> {
        let Some(marks) = &self.marks else {
            return Ok(Vec::new());
        };
        let found = netns.within(|| marks.connections())??;
        let mut found: HashMap<u64, OpenSocket> =
            found.into_iter().map(|it| (it.cookie(), it)).collect();
        let there = self.sockets.iter().filter_map(|older| {
            let socket = found.remove(&older.socket.cookie())?;
            Some(Older::new(socket, older.direction))
        });
        Ok(there.filter(|older| !older.is_decided()).collect())
    }
}

/// How many of some are open, by direction.
fn open(sockets: &[Older], is_meant: impl Fn(&Older) -> bool) -> Directions {
    let of = |direction| {
        let open = sockets.iter().filter(|it| it.is_open && is_meant(it));
        open.filter(|it| it.direction == direction).count() as u64
    };
    Directions {
        outbound: of(Direction::Outbound),
        inbound: of(Direction::Inbound),
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
