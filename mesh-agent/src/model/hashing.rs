// SPDX-License-Identifier: Apache-2.0

//! The same key goes to the same endpoint, whichever node asks, as long as that endpoint is there.
//!
//! Knows nothing of where keys come from but a request's head and source. Tables are made from
//! addresses alone, so that all nodes make the same. Reference: Envoy `ring_hash`, `maglev`
//! (Eisenbud et al., "Maglev", NSDI 2016); Istio `ConsistentHashLB`.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, Uri, header::COOKIE};

use super::{condition::parameters, service::Endpoint};

/// What of a request is its key, and by which table endpoints are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashPolicy {
    /// What is the key.
    pub key: HashKey,
    /// Which table.
    pub table: TableKind,
}

/// What of a request is its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The values of a header.
    Header(HeaderName),
    /// A cookie.
    Cookie(Arc<HashCookie>),
    /// The client's address.
    Source,
    /// The first value of a query parameter.
    Query(Arc<str>),
}

/// A cookie that keeps a client at its endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// Where it is valid.
    pub path: String,
    /// How long; made here for clients without one unless `None`, for a session if zero.
    pub ttl: Option<Duration>,
    /// What else is said when it is given: names, and their values unless empty.
    pub attributes: Vec<(String, String)>,
}

/// How a table is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// A ring with at least so many places.
    Ring(u32),
    /// Maglev's, of so many entries: a prime.
    Maglev(u32),
}

/// The key of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// This.
    Is(u64),
    /// It has none, and should be given a cookie.
    Wanted,
    /// It has none: any endpoint will do.
    None,
}

/// Endpoints by key.
#[derive(Clone, Debug)]
pub enum Table {
    /// Places in order, each with its endpoint's index.
    Ring(Arc<[(u64, u16)]>),
    /// Indices of endpoints.
    Maglev(Arc<[u16]>),
}

impl HashPolicy {
    /// The key of a request with these headers and target, sent from `source`.
    pub fn key(&self, headers: &HeaderMap, uri: &Uri, source: IpAddr) -> Key {
        let of = |found: Option<u64>| found.map_or(Key::None, Key::Is);
        match &self.key {
            HashKey::Header(name) => {
                let values = headers.get_all(name).iter();
                let hash = |hash, value: &http::HeaderValue| more(hash, value.as_bytes());
                of(headers
                    .contains_key(name)
                    .then(|| finish(values.fold(SEED, hash))))
            }
            HashKey::Source => of(Some(hash(&octets(source)))),
            HashKey::Query(name) => {
                let query = uri.query().unwrap_or_default();
                let mut pairs = parameters(query);
                of(pairs
                    .find(|(key, _)| **key == **name)
                    .map(|(_, value)| hash(value.as_bytes())))
            }
            HashKey::Cookie(cookie) => match cookie.find(headers) {
                Some(value) => Key::Is(hash(value.as_bytes())),
                None if cookie.ttl.is_some() => Key::Wanted,
                None => Key::None,
            },
        }
    }
}

impl HashCookie {
    fn find<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let lines = headers.get_all(COOKIE).iter();
        let pairs = lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        let mut found = pairs.filter(|(name, _)| *name == self.name);
        found.next().map(|(_, value)| value.trim_matches('"'))
    }

    /// The `Set-Cookie` that gives a client `value`, and the key that it has from then on.
    pub fn give(&self, value: &str) -> (String, u64) {
        let mut said = format!("{}=\"{value}\"", self.name);
        match self.ttl {
            Some(ttl) if !ttl.is_zero() => said.push_str(&format!("; Max-Age={}", ttl.as_secs())),
            _ => {}
        }
        if !self.path.is_empty() {
            said.push_str(&format!("; Path={}", self.path));
        }
        for (name, value) in &self.attributes {
            let equals = if value.is_empty() { "" } else { "=" };
            said.push_str(&format!("; {name}{equals}{value}"));
        }
        said.push_str("; HttpOnly");
        (said, hash(value.as_bytes()))
    }
}

impl Table {
    /// A table of `endpoints`; at most 65,535 of them are in it.
    pub fn new(kind: TableKind, endpoints: &[Endpoint]) -> Self {
        let count = endpoints.len().min(usize::from(u16::MAX));
        let names: Vec<String> = endpoints[..count]
            .iter()
            .map(|endpoint| endpoint.address.to_string())
            .collect();
        let weights = endpoints[..count].iter().map(|endpoint| endpoint.weight);
        let weights: Vec<u32> = weights.collect();
        match kind {
            TableKind::Ring(size) => Self::Ring(ring(size, &names, &weights).into()),
            TableKind::Maglev(size) => Self::Maglev(maglev(size, &names, &weights).into()),
        }
    }

