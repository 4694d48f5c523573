// SPDX-License-Identifier: Apache-2.0

//! Addresses and tuples, one form for IPv4 and IPv6, and the byte-order quirks of contexts.
//!
//! An address is four 32-bit words in network byte order, as the kernel's contexts give them; an
//! IPv4 address is its v4-mapped form. Ports are 32 bits wide, in host order.

use core::net::{IpAddr, Ipv6Addr};

/// An IP address; IPv4 as `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Address {
    /// The address, in network byte order.
    pub words_be: [u32; 4],
}
const _: () = assert!(size_of::<Address>() == 16);

impl Address {
    /// The address that no socket has; marks an unused slot, and stands for every address where a map
    /// says so.
    pub const NONE: Self = Self { words_be: [0; 4] };

    /// An IPv4 address from its word in network byte order.
    #[inline(always)]
    pub const fn from_v4_be(word_be: u32) -> Self {
        Self {
            words_be: [0, 0, 0xffff_u32.to_be(), word_be],
        }
    }

    /// An IPv6 address from its words in network byte order.
    #[inline(always)]
    pub const fn from_v6_be(words_be: [u32; 4]) -> Self {
        Self { words_be }
    }

    /// Whether it is in `127.0.0.0/8` or is `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        let [a, b, c, d] = self.words_be;
        let v4 = c == 0xffff_u32.to_be() && u32::from_be(d) >> 24 == 127;
        let v6 = c == 0 && d == 1_u32.to_be();
        a == 0 && b == 0 && (v4 || v6)
    }

    /// Whether both are the same address. (`==` compiles to `bcmp`, which kernels lack.)
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        let [a, b, c, d] = self.words_be;
        let [e, f, g, h] = other.words_be;
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        let octets = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut words_be = [0; 4];
        let (chunks, _) = octets.as_chunks::<4>();
        for (word, chunk) in words_be.iter_mut().zip(chunks) {
            *word = u32::from_ne_bytes(*chunk);
        }
        Self { words_be }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        let mut octets = [0; 16];
        let (chunks, _) = octets.as_chunks_mut::<4>();
        for (chunk, word) in chunks.iter_mut().zip(address.words_be) {
            *chunk = word.to_ne_bytes();
        }
        Ipv6Addr::from(octets).to_canonical()
    }
}

/// An address and a port; port 0 stands for every port where a map says so.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port, in host order.
    pub port: u32,
}
const _: () = assert!(size_of::<Endpoint>() == 20);

impl Endpoint {
    /// An endpoint as a map key.
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self {
            address: address.into(),
            port: port.into(),
        }
    }
}

/// A connection, seen from the side that opened it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Tuple {
    /// Who opened it.
    pub source: Endpoint,
    /// Whom it was opened to.
    pub destination: Endpoint,
}
const _: () = assert!(size_of::<Tuple>() == 40);

/// The local port of a sock_ops context, whose field is in host order.
#[inline(always)]
pub const fn sock_ops_local_port(field: u32) -> u32 {
    field
}

/// The remote port of a sock_ops context, whose field holds it in network order in the *upper*
/// half of a big-endian word: `u32::from_be` gives the port in host order.
#[inline(always)]
pub const fn sock_ops_remote_port(field: u32) -> u32 {
    u32::from_be(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, words: [u32; 4]) {
        let ip: IpAddr = text.parse().expect("addresses in these tests parse");
        let want = Address {
            words_be: words.map(u32::to_be),
        };
        assert_eq!(Address::from(ip), want, "{text}");
        assert_eq!(IpAddr::from(want), ip, "{text}");
    }

    #[test]
    fn both_families_share_one_form() {
        check("10.244.0.2", [0, 0, 0xffff, 0x0af4_0002]);
        check("fd00:244::3", [0xfd00_0244, 0, 0, 3]);
        let v4 = Address::from_v4_be(0x0af4_0002_u32.to_be());
        assert_eq!(IpAddr::from(v4), IpAddr::from([10, 244, 0, 2]));
    }

    #[test]
    fn loopback_is_known_in_both_families() {
        for (text, want) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("128.0.0.1", false),
            ("::", false),
            ("::2", false),
            ("7f00::", false),
            ("fd00::1", false),
        ] {
            let ip: IpAddr = text.parse().expect("addresses in these tests parse");
            assert_eq!(Address::from(ip).is_loopback(), want, "{text}");
        }
    }

    #[test]
    fn sameness_looks_at_every_word() {
        let base = Address { words_be: [1; 4] };
        assert!(base.is(&base));
        for index in 0..4 {
            let mut other = base;
            other.words_be[index] = 2;
            assert!(!base.is(&other), "word {index}");
        }
    }

    #[test]
    fn a_sock_ops_context_has_its_remote_port_in_network_order() {
        // The kernel stores sk_dport (16 bits, network order) shifted into the word that reads as
        // htonl(port) on a little-endian machine.
        assert_eq!(sock_ops_remote_port(8080_u32.to_be()), 8080);
        assert_eq!(sock_ops_local_port(8080), 8080);
    }
}
