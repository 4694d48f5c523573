// SPDX-License-Identifier: Apache-2.0

//! Streams by their numbers.
//!
//! Numbers count up by one, whoever the peer is, so no peer can choose ones that collide, and a
//! multiplication spreads them as well as a keyed hash would, for a tenth of its price. Knows
//! nothing of what streams are.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// Values by the numbers of streams.
pub(super) type ByNumber<T> = HashMap<u32, T, BuildHasherDefault<NumberHasher>>;

/// Spreads numbers: high bits of a product with 2^64 divided by the golden ratio.
#[derive(Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32((*byte).into());
        }
    }

    fn write_u32(&mut self, number: u32) {
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let product = (self.0 ^ u64::from(number)).wrapping_mul(SPREAD);
        // The map takes its place from low bits and a check from high ones.
        self.0 = product ^ (product >> 32);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, hash::Hash};

    use super::*;

    fn hash(number: u32) -> u64 {
        let mut hasher = NumberHasher::default();
        number.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn a_session_s_numbers_fall_on_different_places() {
        for first in [1_u32, 1000, 0x7fff_0000] {
            let places: HashSet<u64> = (first..first + 256).map(|n| hash(n) & 0x3ff).collect();
            assert!(places.len() > 200, "{} places from {first}", places.len());
            let checks: HashSet<u64> = (first..first + 256).map(|n| hash(n) >> 57).collect();
            assert!(checks.len() > 64, "{} checks from {first}", checks.len());
        }
    }
}
