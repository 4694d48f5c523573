// SPDX-License-Identifier: Apache-2.0

//! What a rule asks for besides sending a request on: faults, CORS, mirrors, retries, limits.
//!
//! Knows nothing of how it is done. A request without a treatment is sent as it is, to one
//! endpoint (another only if that cannot be connected to), and its answer goes back.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::{
    cors::Cors, fault::Fault, limit::RateLimit, mirror::Mirror, retry::RetryPolicy,
    session::Session,
};

/// What a rule asks for besides sending a request on.
#[derive(Clone, Debug, Default)]
pub struct Treatment {
    /// What is said to pages of other origins.
    pub cors: Option<Cors>,
    /// What is injected into a share of requests.
    pub fault: Option<Fault>,
    /// Where copies of requests go.
    pub mirrors: Vec<Mirror>,
    /// When requests are tried again, if that is not as it is without a treatment.
    pub retry: Option<RetryPolicy>,
    /// How many requests there may be.
    pub limits: Vec<Arc<RateLimit>>,
    /// By what the requests of a session keep to one endpoint.
    pub session: Option<Arc<Session>>,
}

/// An answer that the configuration gives in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, but for the length.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Arc<[u8]>,
}

impl Treatment {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.cors.is_none()
            && self.fault.is_none()
            && self.mirrors.is_empty()
            && self.retry.is_none()
            && self.limits.is_empty()
            && self.session.is_none()
    }
}
