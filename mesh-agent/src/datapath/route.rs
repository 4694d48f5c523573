// SPDX-License-Identifier: Apache-2.0

//! What a pod's namespace needs beside programs, and what can be read of it.
//!
//! Marked packets are sent to a table in which every address is local, in both families; IPv4 also
//! refuses packets on the loopback interface whose source is local, unless `accept_local` is set.
//! A privileged pod can take all that away, which makes its captured connections fail (never
//! escape) until it is put back.
//!
//! Every function works in the calling thread's namespace.

use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{
    attach::Interface,
    netlink::{self, Family},
    sys,
};

/// What the loopback interface accepts. `/proc/sys/net` is that of the calling thread.
const ACCEPT_LOCAL: &str = "/proc/sys/net/ipv4/conf/lo/accept_local";
const IPV6: &str = "/proc/sys/net/ipv6";

/// Where a namespace is captured if no interface carries the pod's address.
const USUAL_INTERFACE: &str = "eth0";

const TCP_LISTEN: &str = "0A";
const TCP_TIME_WAIT: &str = "06";

/// The addresses of a namespace, from its interfaces.
#[derive(Debug)]
pub(super) struct Addresses {
    all: Vec<sys::InterfaceAddress>,
}

impl Addresses {
    /// Reads them.
    pub(super) fn read() -> io::Result<Self> {
        sys::interface_addresses().map(|all| Self { all })
    }

    /// The interface that carries one of `pod`'s addresses, else the one that the namespace
    /// reaches others by, else `eth0`.
    pub(super) fn interface_of(&self, pod: &[IpAddr]) -> io::Result<Interface> {
        let of = |is_it: &dyn Fn(&IpAddr) -> bool| {
            let found = self.all.iter().find(|entry| is_it(&entry.address));
            found.map(|entry| entry.interface.as_str())
        };
        let outward = || default_interface().filter(|name| !self.global_of(name).is_empty());
        let name = match of(&|address| pod.contains(address)) {
            Some(name) => name.to_owned(),
            None => outward()
                .or_else(|| of(&is_global).map(str::to_owned))
                .unwrap_or_else(|| USUAL_INTERFACE.to_owned()),
        };
        let index = sys::interface_index(&name)?;
        Ok(Interface { name, index })
    }

    /// The addresses of an interface that others may reach.
    pub(super) fn global_of(&self, interface: &str) -> Vec<IpAddr> {
        self.all
            .iter()
            .filter(|entry| entry.interface == interface)
            .map(|entry| entry.address)
            .filter(is_global)
            .collect()
    }

    /// Every one, loopback and all.
    pub(super) fn all(&self) -> Vec<IpAddr> {
        self.all.iter().map(|entry| entry.address).collect()
    }

    /// Whether others may reach the namespace at all.
    pub(super) fn has_global(&self) -> bool {
        self.all.iter().any(|entry| is_global(&entry.address))
    }

    /// Whether one of `pod`'s addresses is here.
    pub(super) fn has_any(&self, pod: &[IpAddr]) -> bool {
        self.all.iter().any(|entry| pod.contains(&entry.address))
    }

    /// The indices of all interfaces that have an address.
    pub(super) fn interfaces(&self) -> Vec<u32> {
        let mut names: Vec<&str> = self
            .all
            .iter()
            .map(|entry| entry.interface.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .filter_map(|name| sys::interface_index(name).ok())
            .collect()
    }

    /// Addresses that are neither `pod`'s nor loopback.
    pub(super) fn others(&self, pod: &[IpAddr]) -> Vec<IpAddr> {
        self.all
            .iter()
            .map(|entry| entry.address)
            .filter(|address| !address.is_loopback() && !pod.contains(address))
            .collect()
    }
}

/// Neither of the host alone nor of a link alone.
fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

/// The interface of the default route: `Iface Destination Gateway Flags ... Mask` for IPv4,
/// `destination length ... interface` for IPv6.
fn default_interface() -> Option<String> {
    let v4 = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    parse_default_v4(&v4).or_else(|| parse_default_v6(&v6))
}

fn parse_default_v4(text: &str) -> Option<String> {
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        is_default.then(|| (*fields[0]).to_owned())
    })
}