    /// The indices of endpoints for `key`, the right one first; an index may come more than once.
    pub fn find(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let (length, first) = match self {
            Self::Ring(places) => {
                let first = places.partition_point(|(place, _)| *place < key);
                (places.len(), first)
            }
            Self::Maglev(entries) => {
                let length = u64::try_from(entries.len()).expect("a table's length fits u64");
                let first = usize::try_from(key % length.max(1));
                (entries.len(), first.expect("less than the table's length"))
            }
        };
        (first..length).chain(0..first).map(|place| match self {
            Self::Ring(places) => usize::from(places[place].1),
            Self::Maglev(entries) => usize::from(entries[place]),
        })
    }
}

/// As many places for each name as it takes to have `size` of them, rounded up so that the number
/// seldom changes when a name comes or goes: then all others keep their places. Names that weigh more or
/// less than the average have more or fewer.
fn ring(size: u32, names: &[String], weights: &[u32]) -> Vec<(u64, u16)> {
    let size = usize::try_from(size).expect("a u32 fits usize");
    let each = size.div_ceil(names.len().max(1)).next_power_of_two();
    let mut places = Vec::with_capacity(each * names.len());
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let of = |weight: u32| {
        let all = u128::from(weight) * each as u128 * names.len() as u128;
        usize::try_from(all / u128::from(sum.max(1)))
            .unwrap_or(each)
            .max(1)
    };
    for (index, (name, weight)) in (0_u16..).zip(names.iter().zip(weights)) {
        let place = |nth| (hash(format!("{name}_{nth}").as_bytes()), index);
        places.extend((0..of(*weight)).map(place));
    }
    places.sort_unstable();
    places
}

/// Names take entries in turn, each the next free one of its own order; the heaviest in each turn, others in
/// as many as they weigh beside it.
fn maglev(size: u32, names: &[String], weights: &[u32]) -> Vec<u16> {
    const FREE: u16 = u16::MAX;
    let size = u64::from(size.max(2));
    if names.is_empty() {
        return Vec::new();
    }
    let order = |name: &String| {
        let first = hash(name.as_bytes());
        let second = finish(more(first, name.as_bytes()));
        (first % size, second % (size - 1) + 1)
    };
    let mut next: Vec<(u64, u64)> = names.iter().map(order).collect();
    let length = usize::try_from(size).expect("a u32 fits usize");
    let mut entries = vec![FREE; length];
    let mut left = length;
    let heaviest = weights.iter().copied().max().unwrap_or(1);
    let mut credits = vec![0_u64; names.len()];
    loop {
        let turns = next.iter_mut().zip(weights.iter().zip(&mut credits));
        for (index, ((place, step), (weight, credit))) in (0_u16..).zip(turns) {
            *credit += u64::from(*weight);
            match credit.checked_sub(u64::from(heaviest)) {
                Some(rest) => *credit = rest,
                None => continue,
            }
            let slot = loop {
                let slot = usize::try_from(*place).expect("less than the size");
                *place = (*place + *step) % size;
                if entries[slot] == FREE {
                    break slot;
                }
            };
            entries[slot] = index;
            left -= 1;
            if left == 0 {
                return entries;
            }
        }
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(four) => four.to_ipv6_mapped().octets(),
        IpAddr::V6(six) => six.octets(),
    }
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, bits mixed at the end: the same on every machine and in every version.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    finish(more(SEED, bytes))
}

fn more(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(hash, step)
}

