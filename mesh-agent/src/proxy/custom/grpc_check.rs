// SPDX-License-Identifier: Apache-2.0

//! A check over gRPC: what is told of a request, and what an answer means.
//!
//! Knows nothing of connections. Invariant: only a status of 0 is a yes.
//! Reference: Envoy's ext_authz filter.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use ::http::{HeaderName, HeaderValue, Request, StatusCode, Version, header::HOST, request};
use bytes::Bytes;

use super::{Failure, Rejection};
use crate::{
    grpc::{
        self,
        ext_authz::{
            Address, AttributeContext, AttributeRequest, CHECK, CheckRequest, CheckResponse,
            HeaderValueOption, HttpRequest, Peer, SocketAddress, Timestamp,
        },
    },
    model::{
        Cluster, SpiffeId,
        provider::{Allowance, Excerpt, PARTIAL},
    },
    proxy::{
        entrance::Entrance,
        http_body::RequestBody,
        http_replay::{Piece, Replay},
    },
};

/// What is asked about the request with this head and what is `shown` of its body.
pub(super) fn request(
    entrance: &Entrance,
    cluster: &Arc<Cluster>,
    head: &request::Parts,
    shown: Option<Excerpt>,
    as_bytes: bool,
) -> Result<Request<RequestBody>, Failure> {
    let mut http = http(head);
    if let Some(shown) = shown {
        show(&mut http, shown, as_bytes);
    }
    let message = grpc::unary_body(&asked(entrance, http));
    let body = Replay::of(vec![Piece::Data(message)].into()).read();
    let authority = format!("{}:{}", cluster.hostname, cluster.port);
    let request = super::grpc_request(CHECK, &authority, body);
    request.ok_or_else(|| format!("{authority} is no authority"))
}

fn asked(entrance: &Entrance, http: HttpRequest) -> CheckRequest {
    let principal = |identity: Option<&SpiffeId>| {
        let text = identity.map(SpiffeId::as_str);
        text.unwrap_or_default().to_owned()
    };
    let own = &entrance.pod().workload.identity;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let time = Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(now.subsec_nanos()).unwrap_or_default(),
    };
    let attributes = AttributeContext {
        source: Some(peer(entrance.from(), principal(entrance.identity()))),
        destination: Some(peer(entrance.to(), principal(Some(own)))),
        request: Some(AttributeRequest {
            time: Some(time),
            http: Some(http),
        }),
    };
    CheckRequest {
        attributes: Some(attributes),
    }
}

fn peer(at: SocketAddr, principal: String) -> Peer {
    let socket = SocketAddress {
        address: at.ip().to_canonical().to_string(),
        port_value: Some(u32::from(at.port())),
    };
    Peer {
        address: Some(Address {
            socket_address: Some(socket),
        }),
        principal,
    }
}

fn http(head: &request::Parts) -> HttpRequest {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut headers: HashMap<String, String> = HashMap::new();
    for (name, value) in head.headers.iter().filter(|(name, _)| *name != PARTIAL) {
        match headers.get_mut(name.as_str()) {
            Some(known) => {
                known.push(',');
                known.push_str(&text(value));
            }
            None => {
                headers.insert(name.to_string(), text(value));
            }
        }
    }
    let host = match head.uri.authority() {
        Some(authority) => authority.to_string(),
        None => head.headers.get(HOST).map(text).unwrap_or_default(),
    };
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let method = head.method.to_string();
    // Envoy's proxies have them as headers, too, and some services look there.
    for (name, value) in [(":method", &method), (":authority", &host)] {
        headers.insert(name.to_owned(), value.clone());
    }
    headers.insert(":path".to_owned(), path.to_owned());
    headers.insert(":scheme".to_owned(), "http".to_owned());
    HttpRequest {
        id: headers.get("x-request-id").cloned().unwrap_or_default(),
        method,
        path: path.to_owned(),
        host,
        scheme: "http".to_owned(),
        size: head
            .headers
            .get("content-length")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .unwrap_or(-1),
        protocol: match head.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
        .to_owned(),
        headers,
        body: String::new(),
        raw_body: Bytes::new(),
    }
}

