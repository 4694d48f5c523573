// SPDX-License-Identifier: Apache-2.0

//! How a connection or a request ended, in one value.
//!
//! Chosen exactly once, where the failure is known; status, response flags, the text of our own
//! answers and the words of the access log all derive from it, matched without `_`.
//! Knows nothing of sockets or HTTP libraries. Reference: Envoy's response flags.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::HeaderValue;

use super::custom::Rejection;
use crate::model::{
    AbortStatus, DirectAnswer, HeaderEdits, Refusal, ResponseFlag, authorization::Denial,
    token::TokenRefusal,
};

/// How a connection or a request ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was carried to its end, whatever the application answered.
    Complete,
    /// The route refused it, or answers itself.
    Refused(Refusal),
    /// The route sends the client elsewhere.
    Redirected {
        /// The status of the answer.
        status: u16,
        /// Where to.
        location: HeaderValue,
        /// What is changed in the headers of the answer.
        edits: Option<Arc<HeaderEdits>>,
    },
    /// The configuration has the answer.
    Answered(Arc<DirectAnswer>),
    /// The route injects a fault.
    Aborted(AbortStatus),
    /// The chosen cluster has no ready endpoint.
    NoEndpoint,
    /// No endpoint that was tried could be connected to; why, for the last.
    ConnectFailed(Arc<str>),
    /// The endpoint ended the connection before the end of its answer.
    UpstreamGone(Arc<str>),
    /// What the endpoint answered is not what it should be.
    BadAnswer(Arc<str>),
    /// The endpoint refused to look at the request.
    StreamRefused(Arc<str>),
    /// Nobody has the destination, and the outbound policy refuses it then.
    Unlisted,
    /// The client has as much under way as it may.
    Overflow,
    /// There were too many requests of late.
    Limited {
        /// Which limit.
        reason: Arc<str>,
        /// When another would be admitted.
        after: Duration,
    },
    /// The route's time limit passed.
    TimedOut,
    /// It lived, or was silent, for as long as it may.
    Expired(Expiry),
    /// The client went away first.
    ClientGone,
    /// What the client sent is not what it should be.
    Malformed(Arc<str>),
    /// What a transparent proxy cannot carry, in a few words: CONNECT, codings that it does not know.
    Unsupported(&'static str),
    /// Plaintext to a port that accepts mutual TLS only.
    PolicyDenied,
    /// An AuthorizationPolicy denies it, or none of those that could allow it does.
    Denied(Denial),
    /// A token of the request is not good.
    Unauthenticated(Arc<TokenRefusal>),
    /// A provider says no, or nothing.
    Rejected(Arc<Rejection>),
    /// The body is longer than what a provider has to see all of may be.
    BodyTooLarge,
    /// What a provider has to see of the body did not come in time.
    BodyTooSlow,
    /// The other end denies it by its policy; what it said.
    DeniedThere(Arc<str>),
    /// Policy changed so that a live connection is no longer allowed; how.
    PolicyChanged(Arc<str>),
    /// The connection would have led back to the agent itself.
    Loop,
}

/// Which time a connection had is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It carried nothing for as long as it may.
    Idle,
    /// It has lived for as long as it may.
    Lifetime,
}

impl Outcome {
    /// Policy changed, and `denial` is what it says now.
    pub(crate) fn revoked(denial: &Denial) -> Self {
        Self::PolicyChanged(format!("connection closed due to policy change: {denial}").into())
    }

    /// The status of the answer that the mesh gives itself; 0 where none can be given.
    pub fn status(&self) -> u16 {
        match self {
            Self::Complete | Self::ClientGone | Self::Loop | Self::Expired(_) => 0,
            Self::PolicyDenied | Self::PolicyChanged(_) => 0,
            Self::Denied(_) | Self::DeniedThere(_) => 403,
            Self::Unauthenticated(refusal) => refusal.fault.status(),
            Self::Rejected(rejection) => rejection.status.as_u16(),
            Self::BodyTooLarge => 413,
            Self::BodyTooSlow => 408,
            Self::Refused(refusal) => refusal.status,
            Self::Redirected { status, .. } => *status,
            Self::Answered(answer) => answer.status.as_u16(),
            Self::Aborted(status) => status.http(),
            Self::NoEndpoint | Self::ConnectFailed(_) | Self::UpstreamGone(_) => 503,
            Self::BadAnswer(_) | Self::Unlisted => 502,
            Self::StreamRefused(_) | Self::Overflow => 503,
            Self::Limited { .. } => 429,
            Self::TimedOut => 504,
            Self::Malformed(_) => 400,
            Self::Unsupported(_) => 501,
        }
    }

