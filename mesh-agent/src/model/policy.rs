// SPDX-License-Identifier: Apache-2.0

//! What a workload accepts: plaintext, mutual TLS, or both; from whom, and with which tokens.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    authorization::Authorization,
    token::{Authentication, Heed, Spoken},
};

/// How a port of a workload treats plaintext peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MtlsMode {
    /// Both mutual TLS and plaintext are accepted.
    Permissive,
    /// Only mutual TLS is accepted.
    Strict,
}

/// The composed inbound mode of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundPolicy {
    /// For every port without a mode of its own.
    pub default: MtlsMode,
    /// By workload port (the target port, not the Service's).
    pub ports: BTreeMap<u16, MtlsMode>,
    /// Who may do what there.
    pub authorization: Arc<Authorization>,
    /// Whose tokens are known there.
    pub authentication: Arc<Authentication>,
    /// What its ports speak; known only where tokens are.
    pub spoken: Spoken,
}

impl Default for InboundPolicy {
    fn default() -> Self {
        Self {
            default: MtlsMode::Permissive,
            ports: BTreeMap::new(),
            authorization: Arc::default(),
            authentication: Arc::default(),
            spoken: Spoken::new(),
        }
    }
}

impl InboundPolicy {
    /// The mode of workload port `port`.
    pub fn mode(&self, port: u16) -> MtlsMode {
        self.ports.get(&port).copied().unwrap_or(self.default)
    }

    /// How workload port `port` looks at what comes to it, because of tokens.
    pub fn heed(&self, port: u16) -> Heed {
        self.authentication.heed(port, &self.spoken)
    }
}
