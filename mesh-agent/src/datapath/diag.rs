// SPDX-License-Identifier: Apache-2.0

//! TCP sockets of the calling thread's namespace: listing them, with their tags, and ending a
//! connection.
//!
//! Ending is what a reset by the peer would be to the application (`ECONNABORTED`); it needs
//! `CONFIG_INET_DIAG_DESTROY` and `CAP_NET_ADMIN`.
//!
//! Reference: sock_diag(7), `include/uapi/linux/{inet_diag,sock_diag}.h`; socket storage since 5.7.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use mesh_common::{Address, Endpoint, Tag};
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

/// Asks for storage (`INET_DIAG_REQ_SK_BPF_STORAGES`), of a map (`SK_DIAG_BPF_STORAGE_REQ_MAP_FD`).
const ASK_STORAGES: u16 = 2;
const ASK_MAP: u16 = 1;
/// Tells storage (`INET_DIAG_SK_BPF_STORAGES`), of a map (`SK_DIAG_BPF_STORAGE`), and what is in it
/// (`SK_DIAG_BPF_STORAGE_MAP_VALUE`).
const STORAGES: u16 = 20;
const STORAGE: u16 = 1;
const STORAGE_VALUE: u16 = 3;
/// A flag of kinds of attributes.
const NESTED: u16 = 1 << 15;

/// What the kernel tells about a socket: `struct inet_diag_msg` up to its identity.
const STATE_AT: usize = HEADER_BYTES + 1;
const TIMER_AT: usize = HEADER_BYTES + 2;
const ID_AT: usize = HEADER_BYTES + 4;
const ID_BYTES: usize = 48;
/// What waits in the receive queue, behind the identity and a timer.
const QUEUE_AT: usize = ID_AT + ID_BYTES + 4;
/// Attributes, behind both queues, the user and the inode.
const ATTRIBUTES_AT: usize = QUEUE_AT + 16;
/// In the identity the cookie, its lower half first.
const COOKIE_AT: usize = 40;

/// A message about a socket has no fewer bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) const SHORTEST: usize = ID_AT + ID_BYTES;

/// States in which a connection is one to both ends: established, and half closed.
const OPEN_STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8;

/// States in which a connection is still being made, by either end.
const BEGUN_STATES: u32 = 1 << 2 | 1 << 3;

/// States in which a connection is over for one of its ends, and not for the other.
const ENDING_STATES: u32 = 1 << 9 | 1 << 11;

/// The timer of what is left of a socket that its owner has closed: no tag is told of it, and whatever still
/// comes is refused. The kernel gives it the state that the socket had, and this is another.
const REMNANT_TIMER: u8 = 3;
const REMNANT_STATE: u8 = 6;

/// The state of a listener.
const LISTENING: u32 = 1 << 10;

/// A TCP socket of a namespace.
#[derive(Clone, Debug)]
pub(super) struct OpenSocket {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// Of a listener, the connections that nobody has accepted yet.
    pub(super) waiting: u32,
    /// What it is to the mesh, if that was asked for and something was decided about it.
    pub(super) tag: Option<Tag>,
    state: u8,
    family: u8,
    /// `struct inet_diag_sockid`, whose cookie no other socket ever has.
    id: [u8; ID_BYTES],
}

/// The connections, open or about to be, in both families, with what is in the maps of `tags` of
/// each; but for those on the loopback interface.
pub(super) fn connections(tags: &[OwnedFd]) -> io::Result<Vec<OpenSocket>> {
    let states = OPEN_STATES | BEGUN_STATES | ENDING_STATES;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        dump(family, states, tags, &mut found)?;
    }
    found.retain(|socket| !socket.remote.ip().is_loopback());
    Ok(found)
}

/// The listeners, in both families.
pub(super) fn listeners() -> io::Result<Vec<OpenSocket>> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        dump(family, LISTENING, &[], &mut found)?;
    }
    Ok(found)
}

impl OpenSocket {
    /// Whether it is open for both of its ends.
    pub(super) fn is_open(&self) -> bool {
        self.is_in(OPEN_STATES)
    }

    /// Whether it is still to be open.
    pub(super) fn is_begun(&self) -> bool {
        self.is_in(BEGUN_STATES)
    }

    fn is_in(&self, states: u32) -> bool {
        let of_state = 1_u32.checked_shl(self.state.into()).unwrap_or(0);
        states & of_state != 0
    }

