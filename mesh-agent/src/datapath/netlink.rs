// SPDX-License-Identifier: Apache-2.0

//! The few rtnetlink requests that capture needs, in the calling thread's namespace.
//!
//! Per pod namespace: a rule that sends marked packets to a table in which every address is local
//! (both families), and, on kernels without tcx, a clsact qdisc with one filter per direction at
//! a fixed priority and handle, so that a new program replaces the old one in place.
//!
//! Every addition says whether the thing was missing, which is how a pod that deleted it is
//! noticed. Written by hand: six message types do not pay for a family of crates.
//!
//! Reference: rtnetlink(7), `include/uapi/linux/{rtnetlink,fib_rules,pkt_sched,pkt_cls}.h`.

use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd},
};

use mesh_common::{CAPTURE_MARK, CAPTURE_RULE_PREFERENCE, CAPTURE_TABLE};
use socket2::{Domain, Protocol, Socket, Type};

const RTM_SETLINK: u16 = 19;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
/// The kind of an answer that is an error, or success.
pub(super) const NLMSG_ERROR: u16 = 2;
/// The length of `struct nlmsghdr`.
pub(super) const HEADER_BYTES: usize = 16;

/// The loopback interface's index, the same in every namespace.
const LOOPBACK: u32 = 1;
/// The filter's priority and handle: fixed, so that nobody ever adds a second one.
const FILTER_PRIORITY: u32 = 1;
const FILTER_HANDLE: u32 = 1;
const ETH_P_ALL: u16 = 3;

/// An address family of rules and routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// A side of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

impl Direction {
    /// The clsact parent: `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_{INGRESS,EGRESS})`.
    fn parent(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }
}

/// Adds the rule and the route of one family. Returns how many of the two were missing.
pub(super) fn ensure_capture_route(family: Family) -> io::Result<u64> {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let rule = was_missing(request(rule_message(RTM_NEWRULE, flags, family)))?;
    let route = was_missing(request(route_message(RTM_NEWROUTE, flags, family)))?;
    Ok(u64::from(rule) + u64::from(route))
}

/// Removes the rule and the route of one family; missing ones are no error.
pub(super) fn remove_capture_route(family: Family) -> io::Result<()> {
    was_there(request(rule_message(RTM_DELRULE, 0, family)))?;
    was_there(request(route_message(RTM_DELROUTE, 0, family)))
}

/// Sets whether the loopback interface accepts packets whose source is local. In a container
/// `/proc/sys` cannot be written, whatever its capabilities; this way needs `CAP_NET_ADMIN` only.
pub(super) fn set_accept_local(on: bool) -> io::Result<()> {
    request(accept_local_message(on))
}

/// Puts `program` at our place in the filters of an interface, in place of an earlier one.
pub(super) fn replace_filter(
    interface: u32,
    direction: Direction,
    program: impl AsFd,
    name: &str,
) -> io::Result<()> {
    was_missing(request(qdisc_message(interface)))?;
    request(filter_message(
        NLM_F_CREATE,
        interface,
        direction,
        program,
        name,
    ))
}

/// Puts the filter back if it is missing; returns whether it was.
pub(super) fn ensure_filter(
    interface: u32,
    direction: Direction,
    program: impl AsFd,
    name: &str,
) -> io::Result<bool> {
    was_missing(request(qdisc_message(interface)))?;
    was_missing(request(filter_message(
        NLM_F_CREATE | NLM_F_EXCL,
        interface,
        direction,
        program,
        name,
    )))
}

/// Removes our filter; a missing one, or a missing interface, is no error.
pub(super) fn remove_filter(interface: u32, direction: Direction) -> io::Result<()> {
    let mut message = Message::new(RTM_DELTFILTER, 0);
    message.traffic_control(interface, direction.parent(), FILTER_HANDLE);
    message.text(1, "bpf");
    was_there(request(message))
}

