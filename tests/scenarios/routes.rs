// SPDX-License-Identifier: Apache-2.0

//! Promise 3: weights are honoured per request, exactly, however requests arrive; and what is
//! answered when there is nowhere to go.

use std::thread;

use mesh_tests::{Http1, Response, client, client::http2};

use crate::mesh::{Mesh, counts, split, versions};

#[test]
fn ninety_ten_is_exact_on_one_connection() {
    let mesh = Mesh::with("routes one", &[], &split(90, 10));
    assert_eq!(mesh.get_many(1000), counts(900, 100));
    // Every window of 100, not only the sum.
    for _ in 0..3 {
        assert_eq!(mesh.get_many(100), counts(90, 10));
    }
}

#[test]
fn ninety_nine_one_is_exact_on_one_connection() {
    let mesh = Mesh::with("routes canary", &[], &split(99, 1));
    assert_eq!(mesh.get_many(1000), counts(990, 10));
}

#[test]
fn weights_are_exact_over_fifty_connections() {
    let mesh = Mesh::with("routes fifty", &["--threads", "2"], &split(90, 10));
    let address = mesh.service("recommendations", 80);
    let ask = || -> Vec<Response> {
        mesh.client.run(|| {
            thread::scope(|scope| {
                let connections = (0..50).map(|_| {
                    scope.spawn(|| {
                        let mut http = Http1::connect(&address, "recommendations").unwrap();
                        (0..20).map(|_| http.get("/").unwrap()).collect::<Vec<_>>()
                    })
                });
                let connections: Vec<_> = connections.collect();
                let answers = connections
                    .into_iter()
                    .map(|connection| connection.join().unwrap());
                answers.flatten().collect()
            })
        })
    };
    assert_eq!(versions(&ask()), counts(900, 100));
    mesh.apply(&split(99, 1));
    assert_eq!(versions(&ask()), counts(990, 10));
}

#[test]
fn weights_are_exact_over_http2() {
    let mesh = Mesh::with("routes http2", &[], &split(90, 10));
    let address = mesh.service("recommendations", 80);
    let ask = || {
        mesh.client
            .run(|| http2::get_many(&address, "recommendations", "/", 1000, 20))
    };
    assert_eq!(versions(&ask()), counts(900, 100));
    mesh.apply(&split(99, 1));
    assert_eq!(versions(&ask()), counts(990, 10));
}

#[test]
fn the_long_and_the_short_name_are_one_service() {
    let mesh = Mesh::with("routes names", &[], &split(0, 100));
    for host in [
        "recommendations",
        "recommendations.default",
        "recommendations.default.svc.cluster.local",
    ] {
        let said = mesh.client.curl(&[&format!("http://{host}/")]);
        assert!(
            said.stdout.contains("\"version\":\"v2\""),
            "{host}: {}{}",
            said.stdout,
            said.stderr
        );
    }
}

/// What the agent answers itself, and how it says why.
#[track_caller]
fn check_refusal(answer: &Response, status: u16, flag: &str, log: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert!(log.contains(flag), "no {flag} in the access log:\n{log}");
}

#[test]
fn a_subset_that_does_not_exist_is_503_nc() {
    let manifests = split(0, 100).replace("subset: v2", "subset: v3");
    let mesh = Mesh::with("routes nc", &["--access-log", "json"], &manifests);
    let answer = mesh.get("/");
    let log = mesh.a.wait_log("\"NC\"");
    check_refusal(&answer, 503, "\"NC\"", &log);
}

#[test]
fn a_service_without_ready_endpoints_is_503_uh() {
    let mut mesh = Mesh::with("routes uh", &["--access-log", "json"], &split(0, 100));
    mesh.v2.set_ready(false);
    mesh.settle();
    let answer = mesh.get("/");
    let log = mesh.a.wait_log("\"UH\"");
    check_refusal(&answer, 503, "\"UH\"", &log);
}

#[test]
fn an_endpoint_that_does_not_listen_is_503_uf() {
    let mut mesh = Mesh::with("routes uf", &["--access-log", "json"], &split(0, 100));
    drop(mesh.apps.pop());
    let answer = mesh.get("/");
    let log = mesh.a.wait_log("\"UF");
    check_refusal(&answer, 503, "\"UF", &log);
}

#[test]
fn a_request_that_no_rule_matches_is_404_nr() {
    let manifests = split(50, 50).replace(
        "  - route:",
        "  - match:\n    - uri: {prefix: /api}\n    route:",
    );
    let mesh = Mesh::with("routes nr", &["--access-log", "json"], &manifests);
    assert_eq!(mesh.get("/api/v1").status, 200);
    let answer = mesh.get("/other");
    let log = mesh.a.wait_log("\"NR\"");
    check_refusal(&answer, 404, "\"NR\"", &log);
}

#[test]
fn a_connect_failure_goes_on_to_another_endpoint() {
    let mut mesh = Mesh::start("routes failover");
    drop(mesh.apps.pop());
    for _ in 0..20 {
        assert_eq!(mesh.get("/").field("version"), "v1");
    }
}

#[test]
fn a_service_without_routes_is_balanced_over_all_endpoints() {
    let mesh = Mesh::start("routes none");
    let seen = mesh.get_many(200);
    assert!(seen.get("v1").copied().unwrap_or(0) > 50, "{seen:?}");
    assert!(seen.get("v2").copied().unwrap_or(0) > 50, "{seen:?}");
}

#[test]
fn a_pod_is_reached_by_its_own_address_too() {
    let mesh = Mesh::with("routes pod", &[], &split(0, 100));
    let address = format!("{}:8080", mesh.v1.v4);
    let answer = mesh
        .client
        .run(|| client::get(&address, "anything", "/"))
        .unwrap();
    assert_eq!(answer.field("version"), "v1");
}
