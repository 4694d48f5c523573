// SPDX-License-Identifier: Apache-2.0

//! What a DestinationRule's `trafficPolicy` makes of clusters, field by field.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;

use super::{
    fixture::{Mesh, client_in},
    routes::{WEB, destination_rule, to, virtual_service, web},
};
use crate::model::{
    Ask, Balancer, Cluster, Decision, Limits, Outlier, UpstreamPolicy,
    hashing::{HashKey, TableKind},
    proxy_protocol::ProxyProtocol,
    upstream::{Keepalive, Spoken, Upkeep},
    warmup::Warmup,
};

/// `web` without its subsets' rule, and this rule instead.
fn with(spec: &str) -> Mesh {
    let route = virtual_service(
        "name: web",
        &format!("hosts: [web], http: [{{{}}}]", to("v1")),
    );
    let bare = super::fixture::canary("web");
    Mesh::new(&(destination_rule("name: web", spec) + &route + &bare))
}

/// The cluster that a request of `client` goes to.
#[track_caller]
fn cluster(mesh: &Mesh, client: &str) -> Arc<Cluster> {
    match mesh.decide(client, WEB, "GET", "/", &HeaderMap::new()) {
        Decision::Forward { cluster, .. } => cluster,
        other => panic!("{other:?}"),
    }
}

const V1: &str = "{name: v1, labels: {version: v1}}";

/// How the endpoints of subset v1 are used under this policy.
#[track_caller]
fn used(policy: &str) -> UpstreamPolicy {
    let mesh = with(&format!(
        "host: web, trafficPolicy: {{{policy}}}, subsets: [{V1}]"
    ));
    mesh.check_problems(&[]);
    let cluster = cluster(&mesh, "client");
    let upstream = cluster.upstream.as_ref();
    upstream
        .map(|upstream| upstream.policy.clone())
        .unwrap_or_default()
}

#[track_caller]
fn check_refused(policy: &str, want: &str) {
    let mesh = with(&format!(
        "host: web, trafficPolicy: {{{policy}}}, subsets: [{V1}]"
    ));
    let problems = mesh.problems();
    let said = |text: &String| text.contains(want) && text.contains("last good state");
    assert!(problems.iter().any(said), "no {want:?} in {problems:#?}");
}

#[track_caller]
fn check_unsupported(policy: &str, want: &str) {
    let mesh = with(&format!(
        "host: web, trafficPolicy: {{{policy}}}, subsets: [{V1}]"
    ));
    let problems = mesh.problems();
    let said = |text: &String| text.contains(want) && text.contains("not supported: ");
    assert!(problems.iter().any(said), "no {want:?} in {problems:#?}");
}

#[test]
fn load_balancer_simple_names_the_balancer() {
    for (simple, want) in [
        ("ROUND_ROBIN", Balancer::RoundRobin),
        ("RANDOM", Balancer::Random),
        ("LEAST_REQUEST", Balancer::LeastRequest),
        ("LEAST_CONN", Balancer::LeastRequest),
        ("UNSPECIFIED", Balancer::LeastRequest),
        ("PASSTHROUGH", Balancer::Original),
    ] {
        let policy = used(&format!("loadBalancer: {{simple: {simple}}}"));
        assert_eq!(policy.balancer, want);
    }
}

#[test]
fn proxy_protocol_is_for_all_ports_and_a_subsets_own_wins() {
    let told = |policy: &str, own: &str| {
        let mesh = with(&format!(
            "host: web, trafficPolicy: {{{policy}}}, \
             subsets: [{{name: v1, labels: {{version: v1}}, trafficPolicy: {{{own}}}}}]"
        ));
        mesh.check_problems(&[]);
        let port = &mesh.service("default", "web").ports[0];
        assert!(!port.is_plain(&client_in("default")), "{policy}");
        cluster(&mesh, "client").endpoints[0].proxy_protocol
    };
    let (one, two) = (Some(ProxyProtocol::V1), Some(ProxyProtocol::V2));
    assert_eq!(told("proxyProtocol: {}", ""), one);
    assert_eq!(told("proxyProtocol: {version: V2}", ""), two);
    let port = "portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]";
    assert_eq!(
        told(&format!("proxyProtocol: {{version: V2}}, {port}"), ""),
        two
    );
    assert_eq!(
        told(
            "proxyProtocol: {version: V2}",
            "proxyProtocol: {version: V1}"
        ),
        one
    );
}

