// SPDX-License-Identifier: Apache-2.0

//! Which headers end at a proxy, and what a request asks of the connection.
//!
//! Hop-by-hop headers and those that `Connection` names are taken out; everything else stays as
//! it is. Knows nothing of bodies or sockets. Reference: RFC 9110 section 7.6.1, RFC 9113 8.2.2.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{CONNECTION, CONTENT_TYPE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    request,
    uri::PathAndQuery,
};

use super::http_ids;
use crate::model::{PathNormalization, Rewritten};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Takes out of a request what concerns the client's connection only.
///
/// Returns whether the request asks for another protocol; then `Upgrade` and the `Connection`
/// that names it stay. A request for `h2c` is not taken as one: what comes after it could
/// not be routed.
pub(crate) fn clean_request(headers: &mut HeaderMap) -> bool {
    let upgrade = upgrade_of(headers);
    let trailers = has_token(headers, &TE, "trailers");
    clean(headers);
    headers.remove(HTTP2_SETTINGS);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
    match upgrade {
        Some(protocol) => {
            headers.insert(UPGRADE, protocol);
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            true
        }
        None => {
            headers.remove(UPGRADE);
            false
        }
    }
}

/// What of the request a transparent proxy cannot carry. Reference: RFC 9112 section 6.1 for codings.
pub(crate) fn unsupported(head: &request::Parts) -> Option<&'static str> {
    if head.method == Method::CONNECT {
        return Some("CONNECT is not supported");
    }
    let codings = head.headers.get_all(TRANSFER_ENCODING);
    let is_known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    (!codings.iter().all(is_known)).then_some("transfer coding is not supported")
}

/// Makes a target that names an authority, as for a forward proxy, one for the server that has it.
/// Reference: RFC 9112 section 3.2.2: `Host` follows the target.
pub(crate) fn use_origin_form(head: &mut request::Parts) {
    if head.version >= Version::HTTP_2 {
        return;
    }
    let Some(authority) = head.uri.authority() else {
        return;
    };
    // Who asks is nothing that a Host says.
    let host = authority.as_str().rsplit('@').next().unwrap_or_default();
    let host = HeaderValue::from_str(host).expect("an authority is visible ASCII");
    head.headers.insert(HOST, host);
    head.uri = match head.uri.path_and_query() {
        Some(target) => Uri::from(target.clone()),
        None => Uri::from_static("/"),
    };
}

/// Makes the path of a target the one that it is routed by.
pub(crate) fn normalize(uri: &mut Uri, how: PathNormalization) {
    let Some(path) = how.of(uri.path()) else {
        return;
    };
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let target = PathAndQuery::try_from(target).expect("what was decoded needs no encoding");
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(target);
    *uri = Uri::from_parts(parts).expect("scheme and authority are there as they were");
}

/// Gives a request the URL that its route wants the endpoint to see.
pub(crate) fn rewrite(head: &mut request::Parts, rewritten: Rewritten) {
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    if let Some(path) = rewritten.path {
        parts.path_and_query = Some(path);
    }
    if let Some(authority) = rewritten.authority {
        if parts.authority.is_none() || head.headers.contains_key(HOST) {
            let host = HeaderValue::from_str(authority.as_str());
            let host = host.expect("an authority is visible ASCII");
            head.headers.insert(HOST, host);
        }
        if let Some(own) = &mut parts.authority {
            *own = authority;
        }
    }
    head.uri = Uri::from_parts(parts).expect("scheme and authority are there as they were");
}

/// Takes out of a response what concerns the endpoint's connection only.
pub(crate) fn clean_response(headers: &mut HeaderMap, to: Version) {
    clean(headers);
    if to < Version::HTTP_11 {
        headers.remove(TRANSFER_ENCODING);
    }
}

/// Takes out of the response that switches protocols all but what says so.
pub(crate) fn clean_switching(headers: &mut HeaderMap) {
    let protocol = headers.get(UPGRADE).cloned();
    clean(headers);
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

fn clean(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            // The framing is hyper's to judge, and Host is nobody's to remove.
            .filter(|name| name != TRANSFER_ENCODING && name != http::header::HOST)
            .filter(|name| name != http::header::CONTENT_LENGTH)
            // Nor is what a request is followed by one connection's.
            .filter(|name| http_ids::mark(name.as_str()).is_none())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
}

/// The protocol that a request asks to switch to.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let wanted = has_token(headers, &CONNECTION, "upgrade");
    (wanted && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| protocol.clone())
}

/// Whether the comma-separated values of `name` hold `token`.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether the client waits for a 100 before it sends its body.
pub(crate) fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Whether the request is gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE);
    content_type.is_some_and(|value| names_grpc(value.as_bytes()))
}

