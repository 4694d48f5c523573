// SPDX-License-Identifier: Apache-2.0

//! By what a request is followed through the mesh: `x-request-id` and `traceparent`, for those that bring none.
//!
//! What a client brought is passed on as it is; the agents make no spans, so a trace that passes has no part
//! of theirs. A trace is begun only where a request brings none, of whichever kind. Knows nothing of sockets.
//! Invariant: of each name at most one is made, and where one is made it is the only one.
//! References: Envoy's UUID request id; W3C Trace Context, sections 3.2, 3.3 and 4.3.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    RequestHeaders,
    unique::{self, TraceParent, Uuid},
};

/// The name of a request's id.
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The name of a request's place in a trace.
pub(crate) static TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

static TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

/// What a field says of which request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Its id.
    Id,
    /// The trace that it is a part of.
    Parent,
    /// What belongs to that.
    State,
    /// A trace, in other words than W3C's.
    Other,
}

/// What a head brings of that.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    id: bool,
    parents: u8,
    broken: bool,
    other: bool,
}

/// What is made for a request that brought none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Made {
    pub(crate) id: Option<Uuid>,
    pub(crate) parent: Option<TraceParent>,
}

/// What a request is known by: of several ids the first.
pub(crate) fn id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut all = headers.get_all(&REQUEST_ID).iter();
    all.find(|id| !id.is_empty())
}

/// Which of these the field `name` is, in whatever case.
pub(crate) fn mark(name: &str) -> Option<Mark> {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    match name.len() {
        12 if is("x-request-id") => Some(Mark::Id),
        11 if is("traceparent") => Some(Mark::Parent),
        10 if is("tracestate") => Some(Mark::State),
        2 if is("b3") => Some(Mark::Other),
        3 if is("sw8") => Some(Mark::Other),
        12 if is("x-b3-traceid") => Some(Mark::Other),
        13 if is("uber-trace-id") => Some(Mark::Other),
        14 if is("grpc-trace-bin") => Some(Mark::Other),
        15 if is("x-amzn-trace-id") => Some(Mark::Other),
        18 if is("x-datadog-trace-id") => Some(Mark::Other),
        21 if is("x-cloud-trace-context") => Some(Mark::Other),
        _ => None,
    }
}

impl Seen {
    /// What `headers` bring.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for (name, value) in headers {
            seen.note(name.as_str(), value.as_bytes());
        }
        seen
    }

    /// Takes one more field in.
    pub(crate) fn note(&mut self, name: &str, value: &[u8]) {
        match mark(name) {
            // Without a value it names nothing.
            Some(Mark::Id) => self.id |= !value.is_empty(),
            Some(Mark::Parent) => {
                self.parents = self.parents.saturating_add(1);
                self.broken |= !is_parent(value);
            }
            Some(Mark::Other) => self.other = true,
            Some(Mark::State) | None => {}
        }
    }

    /// What is made besides.
    pub(crate) fn missing(self, wanted: RequestHeaders) -> Made {
        let (ids, traces) = match wanted {
            RequestHeaders::None => (false, false),
            RequestHeaders::Id => (true, false),
            RequestHeaders::Trace | RequestHeaders::Envoy => (true, true),
        };
        // Several, or one that cannot be read, count as none.
        let in_trace = self.parents == 1 && !self.broken || self.parents == 0 && self.other;
        Made {
            id: (ids && !self.id).then(unique::uuid),
            parent: (traces && !in_trace).then(unique::trace_parent),
        }
    }
}

impl Made {
    /// Writes it into `headers`.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        if let Some(id) = &self.id {
            headers.insert(&REQUEST_ID, value(id));
        }
        if let Some(parent) = &self.parent {
            headers.insert(&TRACE_PARENT, value(parent));
            // It belonged to what was not there, or could not be read.
            headers.remove(&TRACE_STATE);
        }
    }
}

fn value(text: &[u8]) -> HeaderValue {
    let value = HeaderValue::from_bytes(text);
    let mut value = value.expect("digits and dashes are visible ASCII");
    // No secret, but no two are the same either: in the table that HTTP/2 compresses heads by they would only
    // push out what comes again (RFC 7541 section 6.2.3 and 7.1.3).
    value.set_sensitive(true);
    value
}

