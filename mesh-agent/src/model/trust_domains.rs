// SPDX-License-Identifier: Apache-2.0

//! The names of the own trust domain: the one that it gives its workloads, and aliases.
//!
//! Aliases are for a mesh that changes its name, or that takes in another one: who proves to be of an
//! alias is of the own trust domain. Knows nothing of certificates.
//! Invariant: the own name is no alias, and each alias is there once, in order.
//! Reference: istio/api `mesh/v1alpha1/config.proto`, `trustDomainAliases`.

use std::{collections::BTreeSet, sync::Arc};

use super::spiffe::SpiffeId;

/// The own trust domain, by all its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomains {
    own: Arc<str>,
    aliases: Arc<[Arc<str>]>,
}

impl TrustDomains {
    /// `own`, also known by `aliases`.
    pub fn new(own: &str, aliases: impl IntoIterator<Item = Arc<str>>) -> Self {
        let others = aliases.into_iter().filter(|alias| **alias != *own);
        let aliases: BTreeSet<Arc<str>> = others.collect();
        Self {
            own: own.into(),
            aliases: aliases.into_iter().collect(),
        }
    }

    /// The name that workloads get.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// The other names.
    pub fn aliases(&self) -> &Arc<[Arc<str>]> {
        &self.aliases
    }

    /// All names, the own first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let aliases = self.aliases.iter().map(|alias| &**alias);
        std::iter::once(&*self.own).chain(aliases)
    }

    /// Whether `name` is one of them.
    pub fn has(&self, name: &str) -> bool {
        self.names().any(|own| own == name)
    }

    /// Whether who is `presented` is the workload that is `expected`: the same, or the same by other
    /// names of the own trust domain.
    pub fn are_same(&self, expected: &SpiffeId, presented: &SpiffeId) -> bool {
        expected == presented
            || (!self.aliases.is_empty()
                && expected.is_same_account(presented)
                && self.has(expected.trust_domain())
                && self.has(presented.trust_domain()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(aliases: &[&str], expected: &str, presented: &str, want: bool) {
        let domains = TrustDomains::new("td", aliases.iter().map(|name| (*name).into()));
        let id = |text: &str| SpiffeId::parse(&format!("spiffe://{text}")).unwrap();
        assert_eq!(
            domains.are_same(&id(expected), &id(presented)),
            want,
            "{aliases:?}: {expected}, {presented}"
        );
    }

    #[test]
    fn one_account_is_the_same_by_all_names_of_its_trust_domain() {
        check(&[], "td/ns/a/sa/b", "td/ns/a/sa/b", true);
        check(&[], "td/ns/a/sa/b", "old/ns/a/sa/b", false);
        check(&["old"], "td/ns/a/sa/b", "old/ns/a/sa/b", true);
        check(&["old"], "old/ns/a/sa/b", "td/ns/a/sa/b", true);
        check(&["old"], "td/ns/a/sa/b", "old/ns/a/sa/c", false);
        check(&["old"], "td/ns/a/sa/b", "old/ns/c/sa/b", false);
        check(&["old"], "td/ns/a/sa/b", "other/ns/a/sa/b", false);
        check(&["old"], "other/ns/a/sa/b", "old/ns/a/sa/b", false);
    }

    #[test]
    fn the_own_name_is_no_alias_and_each_counts_once() {
        let aliases = ["old", "td", "even.older", "old"];
        let domains = TrustDomains::new("td", aliases.map(Arc::from));
        let names: Vec<&str> = domains.names().collect();
        assert_eq!(names, ["td", "even.older", "old"]);
    }
}