/// Whether a content type is gRPC's.
pub(crate) fn names_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    // `application/grpc-web` is another protocol, over which a status cannot be sent this way.
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Whether a request may be sent again although it may have been acted upon (RFC 9110 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(before: &[(&str, &str)], upgrade: bool, after: &[(&str, &str)]) {
        let parse = |pairs: &[(&str, &str)]| -> HeaderMap {
            pairs
                .iter()
                .map(|(name, value)| {
                    let name: HeaderName = name.parse().expect("a header name");
                    (name, HeaderValue::from_str(value).expect("a header value"))
                })
                .collect()
        };
        let mut headers = parse(before);
        assert_eq!(clean_request(&mut headers), upgrade);
        assert_eq!(headers, parse(after));
    }

    #[test]
    fn hop_by_hop_headers_end_here() {
        check(
            &[
                ("connection", "close, X-Private"),
                ("x-private", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("host", "a"),
                ("te", "gzip"),
                ("accept", "*/*"),
            ],
            false,
            &[("host", "a"), ("accept", "*/*")],
        );
    }

    #[test]
    fn trailers_are_still_asked_for() {
        check(
            &[("connection", "TE"), ("te", "gzip, trailers")],
            false,
            &[("te", "trailers")],
        );
    }

    #[test]
    fn an_upgrade_stays_unless_it_is_h2c() {
        check(
            &[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "websocket"),
            ],
            true,
            &[("connection", "Upgrade"), ("upgrade", "websocket")],
        );
        check(
            &[
                ("connection", "Upgrade, HTTP2-Settings"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
            ],
            false,
            &[],
        );
        check(&[("upgrade", "websocket")], false, &[]);
    }

    #[test]
    fn framing_and_host_cannot_be_named_away() {
        check(
            &[
                ("connection", "host, content-length, transfer-encoding"),
                ("host", "a"),
                ("content-length", "3"),
            ],
            false,
            &[("host", "a"), ("content-length", "3")],
        );
    }

    #[test]
    fn a_rewritten_request_has_its_host_where_it_had_it() {
        for (target, host, want_target, want_host) in [
            ("/a?b", Some("shop"), "/c?b", Some("other")),
            ("http://shop/a?b", None, "http://other/c?b", None),
            (
                "http://shop/a?b",
                Some("shop"),
                "http://other/c?b",
                Some("other"),
            ),
        ] {
            let mut request = http::Request::get(target);
            if let Some(host) = host {
                request = request.header(HOST, host);
            }
            let (mut head, ()) = request.body(()).unwrap().into_parts();
            let rewritten = Rewritten {
                authority: Some("other".parse().unwrap()),
                path: Some("/c?b".parse().unwrap()),
            };
            rewrite(&mut head, rewritten);
            assert_eq!(head.uri.to_string(), want_target);
            assert_eq!(
                head.headers.get(HOST).map(|host| host.as_bytes()),
                want_host.map(str::as_bytes)
            );
        }
    }

    #[test]
    fn a_target_for_a_forward_proxy_becomes_one_for_the_server() {
        for (target, want_target, want_host) in [
            ("/a?b", "/a?b", "was"),
            ("http://other/a?b", "/a?b", "other"),
            ("http://me:secret@other:81/", "/", "other:81"),
            ("http://other", "/", "other"),
        ] {
            let request = http::Request::get(target).header(HOST, "was");
            let (mut head, ()) = request.body(()).unwrap().into_parts();
            use_origin_form(&mut head);
            assert_eq!(head.uri.to_string(), want_target);
            assert_eq!(head.headers[HOST], want_host);
        }
    }

    #[test]
    fn a_path_is_made_plain_and_its_query_stays() {
        for (target, want) in [
            ("/a/../b?c=/../d%61", "/b?c=/../d%61"),
            ("http://shop/%61/./b", "http://shop/a/b"),
            ("/a%20b", "/a%20b"),
            ("/a\\b?", "/a/b?"),
            ("*", "*"),
            ("shop:80", "shop:80"),
        ] {
            let mut uri: Uri = target.parse().unwrap();
            normalize(&mut uri, PathNormalization::Base);
            assert_eq!(uri.to_string(), want);
        }
    }

    #[test]
    fn codings_that_nobody_here_knows_are_not_carried() {
        for (coding, known) in [
            ("chunked", true),
            ("Chunked", true),
            ("gzip, chunked", false),
        ] {
            let request = http::Request::post("/").header(TRANSFER_ENCODING, coding);
            let (head, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(unsupported(&head).is_none(), known, "{coding}");
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (value, want) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = [(CONTENT_TYPE, HeaderValue::from_static(value))];
            assert_eq!(is_grpc(&headers.into_iter().collect()), want, "{value}");
        }
    }
}
