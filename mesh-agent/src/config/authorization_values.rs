// SPDX-License-Identifier: Apache-2.0

//! Compiles the lists of values in an AuthorizationPolicy.
//!
//! Knows nothing of what the lists are about. Invariant: each value is compiled, or rejected by
//! name.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    facts::Findings,
    problem::{Severity, code},
};
use crate::model::authorization::{Clause, Pattern};

/// The trust domain that manifests name whatever the mesh's own is.
const ANY_MESH: &str = "cluster.local";

/// What is wrong with a value, and what to do.
type Fault = (String, &'static str);

/// A field and its `not` counterpart, as they are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lists<'a> {
    parent: &'a str,
    name: &'a str,
    any: &'a [String],
    none: &'a [String],
}

impl<'a> Lists<'a> {
    /// The fields `name` and `notName` of `parent`.
    pub(super) fn new(
        parent: &'a str,
        name: &'a str,
        any: &'a [String],
        none: &'a [String],
    ) -> Self {
        Self {
            parent,
            name,
            any,
            none,
        }
    }

    /// `values` and `notValues`.
    pub(super) fn of_condition(parent: &'a str, any: &'a [String], none: &'a [String]) -> Self {
        Self::new(parent, "values", any, none)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }

    /// Whether some values are asked for.
    pub(super) fn wants(&self) -> bool {
        !self.any.is_empty()
    }

    /// Whether some values are excluded.
    pub(super) fn excludes(&self) -> bool {
        !self.none.is_empty()
    }

    /// The path of the field that is written.
    pub(super) fn field(&self) -> String {
        if self.wants() {
            format!("{}.{}", self.parent, self.name)
        } else {
            self.not_field()
        }
    }

    /// The path of the `not` field.
    pub(super) fn not_field(&self) -> String {
        let mut letters = self.name.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        let first = first.into_iter().collect::<String>();
        format!("{}.not{first}{}", self.parent, letters.as_str())
    }

    /// Compiles each value by `make`.
    pub(super) fn compile<T>(
        self,
        findings: &mut Findings,
        make: impl Fn(&str) -> Result<T, Fault>,
    ) -> Clause<T> {
        let mut all = |texts: &[String], field: &str| {
            let mut made = Vec::with_capacity(texts.len());
            for (index, text) in texts.iter().enumerate() {
                let field = format!("{field}[{index}]");
                if text.is_empty() {
                    findings.reject(field, "must not be empty", "write a value or remove it");
                    continue;
                }
                match make(text) {
                    Ok(value) => made.push(value),
                    Err((text, fix)) => findings.reject(field, text, fix),
                }
            }
            made
        };
        Clause {
            any: all(self.any, &format!("{}.{}", self.parent, self.name)),
            none: all(self.none, &self.not_field()),
        }
    }
}

/// Texts with stars.
pub(super) fn patterns(lists: Lists<'_>, findings: &mut Findings) -> Clause<Pattern> {
    starred(lists, findings).compile(findings, |text| Ok(Pattern::new(text)))
}

/// The lists as they are: but a star that is no wildcard was probably meant as one.
pub(super) fn starred<'a>(lists: Lists<'a>, findings: &mut Findings) -> Lists<'a> {
    let sides = [
        (lists.any, format!("{}.{}", lists.parent, lists.name)),
        (lists.none, lists.not_field()),
    ];
    for (texts, field) in sides {
        for (index, text) in texts.iter().enumerate() {
            let inner = text.strip_prefix('*').or(text.strip_suffix('*'));
            let is_template = text.contains('{');
            if inner.unwrap_or(text).contains('*') && !is_template {
                findings.add(
                    Severity::Warning,
                    code::SCHEMA,
                    format!("{field}[{index}]"),
                    format!("{text:?} has a star that stands for itself alone"),
                    "a star matches anything at one end of a value only",
                );
            }
        }
    }
    lists
}

/// `<trust domain>/ns/<namespace>/sa/<service account>`; `cluster.local` stands for the mesh's own
/// trust domain.
pub(super) fn principals(
    lists: Lists<'_>,
    trust_domain: &str,
    findings: &mut Findings,
) -> Clause<Pattern> {
    starred(lists, findings).compile(findings, |text| {
        if text.starts_with("spiffe://") {
            let fix = "remove spiffe://";
            return Err((format!("{text:?} must begin with the trust domain"), fix));
        }
        let rest = text.strip_prefix(ANY_MESH);
        let rest = rest.filter(|rest| rest.starts_with('/') || *rest == "*");
        Ok(match rest {
            Some(rest) => Pattern::new(&format!("{trust_domain}{rest}")),
            None => Pattern::new(text),
        })
    })
}

/// `<namespace>/<service account>`, or a service account of the policy's own namespace.
pub(super) fn accounts(
    lists: Lists<'_>,
    namespace: &str,
    findings: &mut Findings,
) -> Clause<String> {
    lists.compile(findings, |text| {
        let parts: Vec<&str> = text.split('/').collect();
        let fix = "write NAMESPACE/SERVICEACCOUNT, or SERVICEACCOUNT";
        if text.contains('*') {
            return Err((format!("{text:?} has a star, which nothing matches"), fix));
        }
        match parts.as_slice() {
            [account] => Ok(format!("{namespace}/{account}")),
            [namespace, account] if !namespace.is_empty() && !account.is_empty() => {
                Ok(text.to_owned())
            }
            _ => Err((format!("{text:?} is no service account"), fix)),
        }
    })
}

/// Addresses and networks.
pub(super) fn networks(lists: Lists<'_>, findings: &mut Findings) -> Clause<IpNet> {
    lists.compile(findings, |text| {
        let address = text.parse::<IpAddr>();
        let network = address.map(|address| IpNet::from(address.to_canonical()));
        network
            .or_else(|_no_address| text.parse::<IpNet>())
            .map_err(|error| {
                let fix = "write it as 10.0.0.1 or 10.0.0.0/8";
                (
                    format!("{text:?} is neither an address nor a network: {error}"),
                    fix,
                )
            })
    })
}

/// Port numbers.
pub(super) fn ports(lists: Lists<'_>, findings: &mut Findings) -> Clause<u16> {
    lists.compile(findings, |text| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        Ok(_) | Err(_) => {
            let fix = "write a number from 1 to 65535";
            Err((format!("{text:?} is no port"), fix))
        }
    })
}
