// SPDX-License-Identifier: Apache-2.0

//! Which question gets which answer.
//!
//! Owns paths, parameters, status codes and content types. Invariant: every answer but that of
//! `/metrics` is JSON; a refusal is `{"error": "..."}` and says what would have been right.

use std::collections::BTreeMap;

use http::{Method, Response, StatusCode, Uri, header};
use serde_json::{Value, json};

use super::{
    body::Body, dump, gauges, hand_over::Successor, pods, readiness, rehearse, routing, status,
    verify, views::Views, ztunnel,
};
use crate::{tasks::Tasks, telemetry::exposition::CONTENT_TYPE};

/// Where a successor asks; what it asks for takes time, so it is answered apart.
pub(super) const HAND_OVER: &str = "/hand-over";

/// Where istioctl asks a ztunnel.
const CONFIG_DUMP: &str = "/config_dump";

/// What a listener lets be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything: the Unix socket.
    All,
    /// `/metrics` and `/ready`: the loopback address, which any user of the host can reach.
    Metrics,
    /// `/config_dump`: likewise a loopback address.
    ZtunnelDump,
}

/// A question that has no answer.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    /// The question is wrong.
    pub(super) fn bad_request(text: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            text: text.into(),
        }
    }

    /// There is no such thing.
    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            text: text.into(),
        }
    }
}

/// Answers one request.
pub(super) fn answer(
    method: &Method,
    uri: &Uri,
    scope: Scope,
    views: &Views,
    tasks: &Tasks,
) -> Response<Body> {
    let path = uri.path();
    let allowed = match path {
        "/log" if scope == Scope::All => [Method::GET, Method::PUT].as_slice(),
        HAND_OVER if scope == Scope::All => [Method::POST].as_slice(),
        _ => [Method::GET].as_slice(),
    };
    if !allowed.contains(method) {
        return refuse(&Refusal {
            status: StatusCode::METHOD_NOT_ALLOWED,
            text: format!("{path} does not take {method}"),
        });
    }
    if scope == Scope::ZtunnelDump && path != CONFIG_DUMP {
        return refuse(&unknown(path, CONFIG_DUMP));
    }
    match path {
        "/metrics" => metrics(views, tasks),
        "/ready" => ready(views),
        _ if scope == Scope::Metrics => refuse(&unknown(path, "/metrics, /ready")),
        _ => answer_json(method, uri, views, tasks).map_or_else(
            |refusal| refuse(&refusal),
            |body| json_body(StatusCode::OK, &body),
        ),
    }
}

fn answer_json(method: &Method, uri: &Uri, views: &Views, tasks: &Tasks) -> Result<Value, Refusal> {
    let query = query(uri.query().unwrap_or_default());
    match uri.path() {
        "/status" => Ok(status::status(views, tasks)),
        "/verify" => Ok(verify::verify(views)),
        "/proxy-status" => Ok(status::proxy_status(views)),
        "/config" => Ok(dump::config(
            &views.snapshot.borrow(),
            &views.report.borrow(),
            &(views.proxy)(),
        )),
        "/problems" => Ok(dump::problems(&views.report.borrow())),
        CONFIG_DUMP => Ok(ztunnel::config_dump(views)),
        "/rehearse" => rehearse::rehearse(&query, views),
        "/log" => log(method, &query, views),
        path => match path.strip_prefix("/proxy-config/") {
            Some(view) => proxy_config(view, &query, views),
            None => Err(unknown(
                path,
                "/ready, /status, /verify, /proxy-status, /proxy-config/{listeners,clusters,routes,\
                 endpoints}?pod=, /config, /config_dump, /problems, /metrics, /rehearse?drop-root=, /log?level=",
            )),
        },
    }
}

/// Answers a successor, once the agent has let go.
pub(super) async fn hand_over(uri: &Uri, views: &Views) -> Response<Body> {
    let query = query(uri.query().unwrap_or_default());
    let successor = match successor(&query) {
        Ok(successor) => successor,
        Err(refusal) => return refuse(&refusal),
    };
    match views.hand_over.ask(successor).await {
        Ok(()) => json_body(
            StatusCode::OK,
            &json!({ "handedOver": true, "version": env!("CARGO_PKG_VERSION") }),
        ),
        Err(text) => refuse(&Refusal {
            status: StatusCode::CONFLICT,
            text,
        }),
    }
}