#[test]
fn load_balancer_fields_without_effect_are_reported() {
    let policy = "loadBalancer: {simple: RANDOM, zoneAwareLbSetting: {}}";
    check_unsupported(policy, "loadBalancer.zoneAwareLbSetting");
}

#[test]
fn consistent_hash_has_a_key_and_a_table() {
    let hash = |text: &str| match used(&format!("loadBalancer: {{consistentHash: {{{text}}}}}")) {
        UpstreamPolicy {
            balancer: Balancer::Hash(hash),
            ..
        } => hash,
        other => panic!("{other:?}"),
    };
    let policy = hash("httpHeaderName: X-User");
    assert_eq!(policy.table, TableKind::Ring(1024));
    assert_eq!(policy.key, HashKey::Header("x-user".parse().unwrap()));
    assert_eq!(hash("useSourceIp: true").key, HashKey::Source);
    let query = HashKey::Query("user".into());
    assert_eq!(hash("httpQueryParameterName: user").key, query);
    let HashKey::Cookie(cookie) = hash("httpCookie: {name: user, path: /a, ttl: 60s}").key else {
        panic!("no cookie");
    };
    assert_eq!(cookie.ttl, Some(Duration::from_secs(60)));
    let attributes = "attributes: [{name: SameSite, value: Lax}, {name: Secure}]";
    let HashKey::Cookie(cookie) = hash(&format!("httpCookie: {{name: user, {attributes}}}")).key
    else {
        panic!("no cookie");
    };
    let attributes = cookie.attributes.iter();
    let attributes: Vec<(&str, &str)> = attributes
        .map(|(name, value)| (&**name, &**value))
        .collect();
    assert_eq!(attributes, [("SameSite", "Lax"), ("Secure", "")]);
    let table = |text: &str| hash(&format!("useSourceIp: true, {text}")).table;
    assert_eq!(
        table("ringHash: {minimumRingSize: 2048}"),
        TableKind::Ring(2048)
    );
    assert_eq!(table("minimumRingSize: 512"), TableKind::Ring(512));
    assert_eq!(table("maglev: {}"), TableKind::Maglev(65_537));
    assert_eq!(table("maglev: {tableSize: 7}"), TableKind::Maglev(7));
}

#[test]
fn consistent_hash_is_refused_where_it_means_nothing() {
    for (hash, want) in [
        ("{}", "exactly one of httpHeaderName"),
        (
            "{useSourceIp: true, httpHeaderName: a}",
            "exactly one of httpHeaderName",
        ),
        ("{httpHeaderName: \"a b\"}", "\"a b\" is not a header name"),
        (
            "{httpCookie: {name: \"a;b\"}}",
            "name and path must be visible ASCII",
        ),
        (
            "{httpCookie: {name: a, attributes: [{name: \"x;y\"}]}}",
            "httpCookie.attributes[0]: name and value must be visible ASCII",
        ),
        (
            "{httpCookie: {name: a, ttl: x}}",
            "ttl: \"x\" is not a duration",
        ),
        ("{useSourceIp: true, maglev: {tableSize: 8}}", "not a prime"),
        (
            "{useSourceIp: true, ringHash: {minimumRingSize: 2000000}}",
            "more than 1048576",
        ),
        (
            "{useSourceIp: true, ringHash: {}, maglev: {}}",
            "ringHash and maglev exclude",
        ),
    ] {
        check_refused(&format!("loadBalancer: {{consistentHash: {hash}}}"), want);
    }
}

