// SPDX-License-Identifier: Apache-2.0

//! How much of what the Kubernetes API has is in a snapshot.
//!
//! Versions are those of the API server's lists and watches: whoever has applied the snapshot has
//! applied every object of that kind with a version up to that one.

use std::collections::BTreeMap;

/// What a snapshot contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    /// The snapshot's generation.
    pub generation: u64,
    /// The resource version up to which everything of a kind is in it, by the kind's name. A kind
    /// that was never read from the API server in full is left out.
    pub versions: BTreeMap<&'static str, u64>,
}
