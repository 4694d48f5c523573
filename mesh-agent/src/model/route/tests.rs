// SPDX-License-Identifier: Apache-2.0

//! Requests meet rules.

use std::collections::BTreeMap;

use http::HeaderValue;

use super::*;
use crate::model::{
    InboundPolicy, PathMatch, Position, Protocol, ServiceName, SpiffeId, TextMatch, WorkloadUid,
};

fn workload(namespace: &str, labels: &[(&str, &str)]) -> Workload {
    Workload {
        uid: WorkloadUid("uid".into()),
        name: "client".into(),
        namespace: namespace.into(),
        identity: SpiffeId::new("cluster.local", namespace, "default"),
        node: "node-a".into(),
        addresses: Vec::new(),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>()
            .into(),
        owner: "client".into(),
        canonical_service: "client".into(),
        canonical_revision: "latest".into(),
        enrolled: true,
        netns: None,
        host_network: false,
        ready: true,
        probe_ports: Vec::new(),
        close_existing_after: None,
        inbound: InboundPolicy::default(),
        scope: Arc::default(),
    }
}

fn cluster(subset: &str) -> Arc<Cluster> {
    Arc::new(Cluster::new(
        ServiceName::new("default", "web"),
        "web.default.svc.cluster.local".into(),
        80,
        (!subset.is_empty()).then(|| subset.into()),
        None,
        Vec::new(),
    ))
}

fn origin() -> ObjectRef {
    ObjectRef {
        kind: "VirtualService".into(),
        namespace: "default".into(),
        name: "web".into(),
    }
}

fn rule(name: &str, matches: Vec<HttpMatch>, weights: &[(&str, u32)]) -> HttpRule {
    let weighted: Vec<u32> = weights.iter().map(|(_, weight)| *weight).collect();
    HttpRule {
        name: name.into(),
        origin: origin(),
        matches,
        backends: weights
            .iter()
            .map(|(subset, _)| Backend::Cluster {
                cluster: cluster(subset),
                edits: None,
                rewrite: None,
                treatment: None,
            })
            .collect(),
        schedule: Schedule::new(&weighted, Position::default()),
        weights: weighted,
        timeout: None,
        treatment: None,
    }
}

fn port(rules: Option<Vec<HttpRule>>) -> ServicePort {
    ServicePort {
        number: 80,
        name: "http".into(),
        protocol: Protocol::Http,
        cluster: cluster(""),
        subsets: Vec::new(),
        consumer_routes: Vec::new(),
        opaque: Default::default(),
        routes: rules.map(|rules| {
            Arc::new(HttpRoutes {
                rules: rules.into(),
                origin: origin(),
            })
        }),
    }
}