    /// Envoy's response flags; `-` for none.
    pub fn flags(&self) -> &'static str {
        match self {
            Self::Complete | Self::Unsupported(_) | Self::Redirected { .. } => "-",
            Self::Answered(_) | Self::Unauthenticated(_) => "-",
            Self::BodyTooLarge | Self::BodyTooSlow => "-",
            Self::Aborted(_) => "FI",
            Self::Refused(refusal) => refusal.flag.as_str(),
            Self::Rejected(_) => "UAEX",
            Self::NoEndpoint | Self::Unlisted => "UH",
            Self::ConnectFailed(_) => "UF",
            Self::UpstreamGone(_) => "UC",
            Self::BadAnswer(_) => "UPE",
            Self::StreamRefused(_) => "UR",
            Self::Overflow => "UO",
            Self::Limited { .. } => "RL",
            Self::TimedOut => "UT",
            Self::Expired(Expiry::Idle) => "SI",
            Self::Expired(Expiry::Lifetime) => "DT",
            Self::ClientGone => "DC",
            Self::Malformed(_) => "DPE",
            Self::Denied(_) | Self::DeniedThere(_) | Self::PolicyDenied => "DENY",
            Self::PolicyChanged(_) | Self::Loop => "DENY",
        }
    }

    /// The status that gRPC clients get with the answer.
    pub fn grpc(&self) -> u32 {
        match self {
            Self::Aborted(status) => status.grpc().unwrap_or_else(|| grpc_status(status.http())),
            other => grpc_status(other.status()),
        }
    }

    /// After how many whole seconds another try may succeed, if that is known.
    pub fn retry_after(&self) -> Option<u64> {
        let Self::Limited { after, .. } = self else {
            return None;
        };
        let whole = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        Some(whole.max(1))
    }

    /// Why, for the access log; `None` if there is nothing to explain.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Complete | Self::Redirected { .. } | Self::Answered(_) => None,
            Self::Aborted(_) => Some("the route injects a fault"),
            Self::Refused(refusal) => Some(&refusal.reason),
            Self::NoEndpoint => Some("no healthy upstream"),
            Self::ConnectFailed(why) | Self::UpstreamGone(why) => Some(why),
            Self::BadAnswer(why) | Self::Malformed(why) | Self::StreamRefused(why) => Some(why),
            Self::Overflow => Some("the client has as much under way as it may"),
            Self::Limited { reason, .. } => Some(reason),
            Self::Unlisted => Some("nobody has the destination, and the policy is registry-only"),
            Self::TimedOut => Some("route timeout"),
            Self::Expired(Expiry::Idle) => Some("nothing was carried within idleTimeout"),
            Self::Expired(Expiry::Lifetime) => Some("maxConnectionDuration has passed"),
            Self::ClientGone => Some("downstream disconnected"),
            Self::Unsupported(what) => Some(what),
            Self::PolicyDenied => Some("connection closed due to policy rejection"),
            Self::Denied(denial) => Some(denial.as_str()),
            Self::Unauthenticated(refusal) => Some(&refusal.details),
            Self::Rejected(rejection) => Some(&rejection.details),
            Self::BodyTooLarge => Some("request_payload_too_large"),
            Self::BodyTooSlow => Some("request_overall_timeout"),
            Self::PolicyChanged(why) | Self::DeniedThere(why) => Some(why),
            Self::Loop => Some("connection would loop back to the agent"),
        }
    }

    /// The body of the answer that the mesh gives itself, in the words Envoy uses.
    pub fn body(&self) -> Cow<'static, str> {
        match self {
            Self::Complete | Self::ClientGone | Self::Loop | Self::Expired(_) => Cow::Borrowed(""),
            Self::PolicyDenied | Self::PolicyChanged(_) => Cow::Borrowed(""),
            Self::Redirected { .. } | Self::Unlisted => Cow::Borrowed(""),
            Self::Denied(_) | Self::DeniedThere(_) => Cow::Borrowed("RBAC: access denied"),
            Self::Unauthenticated(refusal) => Cow::Owned(refusal.fault.to_string()),
            Self::Rejected(rejection) => {
                Cow::Owned(String::from_utf8_lossy(&rejection.body).into_owned())
            }
            Self::Answered(answer) => {
                Cow::Owned(String::from_utf8_lossy(&answer.body).into_owned())
            }
            Self::Aborted(_) => Cow::Borrowed("fault filter abort"),
            Self::Refused(refusal) => match refusal.flag {
                ResponseFlag::None | ResponseFlag::NoRoute | ResponseFlag::NoCluster => {
                    Cow::Borrowed("")
                }
                ResponseFlag::NoHealthyUpstream => Cow::Borrowed("no healthy upstream"),
                ResponseFlag::UpstreamFailure => Cow::Borrowed(RESET),
            },
            Self::NoEndpoint => Cow::Borrowed("no healthy upstream"),
            Self::ConnectFailed(why) => Cow::Owned(format!(
                "{RESET}. reset reason: remote connection failure, transport failure reason: {why}"
            )),
            Self::UpstreamGone(_) => {
                Cow::Owned(format!("{RESET}. reset reason: connection termination"))
            }
            Self::BadAnswer(_) => Cow::Owned(format!("{RESET}. reset reason: protocol error")),
            Self::StreamRefused(_) => Cow::Owned(format!(
                "{RESET}. reset reason: remote refused stream reset"
            )),
            Self::Overflow => Cow::Owned(format!("{RESET}. reset reason: overflow")),
            Self::Limited { .. } => Cow::Borrowed("local_rate_limited"),
            Self::TimedOut => Cow::Borrowed("upstream request timeout"),
            Self::BodyTooLarge => Cow::Borrowed("Payload Too Large"),
            Self::BodyTooSlow => Cow::Borrowed("request timeout"),
            Self::Malformed(_) => Cow::Borrowed("Bad Request"),
            Self::Unsupported(what) => Cow::Borrowed(what),
        }
    }
}

