// SPDX-License-Identifier: Apache-2.0

//! Host names, visibility and durations, as Istio and the Gateway API write them.

use std::{sync::Arc, time::Duration};

pub(super) use crate::model::Visibility;

/// Composes the host name of a Service.
pub(super) fn hostname(namespace: &str, name: &str, domain: &str) -> Arc<str> {
    format!("{name}.{namespace}.svc.{domain}").into()
}

/// What a host in an object of `namespace` means: a name without a dot is a Service of that
/// namespace, everything else stands for itself (Istio's `ResolveShortnameToFQDN`).
pub(super) fn qualify(host: &str, namespace: &str, domain: &str) -> Arc<str> {
    let host = host.to_ascii_lowercase();
    if host.is_empty() || host.contains(['.', '*', ':']) {
        host.into()
    } else {
        hostname(namespace, &host, domain)
    }
}

/// Which host names an object is about. The greater, the more specific.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum HostPattern {
    /// `*`.
    Any,
    /// `*.x`: the length, and `.x`.
    Suffix(usize, Arc<str>),
    /// One name.
    Exact(Arc<str>),
}

impl HostPattern {
    /// Reads a host that was qualified.
    pub(super) fn new(host: &Arc<str>) -> Self {
        match host.strip_prefix('*') {
            Some("") => Self::Any,
            Some(suffix) => Self::Suffix(suffix.len(), suffix.into()),
            None => Self::Exact(Arc::clone(host)),
        }
    }

    pub(super) fn matches(&self, hostname: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Suffix(_, suffix) => hostname.ends_with(&**suffix),
            Self::Exact(host) => **host == *hostname,
        }
    }
}

/// Reads `1h30m`, `1.5s`, `250ms`, `0`; `None` if it is not of that form.
pub(super) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |end| digits + end);
        seconds += number
            * match &rest[digits..unit_end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_dot_is_a_service_of_the_same_namespace() {
        let check = |host: &str, want: &str| {
            assert_eq!(&*qualify(host, "shop", "cluster.local"), want);
        };
        check("web", "web.shop.svc.cluster.local");
        check("Web", "web.shop.svc.cluster.local");
        check("web.other", "web.other");
        check("*", "*");
        check("*.local", "*.local");
        check("fd00::1", "fd00::1");
    }

    #[test]
    fn an_exact_host_beats_a_wildcard_and_a_longer_wildcard_a_shorter() {
        let pattern = |host: &str| HostPattern::new(&host.into());
        assert!(pattern("a") > pattern("*.shop.svc.cluster.local"));
        assert!(pattern("*.shop.svc.cluster.local") > pattern("*.local"));
        assert!(pattern("*.local") > pattern("*"));
        assert!(pattern("*.local").matches("web.shop.svc.cluster.local"));
        assert!(!pattern("*.local").matches("local"));
    }

    #[test]
    fn an_object_is_seen_by_everyone_unless_it_says_otherwise() {
        let check = |export_to: &[&str], namespace: Option<&str>, want: bool| {
            let export_to: Vec<String> = export_to.iter().map(|text| (*text).to_owned()).collect();
            let visibility = Visibility::new(&export_to, &"own".into());
            assert_eq!(
                visibility.allows(namespace),
                want,
                "{export_to:?} {namespace:?}"
            );
        };
        check(&[], None, true);
        check(&["."], Some("own"), true);
        check(&["."], Some("other"), false);
        check(&["."], None, false);
        check(&["a", "b"], Some("b"), true);
        check(&["a", "*"], Some("c"), true);
        check(&["~", "*"], Some("own"), false);
    }

    #[test]
    fn durations_have_units() {
        let check = |text: &str, want: Option<u64>| {
            assert_eq!(duration(text), want.map(Duration::from_millis), "{text}");
        };
        check("1h30m", Some(5_400_000));
        check("1.5s", Some(1_500));
        check("250ms", Some(250));
        check("0s", Some(0));
        check("0", Some(0));
        check("5", None);
        check("", None);
        check("s", None);
        check("-1s", None);
        check("1d", None);
    }
}
