// SPDX-License-Identifier: Apache-2.0

//! Addresses that mean the node itself, or what only the node may ask.
//!
//! Who writes a URL into a policy has it fetched by the agent, from the node's network: that must not
//! reach what listens for the node alone, nor the cloud's metadata service, which trusts whoever reaches it.
//! Knows nothing of names: an address is judged when it is connected to.
//! Reference: RFC 6890, RFC 6052 section 2.1, and the clouds' documentation of their metadata services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is not to be asked on behalf of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// The node itself.
    Loopback,
    /// The link: the metadata services of most clouds.
    LinkLocal,
    /// None at all, which the kernel takes for the node itself.
    Unspecified,
    /// Many.
    Multicast,
    /// A cloud's metadata service at an address that looks like any other.
    Metadata,
}

/// Metadata services outside of the link: Alibaba, Azure, Oracle, and AWS over IPv6.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

impl Inner {
    /// What is special about `address`, if anything is.
    pub fn of(address: IpAddr) -> Option<Self> {
        let address = plain(address);
        if METADATA.contains(&address) {
            return Some(Self::Metadata);
        }
        match address {
            address if address.is_loopback() => Some(Self::Loopback),
            address if address.is_multicast() => Some(Self::Multicast),
            // All of 0.0.0.0/8 is "this host on this network".
            IpAddr::V4(v4) if v4.octets()[0] == 0 => Some(Self::Unspecified),
            IpAddr::V4(v4) if v4.is_broadcast() => Some(Self::Multicast),
            IpAddr::V4(v4) if v4.is_link_local() => Some(Self::LinkLocal),
            IpAddr::V6(v6) if v6.is_unspecified() => Some(Self::Unspecified),
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(Self::LinkLocal),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }

    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Unspecified => "no address of a host",
            Self::Multicast => "a multicast address",
            Self::Metadata => "the address of a cloud's metadata service",
        }
    }
}

/// The IPv4 address that an IPv6 one stands for, if it does: mapped, compatible, or by NAT64's prefix.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let octets = v6.octets();
    let embedded = Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]);
    match v6.segments() {
        // ::ffff:a.b.c.d, 64:ff9b::a.b.c.d
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => embedded.into(),
        // ::a.b.c.d, but not :: and ::1
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => embedded.into(),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, want: Option<Inner>) {
        assert_eq!(Inner::of(address.parse().unwrap()), want, "{address}");
    }

    #[test]
    fn the_node_and_its_link_are_inner_however_they_are_written() {
        for (address, want) in [
            ("127.0.0.1", Inner::Loopback),
            ("127.9.9.9", Inner::Loopback),
            ("::1", Inner::Loopback),
            ("::ffff:127.0.0.1", Inner::Loopback),
            ("::127.0.0.1", Inner::Loopback),
            ("64:ff9b::127.0.0.1", Inner::Loopback),
            ("169.254.169.254", Inner::LinkLocal),
            ("::ffff:169.254.169.254", Inner::LinkLocal),
            ("64:ff9b::169.254.169.254", Inner::LinkLocal),
            ("fe80::1", Inner::LinkLocal),
            ("febf::1", Inner::LinkLocal),
            ("0.0.0.0", Inner::Unspecified),
            ("0.1.2.3", Inner::Unspecified),
            ("::", Inner::Unspecified),
            ("::ffff:0.0.0.0", Inner::Unspecified),
            ("224.0.0.1", Inner::Multicast),
            ("255.255.255.255", Inner::Multicast),
            ("ff02::1", Inner::Multicast),
            ("100.100.100.200", Inner::Metadata),
            ("168.63.129.16", Inner::Metadata),
            ("fd00:ec2::254", Inner::Metadata),
        ] {
            check(address, Some(want));
        }
    }

    #[test]
    fn other_addresses_are_not() {
        for address in [
            "10.0.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "172.16.0.1",
            "8.8.8.8",
            "fd00::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "fec0::1",
        ] {
            check(address, None);
        }
    }
}