/// A request as `METHOD target`, from a client in `default` labelled `app=client`.
fn decide(port: &ServicePort, request: &str, headers: &[(&'static str, &str)]) -> Decision {
    let client = workload("default", &[("app", "client")]);
    decide_from(port, &client, request, headers)
}

fn decide_from(
    port: &ServicePort,
    client: &Workload,
    request: &str,
    headers: &[(&'static str, &str)],
) -> Decision {
    let (method, uri) = request.split_once(' ').unwrap();
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let head = RequestHead {
        method: &method.parse().unwrap(),
        uri: &uri.parse().unwrap(),
        authority: "web:80",
        scheme: "http",
        headers: &map,
    };
    port.decide(&Client { workload: client }, &head)
}

/// The subset and rule of a decision, or its status and flag.
fn outcome(decision: &Decision) -> String {
    match decision {
        Decision::Forward { cluster, route, .. } => {
            format!("{} by {route}", cluster.subset.as_deref().unwrap_or("*"))
        }
        Decision::Redirect {
            status, location, ..
        } => format!("{status} {}", location.to_str().unwrap()),
        Decision::Answer { answer, route } => format!("{} by {route}", answer.status.as_u16()),
        Decision::Refuse(refusal) => format!("{} {}", refusal.status, refusal.flag.as_str()),
    }
}

#[test]
fn a_decision_is_plain_if_the_request_is_only_sent_on() {
    let treated = HttpRule {
        treatment: Some(Arc::default()),
        ..rule("a", Vec::new(), &[("v1", 1)])
    };
    let refused = rule("b", Vec::new(), &[]);
    for (rules, plain) in [
        (None, true),
        (Some(vec![rule("a", Vec::new(), &[("v1", 1)])]), true),
        (Some(vec![treated]), false),
        (Some(vec![refused]), false),
    ] {
        assert_eq!(decide(&port(rules), "GET /", &[]).is_plain(), plain);
    }
}

#[test]
fn without_a_route_a_request_goes_to_the_whole_service() {
    assert_eq!(outcome(&decide(&port(None), "GET /", &[])), "* by default");
}

#[test]
fn the_first_rule_that_matches_decides_and_none_is_not_found() {
    let prefix = |path: &str| {
        vec![HttpMatch {
            path: Some(PathMatch::text_prefix(path, false)),
            ..HttpMatch::default()
        }]
    };
    let port = port(Some(vec![
        rule("a", prefix("/v2"), &[("v2", 0), ("v3", 1)]),
        rule("b", prefix("/v"), &[("v1", 1)]),
        rule("c", prefix("/zero"), &[("v1", 0), ("v2", 0)]),
    ]));
    for (request, want) in [
        ("GET /v2example", "v3 by a"),
        ("GET /v1", "v1 by b"),
        ("GET http://other/v1?x=1", "v1 by b"),
        ("GET /other", "404 NR"),
        ("OPTIONS *", "404 NR"),
        ("GET /zero", "500 -"),
    ] {
        assert_eq!(outcome(&decide(&port, request, &[])), want, "{request}");
    }
}

#[test]
fn weights_are_exact_per_request() {
    let port = port(Some(vec![rule("w", Vec::new(), &[("v1", 90), ("v2", 10)])]));
    let to_v2 = (0..100)
        .filter(|_| outcome(&decide(&port, "GET /", &[])) == "v2 by w")
        .count();
    assert_eq!(to_v2, 10);
}

#[test]
fn clients_of_a_namespace_with_own_routes_use_only_those() {
    let mut port = port(Some(vec![rule("all", Vec::new(), &[("v1", 1)])]));
    let own = HttpRoutes {
        rules: vec![rule("own", Vec::new(), &[("v2", 1)])].into(),
        origin: origin(),
    };
    port.consumer_routes.push(("shop".into(), Arc::new(own)));
    let from = |namespace| outcome(&decide_from(&port, &workload(namespace, &[]), "GET /", &[]));
    assert_eq!(from("shop"), "v2 by own");
    assert_eq!(from("default"), "v1 by all");
}

#[test]
fn a_missing_subset_is_refused_for_its_share() {
    let mut weighted = rule("w", Vec::new(), &[("v1", 1), ("v2", 1)]);
    weighted.backends[1] = Backend::Refused(Refusal {
        status: 503,
        flag: ResponseFlag::NoCluster,
        reason: "subset v2 is in no DestinationRule".into(),
        route: "w".into(),
    });
    let port = port(Some(vec![weighted]));
    let mut outcomes: Vec<_> = (0..4)
        .map(|_| outcome(&decide(&port, "GET /", &[])))
        .collect();
    outcomes.sort();
    assert_eq!(outcomes, ["503 NC", "503 NC", "v1 by w", "v1 by w"]);
}

fn exact(text: &str) -> TextMatch {
    TextMatch::Exact(text.to_owned())
}

fn regex(pattern: &str) -> TextMatch {
    TextMatch::Regex(crate::model::text::FullRegex::new(pattern).unwrap())
}

#[track_caller]
fn check(one: HttpMatch, request: &str, headers: &[(&'static str, &str)], want: bool) {
    let port = port(Some(vec![rule("r", vec![one.clone()], &[("v1", 1)])]));
    let matched = outcome(&decide(&port, request, headers)) == "v1 by r";
    assert_eq!(matched, want, "{one} against {request} {headers:?}");
}

#[test]
fn method_authority_and_scheme_are_matched() {
    let base = HttpMatch::default;
    let method = |want| HttpMatch {
        method: Some(want),
        ..base()
    };
    check(method(exact("GET")), "GET /", &[], true);
    check(method(exact("get")), "GET /", &[], false);
    check(method(regex("GET|POST")), "POST /", &[], true);
    let authority = |want| HttpMatch {
        authority: Some(want),
        ..base()
    };
    check(authority(exact("web:80")), "GET /", &[], true);
    check(
        authority(TextMatch::Prefix("we".into())),
        "GET /",
        &[],
        true,
    );
    check(authority(exact("web")), "GET /", &[], false);
    let scheme = |want| HttpMatch {
        scheme: Some(want),
        ..base()
    };
    check(scheme(exact("https")), "GET /", &[], false);
}

#[test]
fn headers_are_matched() {
    let header = |want| HttpMatch {
        headers: vec![(http::HeaderName::from_static("version"), want)],
        ..HttpMatch::default()
    };
    check(header(exact("two")), "GET /", &[("version", "two")], true);
    check(header(exact("two")), "GET /", &[("version", "one")], false);
    check(header(exact("two")), "GET /", &[], false);
    check(
        header(exact("a,b")),
        "GET /",
        &[("version", "a"), ("version", "b")],
        true,
    );
    check(
        header(TextMatch::Present),
        "GET /",
        &[("version", "")],
        true,
    );
    check(header(TextMatch::Present), "GET /", &[], false);
    check(header(regex("t.*")), "GET /", &[("version", "two")], true);
    check(header(regex("t")), "GET /", &[("version", "two")], false);
}

#[test]
fn a_missing_header_counts_as_empty_where_it_must_not_match() {
    let without = |want| HttpMatch {
        without_headers: vec![(http::HeaderName::from_static("version"), want)],
        ..HttpMatch::default()
    };
    check(without(exact("two")), "GET /", &[], true);
    check(without(exact("two")), "GET /", &[("version", "two")], false);
    check(without(exact("two")), "GET /", &[("version", "one")], true);
    check(without(TextMatch::Present), "GET /", &[], true);
    check(
        without(TextMatch::Present),
        "GET /",
        &[("version", "x")],
        false,
    );
    check(without(regex(".*")), "GET /", &[], false);
}

#[test]
fn query_parameters_are_matched_decoded() {
    let query = |want| HttpMatch {
        query: vec![("animal kind".to_owned(), want)],
        ..HttpMatch::default()
    };
    check(
        query(exact("whale")),
        "GET /?animal%20kind=whale",
        &[],
        true,
    );
    check(
        query(exact("whale")),
        "GET /?a=b&animal%20kind=wh%61le&c",
        &[],
        true,
    );
    check(
        query(exact("whale")),
        "GET /?animal%20kind=dolphin&animal%20kind=whale",
        &[],
        false,
    );
    check(query(TextMatch::Present), "GET /?animal%20kind", &[], true);
    check(query(TextMatch::Present), "GET /", &[], false);
    check(query(exact("%zz")), "GET /?animal%20kind=%zz", &[], true);
}

#[test]
fn the_client_is_matched_by_labels_and_namespace() {
    let from = |labels: &[(&str, &str)], namespace: Option<&str>| HttpMatch {
        source_labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        source_namespace: namespace.map(str::to_owned),
        ..HttpMatch::default()
    };
    check(from(&[("app", "client")], None), "GET /", &[], true);
    check(from(&[("app", "other")], None), "GET /", &[], false);
    check(from(&[], Some("default")), "GET /", &[], true);
    check(from(&[], Some("other")), "GET /", &[], false);
}

#[test]
fn a_catch_all_is_told_from_a_condition() {
    let path = |path| HttpMatch {
        path: Some(path),
        ..HttpMatch::default()
    };
    assert!(HttpMatch::default().is_catch_all());
    assert!(path(PathMatch::prefix("/").unwrap()).is_catch_all());
    assert!(path(PathMatch::text_prefix("/", false)).is_catch_all());
    assert!(!path(PathMatch::text_prefix("/a", false)).is_catch_all());
}