fn finish(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::HeaderValue;

    use super::*;

    fn endpoints(count: u8) -> Vec<Endpoint> {
        let endpoint = |last| Endpoint {
            address: ([10, 0, 0, last], 80).into(),
            workload: None,
            place: None,
            tls: None,
            proxy_protocol: None,
            upkeep: None,
            weight: 1,
            load: Arc::default(),
        };
        (1..=count).map(endpoint).collect()
    }

    /// The address that each of 10,000 keys finds.
    fn owners(kind: TableKind, endpoints: &[Endpoint]) -> Vec<std::net::SocketAddr> {
        let table = Table::new(kind, endpoints);
        let owner = |key: u64| table.find(hash(&key.to_be_bytes())).next();
        let found = (0..10_000_u64).filter_map(owner);
        found.map(|index| endpoints[index].address).collect()
    }

    #[test]
    fn keys_are_spread_over_all_endpoints() {
        for (kind, tolerance) in [
            (TableKind::Ring(8192), 400),
            (TableKind::Maglev(65_537), 150),
        ] {
            let mut counts: BTreeMap<_, usize> = BTreeMap::new();
            for owner in owners(kind, &endpoints(5)) {
                *counts.entry(owner).or_default() += 1;
            }
            assert_eq!(counts.len(), 5);
            for count in counts.values() {
                assert!(count.abs_diff(2_000) < tolerance, "{kind:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn keys_are_spread_as_endpoints_weigh() {
        for (kind, tolerance) in [
            (TableKind::Ring(8192), 600),
            (TableKind::Maglev(65_537), 150),
        ] {
            let mut endpoints = endpoints(3);
            endpoints[0].weight = 8;
            let heavy = endpoints[0].address;
            let found = owners(kind, &endpoints);
            let count = found.iter().filter(|owner| **owner == heavy).count();
            assert!(count.abs_diff(8_000) < tolerance, "{kind:?}: {count}");
        }
    }

    #[test]
    fn an_endpoint_that_leaves_moves_its_own_keys_only() {
        for (kind, moved) in [(TableKind::Ring(1024), 0), (TableKind::Maglev(65_537), 500)] {
            let (all, mut fewer) = (endpoints(5), endpoints(5));
            let gone = fewer.remove(2).address;
            let (before, after) = (owners(kind, &all), owners(kind, &fewer));
            let others = before.iter().zip(&after);
            let others = others.filter(|(old, new)| **old != gone && old != new);
            assert!(others.count() <= moved, "{kind:?}");
        }
    }

    #[test]
    fn an_empty_table_finds_nobody() {
        for kind in [TableKind::Ring(1024), TableKind::Maglev(65_537)] {
            assert_eq!(Table::new(kind, &[]).find(7).next(), None);
        }
    }

    #[track_caller]
    fn check(key: HashKey, request: &str, line: Option<(&'static str, &'static str)>, want: Key) {
        let policy = HashPolicy {
            key,
            table: TableKind::Ring(1024),
        };
        let headers = line.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let headers = headers.map(|(name, value)| (HeaderName::from_static(name), value));
        let headers = headers.into_iter().collect();
        let uri = request.parse().unwrap();
        let source = IpAddr::from([10, 1, 0, 9]);
        assert_eq!(policy.key(&headers, &uri, source), want, "{policy:?}");
    }

    #[test]
    fn the_key_is_what_the_policy_names() {
        let is = |text: &str| Key::Is(hash(text.as_bytes()));
        let header = HashKey::Header(HeaderName::from_static("x-user"));
        check(header.clone(), "/", Some(("x-user", "ann")), is("ann"));
        check(header, "/", None, Key::None);
        let query = HashKey::Query("user".into());
        check(query.clone(), "/?a=b&user=an%6e", None, is("ann"));
        check(query, "/?a=b", None, Key::None);
        let cookie = |ttl| {
            HashKey::Cookie(Arc::new(HashCookie {
                name: "user".into(),
                path: "/".into(),
                ttl,
                attributes: Vec::new(),
            }))
        };
        let line = Some(("cookie", "a=b; user=\"ann\""));
        check(cookie(None), "/", line, is("ann"));
        check(cookie(None), "/", None, Key::None);
        check(cookie(Some(Duration::ZERO)), "/", None, Key::Wanted);
        let source = hash(&octets(IpAddr::from([10, 1, 0, 9])));
        check(HashKey::Source, "/", None, Key::Is(source));
    }

    #[test]
    fn a_cookie_is_given_with_its_time_and_path() {
        let attributes = [("SameSite", "Lax"), ("Secure", "")];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let attributes = attributes.to_vec();
        let give = |ttl, attributes: &Vec<(String, String)>| {
            let cookie = HashCookie {
                name: "user".into(),
                path: "/shop".into(),
                ttl: Some(Duration::from_secs(ttl)),
                attributes: attributes.clone(),
            };
            cookie.give("k7").0
        };
        let none = Vec::new();
        assert_eq!(
            give(60, &none),
            "user=\"k7\"; Max-Age=60; Path=/shop; HttpOnly"
        );
        assert_eq!(give(0, &none), "user=\"k7\"; Path=/shop; HttpOnly");
        assert_eq!(
            give(0, &attributes),
            "user=\"k7\"; Path=/shop; SameSite=Lax; Secure; HttpOnly"
        );
    }
}
