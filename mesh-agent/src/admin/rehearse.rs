// SPDX-License-Identifier: Apache-2.0

//! `rehearse`: who would fail if a root were not trusted any more.
//!
//! Nothing changes by asking.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{answer::Refusal, views::Views};
use crate::identity::Failing;

/// `/rehearse?drop-root=`.
pub(super) fn rehearse(query: &BTreeMap<String, String>, views: &Views) -> Result<Value, Refusal> {
    let Some(root) = query.get("drop-root") else {
        let known = views.identities.root_fingerprints().join(", ");
        let text = format!("drop-root must be the fingerprint of a root, or its begin: {known}");
        return Err(Refusal::bad_request(text));
    };
    let rehearsal = views
        .identities
        .rehearse(root)
        .map_err(|error| Refusal::not_found(error.to_string()))?;
    Ok(json!({
        "root": rehearsal.root,
        "rootsLeft": rehearsal.left,
        "checked": rehearsal.checked,
        "failing": rehearsal.failing.iter().map(row).collect::<Vec<_>>(),
    }))
}

fn row(failing: &Failing) -> Value {
    json!({
        "holder": failing.holder.as_str(),
        "identity": failing.identity.as_str(),
        "serial": failing.serial,
        "sessions": failing.sessions,
        "error": failing.error,
    })
}