pub(super) fn successor(query: &BTreeMap<String, String>) -> Result<Successor, Refusal> {
    let get = |name: &str| {
        let wrong = || Refusal::bad_request("expected /hand-over?version=&abi=&socket=");
        query
            .get(name)
            .filter(|it| !it.is_empty())
            .ok_or_else(wrong)
    };
    Ok(Successor {
        version: get("version")?.clone(),
        abi: get("abi")?
            .parse()
            .map_err(|_not_a_number| Refusal::bad_request("abi is not a number"))?,
        socket: get("socket")?.into(),
    })
}

fn unknown(path: &str, known: &str) -> Refusal {
    Refusal::not_found(format!("there is no {path} here, but {known}"))
}

fn metrics(views: &Views, tasks: &Tasks) -> Response<Body> {
    let mut text = views.telemetry.exposition();
    text.agent(&gauges::read(views, tasks));
    response(StatusCode::OK, CONTENT_TYPE, Body::pieces(text.pieces()))
}

fn ready(views: &Views) -> Response<Body> {
    let missing = readiness::missing(views);
    let status = if missing.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json_body(
        status,
        &json!({ "ready": missing.is_empty(), "missing": missing }),
    )
}

fn log(method: &Method, query: &BTreeMap<String, String>, views: &Views) -> Result<Value, Refusal> {
    if method == Method::PUT {
        let level = query
            .get("level")
            .ok_or_else(|| Refusal::bad_request("the new level is missing: /log?level=debug"))?;
        let before = views.log.get();
        views
            .log
            .set(level)
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        tracing::info!(before, now = views.log.get(), "log level changed");
    }
    Ok(json!({ "level": views.log.get() }))
}

fn proxy_config(
    view: &str,
    query: &BTreeMap<String, String>,
    views: &Views,
) -> Result<Value, Refusal> {
    let rows = match view {
        "listeners" => routing::listeners,
        "clusters" => routing::clusters,
        "routes" => routing::routes,
        "endpoints" => routing::endpoints,
        _ => return Err(unknown(view, "listeners, clusters, routes and endpoints")),
    };
    let name = query
        .get("pod")
        .ok_or_else(|| Refusal::bad_request("the pod is missing: ?pod=NAME.NAMESPACE"))?;
    let port = match query.get("port") {
        None => None,
        Some(text) => Some(
            text.parse::<u16>()
                .map_err(|_not_a_port| Refusal::bad_request(format!("{text} is not a port")))?,
        ),
    };
    let snapshot = views.snapshot.borrow().clone();
    let pod = pods::find(&snapshot, name)?;
    Ok(Value::Array(rows(&snapshot, pod, port)))
}

/// What is answered when composing an answer went wrong; the panic itself is in the log.
pub(super) fn panicked() -> Response<Body> {
    refuse(&Refusal {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        text: "the agent could not compose the answer: see its log".to_owned(),
    })
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    json_body(refusal.status, &json!({ "error": refusal.text }))
}

fn json_body(status: StatusCode, value: &Value) -> Response<Body> {
    let text = Body::whole(format!("{value}\n"));
    response(status, "application/json", text)
}

fn response(status: StatusCode, content_type: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let content_type = content_type
        .parse()
        .expect("both content types are plain ASCII");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

/// The parameters of a query; of several with one name the last counts.
pub(super) fn query(text: &str) -> BTreeMap<String, String> {
    text.split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// Resolves `%xx`; what is not of that form stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = tail
            .get(..2)
            .filter(|_| *first == b'%')
            // A sign would pass for a digit.
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = query("pod=a.b&level=info%2Cx%3Ddebug&bad=%zz%4&empty&sign=%+f");
        assert_eq!(query["pod"], "a.b");
        assert_eq!(query["level"], "info,x=debug");
        assert_eq!(query["bad"], "%zz%4");
        assert_eq!(query["sign"], "%+f");
        assert_eq!(query["empty"], "");
    }
}
