// SPDX-License-Identifier: Apache-2.0

//! What was done to a request besides sending it on, for its record and its response.
//!
//! Knows nothing of how it was done. Reference: Envoy's order of response flags.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Outcome, usage::Admission};
use crate::model::{Session, session::Token};

/// What was done to a request besides sending it on.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// It was made to wait.
    pub(crate) delayed: bool,
    /// It would have been tried again, had that been allowed once more.
    pub(crate) exhausted: bool,
    /// It would have been tried again, had its client had less under way.
    pub(crate) overflowed: bool,
    /// What it was admitted to, held until it is over.
    pub(crate) admission: Option<Admission>,
    /// The cookie that its client is given, and the key that it stands for.
    pub(crate) cookie: Option<(HeaderValue, u64)>,
    /// By what its session is told, and the endpoint that this keeps to.
    pub(crate) session: Option<(Arc<Session>, Option<Token>)>,
    /// No record is made of it.
    pub(crate) unseen: bool,
    /// What providers have its client told.
    pub(crate) to_client: Vec<(HeaderName, HeaderValue)>,
    /// What its response says to pages of other origins.
    pub(crate) said: Option<Box<HeaderMap>>,
}

impl Notes {
    /// All response flags of a request that ended with `outcome`, comma-separated.
    pub(crate) fn flags(&self, outcome: &Outcome) -> Cow<'static, str> {
        let own = outcome.flags();
        if !self.delayed && !self.exhausted && !self.overflowed {
            return Cow::Borrowed(own);
        }
        // What the upstream did stands before what was injected, what the client did behind it.
        let late = matches!(own, "FI" | "DC" | "NC" | "DPE");
        let parts = [
            (!late).then_some(own),
            self.overflowed.then_some("UO"),
            self.delayed.then_some("DI"),
            late.then_some(own),
            self.exhausted.then_some("URX"),
        ];
        let written = parts.into_iter().flatten().filter(|flag| *flag != "-");
        Cow::Owned(written.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AbortStatus;

    #[test]
    fn flags_stand_in_envoys_order() {
        let notes = |delayed, exhausted| Notes {
            delayed,
            exhausted,
            ..Notes::default()
        };
        for (notes, outcome, want) in [
            (notes(false, false), Outcome::Complete, "-"),
            (notes(false, false), Outcome::TimedOut, "UT"),
            (notes(true, false), Outcome::Complete, "DI"),
            (notes(true, false), Outcome::TimedOut, "UT,DI"),
            (
                notes(true, false),
                Outcome::Aborted(AbortStatus::Http(418)),
                "DI,FI",
            ),
            (notes(true, false), Outcome::ClientGone, "DI,DC"),
            (notes(false, true), Outcome::Complete, "URX"),
            (
                notes(false, true),
                Outcome::ConnectFailed("why".into()),
                "UF,URX",
            ),
        ] {
            assert_eq!(notes.flags(&outcome), want);
        }
    }
}