#[test]
fn connection_pool_limits_what_a_client_has_under_way() {
    let policy = "connectionPool: {tcp: {maxConnections: 1, connectTimeout: 2s}, \
                  http: {http1MaxPendingRequests: 2, http2MaxRequests: 3, maxRetries: 4, maxRequestsPerConnection: 5}}";
    let want = Limits {
        connections: Some(1),
        pending: Some(2),
        requests: Some(3),
        retries: Some(4),
        requests_per_connection: Some(5),
        connect_timeout: Some(Duration::from_secs(2)),
        ..Limits::default()
    };
    assert_eq!(used(policy).limits, want);
    assert_eq!(used("connectionPool: {}"), UpstreamPolicy::default());
    let negative = "connectionPool: {tcp: {maxConnections: -1}}";
    check_refused(negative, "tcp.maxConnections: -1 is less than nothing");
    let timeout = "connectionPool: {tcp: {connectTimeout: 0s}}";
    check_refused(timeout, "tcp.connectTimeout: \"0s\" is not a duration");
}

#[test]
fn connection_pool_says_how_long_bytes_are_carried_and_by_what_requests() {
    let limits = |text: &str| used(&format!("connectionPool: {{{text}}}")).limits;
    let tcp = limits("tcp: {idleTimeout: 30s, maxConnectionDuration: 1h}");
    assert_eq!(tcp.idle, Some(Duration::from_secs(30)));
    assert_eq!(tcp.lifetime, Some(Duration::from_secs(3600)));
    assert_eq!(limits("tcp: {idleTimeout: 0s}"), Limits::default());
    for (http, want) in [
        ("h2UpgradePolicy: UPGRADE", Spoken::Http2),
        ("h2UpgradePolicy: DO_NOT_UPGRADE", Spoken::Declared),
        ("h2UpgradePolicy: DEFAULT", Spoken::Declared),
        ("useClientProtocol: true", Spoken::Clients),
        (
            "useClientProtocol: true, h2UpgradePolicy: UPGRADE",
            Spoken::Clients,
        ),
    ] {
        assert_eq!(limits(&format!("http: {{{http}}}")).spoken, want, "{http}");
    }
    let timeout = "connectionPool: {tcp: {maxConnectionDuration: never}}";
    check_refused(
        timeout,
        "tcp.maxConnectionDuration: \"never\" is not a duration",
    );
}

#[test]
fn connection_pool_says_how_connections_are_kept() {
    let upkeep = |text: &str| {
        let mesh = with(&format!(
            "host: web, trafficPolicy: {{connectionPool: {{{text}}}}}, subsets: [{V1}]"
        ));
        mesh.check_problems(&[]);
        cluster(&mesh, "client").endpoints[0]
            .upkeep
            .as_deref()
            .copied()
            .unwrap_or_default()
    };
    let seconds = |count| Some(Duration::from_secs(count));
    assert_eq!(upkeep("http: {idleTimeout: 4s}").idle, seconds(4));
    assert_eq!(upkeep("http: {idleTimeout: 0s}"), Upkeep::default());
    let all = upkeep("tcp: {tcpKeepalive: {probes: 3, time: 60s, interval: 5s}}");
    let want = Keepalive {
        probes: Some(3),
        time: seconds(60),
        interval: seconds(5),
    };
    assert_eq!(all.keepalive, Some(want));
    let kernels = upkeep("tcp: {tcpKeepalive: {}}");
    assert_eq!(kernels.keepalive, Some(Keepalive::default()));
    for (text, want) in [
        (
            "tcp: {tcpKeepalive: {probes: 128}}",
            "probes: the kernel takes up to 127",
        ),
        (
            "tcp: {tcpKeepalive: {time: 10h}}",
            "time: the kernel takes 1s up to 32767s",
        ),
        (
            "tcp: {tcpKeepalive: {interval: 10ms}}",
            "interval: the kernel takes 1s",
        ),
        (
            "http: {idleTimeout: soon}",
            "http.idleTimeout: \"soon\" is not a duration",
        ),
    ] {
        check_refused(&format!("connectionPool: {{{text}}}"), want);
    }
}