fn parse_default_v6(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_default = fields.get(1) == Some(&"00") && fields.get(3) == Some(&"00");
        let interface = fields.last().filter(|name| is_default && **name != "lo")?;
        Some((*interface).to_owned())
    })
}

/// Adds what is missing; returns how much was.
pub(super) fn ensure() -> io::Result<u64> {
    let mut missing = netlink::ensure_capture_route(Family::V4)?;
    if has_ipv6() {
        missing += netlink::ensure_capture_route(Family::V6)?;
    }
    if !is_accept_local_on()? {
        netlink::set_accept_local(true)?;
        missing += 1;
    }
    Ok(missing)
}

/// Whether `lo.accept_local` is on.
pub(super) fn is_accept_local_on() -> io::Result<bool> {
    Ok(fs::read_to_string(ACCEPT_LOCAL)?.trim() == "1")
}

/// Removes what [`ensure`] added; `accept_local` only if it was off before.
pub(super) fn remove(accept_local_was_off: bool) -> io::Result<()> {
    netlink::remove_capture_route(Family::V4)?;
    if has_ipv6() {
        netlink::remove_capture_route(Family::V6)?;
    }
    if accept_local_was_off {
        netlink::set_accept_local(false)?;
    }
    Ok(())
}

/// Whether the namespace has IPv6 on its loopback interface, which the route needs.
pub(super) fn has_ipv6() -> bool {
    fs::read_to_string(format!("{IPV6}/conf/lo/disable_ipv6"))
        .is_ok_and(|disabled| disabled.trim() == "0")
}

/// The local ends of all TCP sockets that have a peer, but for those in TIME_WAIT.
pub(super) fn local_ends() -> io::Result<HashSet<SocketAddr>> {
    let mut ends = parse_sockets(&fs::read_to_string("/proc/thread-self/net/tcp")?);
    if let Ok(text) = fs::read_to_string("/proc/thread-self/net/tcp6") {
        ends.extend(parse_sockets(&text));
    }
    Ok(ends)
}

fn parse_sockets(text: &str) -> HashSet<SocketAddr> {
    text.lines().skip(1).filter_map(parse_socket).collect()
}

/// A line of `/proc/net/tcp{,6}`: `sl local remote state ...`, addresses as words in host order.
fn parse_socket(line: &str) -> Option<SocketAddr> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next()?;
    let state = fields.nth(1)?;
    if state == TCP_LISTEN || state == TCP_TIME_WAIT {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = Vec::with_capacity(16);
    for start in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(start..start + 8)?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    let address: IpAddr = match octets.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_of_sockets_is_read() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            0: 0200F40A:1F90 0300F40A:A3C2 01 00000000:00000000 00:00000000\n\
            1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000\n\
            2: 0200F40A:1F91 0300F40A:A3C2 06 00000000:00000000 00:00000000\n";
        let ends = parse_sockets(text);
        assert_eq!(ends, HashSet::from([([10, 244, 0, 2], 8080).into()]));
        let mapped = "  sl\n 0: 0000000000000000FFFF00000200F40A:1F90 \
            0000000000000000FFFF00000300F40A:A3C2 01 0\n";
        assert_eq!(parse_sockets(mapped), ends);
    }

    #[test]
    fn the_default_route_names_an_interface() {
        let v4 = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
            net1 0000A00A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
            eth0 00000000 0101F40A 0003 0 0 0 00000000 0 0 0\n";
        assert_eq!(parse_default_v4(v4).as_deref(), Some("eth0"));
        assert_eq!(parse_default_v4("Iface\n"), None);
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo\n\
             {zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 1 0 00000003 eth1\n"
        );
        assert_eq!(parse_default_v6(&v6).as_deref(), Some("eth1"));
    }

    #[test]
    fn the_interface_is_the_one_with_the_pods_address() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let addresses = Addresses::read().expect("addresses can be listed");
        let interface = addresses
            .interface_of(&[loopback])
            .expect("every namespace has a loopback interface");
        assert_eq!((interface.name.as_str(), interface.index), ("lo", 1));
        assert!(!addresses.others(&[]).contains(&loopback));
    }
}
