// SPDX-License-Identifier: Apache-2.0

//! From the bytes of a request to what is sent on and where to, without waiting for anything.
//!
//! Knows nothing of sockets. Invariant: nothing is taken from the buffer unless the request is
//! plain, and then the model is asked exactly once.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::{
    super::{
        Outcome,
        http_decide::{self, Way},
        http_envoy,
        http_exchange::{Exchange, Front, Noted},
        http_headers,
        http_ids::Seen,
    },
    body::{Body, Framing},
    buffer::Buffer,
    fields::Lines,
    head::{self, Judged, Name, RequestHead},
};
use crate::model::{Cluster, HeaderEdits, Protocol, Rewritten, ServicePort, Workload};

/// Above so many names of headers in a port's rules, all headers are looked at instead.
const FEW_NAMES: usize = 8;

/// What the bytes so far are.
pub(super) enum Prepared {
    /// The head has not ended.
    Partial,
    /// Not for us.
    Odd,
    /// A request.
    Ready(Request),
}

/// A plain request, decided about.
pub(super) struct Request {
    pub(super) exchange: Box<Exchange>,
    pub(super) way: Result<Onward, Outcome>,
    /// The head as it goes on, and what has come of the body.
    pub(super) out: Vec<u8>,
    /// Where in that the number of the try stands, if it is said.
    pub(super) count_at: Option<usize>,
    pub(super) body: Body,
    pub(super) has_body: bool,
    /// The client wants its connection closed after the answer.
    pub(super) close: bool,
}

/// Where a request goes.
pub(super) struct Onward {
    pub(super) cluster: Arc<Cluster>,
    pub(super) timeout: Option<Duration>,
    pub(super) edits: Option<Arc<HeaderEdits>>,
}

/// Takes a request out of `buffer`.
pub(super) fn prepare(front: &Rc<Front>, buffer: &mut Buffer) -> Prepared {
    if buffer.is_empty() {
        return Prepared::Partial;
    }
    let mut room = head::room();
    let head = match head::request(buffer.data(), &mut room) {
        Judged::Plain(head) => head,
        Judged::Partial => return Prepared::Partial,
        Judged::Odd => return Prepared::Odd,
    };
    // What has another spelling is hyper's, too.
    if front.path_normalization().of(head.uri.path()).is_some() {
        return Prepared::Odd;
    }
    let client = front.connection.workload();
    let port = front.port(&client, "");
    let converts = port
        .as_ref()
        .is_some_and(|port| matches!(port.protocol, Protocol::Http2 | Protocol::Grpc));
    // What is done to a request besides sending it on is hyper's way, and nothing is drawn yet.
    let plain = port.as_ref().is_none_or(|port| port.is_plain(&client));
    let Some(noted) = noted(&head).filter(|_| plain && !converts) else {
        return Prepared::Odd;
    };
    let mut exchange = Exchange::begin_with(front, Arc::clone(&client), noted, None);
    let headers = looked_at(port.as_deref(), &client, &head);
    let way = http_decide::decide(port.as_deref(), &mut exchange, &headers);
    let (mut out, way) = match way {
        Ok(way) => {
            let out = written(&head, &exchange, &way);
            (out, Ok(Onward::from(way)))
        }
        Err(outcome) => (Vec::new(), Err(outcome)),
    };
    let (length, framing, close) = (head.length, head.body, head.close);
    buffer.consume(length);
    let counted = http_envoy::is_wanted(&exchange) && !out.is_empty();
    let count_at = counted.then(|| out.len() - http_envoy::COUNT_FROM_END);
    let mut body = Body::new(framing);
    let way = match body.carry(buffer, &mut out) {
        Ok(()) => way,
        Err(error) => Err(Outcome::Malformed(error.to_string().into())),
    };
    Prepared::Ready(Request {
        exchange,
        way,
        out,
        count_at,
        body,
        has_body: framing != Framing::Empty,
        close,
    })
}

impl From<Way> for Onward {
    fn from(way: Way) -> Self {
        Self {
            cluster: way.cluster,
            timeout: way.timeout,
            edits: way.edits,
        }
    }
}

/// What the record needs; nothing if a value is none that hyper would have taken.
fn noted(head: &RequestHead<'_>) -> Option<Noted> {
    let mut noted = Noted {
        method: head.method.clone(),
        uri: head.uri.clone(),
        version: Version::HTTP_11,
        host: None,
        user_agent: None,
        request_id: None,
        seen: Seen::default(),
        is_grpc: false,
    };
    for (field, name) in head.fields.iter() {
        noted.seen.note(field.name, field.value);
        let slot = match name {
            Name::Host => &mut noted.host,
            Name::UserAgent => &mut noted.user_agent,
            Name::RequestId if !field.value.is_empty() => &mut noted.request_id,
            _ => continue,
        };
        // Of several the first counts.
        if slot.is_none() {
            *slot = Some(HeaderValue::from_bytes(field.value).ok()?);
        }
    }
    Some(noted)
}

/// The headers that any rule of the port looks at.
fn looked_at(port: Option<&ServicePort>, client: &Workload, head: &RequestHead<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let routes = port.and_then(|port| port.routes_for(client));
    let names = routes.map_or(&[][..], |routes| routes.rules.header_names());
    if names.is_empty() {
        return headers;
    }
    for (field, _) in head.fields.iter() {
        let is = |name: &HeaderName| field.name.eq_ignore_ascii_case(name.as_str());
        if names.len() <= FEW_NAMES && !names.iter().any(is) {
            continue;
        }
        let name = HeaderName::from_bytes(field.name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(field.value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// The head as it goes on.
fn written(head: &RequestHead<'_>, exchange: &Exchange, way: &Way) -> Vec<u8> {
    let said = http_envoy::request(exchange, way, || says_protocol(head));
    let mut lines = Lines::passed(&head.fields);
    lines.mark(&exchange.made);
    lines.edit(&said.request);
    let mut target = exchange.uri.path_and_query();
    if let Some(rewritten) = &way.rewritten {
        let Rewritten { path, authority } = &**rewritten;
        target = path.as_ref().or(target);
        if let Some(authority) = authority {
            lines.host(authority.as_str().as_bytes());
        }
    }
    if let Some(edits) = &way.edits {
        lines.edit(&edits.request);
    }
    let target = target.map_or("/", |target| target.as_str());
    let parts = [head.method.as_str(), " ", target, " HTTP/1.1"].map(str::as_bytes);
    let room_for_body = match head.body {
        Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Framing::Empty => 0,
        Framing::Chunked | Framing::Close => usize::MAX,
    };
    let mut last = &b""[..];
    if http_envoy::is_wanted(exchange) {
        lines.edit(&http_envoy::UNCOUNTED);
        last = http_envoy::FIRST;
    }
    lines.write(&parts, last, room_for_body.min(super::buffer::ROOM / 4))
}

/// Whether the client has said how its request came.
fn says_protocol(head: &RequestHead<'_>) -> bool {
    let is = |(field, _): (&httparse::Header<'_>, Name)| {
        let name = http_envoy::PROTOCOL;
        field.name.eq_ignore_ascii_case(name.as_str())
    };
    head.fields.iter().any(is)
}

impl Request {
    /// Whether it may be sent again although an endpoint may have acted upon it.
    pub(super) fn is_repeatable(&self) -> bool {
        !self.has_body && http_headers::is_idempotent(&self.exchange.method)
    }
}
