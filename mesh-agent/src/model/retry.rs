// SPDX-License-Identifier: Apache-2.0

//! Whether a request is tried again, and after how long.
//!
//! Knows nothing of endpoints and of sending. Invariant: a request that an endpoint may have acted
//! upon is tried again only on a condition that the configuration names, or if its method is
//! idempotent and the configuration asks for retries of broken connections at large.
//! Reference: Envoy `x-envoy-retry-on`, `x-envoy-retry-grpc-on`, `RetryStateImpl`.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};

/// One more try than Envoy's hosts of a cluster would be looked at for a fresh one.
pub const MAX_ATTEMPTS: u32 = 100;

/// When and how often a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How many times, at most.
    pub attempts: u32,
    /// How long one try may take until its answer begins.
    pub per_try_timeout: Option<Duration>,
    /// On what.
    pub on: RetryOn,
    /// The first wait is at most this long, each further one at most twice as long.
    pub base_interval: Duration,
    /// No wait is longer.
    pub max_interval: Duration,
    /// Endpoints that were tried come last.
    pub avoids_tried: bool,
    /// So do those that are as near as one that was tried.
    pub goes_elsewhere: bool,
}

/// On what a request is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// Each names itself.
    conditions: Vec<Condition>,
    /// Responses of these statuses.
    statuses: Vec<u16>,
}

/// One word of `retryOn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `5xx`: such a response, or none.
    ServerError,
    /// `gateway-error`: 502, 503 or 504, or no response.
    GatewayError,
    /// `reset`: no response.
    Reset,
    /// `reset-before-request`: the connection broke before anything was sent.
    ResetBeforeRequest,
    /// `connect-failure`: no connection came about.
    ConnectFailure,
    /// `refused-stream`: the endpoint says that it did not look at the request.
    RefusedStream,
    /// `retriable-4xx`: 409.
    Conflict,
    /// `envoy-ratelimited`: the response carries that header.
    RateLimited,
    /// A gRPC status in the headers of the response.
    Grpc(u32),
    /// No response to a request of an idempotent method (Gateway API: connection errors).
    ResetIfIdempotent,
}

/// How one try ended.
#[derive(Clone, Copy, Debug)]
pub enum TryEnd<'a> {
    /// No connection came about; nothing was sent.
    NotConnected,
    /// The stream was refused; nothing was looked at.
    StreamRefused,
    /// No response, although the request may have been acted upon.
    Broken,
    /// No response in time.
    TimedOut,
    /// A response of this status, with these headers.
    Answered(StatusCode, &'a HeaderMap),
}

/// A word that is no condition.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a condition for retries")]
pub struct NotCondition(String);

impl RetryOn {
    /// Istio's, where nothing is written.
    pub fn istio_default() -> Self {
        Self {
            conditions: vec![
                Condition::ConnectFailure,
                Condition::RefusedStream,
                Condition::Grpc(14),
                Condition::Grpc(1),
            ],
            statuses: Vec::new(),
        }
    }

    /// The Gateway API's: these statuses, and connections that fail.
    pub fn gateway(statuses: &[u16]) -> Self {
        Self {
            conditions: vec![
                Condition::ConnectFailure,
                Condition::RefusedStream,
                Condition::ResetIfIdempotent,
            ],
            statuses: statuses.to_vec(),
        }
    }

    /// Reads comma-separated words; numbers are statuses of responses.
    pub fn parse(text: &str) -> Result<Self, NotCondition> {
        let mut parsed = Self::default();
        let words = text.split(',').map(str::trim);
        for word in words.filter(|word| !word.is_empty()) {
            match word.parse::<u16>() {
                Ok(status) if (100..600).contains(&status) => parsed.statuses.push(status),
                Ok(_) => return Err(NotCondition(word.to_owned())),
                Err(_) => parsed.conditions.extend(condition(word)?),
            }
        }
        Ok(parsed)
    }

    /// Whether a try that ended like this is repeated.
    pub fn includes(&self, method: &Method, end: &TryEnd<'_>) -> bool {
        let answered = match end {
            TryEnd::Answered(status, _) => self.statuses.contains(&status.as_u16()),
            _ => false,
        };
        answered || self.conditions.iter().any(|one| one.is_met(method, end))
    }
}

/// The condition of a word; `None` for one that never comes true here, as with Istio.
fn condition(word: &str) -> Result<Option<Condition>, NotCondition> {
    Ok(Some(match word {
        "5xx" => Condition::ServerError,
        "gateway-error" => Condition::GatewayError,
        "reset" => Condition::Reset,
        "reset-before-request" => Condition::ResetBeforeRequest,
        "connect-failure" => Condition::ConnectFailure,
        "refused-stream" => Condition::RefusedStream,
        "retriable-4xx" => Condition::Conflict,
        "envoy-ratelimited" => Condition::RateLimited,
        "cancelled" => Condition::Grpc(1),
        "deadline-exceeded" => Condition::Grpc(4),
        "resource-exhausted" => Condition::Grpc(8),
        "internal" => Condition::Grpc(13),
        "unavailable" => Condition::Grpc(14),
        // The statuses are listed beside; the headers cannot be named; HTTP/3 is not spoken.
        "retriable-status-codes" | "retriable-headers" | "http3-post-connect-failure" => {
            return Ok(None);
        }
        other => return Err(NotCondition(other.to_owned())),
    }))
}

impl Condition {
    fn is_met(self, method: &Method, end: &TryEnd<'_>) -> bool {
        match *end {
            TryEnd::Answered(status, headers) => self.is_met_by(status, headers),
            TryEnd::NotConnected => matches!(
                self,
                Self::ServerError
                    | Self::GatewayError
                    | Self::Reset
                    | Self::ResetBeforeRequest
                    | Self::ConnectFailure
            ),
            TryEnd::StreamRefused => matches!(
                self,
                Self::ServerError | Self::GatewayError | Self::Reset | Self::RefusedStream
            ),
            TryEnd::Broken | TryEnd::TimedOut => match self {
                Self::ServerError | Self::GatewayError | Self::Reset => true,
                Self::ResetIfIdempotent => method.is_idempotent(),
                _ => false,
            },
        }
    }

    fn is_met_by(self, status: StatusCode, headers: &HeaderMap) -> bool {
        let limited = headers.contains_key("x-envoy-ratelimited");
        match self {
            Self::RateLimited => limited,
            _ if limited => false,
            Self::ServerError => status.is_server_error(),
            Self::GatewayError => matches!(status.as_u16(), 502..=504),
            Self::Conflict => status == StatusCode::CONFLICT,
            Self::Grpc(code) => {
                let said = headers
                    .get("grpc-status")
                    .and_then(|said| said.to_str().ok());
                said.and_then(|said| said.parse().ok()) == Some(code)
            }
            Self::Reset
            | Self::ResetBeforeRequest
            | Self::ConnectFailure
            | Self::RefusedStream
            | Self::ResetIfIdempotent => false,
        }
    }
}

impl RetryPolicy {
    /// How long to wait before retry number `nth` (from 1); `random(n)` gives a number below `n`.
    pub fn backoff(&self, nth: u32, random: impl FnOnce(usize) -> usize) -> Duration {
        let doublings = nth.saturating_sub(1).min(16);
        let longest = self.base_interval.saturating_mul(1 << doublings);
        let longest = longest.min(self.max_interval);
        let micros = usize::try_from(longest.as_micros()).unwrap_or(usize::MAX);
        let drawn = random(micros.max(1));
        Duration::from_micros(u64::try_from(drawn).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests;
