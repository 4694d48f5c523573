// SPDX-License-Identifier: Apache-2.0

//! A share of requests, drawn by chance for each.
//!
//! Knows nothing of where chance comes from: it is handed in. Invariant: never above all.

use std::fmt;

/// A share of requests, exact to one in a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

/// What a share is counted in.
const WHOLE: u32 = 1_000_000;

impl Share {
    /// Every request.
    pub const ALL: Self = Self(WHOLE);
    /// No request.
    pub const NONE: Self = Self(0);

    /// So many percent; `None` if that is no number from 0 to 100.
    pub fn percent(percent: f64) -> Option<Self> {
        if !(0.0..=100.0).contains(&percent) {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to the whole, as was just checked"
        )]
        let parts = (percent * f64::from(WHOLE) / 100.0).round() as u32;
        Some(Self(parts))
    }

    /// So many of so many; `None` if that is more than all, or of nothing.
    pub fn fraction(numerator: u32, denominator: u32) -> Option<Self> {
        if denominator == 0 || numerator > denominator {
            return None;
        }
        let parts = u64::from(numerator) * u64::from(WHOLE) / u64::from(denominator);
        Some(Self(u32::try_from(parts).expect("at most the whole")))
    }

    /// Whether one request is among them; `random(n)` gives a number below `n`.
    pub fn includes(self, random: &mut dyn FnMut(usize) -> usize) -> bool {
        match self {
            Self::ALL => true,
            Self::NONE => false,
            Self(parts) => random(WHOLE as usize) < parts as usize,
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) * 100.0 / f64::from(WHOLE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_includes_as_many_as_it_says() {
        let share = Share::percent(12.5).unwrap();
        let among = |draw: usize| share.includes(&mut |_| draw);
        assert_eq!(
            [among(0), among(124_999), among(125_000), among(999_999)],
            [true, true, false, false]
        );
        assert_eq!(share, Share::fraction(1, 8).unwrap());
        assert_eq!(share.to_string(), "12.5%");
    }

    #[test]
    fn none_and_all_need_no_chance() {
        let mut never = |_| unreachable!("nothing is drawn");
        assert!(Share::percent(100.0).unwrap().includes(&mut never));
        assert!(!Share::percent(0.0).unwrap().includes(&mut never));
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for percent in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Share::percent(percent), None, "{percent}");
        }
        assert_eq!(Share::fraction(2, 1), None);
        assert_eq!(Share::fraction(0, 0), None);
    }
}