/// Whether it is the place of a request in a trace.
fn is_parent(value: &[u8]) -> bool {
    if value.len() < 55 {
        return false;
    }
    let all = |range: std::ops::Range<usize>| {
        let digits = &value[range];
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        digits.iter().all(is_digit).then_some(digits)
    };
    let is_id = |range| all(range).is_some_and(|id| id.iter().any(|byte| *byte != b'0'));
    let dashes = [2, 35, 52].iter().all(|at| value[*at] == b'-');
    // What later versions add begins with another dash.
    let length = value.len() == 55 || &value[..2] != b"00" && value[55] == b'-';
    let version = all(0..2).is_some_and(|version| version != b"ff");
    dashes && length && version && is_id(3..35) && is_id(36..52) && all(53..55).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let value = HeaderValue::from_str(value).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
        headers
    }

    /// Whether an id and a trace are made for these.
    #[track_caller]
    fn check(wanted: RequestHeaders, pairs: &[(&'static str, &str)], want: (bool, bool)) {
        let mut headers = headers(pairs);
        let before = headers.clone();
        let made = Seen::of(&headers).missing(wanted);
        assert_eq!(
            (made.id.is_some(), made.parent.is_some()),
            want,
            "{pairs:?}"
        );
        made.apply(&mut headers);
        if !want.0 {
            let all = |headers: &HeaderMap| -> Vec<HeaderValue> {
                headers.get_all(&REQUEST_ID).iter().cloned().collect()
            };
            assert_eq!(all(&headers), all(&before), "{pairs:?}");
        }
        if want.1 {
            assert_eq!(headers.get_all(&TRACE_PARENT).iter().count(), 1);
            assert!(!headers.contains_key(&TRACE_STATE), "{pairs:?}");
        } else {
            assert_eq!(headers.get(&TRACE_PARENT), before.get(&TRACE_PARENT));
            assert_eq!(headers.get(&TRACE_STATE), before.get(&TRACE_STATE));
        }
    }

    #[test]
    fn a_request_without_gets_what_is_wanted() {
        check(RequestHeaders::None, &[], (false, false));
        check(RequestHeaders::Id, &[], (true, false));
        check(RequestHeaders::Trace, &[], (true, true));
        check(RequestHeaders::Envoy, &[], (true, true));
    }

    #[test]
    fn what_a_client_brought_is_kept() {
        let check = |pairs: &[(&'static str, &str)], want| {
            check(RequestHeaders::Trace, pairs, want);
        };
        check(&[("x-request-id", "mine")], (false, true));
        check(
            &[("x-request-id", "a"), ("x-request-id", "b")],
            (false, true),
        );
        check(&[("x-request-id", "")], (true, true));
        check(
            &[("x-request-id", ""), ("x-request-id", "b")],
            (false, true),
        );
        check(
            &[("traceparent", PARENT), ("tracestate", "a=1")],
            (true, false),
        );
        check(&[("b3", "0")], (true, false));
        check(&[("x-b3-traceid", "463ac35c9f6413ad")], (true, false));
    }

    #[test]
    fn what_is_no_place_in_a_trace_counts_as_none() {
        let check = |pairs: &[(&'static str, &str)]| {
            check(RequestHeaders::Trace, pairs, (true, true));
        };
        check(&[("traceparent", PARENT), ("traceparent", PARENT)]);
        check(&[("traceparent", "x"), ("tracestate", "a=1"), ("b3", "0")]);
        check(&[("tracestate", "a=1")]);
    }

    #[test]
    fn a_place_in_a_trace_is_told_as_w3c_says() {
        let later = format!("01{}-more", &PARENT[2..]);
        for (value, want) in [
            (PARENT, true),
            (
                "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
                true,
            ),
            (&later, true),
            ("", false),
            (&PARENT[..54], false),
            (&format!("{PARENT}-more"), false),
            (&format!("01{}more", &PARENT[2..]), false),
            (&PARENT.to_uppercase(), false),
            (&format!("ff{}", &PARENT[2..]), false),
            (
                &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
                false,
            ),
            (&PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)), false),
            (&PARENT.replace('-', "_"), false),
            (&PARENT.replace('a', "é"), false),
        ] {
            assert_eq!(is_parent(value.as_bytes()), want, "{value}");
        }
        assert!(is_parent(&unique::trace_parent()));
    }
}