/// Tells what is shown of a body. What is no UTF-8 in a text is one `!` for each byte, as Envoy writes it.
fn show(http: &mut HttpRequest, shown: Excerpt, as_bytes: bool) {
    let partial = if shown.is_partial { "true" } else { "false" };
    let name = PARTIAL.as_str().to_owned();
    http.headers.insert(name, partial.to_owned());
    if as_bytes {
        http.raw_body = shown.bytes;
        return;
    }
    http.body.reserve(shown.bytes.len());
    for chunk in shown.bytes.utf8_chunks() {
        http.body.push_str(chunk.valid());
        http.body.extend(chunk.invalid().iter().map(|_| '!'));
    }
}

/// What an answer means.
pub(super) fn judged(answer: CheckResponse) -> Result<Allowance, Rejection> {
    let code = answer.status.map_or(0, |status| status.code);
    if code == 0 {
        let said = answer.ok_response.unwrap_or_default();
        let (append, set) = said.headers.into_iter().partition(appends);
        return Ok(Allowance {
            set: pairs(set),
            append: pairs(append),
            remove: said
                .headers_to_remove
                .iter()
                .filter_map(|name| name.parse().ok())
                .collect(),
            to_client: pairs(said.response_headers_to_add),
        });
    }
    let denied = answer.denied_response.unwrap_or_default();
    let status = denied.status.map_or(403, |status| status.code);
    let status = u16::try_from(status).ok();
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    Err(Rejection {
        // A no is no yes, whatever its status says.
        status: status
            .filter(|status| !status.is_success() && !status.is_informational())
            .unwrap_or(StatusCode::FORBIDDEN),
        details: "ext_authz_denied".to_owned(),
        headers: pairs(denied.headers),
        body: Bytes::from(denied.body),
    })
}

fn appends(option: &HeaderValueOption) -> bool {
    option.append.as_ref().is_some_and(|append| append.value)
}

fn pairs(options: Vec<HeaderValueOption>) -> Vec<(HeaderName, HeaderValue)> {
    let pair = |option: HeaderValueOption| {
        let header = option.header?;
        let value = match header.raw_value.is_empty() {
            true => header.value.into_bytes(),
            false => header.raw_value,
        };
        let name: HeaderName = header.key.parse().ok()?;
        Some((name, HeaderValue::from_bytes(&value).ok()?))
    };
    options.into_iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::ext_authz::{DeniedHttpResponse, HttpStatus, RpcStatus};

    fn answer(code: i32, denied: Option<i32>) -> CheckResponse {
        CheckResponse {
            status: Some(RpcStatus {
                code,
                message: String::new(),
            }),
            denied_response: denied.map(|code| DeniedHttpResponse {
                status: Some(HttpStatus { code }),
                headers: Vec::new(),
                body: "no".to_owned(),
            }),
            ok_response: None,
        }
    }

    #[test]
    fn a_body_is_told_as_text_or_as_bytes() {
        let bytes = Bytes::from_static(b"a\xf0\x9f\x92b\xff");
        let shown = Excerpt {
            bytes: bytes.clone(),
            is_partial: true,
        };
        let mut http = HttpRequest::default();
        show(&mut http, shown.clone(), false);
        assert_eq!((&*http.body, &*http.raw_body), ("a!!!b!", &b""[..]));
        assert_eq!(http.headers["x-envoy-auth-partial-body"], "true");
        let mut http = HttpRequest::default();
        show(&mut http, shown, true);
        assert_eq!((&*http.body, http.raw_body), ("", bytes));
    }

    #[test]
    fn only_a_status_of_0_is_a_yes() {
        for (answer, want) in [
            (answer(0, None), None),
            (answer(0, Some(401)), None),
            (answer(7, None), Some(403)),
            (answer(16, Some(401)), Some(401)),
            (answer(7, Some(200)), Some(403)),
            (answer(7, Some(-1)), Some(403)),
        ] {
            let status = judged(answer).err().map(|it| it.status.as_u16());
            assert_eq!(status, want);
        }
    }
}
