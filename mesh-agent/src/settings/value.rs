// SPDX-License-Identifier: Apache-2.0

//! Parsers of flag values. Their errors are sentences that follow `invalid value 'x' for '--flag'`.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

/// Kubernetes' limit for names (RFC 1123 subdomain).
const NAME_MAX: usize = 253;

/// More data threads than any node needs.
const THREADS_MAX: usize = 256;

/// Renewal happens at half of a certificate's life, and its times have whole seconds.
const CERT_TTL_MIN: Duration = Duration::from_secs(2);

/// A number with a unit, or several: `24h`, `1m30s`, `500ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || "expected numbers with units ms, s, m, h or d, such as 500ms, 2s or 1h30m".to_owned();
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.len()
            - tail
                .trim_start_matches(|c: char| c.is_ascii_lowercase())
                .len();
        let (unit, tail) = tail.split_at(letters);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_not_a_number| wrong())?;
        total = number
            .checked_mul(unit_ms)
            .and_then(|part_ms| total.checked_add(Duration::from_millis(part_ms)))
            .ok_or_else(|| "longer than can be counted".to_owned())?;
        rest = tail;
    }
    Ok(total)
}

/// A certificate's life.
pub(super) fn cert_ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if ttl < CERT_TTL_MIN {
        return Err(format!("must be at least {}s", CERT_TTL_MIN.as_secs()));
    }
    Ok(ttl)
}

/// A host name or address with a port, as in `ca.example:15012` or `[::1]:15012`.
pub(super) fn host_port(text: &str) -> Result<String, String> {
    let wrong = || "expected HOST:PORT, such as mesh-agent-ca.mesh-system.svc:15012".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let is_bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    let port_is_good = port.parse::<u16>().is_ok_and(|port| port > 0);
    if host.is_empty() || is_bare_v6 || !port_is_good {
        return Err(wrong());
    }
    Ok(text.to_owned())
}

/// A node's name: also part of paths, so nothing but what Kubernetes allows.
pub(super) fn node_name(text: &str) -> Result<String, String> {
    name(text).map(|()| text.to_owned())
}

/// A service account: `NAMESPACE/NAME`.
pub(super) fn service_account(text: &str) -> Result<(String, String), String> {
    let wrong = || "expected NAMESPACE/NAME, such as mesh-system/mesh-agent".to_owned();
    let (namespace, account) = text.split_once('/').ok_or_else(wrong)?;
    name(namespace)?;
    name(account)?;
    Ok((namespace.to_owned(), account.to_owned()))
}

/// A DNS domain without a final dot.
pub(super) fn domain(text: &str) -> Result<String, String> {
    name(text).map(|()| text.to_owned())
}

fn name(text: &str) -> Result<(), String> {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    if text.len() <= NAME_MAX && text.split('.').all(is_label) {
        Ok(())
    } else {
        Err("expected a DNS name: lower-case letters, digits, '-' and '.'".to_owned())
    }
}

/// A number of threads.
pub(super) fn threads(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(threads) if threads.get() <= THREADS_MAX => Ok(threads),
        _ => Err(format!("expected a number from 1 to {THREADS_MAX}")),
    }
}

/// An address that only this host reaches: metrics and readiness have no authentication.
pub(super) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_not_an_address| "expected ADDRESS:PORT, such as 127.0.0.1:15020".to_owned())?;
    if address.ip().to_canonical().is_loopback() {
        Ok(address)
    } else {
        Err("must be a loopback address (127.0.0.0/8 or [::1]): it answers anyone".to_owned())
    }
}
