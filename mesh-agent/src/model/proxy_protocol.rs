// SPDX-License-Identifier: Apache-2.0

//! The header by which an endpoint learns who its client is: PROXY protocol, versions 1 and 2.
//!
//! Knows nothing of connections. Reference: HAProxy `doc/proxy-protocol.txt`, sections 2.1 and 2.2.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, on behalf of a client.
const PROXIED: u8 = 0x21;

/// Streams over IPv4 and IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Which version of the header a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Bytes.
    V2,
}

impl ProxyProtocol {
    /// The header of a connection from `client` that it opened to `to`.
    pub fn header(self, client: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let (source, destination) = (client.ip().to_canonical(), to.ip().to_canonical());
        let ports = (client.port(), to.port());
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => match self {
                Self::V1 => text("TCP4", source.into(), destination.into(), ports),
                Self::V2 => {
                    let addresses = [source.octets(), destination.octets()].concat();
                    bytes(TCP4, &addresses, ports)
                }
            },
            _ => {
                let (source, destination) = (widened(source), widened(destination));
                match self {
                    Self::V1 => text("TCP6", source.into(), destination.into(), ports),
                    Self::V2 => {
                        let addresses = [source.octets(), destination.octets()].concat();
                        bytes(TCP6, &addresses, ports)
                    }
                }
            }
        }
    }
}

fn widened(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn text(family: &str, source: IpAddr, destination: IpAddr, ports: (u16, u16)) -> Vec<u8> {
    let (from, to) = ports;
    format!("PROXY {family} {source} {destination} {from} {to}\r\n").into_bytes()
}

fn bytes(family: u8, addresses: &[u8], (from, to): (u16, u16)) -> Vec<u8> {
    let length = u16::try_from(addresses.len() + 4).expect("two addresses and two ports");
    let mut header = SIGNATURE.to_vec();
    header.extend([PROXIED, family]);
    header.extend(length.to_be_bytes());
    header.extend(addresses);
    header.extend(from.to_be_bytes());
    header.extend(to.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn version_1_is_a_line() {
        let header = |client, to| {
            let header = ProxyProtocol::V1.header(at(client), at(to));
            String::from_utf8(header).expect("text")
        };
        assert_eq!(
            header("10.1.0.2:4711", "10.96.0.1:80"),
            "PROXY TCP4 10.1.0.2 10.96.0.1 4711 80\r\n"
        );
        assert_eq!(
            header("[::ffff:10.1.0.2]:4711", "10.96.0.1:80"),
            "PROXY TCP4 10.1.0.2 10.96.0.1 4711 80\r\n"
        );
        assert_eq!(
            header("[fd00::2]:4711", "[fd00::1]:80"),
            "PROXY TCP6 fd00::2 fd00::1 4711 80\r\n"
        );
    }

    #[test]
    fn version_2_is_bytes() {
        let header = ProxyProtocol::V2.header(at("10.1.0.2:258"), at("10.96.0.1:80"));
        let mut want = SIGNATURE.to_vec();
        want.extend([0x21, 0x11, 0, 12, 10, 1, 0, 2, 10, 96, 0, 1, 1, 2, 0, 80]);
        assert_eq!(header, want);
        let header = ProxyProtocol::V2.header(at("[fd00::2]:258"), at("[fd00::1]:80"));
        assert_eq!(header.len(), 16 + 36);
        assert_eq!(header[12..16], [0x21, 0x21, 0, 36]);
    }
}