    /// Its cookie, which it has from its first packet on.
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

fn dump(family: u8, states: u32, tags: &[OwnedFd], found: &mut Vec<OpenSocket>) -> io::Result<()> {
    let mut netlink = connect()?;
    let mut message = Message::new(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP);
    message.raw(&[family, TCP, 0, 0]);
    message.raw(&states.to_ne_bytes());
    message.raw(&[0; ID_BYTES]);
    if !tags.is_empty() {
        message.nested(ASK_STORAGES, |message| {
            for map in tags {
                message.attribute(ASK_MAP, &map.as_raw_fd().to_ne_bytes());
            }
        });
    }
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
        tag: tag(message.get(ATTRIBUTES_AT..).unwrap_or_default()),
        state: match *message.get(TIMER_AT)? {
            REMNANT_TIMER => REMNANT_STATE,
            _ => *message.get(STATE_AT)?,
        },
        family,
        id,
    })
}

/// The first tag among what the kernel tells of a socket.
fn tag(told: &[u8]) -> Option<Tag> {
    let (_, storages) = attributes(told).find(|(kind, _)| *kind == STORAGES)?;
    attributes(storages)
        .filter(|(kind, _)| *kind == STORAGE)
        .flat_map(|(_, storage)| attributes(storage))
        .filter(|(kind, _)| *kind == STORAGE_VALUE)
        .find_map(|(_, value)| read_tag(value))
}

/// A tag as the programs write it; none if it is another version's, of another size.
fn read_tag(bytes: &[u8]) -> Option<Tag> {
    let bytes: &[u8; size_of::<Tag>()] = bytes.try_into().ok()?;
    let (words, _) = bytes.as_chunks::<4>();
    let [_, address @ .., port] = words else {
        return None;
    };
    let words_be: [[u8; 4]; 4] = address.try_into().ok()?;
    Some(Tag {
        kind: bytes[0],
        reserved: [0; 3],
        destination: Endpoint {
            address: Address {
                words_be: words_be.map(u32::from_ne_bytes),
            },
            port: u32::from_ne_bytes(*port),
        },
    })
}

/// Kinds and values, up to one that is cut short.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let number = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let (length, kind) = (usize::from(number(0)?), number(2)? & !NESTED);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use mesh_common::TagKind;

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
        told_with(family, local, remote, &[])
    }

    fn told_with(
        family: u8,
        local: (&[u8], u16),
        remote: (&[u8], u16),
        attributes: &[u8],
    ) -> Vec<u8> {
        let mut body = vec![family, 1, 0, 0];
        body.extend(local.1.to_be_bytes());
        body.extend(remote.1.to_be_bytes());
        for (address, _) in [local, remote] {
            let mut octets = address.to_vec();
            octets.resize(16, 0);
            body.extend(octets);
        }
        body.extend([0; 12 + 20]);
        body.extend(attributes);
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

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[track_caller]
    fn check_tag(attributes: &[u8], want: Option<(TagKind, u32)>) {
        let ends = (&[10, 0, 0, 2][..], 40_000);
        let answer = told_with(AF_INET, ends, ends, attributes);
        let mut found = Vec::new();
        assert!(parse(&answer, &mut found).unwrap());
        let tag = found[0]
            .tag
            .map(|tag| (TagKind(tag.kind), tag.destination.port));
        assert_eq!(tag, want);
    }

    #[test]
    fn a_sockets_tag_is_read_from_its_storage() {
        let mut value = vec![1, 0, 0, 0];
        value.extend([0; 16]);
        value.extend(80_u32.to_ne_bytes());
        let of_map = |value: &[u8]| {
            let told = [attribute(2, &[7, 0, 0, 0]), attribute(STORAGE_VALUE, value)];
            attribute(STORAGE | NESTED, &told.concat())
        };
        let storages = |all: &[Vec<u8>]| attribute(STORAGES | NESTED, &all.concat());
        let captured = Some((TagKind::CAPTURED, 80));
        check_tag(&storages(&[of_map(&value)]), captured);
        let before = [attribute(8, &[0]), storages(&[of_map(&value)])];
        check_tag(&before.concat(), captured);
        // Another version's may be of another size.
        check_tag(&storages(&[of_map(&value[4..]), of_map(&value)]), captured);
        check_tag(&storages(&[of_map(&value[4..])]), None);
        check_tag(&storages(&[]), None);
        check_tag(&[], None);
        check_tag(&storages(&[of_map(&value)])[..30], None);
    }

    #[test]
    fn what_is_left_of_a_closed_socket_is_not_open() {
        const FIN_WAIT2: u8 = 5;
        let ends = (&[10, 0, 0, 2][..], 40_000);
        for (timer, is_open) in [(0, true), (2, true), (REMNANT_TIMER, false)] {
            let mut answer = told(AF_INET, ends, ends);
            (answer[STATE_AT], answer[TIMER_AT]) = (FIN_WAIT2, timer);
            let mut found = Vec::new();
            assert!(parse(&answer, &mut found).unwrap());
            assert_eq!((found[0].is_open(), found[0].is_begun()), (is_open, false));
        }
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
