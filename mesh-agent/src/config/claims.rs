// SPDX-License-Identifier: Apache-2.0

//! Who else claims what one has: an address, a UID, a VIP's port.
//!
//! Only what several claim is kept here, which is nothing in a sound configuration; who alone claims
//! a thing stands in the snapshot. Knows nothing of who of several wins.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

/// The claimants of things that have more than one.
#[derive(Debug)]
pub(super) struct Claims<K, C>(HashMap<K, BTreeSet<C>>);

impl<K, C> Default for Claims<K, C> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone, C: Ord + Clone> Claims<K, C> {
    /// `claimant` claims `key`, which `holder` has; all claimants, if they are several.
    pub(super) fn add(
        &mut self,
        key: &K,
        holder: Option<&C>,
        claimant: &C,
    ) -> Option<&BTreeSet<C>> {
        let holder = holder.filter(|holder| *holder != claimant)?;
        let claimants = self.0.entry(key.clone()).or_default();
        claimants.insert(holder.clone());
        claimants.insert(claimant.clone());
        Some(claimants)
    }

    /// `claimant` gives up `key`; those that still claim it, if there are any.
    pub(super) fn remove(&mut self, key: &K, claimant: &C) -> Option<BTreeSet<C>> {
        let claimants = self.0.get_mut(key)?;
        claimants.remove(claimant);
        match claimants.len() {
            0 | 1 => self.0.remove(key),
            _ => Some(claimants.clone()),
        }
    }

    /// Everything that several claim.
    pub(super) fn contested(&self) -> impl Iterator<Item = (&K, &BTreeSet<C>)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_claims_is_not_kept() {
        let mut claims: Claims<u8, char> = Claims::default();
        assert_eq!(claims.add(&1, None, &'a'), None);
        assert_eq!(claims.add(&1, Some(&'a'), &'a'), None);
        assert_eq!(claims.remove(&1, &'a'), None);
        assert_eq!(claims.contested().count(), 0);
    }

    #[test]
    fn what_several_claim_stays_with_those_that_are_left() {
        let mut claims = Claims::default();
        assert_eq!(
            claims.add(&1, Some(&'b'), &'a'),
            Some(&BTreeSet::from(['a', 'b']))
        );
        claims.add(&1, Some(&'a'), &'c');
        assert_eq!(claims.remove(&1, &'a'), Some(BTreeSet::from(['b', 'c'])));
        assert_eq!(claims.remove(&1, &'c'), Some(BTreeSet::from(['b'])));
        assert_eq!(claims.contested().count(), 0);
    }
}
