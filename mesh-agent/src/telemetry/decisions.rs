// SPDX-License-Identifier: Apache-2.0

//! How often each AuthorizationPolicy spoke, and what it said.
//!
//! Knows nothing of who was judged. Invariant: the number of policies told apart is bounded. A
//! lock is taken, but only when a policy says something else than yes, and for one addition.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::model::authorization::{Denial, Remark};

/// More policies than this share one name.
const POLICIES_MAX: usize = 10_000;

/// Counts what policies said.
#[derive(Debug, Default)]
pub(super) struct Decisions(Mutex<BTreeMap<Key, u64>>);

/// The policy's name, its action, and what it said.
type Key = (Arc<str>, &'static str, &'static str);

/// What a policy said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A connection or a request was denied.
    Denied,
    /// A live connection was cut, as policy had changed.
    Revoked,
    /// Something that is not enforced.
    Remark(Remark),
}

impl Decision {
    fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Revoked => "revoked",
            Self::Remark(Remark::Audited) => "audited",
            Self::Remark(Remark::WouldDeny) => "would_deny",
        }
    }
}

impl Decisions {
    pub(super) fn count(&self, denial: &Denial, decision: Decision) {
        let (name, action) = match denial.policy() {
            Some(policy) => (Arc::clone(policy.name()), policy.action().as_str()),
            // No ALLOW policy matched.
            None => ("none".into(), "ALLOW"),
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name, action, decision.as_str());
        if counts.len() < POLICIES_MAX || counts.contains_key(&key) {
            *counts.entry(key).or_default() += 1;
        } else {
            let other = ("overflow".into(), key.1, key.2);
            *counts.entry(other).or_default() += 1;
        }
    }

    /// All counts: policy, action, what it said.
    pub(super) fn all(&self) -> Vec<([String; 3], u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |((name, action, said), count): (&Key, &u64)| {
            let labels = [name.to_string(), (*action).to_owned(), (*said).to_owned()];
            (labels, *count)
        };
        counts.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::authorization::{
        Action, Attached, Authorization, Caller, Policy, Rule, Verdict,
    };

    #[test]
    fn each_policy_is_counted_by_what_it_said() {
        let policy = Policy::new("shop/no", Action::Deny, false, vec![Rule::default()]);
        let attached = Attached {
            policy: Arc::new(policy),
            ports: None,
            provider: None,
        };
        let caller = Caller {
            identity: None,
            address: Some([127, 0, 0, 1].into()),
            to: ([127, 0, 0, 1], 80).into(),
        };
        let verdict = Authorization::new(vec![attached]).connection(&caller);
        let Verdict::Denied(denial) = verdict else {
            panic!("{verdict:?}");
        };
        let decisions = Decisions::default();
        for decision in [Decision::Denied, Decision::Denied, Decision::Revoked] {
            decisions.count(&denial, decision);
        }
        let row = |said: &str, count| (["shop/no", "DENY", said].map(str::to_owned), count);
        assert_eq!(decisions.all(), [row("denied", 2), row("revoked", 1)]);
    }
}