#[test]
fn connection_pool_fields_without_effect_are_reported() {
    for (part, field) in [("http", "maxConcurrentStreams"), ("http", "http2KeepAlive")] {
        let policy = format!("connectionPool: {{{part}: {{{field}: {{}}}}}}");
        check_unsupported(&policy, &format!("connectionPool.{part}.{field}"));
    }
}

#[test]
fn outlier_detection_has_istios_defaults() {
    let default = Outlier {
        server_errors: 5,
        gateway_errors: 0,
        local_failures: None,
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejected_percent: 10,
        min_health_percent: 0,
    };
    assert_eq!(used("outlierDetection: {}").outlier, Some(default));
    assert_eq!(used("connectionPool: {}").outlier, None);
    let policy = "outlierDetection: {consecutive5xxErrors: 1, consecutiveGatewayErrors: 2, \
                  splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 3, interval: 1s, \
                  baseEjectionTime: 3m, maxEjectionPercent: 100, minHealthPercent: 50}";
    let want = Outlier {
        server_errors: 1,
        gateway_errors: 2,
        local_failures: Some(3),
        interval: Duration::from_secs(1),
        base_ejection: Duration::from_secs(180),
        max_ejected_percent: 100,
        min_health_percent: 50,
    };
    assert_eq!(used(policy).outlier, Some(want));
    check_refused(
        "outlierDetection: {maxEjectionPercent: 101}",
        "more than 100 percent",
    );
    check_refused(
        "outlierDetection: {interval: x}",
        "interval: \"x\" is not a duration",
    );
}

#[test]
fn what_istio_dropped_from_outlier_detection_is_said_to_be_deprecated() {
    let policy = "outlierDetection: {consecutiveErrors: 3}";
    let spec = format!("host: web, trafficPolicy: {{{policy}}}, subsets: [{V1}]");
    with(&spec).check_problems(&[
        "Warning [IST0002] (DestinationRule default/web test.yaml:2) \
         spec.trafficPolicy.outlierDetection.consecutiveErrors",
    ]);
}

#[test]
fn warmup_is_for_round_robin_and_least_request() {
    let of = |text: &str| used(&format!("loadBalancer: {{{text}}}")).warmup;
    let want = |seconds, at_first, aggression| {
        Some(Warmup {
            length: Duration::from_secs(seconds),
            at_first,
            aggression,
        })
    };
    assert_eq!(of("warmupDurationSecs: 60s"), want(60, 100, 1_000));
    let all = "simple: ROUND_ROBIN, warmup: {duration: 2m, minimumPercent: 5, aggression: 1.5}";
    assert_eq!(of(all), want(120, 50, 1_500));
    let random =
        with("host: web, trafficPolicy: {loadBalancer: {simple: RANDOM, warmup: {duration: 60s}}}");
    let problems = random.problems().join("\n");
    assert!(
        problems.contains("loadBalancer.warmup.duration: has no effect with this balancer"),
        "{problems}"
    );
    check_refused(
        "loadBalancer: {warmup: {}}",
        "warmup.duration: \"\" is not a duration",
    );
    let less = "loadBalancer: {warmup: {duration: 1s, aggression: 0.5}}";
    check_refused(less, "0.5 is less than 1");
    let more = "loadBalancer: {warmup: {duration: 1s, minimumPercent: 101}}";
    check_refused(more, "101 is not a percentage");
}

