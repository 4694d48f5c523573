// SPDX-License-Identifier: Apache-2.0

//! What is written down of cases for Envoy and for us.
//!
//! Envoy's part is what Istio makes of ours, as far as that matters: its filters in its order, no retries
//! and limits but those that a case has.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::{super::envoy, case::Case, endpoint::Endpoints};

/// `$A` of the case number `number`.
pub(super) fn host(number: usize) -> String {
    format!("a{number}")
}

fn filled(text: &str, number: usize) -> String {
    text.replace("$A", &host(number))
        .replace("$B", &format!("b{number}"))
}

/// An Envoy for all cases, told apart by host.
pub(super) fn envoy(cases: &[(Case, Endpoints)], listen: SocketAddr) -> Value {
    let of_http = |name: &str, kind: &str, fields: Value| {
        envoy::filter(&format!("envoy.filters.http.{name}"), kind, fields)
    };
    let limit = json!({"stat_prefix": "limited"});
    let filters = [
        of_http("fault", "http.fault.v3.HTTPFault", json!({})),
        of_http("cors", "http.cors.v3.Cors", json!({})),
        of_http(
            "local_ratelimit",
            "http.local_ratelimit.v3.LocalRateLimit",
            limit,
        ),
        envoy::router(),
    ];
    let hosts = cases.iter().enumerate().map(|(number, (case, _))| {
        let routes: Value = filled(&case.routes.to_string(), number)
            .parse()
            .expect("it was JSON");
        let host = host(number);
        json!({
            "name": host, "domains": [host], "routes": routes,
            "include_request_attempt_count": true,
        })
    });
    let hosts: Vec<Value> = hosts.collect();
    let manager = envoy::manager(json!({
        "stat_prefix": "in", "codec_type": "AUTO", "stream_idle_timeout": "0s",
        "generate_request_id": false, "delayed_close_timeout": "0.02s", "normalize_path": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED", "http_filters": filters,
        "route_config": {"virtual_hosts": hosts},
    }));
    let mut clusters = Vec::new();
    for (number, (case, endpoints)) in cases.iter().enumerate() {
        let host = host(number);
        let mut fields = case.cluster.clone();
        if case.http2 {
            fields["typed_extension_protocol_options"] = http2();
        }
        clusters.push(cluster(&host, &endpoints.a, &fields));
        clusters.push(cluster(&format!("b{number}"), &[endpoints.b], &json!({})));
    }
    json!({"static_resources": {
        "listeners": [{
            "name": "in", "address": envoy::address(listen),
            "filter_chains": [{"filters": [manager]}],
        }],
        "clusters": clusters,
    }})
}

/// That endpoints speak HTTP/2.
fn http2() -> Value {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({options: {
        "@type": format!("type.googleapis.com/{options}"),
        "explicit_http_config": {"http2_protocol_options": {}},
    }})
}

fn cluster(name: &str, endpoints: &[SocketAddr], fields: &Value) -> Value {
    let endpoint = |at: &SocketAddr| json!({"endpoint": {"address": envoy::address(*at)}});
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
    let mut cluster = json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s", "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    });
    if let (Value::Object(cluster), Value::Object(fields)) = (&mut cluster, fields) {
        cluster.extend(fields.clone());
    }
    cluster
}

/// The same for us: the destinations of each case have addresses of their own, with this port.
pub(super) fn manifests(cases: &[(Case, Endpoints)], port: u16) -> String {
    let mut text = String::new();
    for (number, (case, endpoints)) in cases.iter().enumerate() {
        let mut one = manifest(case, endpoints, vip(number), port);
        if case.http2 {
            one = one.replace("name: http,", "name: grpc,");
        }
        text += &filled(&one, number);
    }
    text
}

fn manifest(case: &Case, endpoints: &Endpoints, vip: Ipv4Addr, port: u16) -> String {
    let beside = Ipv4Addr::new(127, 0, 9, vip.octets()[3]);
    let mut text = service("$A", (vip, port), &endpoints.a);
    text += &service("$B", (beside, port), &[endpoints.b]);
    let (rules, policy, limit) = (&case.rules, case.policy, case.limit);
    text += &istio("VirtualService", &format!("hosts: [$A], http: [{rules}]"));
    if !policy.is_empty() {
        let spec = format!("host: $A, trafficPolicy: {{{policy}}}");
        text += &istio("DestinationRule", &spec);
    }
    if !limit.is_empty() {
        let spec = format!("targetRef: {{kind: Service, name: $A}}, {limit}");
        text += &object("mesh-agent.io/v1alpha1", "LocalRateLimit", "$A", &spec);
    }
    text
}

/// Where clients of the case find `$A`.
pub(super) fn vip(number: usize) -> Ipv4Addr {
    let last = u8::try_from(number + 1).expect("few cases stand together");
    [127, 0, 8, last].into()
}

fn service(name: &str, (vip, port): (Ipv4Addr, u16), endpoints: &[SocketAddr]) -> String {
    let spec = format!("clusterIP: {vip}, ports: [{{name: http, port: {port}}}]");
    let mut text = object("v1", "Service", name, &spec);
    for (at, endpoint) in endpoints.iter().enumerate() {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-{at}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nendpoints: [{{addresses: [{}]}}]\nports: [{{name: http, port: {}}}]\n",
            endpoint.ip(),
            endpoint.port()
        );
    }
    text
}

fn istio(kind: &str, spec: &str) -> String {
    object("networking.istio.io/v1", kind, "$A", spec)
}

fn object(version: &str, kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}
