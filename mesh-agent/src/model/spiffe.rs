// SPDX-License-Identifier: Apache-2.0

//! Workload identities: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
//!
//! Invariant: a [`SpiffeId`] that exists has exactly these five non-empty segments, so its parts
//! can be read without failing. Reference: SPIFFE-ID section 2, and the form Istio uses.

use std::{fmt, sync::Arc};

/// Whom a workload is, as its certificate's URI SAN says it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Arc<str>);

/// A string is not a workload identity of the form that the mesh uses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
pub struct NotSpiffe(String);

impl SpiffeId {
    /// Composes an identity; parts must be valid Kubernetes names and a DNS trust domain.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Self {
        Self(format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").into())
    }

    /// Reads the form that certificates carry.
    pub fn parse(text: &str) -> Result<Self, NotSpiffe> {
        let parts: Vec<&str> = match text.strip_prefix("spiffe://") {
            Some(rest) => rest.split('/').collect(),
            None => return Err(NotSpiffe(text.to_owned())),
        };
        match parts.as_slice() {
            [domain, "ns", namespace, "sa", account]
                if [domain, namespace, account]
                    .iter()
                    .all(|part| is_segment(part)) =>
            {
                Ok(Self(text.into()))
            }
            _ => Err(NotSpiffe(text.to_owned())),
        }
    }

    /// Whether `text` can be a trust domain.
    pub fn is_trust_domain(text: &str) -> bool {
        is_segment(text) && !text.bytes().any(|byte| byte.is_ascii_uppercase())
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form that policies name: without `spiffe://`.
    pub fn principal(&self) -> &str {
        self.0.get("spiffe://".len()..).unwrap_or_default()
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        self.segment(2)
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        self.segment(4)
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        self.segment(6)
    }

    /// Whether `other` is a service account of the same name and namespace, of whichever trust domain.
    pub fn is_same_account(&self, other: &Self) -> bool {
        self.namespace() == other.namespace() && self.service_account() == other.service_account()
    }

    fn segment(&self, index: usize) -> &str {
        self.0
            .split('/')
            .nth(index)
            .expect("the constructor checked the segments")
    }
}

/// The characters SPIFFE allows in a trust domain or path segment (SPIFFE-ID 2.1, 2.2).
fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_an_identity_can_be_read() {
        let id = SpiffeId::new("cluster.local", "default", "web");
        assert_eq!(SpiffeId::parse(id.as_str()), Ok(id.clone()));
        assert_eq!(
            (id.trust_domain(), id.namespace(), id.service_account()),
            ("cluster.local", "default", "web")
        );
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "spiffe://td",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns/a/sa/b/c",
            "http://td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b%20",
        ] {
            assert!(SpiffeId::parse(text).is_err(), "{text}");
        }
    }
}
