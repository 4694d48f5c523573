// SPDX-License-Identifier: Apache-2.0

//! Promise 5: who may talk to whom, by AuthorizationPolicies, judged where the server is.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use mesh_tests::{
    App, Http1, Pod, Response,
    app::Habit,
    client::{self, http2},
    wait,
};

use crate::mesh::Mesh;

/// An AuthorizationPolicy `name` of `default`; `spec` is YAML of one line.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: default}}
spec: {{{spec}}}
"
    )
}

const SERVERS: &str = "selector: {matchLabels: {app: recommendations}}";

/// What `pod` gets for `method path` at `address`; 0 if there is no answer.
#[track_caller]
fn ask(pod: &Pod, address: &str, method: &str, path: &str) -> Response {
    let answer =
        pod.run(|| Http1::connect(address, "recommendations")?.request(method, path, &[], b""));
    answer.unwrap_or_default()
}

/// Whether a `GET` of `pod` passes; if not, the application saw nothing of it.
#[track_caller]
fn passes(pod: &Pod, address: &str, mesh: &Mesh) -> bool {
    let before: u64 = mesh.apps.iter().map(App::connections).sum();
    let answer = ask(pod, address, "GET", "/");
    let passed = answer.status == 200;
    if !passed {
        let after: u64 = mesh.apps.iter().map(App::connections).sum();
        assert_eq!(
            after, before,
            "denied, but the application saw it: {answer:?}"
        );
    }
    passed
}

/// `RBAC: access denied`, in HTTP's form.
#[track_caller]
fn assert_denied(answer: &Response) {
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (403, "RBAC: access denied")
    );
}

struct Clients {
    /// Enrolled, `default/stranger`, on the clients' node.
    stranger: Pod,
    /// Enrolled, `default/near`, on the servers' node.
    near: Pod,
    /// Not in the mesh.
    outsider: Pod,
}

#[track_caller]
fn with_clients(name: &str) -> (Mesh, Clients) {
    let mesh = Mesh::start(name);
    let clients = Clients {
        stranger: mesh.lab.pod("stranger").account("stranger").start(),
        near: mesh.lab.pod("near").on_b().account("near").start(),
        outsider: mesh.lab.pod("outsider").outside().start(),
    };
    mesh.settle();
    (mesh, clients)
}

#[test]
fn only_the_principal_that_is_allowed_gets_in_on_the_same_node_and_from_another() {
    let (mesh, clients) = with_clients("authz principal");
    let address = mesh.service("recommendations", 80);
    let direct = format!("{}:8080", mesh.v1.v4);
    for (allowed, passing) in [("client", &mesh.client), ("near", &clients.near)] {
        let rule = format!(
            "{SERVERS}, rules: [{{from: [{{source: {{principals: [cluster.local/ns/default/sa/{allowed}]}}}}]}}]"
        );
        mesh.apply(&policy("principal", &rule));
        for to in [&address, &direct] {
            for pod in [
                &mesh.client,
                &clients.near,
                &clients.stranger,
                &clients.outsider,
            ] {
                let want = pod.name == passing.name;
                assert_eq!(
                    passes(pod, to, &mesh),
                    want,
                    "{allowed}: {} to {to}",
                    pod.name
                );
            }
        }
        let denied = ask(&clients.stranger, &address, "GET", "/");
        assert_denied(&denied);
    }
}

#[test]
fn a_namespace_is_denied_and_others_are_not() {
    let mesh = Mesh::start("authz namespace");
    let enrolled = [("istio-injection", "enabled")];
    mesh.lab.manifests.namespace("evil", &enrolled);
    let evil = mesh.lab.pod("evil").namespace("evil").start();
    let near = mesh.lab.pod("evil-near").namespace("evil").on_b().start();
    mesh.apply(&policy(
        "no-evil",
        "action: DENY, rules: [{from: [{source: {namespaces: [evil]}}]}]",
    ));
    let address = mesh.service("recommendations", 80);
    assert!(passes(&mesh.client, &address, &mesh));
    assert!(!passes(&evil, &address, &mesh));
    assert!(!passes(&near, &address, &mesh));
    let labels = [("policy", "default/no-evil"), ("result", "denied")];
    let denials = mesh.b.metric("mesh_agent_authorization_total", &labels);
    assert!(denials >= 2.0, "{denials}");
}

