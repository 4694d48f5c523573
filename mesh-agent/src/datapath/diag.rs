// SPDX-License-Identifier: Apache-2.0

//! TCP sockets of the calling thread's namespace: listing them, and ending a connection.
//!
//! Ending is what a reset by the peer would be to the application (`ECONNABORTED`); it needs
//! `CONFIG_INET_DIAG_DESTROY` and `CAP_NET_ADMIN`.
//!
//! Reference: sock_diag(7), `include/uapi/linux/inet_diag.h`.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::netlink::{self, HEADER_BYTES, Message, NLMSG_ERROR};

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_DONE: u16 = 3;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;

/// What the kernel tells about a socket: `struct inet_diag_msg` up to its identity.
const ID_AT: usize = HEADER_BYTES + 4;
const ID_BYTES: usize = 48;
/// What waits in the receive queue, behind the identity and a timer.
const QUEUE_AT: usize = ID_AT + ID_BYTES + 4;
/// In the identity the cookie, its lower half first.
const COOKIE_AT: usize = 40;

/// A message about a socket has no fewer bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) const SHORTEST: usize = ID_AT + ID_BYTES;

/// States in which a connection is one to both ends: established, and half closed. A connection
/// that is still being made is decided about when its SYN is sent again.
const OPEN_STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8;

/// The state of a listener.
const LISTENING: u32 = 1 << 10;

/// A TCP socket of a namespace.
#[derive(Clone, Debug)]
pub(super) struct OpenSocket {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// Of a listener, the connections that nobody has accepted yet.
    pub(super) waiting: u32,
    family: u8,
    /// `struct inet_diag_sockid`, whose cookie no other socket ever has.
    id: [u8; ID_BYTES],
}

/// The connections that are open, in both families, but for those on the loopback interface.
pub(super) fn open_sockets() -> io::Result<Vec<OpenSocket>> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        dump(family, OPEN_STATES, &mut found)?;
    }
    found.retain(|socket| !socket.remote.ip().is_loopback());
    Ok(found)
}

/// The listeners, in both families.
pub(super) fn listeners() -> io::Result<Vec<OpenSocket>> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        dump(family, LISTENING, &mut found)?;
    }
    Ok(found)
}

/// What it holds does not make it another.
impl PartialEq for OpenSocket {
    fn eq(&self, other: &Self) -> bool {
        (self.family, self.id) == (other.family, other.id)
    }
}

impl OpenSocket {
    /// Its cookie.
    pub(super) fn cookie(&self) -> u64 {
        let half = |at: usize| {
            let bytes = self.id[at..at + 4].try_into().expect("four bytes");
            u64::from(u32::from_ne_bytes(bytes))
        };
        half(COOKIE_AT) | half(COOKIE_AT + 4) << 32
    }
}

/// Ends a connection.
pub(super) fn destroy(socket: &OpenSocket) -> io::Result<()> {
    let mut netlink = connect()?;
    let mut message = Message::new(SOCK_DESTROY, 0);
    message.raw(&[socket.family, TCP, 0, 0]);
    message.raw(&u32::MAX.to_ne_bytes());
    message.raw(&socket.id);
    netlink.write_all(&message.finish())?;
    let mut answer = [0; 4096];
    let read = netlink.read(&mut answer)?;
    netlink::acknowledgement(&answer[..read])
}

fn connect() -> io::Result<Socket> {
    Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(NETLINK_SOCK_DIAG)),
    )
}

fn dump(family: u8, states: u32, found: &mut Vec<OpenSocket>) -> io::Result<()> {
    let mut netlink = connect()?;
    let mut message = Message::new(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP);
    message.raw(&[family, TCP, 0, 0]);
    message.raw(&states.to_ne_bytes());
    message.raw(&[0; ID_BYTES]);
    netlink.write_all(&message.finish())?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = netlink.read(&mut buffer)?;
        if read == 0 || !parse(&buffer[..read], found)? {
            return Ok(());
        }
    }
}

/// Reads the messages of one answer; false after the last.
pub(super) fn parse(mut bytes: &[u8], found: &mut Vec<OpenSocket>) -> io::Result<bool> {
    while let Some((length, kind)) = header(bytes) {
        let Some(message) = bytes.get(..length) else {
            break;
        };
        match kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                netlink::acknowledgement(message)?;
                return Ok(false);
            }
            _ => found.extend(socket(message)),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    (length >= HEADER_BYTES).then_some((length, kind))
}

fn socket(message: &[u8]) -> Option<OpenSocket> {
    let family = *message.get(HEADER_BYTES)?;
    let id: [u8; ID_BYTES] = message.get(ID_AT..ID_AT + ID_BYTES)?.try_into().ok()?;
    let port = |at: usize| Some(u16::from_be_bytes(id.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| -> Option<IpAddr> {
        if family == AF_INET {
            let octets: [u8; 4] = id.get(at..at + 4)?.try_into().ok()?;
            return Some(Ipv4Addr::from(octets).into());
        }
        let octets: [u8; 16] = id.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).to_canonical())
    };
    Some(OpenSocket {
        local: SocketAddr::new(address(4)?, port(0)?),
        remote: SocketAddr::new(address(20)?, port(2)?),
        waiting: match message.get(QUEUE_AT..QUEUE_AT + 4) {
            Some(bytes) => u32::from_ne_bytes(bytes.try_into().ok()?),
            None => 0,
        },
        family,
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    fn told(family: u8, local: (&[u8], u16), remote: (&[u8], u16)) -> Vec<u8> {
        let mut body = vec![family, 1, 0, 0];
        body.extend(local.1.to_be_bytes());
        body.extend(remote.1.to_be_bytes());
        for (address, _) in [local, remote] {
            let mut octets = address.to_vec();
            octets.resize(16, 0);
            body.extend(octets);
        }
        body.extend([0; 12 + 20]);
        message(SOCK_DIAG_BY_FAMILY, &body)
    }

    #[test]
    fn the_kernels_answer_is_read_to_its_end() {
        let mut answer = told(AF_INET, (&[10, 0, 0, 2], 40_000), (&[10, 0, 0, 3], 80));
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2];
        answer.extend(told(AF_INET6, (&mapped, 40_001), (&mapped, 81)));
        answer.extend(message(NLMSG_DONE, &[0; 4]));
        let mut found = Vec::new();
        assert!(!parse(&answer, &mut found).unwrap());
        let ends: Vec<_> = found
            .iter()
            .map(|socket| (socket.local.to_string(), socket.remote.to_string()))
            .collect();
        let want = [
            ("10.0.0.2:40000", "10.0.0.3:80"),
            ("10.0.0.2:40001", "10.0.0.2:81"),
        ];
        assert_eq!(ends, want.map(|(one, other)| (one.into(), other.into())));
    }

    #[test]
    fn an_answer_without_an_end_goes_on() {
        let part = told(AF_INET, (&[10, 0, 0, 2], 1), (&[10, 0, 0, 3], 2));
        assert!(parse(&part, &mut Vec::new()).unwrap());
        assert!(parse(&part[..30], &mut Vec::new()).unwrap());
    }

    #[test]
    fn an_error_is_told() {
        let refused = message(NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes());
        let error = parse(&refused, &mut Vec::new()).expect_err("it was refused");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}
