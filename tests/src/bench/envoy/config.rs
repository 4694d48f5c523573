// SPDX-License-Identifier: Apache-2.0

//! What the two Envoys are told: listeners, routes and clusters as istiod lays them out.
//!
//! Outbound: one listener on 15001 that hands connections to unbound listeners by their original
//! port, each with a route table by host name and the pod as its endpoint. Inbound: one listener
//! on 15006 that matches the original port and ends mutual TLS. Both check the other's SPIFFE
//! name. Left out, in Envoy's favour: Istio's statistics and metadata filters, telemetry, xDS.
//! Invariant: what is HTTP/1.1 or HTTP/2 at the client is the same between the proxies.

use std::path::Path;

use serde_json::{Value, json};

use crate::bench::{
    certificates::{TRUST_DOMAIN, spiffe_name},
    stage::{GRPC, HOST, HTTP1, HTTP2, Stage, TCP},
};

/// Where connections that leave a pod are led to.
pub(in crate::bench) const OUTBOUND: u16 = 15001;

/// And those that come in.
pub(in crate::bench) const INBOUND: u16 = 15006;

const PORTS: [u16; 4] = [HTTP1, HTTP2, GRPC, TCP];

/// Envoy's configuration for the client's pod.
pub(super) fn outbound(stage: &Stage, certificates: &Path, http: bool) -> Value {
    let mut listeners = vec![json!({
        "name": "virtualOutbound", "address": address("0.0.0.0", OUTBOUND),
        "traffic_direction": "OUTBOUND", "use_original_dst": true,
        "filter_chains": [{"filters": [tcp_proxy("passthrough")]}],
    })];
    let mut clusters = vec![original_destination("passthrough")];
    for port in PORTS {
        let name = format!("outbound|{port}||{HOST}.default.svc.{TRUST_DOMAIN}");
        listeners.push(json!({
            "name": format!("0.0.0.0_{port}"), "address": address("0.0.0.0", port),
            "bind_to_port": false, "traffic_direction": "OUTBOUND",
            "filter_chains": [{"filters": [network_filter(&name, port, http, false)]}],
        }));
        let server_name = format!("outbound_.{port}_._.{HOST}.default.svc.{TRUST_DOMAIN}");
        let tls = typed(
            "envoy.transport_sockets.tls",
            "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            &json!({"sni": server_name, "common_tls_context": tls(certificates, "client", "server")}),
        );
        let endpoint = json!({"endpoint": {"address": address(&stage.server.v4, port)}});
        let cluster = json!({
            "name": name, "type": "STATIC", "lb_policy": "LEAST_REQUEST",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
            "transport_socket": tls,
        });
        clusters.push(with_defaults(cluster, port, http));
    }
    bootstrap(&listeners, &clusters)
}

/// Envoy's configuration for the server's pod.
pub(super) fn inbound(certificates: &Path, http: bool) -> Value {
    let mut chains = Vec::new();
    let mut clusters = Vec::new();
    for port in PORTS {
        let name = format!("inbound|{port}||");
        let tls = typed(
            "envoy.transport_sockets.tls",
            "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            &json!({
                "require_client_certificate": true,
                "common_tls_context": tls(certificates, "server", "client"),
            }),
        );
        chains.push(json!({
            "filter_chain_match": {"destination_port": port, "transport_protocol": "tls"},
            "filters": [network_filter(&name, port, http, true)], "transport_socket": tls,
        }));
        let mut cluster = original_destination(&name);
        // The application must not take its own proxy's connections for captured ones.
        cluster["upstream_bind_config"] = json!({
            "source_address": {"address": "127.0.0.6", "port_value": 0},
        });
        clusters.push(with_defaults(cluster, port, http));
    }
    let listener = json!({
        "name": "virtualInbound", "address": address("0.0.0.0", INBOUND),
        "traffic_direction": "INBOUND", "filter_chains": chains,
        "listener_filters": [
            typed(
                "envoy.filters.listener.original_dst",
                "extensions.filters.listener.original_dst.v3.OriginalDst",
                &json!({}),
            ),
            typed(
                "envoy.filters.listener.tls_inspector",
                "extensions.filters.listener.tls_inspector.v3.TlsInspector",
                &json!({}),
            ),
        ],
    });
    bootstrap(&[listener], &clusters)
}