#[test]
fn plaintext_has_no_identity_that_could_be_allowed() {
    let (mesh, clients) = with_clients("authz plaintext");
    let direct = format!("{}:8080", mesh.v1.v4);
    assert!(passes(&clients.outsider, &direct, &mesh), "no policy yet");
    let anybody = "rules: [{from: [{source: {principals: [\"*\"]}}]}]";
    mesh.apply(&policy("identified", anybody));
    assert!(!passes(&clients.outsider, &direct, &mesh));
    assert!(passes(&mesh.client, &direct, &mesh));
    // Those who excluded only some let everybody in who has no name: that is said.
    let excluding = "rules: [{from: [{source: {notPrincipals: [a]}}]}]";
    mesh.apply(&policy("identified", excluding));
    assert!(passes(&clients.outsider, &direct, &mesh));
    let said = mesh
        .b
        .analyze(&mesh.lab.config_directory().to_string_lossy());
    assert!(said.stdout.contains("MESH0006"), "{}", said.stdout);
}

#[test]
fn an_empty_policy_denies_all_until_another_allows() {
    let (mesh, clients) = with_clients("authz default");
    let address = mesh.service("recommendations", 80);
    mesh.apply(&policy("nothing", ""));
    for pod in [&mesh.client, &clients.near, &clients.outsider] {
        assert!(!passes(pod, &address, &mesh), "{}", pod.name);
    }
    let near = "rules: [{from: [{source: {serviceAccounts: [near]}}]}]";
    mesh.apply(&policy("near", near));
    assert!(passes(&clients.near, &address, &mesh));
    assert!(!passes(&mesh.client, &address, &mesh));
    mesh.lab.delete("AuthorizationPolicy", "default", "near");
    mesh.lab.delete("AuthorizationPolicy", "default", "nothing");
    mesh.settle();
    assert!(passes(&mesh.client, &address, &mesh));
}

#[test]
fn methods_and_paths_are_judged_by_request_wherever_it_comes_from() {
    let (mesh, clients) = with_clients("authz requests");
    mesh.apply(&policy(
        "read",
        "rules: [{to: [{operation: {methods: [GET], paths: [\"/\", \"/status/*\"]}}]}]",
    ));
    let address = mesh.service("recommendations", 80);
    let direct = format!("{}:8080", mesh.v1.v4);
    let (service, pod_itself) = (&address, &direct);
    for (pod, to) in [
        (&mesh.client, service),
        (&mesh.client, pod_itself),
        (&clients.near, service),
        (&clients.near, pod_itself),
        // Nobody leads those outside to a Service's address here.
        (&clients.outsider, pod_itself),
    ] {
        let place = format!("{} to {to}", pod.name);
        assert_eq!(ask(pod, to, "GET", "/").status, 200, "{place}");
        assert_eq!(ask(pod, to, "GET", "/status/418").status, 418, "{place}");
        let work = mesh.apps.iter().map(App::work).sum::<u64>();
        assert_denied(&ask(pod, to, "POST", "/"));
        assert_denied(&ask(pod, to, "GET", "/slow"));
        assert_denied(&ask(pod, to, "GET", "/status/../slow"));
        assert_denied(&ask(pod, to, "GET", "/status/..%2fslow"));
        let after = mesh.apps.iter().map(App::work).sum::<u64>();
        assert_eq!(after, work, "denied, but the application saw it: {place}");
    }
    // A connection outlives a denial.
    let statuses: Vec<u16> = mesh.client.run(|| {
        let mut http = Http1::connect(&direct, "recommendations").unwrap();
        let paths = ["/", "/no", "/", "/trailers", "/"];
        paths.map(|path| http.get(path).unwrap().status).to_vec()
    });
    assert_eq!(statuses, [200, 403, 200, 403, 200]);
    let labels = [("reporter", "destination"), ("response_code", "403")];
    wait::until_true("the metric", wait::PATIENCE, || {
        mesh.b.metric("istio_requests_total", &labels) >= 20.0
    });
}