/// Removes our filters of both directions, if there are any.
pub(super) fn remove_filters(interface: u32) -> io::Result<()> {
    remove_filter(interface, Direction::Ingress)?;
    remove_filter(interface, Direction::Egress)
}

fn rule_message(kind: u16, flags: u16, family: Family) -> Message {
    const FR_ACT_TO_TBL: u8 = 1;
    const FRA_PRIORITY: u16 = 6;
    const FRA_FWMARK: u16 = 10;
    const FRA_TABLE: u16 = 15;
    const FRA_FWMASK: u16 = 16;
    let mut message = Message::new(kind, flags);
    message.raw(&[family.number(), 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL]);
    message.raw(&0_u32.to_ne_bytes());
    message.number(FRA_PRIORITY, CAPTURE_RULE_PREFERENCE);
    message.number(FRA_FWMARK, CAPTURE_MARK);
    message.number(FRA_FWMASK, u32::MAX);
    message.number(FRA_TABLE, CAPTURE_TABLE);
    message
}

fn route_message(kind: u16, flags: u16, family: Family) -> Message {
    const RTPROT_STATIC: u8 = 4;
    const RT_SCOPE_HOST: u8 = 254;
    const RTN_LOCAL: u8 = 2;
    const RTA_OIF: u16 = 4;
    const RTA_TABLE: u16 = 15;
    let mut message = Message::new(kind, flags);
    let scope = match family {
        Family::V4 => RT_SCOPE_HOST,
        Family::V6 => 0,
    };
    message.raw(&[family.number(), 0, 0, 0, 0, RTPROT_STATIC, scope, RTN_LOCAL]);
    message.raw(&0_u32.to_ne_bytes());
    message.number(RTA_OIF, LOOPBACK);
    message.number(RTA_TABLE, CAPTURE_TABLE);
    message
}

fn accept_local_message(on: bool) -> Message {
    const AF_INET: u16 = 2;
    const IFLA_AF_SPEC: u16 = 26;
    const IFLA_INET_CONF: u16 = 1;
    const IPV4_DEVCONF_ACCEPT_LOCAL: u16 = 23;
    let mut message = Message::new(RTM_SETLINK, 0);
    message.raw(&[0; 4]);
    message.raw(&LOOPBACK.to_ne_bytes());
    message.raw(&[0; 8]);
    message.nested(IFLA_AF_SPEC, |families| {
        families.nested(AF_INET, |inet| {
            inet.nested(IFLA_INET_CONF, |settings| {
                settings.number(IPV4_DEVCONF_ACCEPT_LOCAL, u32::from(on));
            });
        });
    });
    message
}

fn qdisc_message(interface: u32) -> Message {
    const TC_H_CLSACT: u32 = 0xffff_fff1;
    let mut message = Message::new(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL);
    message.raw(&[0; 4]);
    message.raw(&interface.to_ne_bytes());
    message.raw(&0xffff_0000_u32.to_ne_bytes());
    message.raw(&TC_H_CLSACT.to_ne_bytes());
    message.raw(&0_u32.to_ne_bytes());
    message.text(1, "clsact");
    message
}

fn filter_message(
    flags: u16,
    interface: u32,
    direction: Direction,
    program: impl AsFd,
    name: &str,
) -> Message {
    const TCA_OPTIONS: u16 = 2;
    const TCA_BPF_FD: u16 = 6;
    const TCA_BPF_NAME: u16 = 7;
    const TCA_BPF_FLAGS: u16 = 8;
    const DIRECT_ACTION: u32 = 1;
    let program = program.as_fd().as_raw_fd();
    let mut message = Message::new(RTM_NEWTFILTER, flags);
    message.traffic_control(interface, direction.parent(), FILTER_HANDLE);
    message.text(1, "bpf");
    message.nested(TCA_OPTIONS, |options| {
        options.attribute(TCA_BPF_FD, &program.to_ne_bytes());
        options.text(TCA_BPF_NAME, name);
        options.number(TCA_BPF_FLAGS, DIRECT_ACTION);
    });
    message
}

