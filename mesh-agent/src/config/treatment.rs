// SPDX-License-Identifier: Apache-2.0

//! What a VirtualService's rule asks for besides sending a request on: checked and compiled, but for
//! the clusters of mirrors.
//!
//! Reference: Istio `pilot/pkg/networking/core/route/route.go` (`TranslateFault`,
//! `TranslateCORSPolicy`, `MirrorPercent`), `pilot/pkg/networking/core/route/retry/retry.go`.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;

use super::{
    condition,
    facts::Findings,
    gaps,
    istio::{
        CorsPolicy, FaultAbort, FaultDelay, FaultInjection, Percent, Retries, UnmatchedPreflights,
    },
    problem::{Severity, code},
    resolve,
};
use crate::model::{
    AbortStatus, Cors, Fault, RetryOn, RetryPolicy, Session, Share, TextMatch, cors::Allowed,
    fault, retry::MAX_ATTEMPTS,
};

/// What a rule asks for besides sending a request on; where mirrors go stands with their kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TreatmentFacts {
    pub(super) cors: Option<Cors>,
    pub(super) fault: Option<Fault>,
    pub(super) retry: Option<RetryPolicy>,
    pub(super) session: Option<Arc<Session>>,
}

/// The wait before the first retry, where none is written.
pub(super) const BASE_INTERVAL: Duration = Duration::from_millis(25);

/// Waits never grow beyond this many times the first.
pub(super) const LONGEST: u32 = 10;

/// Compiles `fault`.
pub(super) fn fault(
    written: &FaultInjection,
    path: &str,
    findings: &mut Findings,
) -> Option<Fault> {
    if written.delay.is_none() && written.abort.is_none() {
        findings.reject(path, "neither delay nor abort is set", "set one of them");
        return None;
    }
    let delay = written.delay.as_ref();
    let abort = written.abort.as_ref();
    let fault = Fault {
        delay: delay.and_then(|one| self::delay(one, &format!("{path}.delay"), findings)),
        abort: abort.and_then(|one| self::abort(one, &format!("{path}.abort"), findings)),
    };
    (fault.delay.is_some() || fault.abort.is_some()).then_some(fault)
}

fn delay(written: &FaultDelay, path: &str, findings: &mut Findings) -> Option<(Share, Duration)> {
    let fields = [(gaps::EXPONENTIAL_DELAY, written.exponential_delay)];
    findings.gaps(path, &fields);
    let Some(text) = &written.fixed_delay else {
        if !written.exponential_delay.0 {
            findings.reject(
                format!("{path}.fixedDelay"),
                "must be set",
                "write it as 5s",
            );
        }
        return None;
    };
    let length = duration(text, &format!("{path}.fixedDelay"), findings)?;
    let old = written.percent.map(|percent| Percent {
        value: f64::from(percent),
    });
    let share = share(written.percentage.or(old), Share::NONE, path, findings)?;
    none_is_hit(share, path, "delayed", findings);
    Some((share, length))
}

fn abort(
    written: &FaultAbort,
    path: &str,
    findings: &mut Findings,
) -> Option<(Share, AbortStatus)> {
    if written.http2_error.0 {
        let field = format!("{path}.http2Error");
        findings.reject(field, "Istio does not inject it either", "use httpStatus");
        return None;
    }
    let status = match (written.http_status, &written.grpc_status) {
        (Some(status), None) if (200..600).contains(&status) => AbortStatus::Http(status),
        (Some(status), None) => {
            let text = format!("{status} is no status of an answer");
            findings.reject(format!("{path}.httpStatus"), text, "use 200 to 599");
            return None;
        }
        (None, Some(name)) => match fault::grpc_code(name) {
            Some(code) => AbortStatus::Grpc(code),
            None => {
                let text = format!("{name:?} is no status of gRPC");
                let fix = "write its name, such as UNAVAILABLE";
                findings.reject(format!("{path}.grpcStatus"), text, fix);
                return None;
            }
        },
        _ => {
            let text = "exactly one of httpStatus and grpcStatus must be set";
            findings.reject(path, text, "choose one");
            return None;
        }
    };
    let share = share(written.percentage, Share::NONE, path, findings)?;
    none_is_hit(share, path, "aborted", findings);
    Some((share, status))
}

fn none_is_hit(share: Share, path: &str, what: &str, findings: &mut Findings) {
    if share == Share::NONE {
        findings.add(
            Severity::Warning,
            code::WITHOUT_EFFECT,
            format!("{path}.percentage"),
            format!("without a percentage no request is {what}"),
            "set percentage.value",
        );
    }
}