#[test]
fn http2_is_judged_by_request_too() {
    let (mesh, clients) = with_clients("authz http2");
    mesh.apply(&policy(
        "root",
        "rules: [{to: [{operation: {paths: [\"/\"]}}]}]",
    ));
    let direct = format!("{}:8080", mesh.v1.v4);
    for pod in [&mesh.client, &clients.near, &clients.outsider] {
        for (path, want) in [("/", 200), ("/trailers", 403)] {
            let answers = pod.run(|| http2::get_many(&direct, "recommendations", path, 20, 5));
            let all = answers.iter().all(|answer| answer.status == want);
            assert!(all, "{} {path}: {:?}", pod.name, answers.first());
        }
    }
}

#[test]
fn what_is_not_http_is_denied_where_requests_decide() {
    let (mesh, clients) = with_clients("authz opaque");
    let app = App::tcp(&mesh.v1, 9000, Habit::Echo);
    mesh.apply(&policy(
        "read",
        "rules: [{to: [{operation: {methods: [GET]}}]}]",
    ));
    let address = format!("{}:9000", mesh.v1.v4);
    for pod in [&mesh.client, &clients.near, &clients.outsider] {
        pod.run(|| {
            let mut stream = client::connect(&address).unwrap();
            stream.write_all(b"EHLO lab.example\r\n").ok();
            let mut said = [0];
            let read = stream.read(&mut said);
            assert!(!matches!(read, Ok(1..)), "{}: {read:?}", pod.name);
        });
    }
    assert_eq!(app.work(), 0);
}

/// A connection that echoes, from `pod`.
#[track_caller]
fn echoing(pod: &Pod, address: &str) -> TcpStream {
    pod.run(|| {
        let mut stream = client::connect(address).unwrap();
        exchange(&mut stream).unwrap();
        stream
    })
}

fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut back = [0; 5];
    stream.write_all(b"hello")?;
    stream.read_exact(&mut back)
}

#[test]
fn live_connections_are_cut_when_policy_forbids_them_and_others_live_on() {
    let (mesh, clients) = with_clients("authz live");
    let _app = App::tcp(&mesh.v1, 9000, Habit::Echo);
    let address = format!("{}:9000", mesh.v1.v4);
    let pods = [&mesh.client, &clients.near, &clients.outsider];
    let mut streams: Vec<TcpStream> = pods.iter().map(|pod| echoing(pod, &address)).collect();
    let mut other = echoing(&clients.stranger, &address);
    mesh.apply(&policy(
        "only-stranger",
        "rules: [{from: [{source: {serviceAccounts: [stranger]}}]}]",
    ));
    for (stream, pod) in streams.iter_mut().zip(pods) {
        // The promise is a second; what a busy machine makes of it is not judged.
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let read = stream.read(&mut [0]);
        let cut =
            matches!(&read, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(cut, "{}: {read:?}", pod.name);
    }
    exchange(&mut other).unwrap();
    let labels = [("policy", "none"), ("result", "revoked")];
    let cut = mesh.b.metric("mesh_agent_authorization_total", &labels);
    assert!(cut >= 3.0, "{cut}");
}

#[test]
fn a_policy_that_cannot_be_read_denies_what_it_selects_and_says_so() {
    let (mesh, _) = with_clients("authz broken");
    let address = mesh.service("recommendations", 80);
    let broken = format!("{SERVERS}, rules: [{{from: [{{source: {{ipBlocks: [10.0.0.0/99]}}}}]}}]");
    mesh.apply(&policy("broken", &broken));
    assert!(!passes(&mesh.client, &address, &mesh));
    let said = mesh
        .b
        .analyze(&mesh.lab.config_directory().to_string_lossy());
    let text = "spec.rules[0].from[0].source.ipBlocks[0]: \"10.0.0.0/99\" is neither";
    assert!(said.stdout.contains(text), "{}", said.stdout);
    mesh.apply(&policy("broken", &format!("{SERVERS}, rules: [{{}}]")));
    assert!(passes(&mesh.client, &address, &mesh));
}

#[test]
fn a_dry_run_forbids_nothing() {
    let (mesh, _) = with_clients("authz dry");
    let address = mesh.service("recommendations", 80);
    mesh.apply(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: try, namespace: default, annotations: {istio.io/dry-run: \"true\"}}
spec: {action: DENY, rules: [{}]}
",
    );
    assert!(passes(&mesh.client, &address, &mesh));
    let labels = [("policy", "default/try"), ("result", "would_deny")];
    wait::until_true("the metric", wait::PATIENCE, || {
        mesh.b.metric("mesh_agent_authorization_total", &labels) > 0.0
    });
}
