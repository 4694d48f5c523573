// SPDX-License-Identifier: Apache-2.0

//! An agent on a node whose kernel cannot do the work: it says so, and stays.
//!
//! Ending would make whoever started it try again, for ever, with the same result and each time a
//! shorter log. It stays up instead, not ready, until it is told to stop. Knows nothing of why.
//! Invariant: nothing on the node was changed.

use std::sync::Arc;

use tracing::{error, info};

use super::Signals;
use crate::{
    datapath::{DatapathError, Observation},
    telemetry::chain,
};

/// What there is to see of a kernel that lacks something.
pub(super) fn observe(error: &DatapathError) -> Arc<dyn Fn() -> Observation + Send + Sync> {
    let reason = chain(error);
    Arc::new(move || Observation {
        unfit: Some(reason.clone()),
        ..Observation::default()
    })
}

/// Waits to be told to stop; what the agent then ends with.
pub(super) async fn stand_by(error: DatapathError, mut signals: Signals) -> anyhow::Error {
    error!(
        reason = chain(&error),
        "this node cannot be part of the mesh; nothing is captured"
    );
    let signal = signals.next().await;
    info!(signal, "stopped");
    anyhow::Error::new(error).context("kernel programs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_named_with_what_would_do() {
        let error = DatapathError::KernelTooOld {
            release: "4.19.0".to_owned(),
        };
        assert!(error.is_lasting());
        let reason = observe(&error)().unfit.expect("it is unfit");
        assert_eq!(
            reason,
            "kernel 4.19.0 is too old: the kernel programs need 5.15 or newer"
        );
    }
}