/// The share that is written.
pub(super) fn share(
    written: Option<Percent>,
    unwritten: Share,
    path: &str,
    findings: &mut Findings,
) -> Option<Share> {
    let Some(Percent { value }) = written else {
        return Some(unwritten);
    };
    let share = Share::percent(value);
    if share.is_none() {
        let text = format!("{value} is not a percentage");
        findings.reject(format!("{path}.percentage"), text, "use 0 to 100");
    }
    share
}

/// A duration of at least a millisecond, as Istio asks for.
fn duration(text: &str, field: &str, findings: &mut Findings) -> Option<Duration> {
    let parsed = resolve::duration(text).filter(|length| *length >= Duration::from_millis(1));
    if parsed.is_none() {
        let said = format!("{text:?} is not a duration of at least 1ms");
        findings.reject(field, said, "write it as 5s or 250ms");
    }
    parsed
}

/// Compiles `corsPolicy`.
pub(super) fn cors(written: &CorsPolicy, path: &str, findings: &mut Findings) -> Cors {
    let exact = written.allow_origin.iter().cloned().map(TextMatch::Exact);
    let matched = written.allow_origins.iter().enumerate().map(|(at, one)| {
        condition::text_match(one, &format!("{path}.allowOrigins[{at}]"), findings)
    });
    let matched: Vec<TextMatch> = matched.collect();
    let mut list = |names: &[String], field: &str| {
        let joined = names.join(",");
        match HeaderValue::from_str(&joined) {
            Ok(_) if joined.is_empty() => Allowed::Unsaid,
            Ok(value) if value == "*" && field != "exposeHeaders" => Allowed::Anything,
            Ok(value) => Allowed::These(value),
            Err(_) => {
                let text = format!("{joined:?} is not a header value");
                findings.reject(format!("{path}.{field}"), text, "use visible ASCII");
                Allowed::Unsaid
            }
        }
    };
    let (methods, headers, exposed) = (
        list(&written.allow_methods, "allowMethods"),
        list(&written.allow_headers, "allowHeaders"),
        list(&written.expose_headers, "exposeHeaders"),
    );
    let max_age = written.max_age.as_deref().and_then(|text| {
        let parsed = resolve::duration(text).filter(|age| age.subsec_nanos() == 0);
        if parsed.is_none() {
            let said = format!("{text:?} is not a duration of whole seconds");
            findings.reject(format!("{path}.maxAge"), said, "write it as 24h or 60s");
        }
        parsed.map(|age| HeaderValue::from(age.as_secs()))
    });
    Cors {
        origins: if written.allow_origins.is_empty() {
            exact.collect()
        } else {
            matched
        },
        methods,
        headers,
        exposed,
        max_age,
        credentials: written.allow_credentials.unwrap_or_default(),
        forwards_other_preflights: written.unmatched_preflights
            != Some(UnmatchedPreflights::Ignore),
    }
}

/// Compiles `retries`.
pub(super) fn retries(
    written: &Retries,
    path: &str,
    findings: &mut Findings,
) -> Option<RetryPolicy> {
    let attempts = written.attempts.unwrap_or_default();
    if attempts == 0 && (written.attempts.is_none() || !written.retry_on.is_empty()) {
        findings.add(
            Severity::Warning,
            code::WITHOUT_EFFECT,
            format!("{path}.attempts"),
            "without attempts no request is tried again",
            "set attempts",
        );
    }
    if attempts > MAX_ATTEMPTS {
        let text = format!("{attempts} is more than {MAX_ATTEMPTS}");
        findings.reject(format!("{path}.attempts"), text, "lower it");
        return None;
    }
    let on = match written.retry_on.as_str() {
        "" => RetryOn::istio_default(),
        words => match RetryOn::parse(words) {
            Ok(on) => on,
            Err(error) => {
                let fix = "use Envoy's words, or statuses";
                findings.reject(format!("{path}.retryOn"), error.to_string(), fix);
                return None;
            }
        },
    };
    let mut read = |text: &Option<String>, field: &str| match text {
        None => Some(None),
        Some(text) => duration(text, &format!("{path}.{field}"), findings).map(Some),
    };
    let base_interval = read(&written.backoff, "backoff")?.unwrap_or(BASE_INTERVAL);
    Some(RetryPolicy {
        attempts,
        per_try_timeout: read(&written.per_try_timeout, "perTryTimeout")?,
        on,
        base_interval,
        max_interval: base_interval.saturating_mul(LONGEST),
        avoids_tried: written.retry_ignore_previous_hosts.unwrap_or(true),
        goes_elsewhere: written.retry_remote_localities.unwrap_or(false),
    })
}