fn bootstrap(listeners: &[Value], clusters: &[Value]) -> Value {
    json!({
        "admin": {"address": address("127.0.0.1", 15000)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

fn address(ip: &str, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

/// An extension with its configuration, whose type is `kind`.
fn typed(name: &str, kind: &str, fields: &Value) -> Value {
    let mut config = fields.clone();
    config["@type"] = json!(format!("type.googleapis.com/envoy.{kind}"));
    json!({"name": name, "typed_config": config})
}

fn network_filter(cluster: &str, port: u16, http: bool, inbound: bool) -> Value {
    if http && port != TCP {
        connection_manager(cluster, port, inbound)
    } else {
        tcp_proxy(cluster)
    }
}

fn tcp_proxy(cluster: &str) -> Value {
    typed(
        "envoy.filters.network.tcp_proxy",
        "extensions.filters.network.tcp_proxy.v3.TcpProxy",
        &json!({"stat_prefix": cluster, "cluster": cluster}),
    )
}

fn connection_manager(cluster: &str, port: u16, inbound: bool) -> Value {
    let router = typed(
        "envoy.filters.http.router",
        "extensions.filters.http.router.v3.Router",
        &json!({}),
    );
    let mut fields = json!({
        "stat_prefix": cluster, "server_name": "istio-envoy", "normalize_path": true,
        "codec_type": if is_http2(port) { "HTTP2" } else { "HTTP1" },
        "stream_idle_timeout": "0s", "http_filters": [router],
        "route_config": {
            "name": cluster, "virtual_hosts": virtual_hosts(cluster, inbound),
            "ignore_port_in_host_matching": true,
        },
    });
    if inbound {
        fields["forward_client_cert_details"] = json!("APPEND_FORWARD");
        fields["set_current_client_cert_details"] =
            json!({"subject": true, "dns": true, "uri": true});
    }
    typed(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        &fields,
    )
}

/// Outbound the same two rules that our agent gets; inbound everything is the application's.
fn virtual_hosts(cluster: &str, inbound: bool) -> Value {
    let all = json!({
        "match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"},
    });
    if inbound {
        return json!([{"name": "inbound", "domains": ["*"], "routes": [all]}]);
    }
    let canary = json!({
        "match": {
            "prefix": "/admin/",
            "headers": [{"name": "x-canary", "string_match": {"exact": "always"}}],
        },
        "request_headers_to_add": [{"header": {"key": "x-routed", "value": "canary"}}],
        "route": {"cluster": cluster, "timeout": "0s"},
    });
    let long = format!("{HOST}.default.svc.{TRUST_DOMAIN}");
    let names = [HOST.to_owned(), format!("{HOST}.default"), long];
    json!([{
        "name": HOST, "domains": names, "include_request_attempt_count": true,
        "routes": [canary, all],
    }])
}

fn is_http2(port: u16) -> bool {
    port == HTTP2 || port == GRPC
}

fn original_destination(name: &str) -> Value {
    json!({
        "name": name, "connect_timeout": "10s", "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
    })
}

/// What all clusters have: no limits, as istiod sets them, and the protocol of the port.
fn with_defaults(mut cluster: Value, port: u16, http: bool) -> Value {
    cluster["connect_timeout"] = json!("10s");
    cluster["circuit_breakers"] = json!({"thresholds": [{
        "max_connections": u32::MAX, "max_pending_requests": u32::MAX,
        "max_requests": u32::MAX, "max_retries": u32::MAX,
    }]});
    if http && port != TCP {
        let protocol = if is_http2(port) {
            json!({"http2_protocol_options": {}})
        } else {
            json!({"http_protocol_options": {}})
        };
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        cluster["typed_extension_protocol_options"] = json!({options: {
            "@type": format!("type.googleapis.com/{options}"),
            "explicit_http_config": protocol,
        }});
    }
    cluster
}

/// Both sides show a certificate, and check the name in the other's.
fn tls(certificates: &Path, own: &str, other: &str) -> Value {
    let file = |name: String| json!({"filename": certificates.join(name)});
    json!({
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [{
            "certificate_chain": file(format!("{own}.pem")),
            "private_key": file(format!("{own}.key")),
        }],
        "validation_context": {
            "trusted_ca": file("root.pem".to_owned()),
            "match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"exact": spiffe_name(other)}},
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_its_chain_and_client_certificates_are_required() {
        let config = inbound(Path::new("/certificates"), true);
        let listener = &config["static_resources"]["listeners"][0];
        let chains = listener["filter_chains"].as_array().expect("a list");
        assert_eq!(chains.len(), PORTS.len());
        for (chain, port) in chains.iter().zip(PORTS) {
            assert_eq!(chain["filter_chain_match"]["destination_port"], port);
            let tls = &chain["transport_socket"]["typed_config"];
            assert_eq!(tls["require_client_certificate"], true);
        }
    }

    #[track_caller]
    fn check_filter(port: u16, http: bool, want: &str) {
        let filter = network_filter("x", port, http, false);
        let name = filter["name"].as_str().expect("filters have names");
        assert!(name.ends_with(want), "{port} {http}: {name}");
    }

    #[test]
    fn bytes_are_never_read_as_http() {
        check_filter(HTTP1, true, "http_connection_manager");
        check_filter(GRPC, true, "http_connection_manager");
        check_filter(TCP, true, "tcp_proxy");
        check_filter(HTTP1, false, "tcp_proxy");
    }
}