#[test]
fn retry_budget_is_a_share_of_requests_and_a_minimum() {
    let of = |text: &str| used(&format!("retryBudget: {{{text}}}")).limits;
    let limits = of("");
    assert_eq!(
        [0, 15, 100].map(|requests| limits.retries_beside(requests)),
        [Some(3), Some(3), Some(20)]
    );
    let limits = of("percent: 12.5, minRetryConcurrency: 0");
    assert_eq!(
        [7, 8, 80].map(|requests| limits.retries_beside(requests)),
        [Some(0), Some(1), Some(10)]
    );
    let both = used("connectionPool: {http: {maxRetries: 7}}, retryBudget: {percent: 50}").limits;
    assert_eq!((both.retries, both.retries_beside(20)), (Some(7), Some(10)));
    check_unsupported(
        "retryBudget: {budgetInterval: 10s}",
        "retryBudget.budgetInterval",
    );
    check_refused("retryBudget: {percent: 200}", "200 is not a percentage");
}

#[test]
fn port_level_settings_inherit_nothing() {
    let policy = "loadBalancer: {simple: RANDOM}, outlierDetection: {}, \
                  portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}]";
    let at_port = used(policy);
    assert_eq!(at_port.balancer, Balancer::RoundRobin);
    assert_eq!(at_port.outlier, None);
    let elsewhere = used(&policy.replace("number: 80", "number: 81"));
    assert_eq!(elsewhere.balancer, Balancer::Random);
    assert!(elsewhere.outlier.is_some());
    check_refused(
        "portLevelSettings: [{}]",
        "portLevelSettings[0].port: must be set",
    );
}

#[test]
fn a_subset_overrides_part_by_part() {
    let own = "{name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}";
    let general = "{loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {}}";
    let mesh = with(&format!(
        "host: web, trafficPolicy: {general}, subsets: [{own}]"
    ));
    mesh.check_problems(&[]);
    let cluster = cluster(&mesh, "client");
    let policy = &cluster.upstream.as_ref().unwrap().policy;
    assert_eq!(policy.balancer, Balancer::Random);
    assert!(policy.outlier.is_some());
}

#[test]
fn policy_fields_without_effect_are_reported() {
    check_unsupported("tunnel: {}", "trafficPolicy.tunnel");
    let tls = "tls: {mode: MUTUAL, credentialName: 'configmap://a'}";
    check_unsupported(tls, "trafficPolicy.tls.credentialName");
    let of_port = format!("portLevelSettings: [{{port: {{number: 80}}, {tls}}}]");
    check_unsupported(&of_port, "portLevelSettings[0].tls.credentialName");
}

#[test]
fn a_policy_counts_without_any_route_and_for_the_clients_that_see_it() {
    let rule = |place: &str, extra: &str| {
        let spec = format!(
            "host: web.default.svc.cluster.local, trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}{extra}"
        );
        let mesh = Mesh::new(&(destination_rule(place, &spec) + &web()));
        ["client", "shopper"].map(|client| {
            let decided = cluster(&mesh, client);
            let upstream = decided.upstream.as_ref();
            upstream.is_some_and(|upstream| upstream.policy.balancer == Balancer::Random)
        })
    };
    assert_eq!(rule("name: all", ""), [true, true]);
    assert_eq!(rule("name: own", ", exportTo: [\".\"]"), [true, false]);
    assert_eq!(rule("name: own, namespace: shop", ""), [false, true]);
}

#[test]
fn a_position_in_the_round_goes_on_over_snapshots() {
    let mut mesh = with(
        "host: web, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}, subsets: [{name: v1, labels: {app: web}}]",
    );
    let mut counts = std::collections::BTreeMap::new();
    for round in 0..10 {
        let pod = super::fixture::pod(&format!("churn-{round}"), &format!("10.2.0.{round}"), "");
        mesh.apply(&pod);
        let cluster = cluster(&mesh, "client");
        let chosen = cluster.choose(&Ask::default(), |_| 0, &[]).unwrap();
        *counts.entry(chosen.address).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [5, 5]);
}
