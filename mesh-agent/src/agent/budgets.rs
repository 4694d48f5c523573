// SPDX-License-Identifier: Apache-2.0

//! What there is for all workloads: what is set, and what the machine allows where nothing is.

use std::num::NonZeroUsize;

use crate::{proxy::BudgetLimits, settings::BudgetSettings};

pub(super) fn limits(settings: &BudgetSettings) -> BudgetLimits {
    let derived = BudgetLimits::default();
    let or = |set: Option<NonZeroUsize>, derived| set.map_or(derived, NonZeroUsize::get);
    BudgetLimits {
        connections: or(settings.max_connections, derived.connections),
        workload_connections: or(
            settings.max_workload_connections,
            derived.workload_connections,
        ),
        requests: or(settings.max_requests, derived.requests),
        handshakes: or(settings.max_handshakes, derived.handshakes),
        bytes: or(settings.max_waiting_bytes, derived.bytes),
    }
}
