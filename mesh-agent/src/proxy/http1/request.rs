// SPDX-License-Identifier: Apache-2.0

//! From the bytes of a request to what is sent on and where to, without waiting for anything.
//!
//! Knows nothing of sockets. Invariant: nothing is taken from the buffer unless the request is
//! plain, and then the model is asked exactly once.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};

use super::{
    super::{
        Outcome,
        http_decide::{self, Way},
        http_exchange::{Exchange, Front, Noted},
        http_headers,
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
    let mut exchange = Exchange::begin_with(front, noted, None);
    let headers = looked_at(port.as_deref(), &client, &head);
    let way = http_decide::decide(port.as_deref(), &mut exchange, &headers);
    let (mut out, way) = match way {
        Ok(way) => (written(&head, &exchange.uri, &way), Ok(Onward::from(way))),
        Err(outcome) => (Vec::new(), Err(outcome)),
    };
    let (length, framing, close) = (head.length, head.body, head.close);
    buffer.consume(length);
    let mut body = Body::new(framing);
    let way = match body.carry(buffer, &mut out) {
        Ok(()) => way,
        Err(error) => Err(Outcome::Malformed(error.to_string().into())),
    };
    Prepared::Ready(Request {
        exchange,
        way,
        out,
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
        is_grpc: false,
    };
    for field in head.fields {
        let slot = match head::name(field.name) {
            Name::Host => &mut noted.host,
            Name::UserAgent => &mut noted.user_agent,
            Name::RequestId => &mut noted.request_id,
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
    for field in head.fields {
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
fn written(head: &RequestHead<'_>, uri: &Uri, way: &Way) -> Vec<u8> {
    let mut lines = Lines::passed(head.fields);
    let mut target = uri.path_and_query();
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
    lines.write(&parts, b"", room_for_body.min(super::buffer::ROOM / 4))
}

impl Request {
    /// Whether it may be sent again although an endpoint may have acted upon it.
    pub(super) fn is_repeatable(&self) -> bool {
        !self.has_body && http_headers::is_idempotent(&self.exchange.method)
    }
}