const RESET: &str = "upstream connect error or disconnect/reset before headers";

/// The gRPC status that stands for HTTP status `status` (gRPC's http-grpc-status-mapping, with
/// 404 kept as NOT_FOUND's cousin UNIMPLEMENTED as gRPC itself has it).
pub fn grpc_status(status: u16) -> u32 {
    match status {
        400 | 500 => 13,
        401 => 16,
        403 => 7,
        404 | 501 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_says_status_flag_and_words() {
        let why: Arc<str> = "connection refused".into();
        for (outcome, status, flags, body) in [
            (Outcome::NoEndpoint, 503, "UH", "no healthy upstream"),
            (
                Outcome::ConnectFailed(why),
                503,
                "UF",
                "upstream connect error or disconnect/reset before headers. reset reason: remote \
                 connection failure, transport failure reason: connection refused",
            ),
            (
                Outcome::BadAnswer("two lengths".into()),
                502,
                "UPE",
                "upstream connect error or disconnect/reset before headers. reset reason: protocol \
                 error",
            ),
            (Outcome::TimedOut, 504, "UT", "upstream request timeout"),
            (Outcome::Expired(Expiry::Idle), 0, "SI", ""),
            (Outcome::Expired(Expiry::Lifetime), 0, "DT", ""),
            (
                Outcome::Limited {
                    reason: "too many".into(),
                    after: Duration::from_secs(1),
                },
                429,
                "RL",
                "local_rate_limited",
            ),
            (Outcome::BodyTooLarge, 413, "-", "Payload Too Large"),
            (Outcome::BodyTooSlow, 408, "-", "request timeout"),
            (Outcome::Complete, 0, "-", ""),
            (Outcome::PolicyDenied, 0, "DENY", ""),
        ] {
            assert_eq!(
                (outcome.status(), outcome.flags(), &*outcome.body()),
                (status, flags, body)
            );
        }
    }

    #[test]
    fn a_redirect_is_an_answer_without_a_flag() {
        let outcome = Outcome::Redirected {
            status: 308,
            location: HeaderValue::from_static("http://elsewhere/"),
            edits: None,
        };
        assert_eq!((outcome.status(), outcome.flags()), (308, "-"));
        assert_eq!((outcome.reason(), &*outcome.body()), (None, ""));
    }

    #[test]
    fn refusals_have_a_grpc_status() {
        assert_eq!(
            [503, 404, 500, 504, 418].map(grpc_status),
            [14, 12, 13, 14, 2]
        );
    }
}