/// Turns "it exists" into `false`, and success into `true`.
fn was_missing(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Turns "there is none" into success.
fn was_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EINVAL)
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// A request under construction.
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// One of this kind that is answered.
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut message = Self {
            bytes: Vec::with_capacity(128),
        };
        message.raw(&[0; 4]);
        message.raw(&kind.to_ne_bytes());
        message.raw(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        message.raw(&[0; 8]);
        message
    }

    /// Appends to it.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// `struct tcmsg` of our filter: the information word is priority and protocol.
    fn traffic_control(&mut self, interface: u32, parent: u32, handle: u32) {
        let information = FILTER_PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
        self.raw(&[0; 4]);
        self.raw(&interface.to_ne_bytes());
        self.raw(&handle.to_ne_bytes());
        self.raw(&parent.to_ne_bytes());
        self.raw(&information.to_ne_bytes());
    }

    /// Appends an attribute.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).expect("attributes here are short");
        self.raw(&length.to_ne_bytes());
        self.raw(&kind.to_ne_bytes());
        self.raw(value);
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Appends an attribute that consists of others.
    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self { bytes: Vec::new() };
        fill(&mut inner);
        self.attribute(kind, &inner.bytes);
    }

    /// Its bytes, with their length.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("messages here are short");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

/// Sends a request and waits for its acknowledgement.
fn request(message: Message) -> io::Result<()> {
    let socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(libc::NETLINK_ROUTE)),
    )?;
    (&socket).write_all(&message.finish())?;
    let mut buffer = [0; 4096];
    let read = (&socket).read(&mut buffer)?;
    acknowledgement(&buffer[..read])
}

/// The answer is one NLMSG_ERROR with a negative error number, or zero.
pub(super) fn acknowledgement(answer: &[u8]) -> io::Result<()> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = answer.get(4..6).ok_or_else(malformed)?;
    let code = answer
        .get(HEADER_BYTES..HEADER_BYTES + 4)
        .ok_or_else(malformed)?;
    let kind = u16::from_ne_bytes(kind.try_into().expect("two bytes were taken"));
    let code = i32::from_ne_bytes(code.try_into().expect("four bytes were taken"));
    match (kind, code) {
        (NLMSG_ERROR, 0) => Ok(()),
        // The least number has no opposite; no kernel says it.
        (NLMSG_ERROR, error) => Err(io::Error::from_raw_os_error(error.wrapping_neg())),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: i32) -> Vec<u8> {
        let mut bytes = vec![36, 0, 0, 0];
        bytes.extend(NLMSG_ERROR.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(code.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_message_says_its_length_and_aligns_its_attributes() {
        let mut message = Message::new(RTM_NEWRULE, 0);
        message.text(1, "bpf");
        message.number(2, 7);
        message.attribute(3, &[1]);
        let bytes = message.finish();
        assert_eq!(bytes.len(), 16 + 8 + 8 + 8);
        assert_eq!(bytes[..4], 40_u32.to_ne_bytes());
        assert_eq!(bytes[16..24], [8, 0, 1, 0, b'b', b'p', b'f', 0]);
        assert_eq!(bytes[32..], [5, 0, 3, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn an_acknowledgement_is_read() {
        assert!(acknowledgement(&answer(0)).is_ok());
        let error = acknowledgement(&answer(-libc::EEXIST)).expect_err("an error was sent");
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
        assert!(acknowledgement(&[1, 2, 3]).is_err());
    }

    #[test]
    fn what_exists_is_not_missing() {
        let exists = || Err(io::Error::from_raw_os_error(libc::EEXIST));
        assert!(!was_missing(exists()).expect("it exists"));
        assert!(was_missing(Ok(())).expect("it was added"));
        assert!(was_there(Err(io::Error::from_raw_os_error(libc::ENOENT))).is_ok());
        assert!(was_there(exists()).is_err());
    }
}
