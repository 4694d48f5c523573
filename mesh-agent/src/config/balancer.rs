// SPDX-License-Identifier: Apache-2.0

//! `loadBalancer`, checked and compiled.
//!
//! Reference: Istio `pkg/config/validation` (`validateLoadBalancer`).

use std::sync::Arc;

use http::HeaderName;

use super::{
    facts::Findings,
    gaps,
    istio::{ConsistentHash, HttpCookie, LoadBalancer, Simple},
    resolve,
};
use crate::model::{
    Balancer,
    hashing::{HashCookie, HashKey, HashPolicy, TableKind},
};

/// The largest tables that are made.
const MAX_RING: u64 = 1_048_576;
const MAX_MAGLEV: u64 = 5_000_011;

/// Compiles `loadBalancer`; `None` if nothing of it counts.
pub(super) fn read(
    written: &LoadBalancer,
    path: &str,
    findings: &mut Findings,
) -> Option<Balancer> {
    let fields = [(gaps::ZONE_AWARE, written.zone_aware_lb_setting)];
    findings.gaps(path, &fields);
    if written.simple.is_some() && written.consistent_hash.is_some() {
        findings.reject(
            path,
            "simple and consistentHash exclude each other",
            "choose one",
        );
        return None;
    }
    if let Some(hash) = &written.consistent_hash {
        let path = format!("{path}.consistentHash");
        return self::hash(hash, &path, findings).map(Balancer::Hash);
    }
    match written.simple? {
        Simple::RoundRobin => Some(Balancer::RoundRobin),
        Simple::Random => Some(Balancer::Random),
        Simple::LeastConn | Simple::LeastRequest | Simple::Unspecified => {
            Some(Balancer::LeastRequest)
        }
        Simple::Passthrough => Some(Balancer::Original),
    }
}

fn hash(written: &ConsistentHash, path: &str, findings: &mut Findings) -> Option<HashPolicy> {
    let header = written.http_header_name.as_deref();
    let query = written.http_query_parameter_name.as_deref();
    let cookie = written.http_cookie.as_ref();
    let key = match (header, cookie, written.use_source_ip, query) {
        (Some(name), None, false, None) => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => HashKey::Header(name),
            Err(_) => {
                let text = format!("{name:?} is not a header name");
                findings.reject(format!("{path}.httpHeaderName"), text, "correct it");
                return None;
            }
        },
        (None, Some(cookie), false, None) => {
            let path = format!("{path}.httpCookie");
            HashKey::Cookie(Arc::new(self::cookie(cookie, &path, findings)?))
        }
        (None, None, true, None) => HashKey::Source,
        (None, None, false, Some(name)) => HashKey::Query(name.into()),
        _ => {
            let text = "exactly one of httpHeaderName, httpCookie, useSourceIp and \
                        httpQueryParameterName must be set";
            findings.reject(path, text, "choose one");
            return None;
        }
    };
    let table = table(written, path, findings)?;
    Some(HashPolicy { key, table })
}

fn cookie(written: &HttpCookie, path: &str, findings: &mut Findings) -> Option<HashCookie> {
    let plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b';' | b',' | b'"'))
    };
    let named = !written.name.is_empty() && !written.name.contains('=') && plain(&written.name);
    if !named || !plain(&written.path) {
        let text = "name and path must be visible ASCII without separators";
        findings.reject(path, text, "correct them");
        return None;
    }
    let ttl = match written.ttl.as_deref() {
        None => None,
        Some(text) => match resolve::duration(text) {
            Some(ttl) => Some(ttl),
            None => {
                let said = format!("{text:?} is not a duration");
                findings.reject(format!("{path}.ttl"), said, "write it as 60s");
                return None;
            }
        },
    };
    let mut attributes = Vec::with_capacity(written.attributes.len());
    for (index, one) in written.attributes.iter().enumerate() {
        if one.name.is_empty() || one.name.contains('=') || !plain(&one.name) || !plain(&one.value)
        {
            let text = "name and value must be visible ASCII without separators";
            findings.reject(format!("{path}.attributes[{index}]"), text, "correct them");
            return None;
        }
        attributes.push((one.name.clone(), one.value.clone()));
    }
    Some(HashCookie {
        name: written.name.clone(),
        path: written.path.clone(),
        ttl,
        attributes,
    })
}

fn table(written: &ConsistentHash, path: &str, findings: &mut Findings) -> Option<TableKind> {
    let mut refuse = |field: &str, text: &str| {
        findings.reject(format!("{path}.{field}"), text, "correct it");
        None
    };
    match (&written.ring_hash, &written.maglev) {
        (Some(_), Some(_)) => refuse("maglev", "ringHash and maglev exclude each other"),
        (None, Some(maglev)) => {
            let size = maglev.table_size.unwrap_or(65_537);
            match u32::try_from(size) {
                Ok(small) if size <= MAX_MAGLEV && is_prime(size) => Some(TableKind::Maglev(small)),
                _ => refuse("maglev.tableSize", "not a prime up to 5000011"),
            }
        }
        (ring, None) => {
            let own = ring.as_ref().and_then(|ring| ring.minimum_ring_size);
            let size = own.or(written.minimum_ring_size).unwrap_or(1024);
            match u32::try_from(size) {
                Ok(small) if size <= MAX_RING => Some(TableKind::Ring(small)),
                _ => refuse("ringHash.minimumRingSize", "more than 1048576"),
            }
        }
    }
}

fn is_prime(number: u64) -> bool {
    let divides = |divisor: &u64| number.is_multiple_of(*divisor);
    number > 1
        && !(2..)
            .take_while(|divisor| divisor * divisor <= number)
            .any(|divisor| divides(&divisor))
}
