// SPDX-License-Identifier: Apache-2.0

//! What a route can do with requests besides choosing where they go, on the client's node: whole
//! answers, rewrites, faults, CORS, retries, mirrors.

use mesh_tests::{App, Http1, Response, wait};

use crate::mesh::{Mesh, Pods, split};

/// The subsets of `recommendations`, and one rule for it: flow YAML.
fn rule(rule: &str) -> String {
    let both = split(1, 1);
    let (subsets, _) = both.split_once("---").expect("two objects");
    format!(
        "{subsets}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: recommendations, namespace: default}}
spec: {{hosts: [recommendations], http: [{{{rule}}}]}}
"
    )
}

const TO_V1: &str = "route: [{destination: {host: recommendations, subset: v1}}]";

/// One request of the client to `recommendations`.
#[track_caller]
fn ask(mesh: &Mesh, method: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let address = mesh.service("recommendations", 80);
    let answer = mesh.client.run(|| {
        let mut http = Http1::connect(&address, "recommendations")?;
        http.request(method, "/", headers, body)
    });
    answer.unwrap_or_else(|error| panic!("{method}: {error}"))
}

/// How many requests have reached the applications.
fn reached(mesh: &Mesh) -> u64 {
    mesh.apps.iter().map(mesh_tests::App::work).sum()
}

#[test]
fn what_the_route_answers_never_leaves_the_clients_node() {
    let mesh = Mesh::with("traffic answers", &["--access-log", "json"], "");
    let abort = "fault: {abort: {httpStatus: 418, percentage: {value: 100}}}";
    mesh.apply(&rule(&format!("{abort}, {TO_V1}")));
    let answer = mesh.get("/");
    assert_eq!(
        (answer.status, answer.text()),
        (418, "fault filter abort".to_owned())
    );
    mesh.a.wait_log("\"FI\"");
    mesh.apply(&rule(
        "directResponse: {status: 503, body: {string: closed}}",
    ));
    let answer = mesh.get("/");
    assert_eq!((answer.status, answer.text()), (503, "closed".to_owned()));
    mesh.apply(&rule("redirect: {uri: /new, authority: shop.example}"));
    let answer = mesh.get("/old?a=b");
    assert_eq!(answer.status, 301);
    assert_eq!(
        answer.header("location"),
        Some("http://shop.example/new?a=b")
    );
    let cors = "corsPolicy: {allowOrigins: [{exact: https://a}], allowMethods: [PUT]}";
    mesh.apply(&rule(&format!("{cors}, {TO_V1}")));
    let asked = [
        ("Origin", "https://a"),
        ("Access-Control-Request-Method", "PUT"),
    ];
    let answer = ask(&mesh, "OPTIONS", &asked, b"");
    assert_eq!(answer.header("access-control-allow-methods"), Some("PUT"));
    assert_eq!(reached(&mesh), 0);
    let answer = ask(&mesh, "GET", &asked[..1], b"");
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://a")
    );
    assert_eq!(answer.field("version"), "v1");
}

#[test]
fn a_delayed_request_is_answered_and_says_so() {
    let mesh = Mesh::with("traffic delay", &["--access-log", "json"], "");
    let delay = "fault: {delay: {fixedDelay: 300ms, percentage: {value: 100}}}";
    mesh.apply(&rule(&format!("{delay}, {TO_V1}")));
    let began = std::time::Instant::now();
    assert_eq!(mesh.get("/").field("version"), "v1");
    assert!(began.elapsed().as_millis() >= 300);
    mesh.a.wait_log("\"DI\"");
}

#[test]
fn the_server_sees_the_rewritten_url() {
    let mesh = Mesh::start("traffic rewrite");
    let rewrite = "match: [{uri: {prefix: /old}}], rewrite: {uri: /new, authority: other}";
    mesh.apply(&rule(&format!("{rewrite}, {TO_V1}")));
    let answer = mesh.get("/older?a=b");
    assert_eq!(answer.field("path"), "/newer?a=b");
    assert!(
        answer.text().contains("[\"host\",\"other\"]"),
        "{}",
        answer.text()
    );
}

#[test]
fn retries_find_the_endpoint_that_is_up() {
    let mut mesh = Mesh::start("traffic retry");
    let retries = "retries: {attempts: 1, retryOn: connect-failure}, \
                   route: [{destination: {host: recommendations}}]";
    mesh.apply(&rule(retries));
    drop(mesh.apps.pop());
    for _ in 0..20 {
        let answer = ask(&mesh, "POST", &[], b"kept and sent again");
        assert_eq!(answer.field("version"), "v1");
        assert_eq!(answer.json()["body_bytes"], 19);
    }
}

#[test]
fn retries_that_run_out_give_the_last_answer_with_urx() {
    let mesh = Mesh::with("traffic urx", &["--access-log", "json"], "");
    let retries = "retries: {attempts: 2, retryOn: 5xx}";
    mesh.apply(&rule(&format!("{retries}, {TO_V1}")));
    let answer = mesh.get("/status/503");
    assert_eq!(
        (answer.status, answer.field("version")),
        (503, "v1".to_owned())
    );
    mesh.a.wait_log("\"URX\"");
    assert_eq!(reached(&mesh), 3);
}

#[test]
fn a_mirror_gets_every_request_and_its_answers_are_dropped() {
    let mesh = Mesh::start("traffic mirror");
    let mirror = "mirror: {host: recommendations, subset: v2}";
    mesh.apply(&rule(&format!("{mirror}, {TO_V1}")));
    for _ in 0..50 {
        let answer = ask(&mesh, "POST", &[], b"both get it");
        assert_eq!(answer.field("version"), "v1");
    }
    wait::until(
        "the mirror to get all copies",
        wait::PATIENCE,
        || match mesh.apps[1].work() {
            50 => Ok(()),
            other => Err(format!("it has {other}")),
        },
    );
    assert_eq!(mesh.apps[0].work(), 50);
}

#[test]
fn traffic_stays_on_the_node_until_nothing_there_is_fit() {
    let pods = Pods::start("traffic near");
    let near = pods.lab.pod("recommendations-near");
    let near = near
        .label("app", "recommendations")
        .label("version", "near");
    let near = near.account("recommendations").start();
    let app = App::http(&near, 8080);
    let mesh = pods.enrol(&[]);
    mesh.apply(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: recommendations, namespace: default}
spec:
  host: recommendations
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}
    loadBalancer: {localityLbSetting: {failoverPriority: [kubernetes.io/hostname]}}
",
    );
    let answers = mesh.get_many(30);
    assert_eq!(answers, [("near".to_owned(), 30)].into());
    drop(app);
    let answers = mesh.get_many(30);
    assert!(!answers.contains_key("near"), "{answers:?}");
}

#[test]
fn requests_beyond_a_limit_never_leave_the_clients_node() {
    let mesh = Mesh::with("traffic limit", &["--access-log", "json"], "");
    mesh.apply(
        "
apiVersion: mesh-agent.io/v1alpha1
kind: LocalRateLimit
metadata: {name: recommendations, namespace: default}
spec: {targetRef: {kind: Service, name: recommendations}, requests: 3, unit: Hour}
",
    );
    for _ in 0..3 {
        assert_eq!(mesh.get("/").status, 200);
    }
    let answer = mesh.get("/");
    assert_eq!(
        (answer.status, answer.text()),
        (429, "local_rate_limited".to_owned())
    );
    let after = answer.header("retry-after").map(str::parse::<u32>);
    assert!(matches!(after, Some(Ok(1..=1200))), "{after:?}");
    mesh.a.wait_log("\"RL\"");
    assert_eq!(reached(&mesh), 3);
}
