// SPDX-License-Identifier: Apache-2.0

//! Faults that a rule injects into a share of its requests, before they leave the client's node.
//!
//! Knows nothing of time passing and of answers being written. Delay and abort are drawn for each
//! request independently, the delay first. Reference: Envoy `envoy.filters.http.fault`; Istio
//! `HTTPFaultInjection`.

use std::time::Duration;

use super::share::Share;

/// What is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Waits before the request goes on.
    pub delay: Option<(Share, Duration)>,
    /// An answer instead of the endpoint's.
    pub abort: Option<(Share, AbortStatus)>,
}

/// The status of an injected answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortStatus {
    /// Of HTTP; gRPC clients get what stands for it.
    Http(u16),
    /// Of gRPC; clients that do not speak it get what stands for it.
    Grpc(u32),
}

/// What is injected into one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// Wait this long first.
    pub delay: Option<Duration>,
    /// Then answer with this.
    pub abort: Option<AbortStatus>,
}

impl Fault {
    /// Draws what is injected into one request; `random(n)` gives a number below `n`.
    pub fn draw(&self, random: &mut dyn FnMut(usize) -> usize) -> Injected {
        let mut drawn = |share: Share| share.includes(random);
        Injected {
            delay: self
                .delay
                .and_then(|(share, delay)| drawn(share).then_some(delay)),
            abort: self
                .abort
                .and_then(|(share, status)| drawn(share).then_some(status)),
        }
    }
}

impl AbortStatus {
    /// The status of HTTP.
    pub fn http(self) -> u16 {
        match self {
            Self::Http(status) => status,
            Self::Grpc(status) => http_of_grpc(status),
        }
    }

    /// The status of gRPC, if one was asked for.
    pub fn grpc(self) -> Option<u32> {
        match self {
            Self::Http(_) => None,
            Self::Grpc(status) => Some(status),
        }
    }
}

/// The HTTP status that stands for a gRPC status (Envoy's `grpcToHttpStatus`).
fn http_of_grpc(status: u32) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// The code of a gRPC status by its name, as Istio writes it.
pub fn grpc_code(name: &str) -> Option<u32> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let position = NAMES.iter().position(|known| *known == name);
    position.and_then(|code| u32::try_from(code).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_and_abort_are_drawn_independently() {
        let half = Share::percent(50.0).unwrap();
        let fault = Fault {
            delay: Some((half, Duration::from_secs(1))),
            abort: Some((half, AbortStatus::Http(418))),
        };
        for (draws, delayed, aborted) in [
            ([0, 0], true, true),
            ([0, 999_999], true, false),
            ([999_999, 0], false, true),
            ([999_999, 999_999], false, false),
        ] {
            let mut draws = draws.into_iter();
            let injected = fault.draw(&mut |_| draws.next().unwrap());
            assert_eq!(injected.delay.is_some(), delayed);
            assert_eq!(injected.abort.is_some(), aborted);
        }
    }

    #[test]
    fn a_status_of_grpc_has_a_name_a_code_and_an_http_status() {
        assert_eq!(grpc_code("UNAVAILABLE"), Some(14));
        assert_eq!(grpc_code("unavailable"), None);
        assert_eq!(AbortStatus::Grpc(14).http(), 503);
        assert_eq!(AbortStatus::Grpc(14).grpc(), Some(14));
        assert_eq!(AbortStatus::Http(429).grpc(), None);
    }
}
