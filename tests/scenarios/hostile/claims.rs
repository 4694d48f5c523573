// SPDX-License-Identifier: Apache-2.0

//! What a hostile pod says of itself: addresses, certificates, headers, tokens; and the ports of the mesh
//! that it speaks to itself.

use std::path::{Path, PathBuf};

use mesh_tests::{
    Agent, App, Pod,
    client::{self, tunnel},
    command::run_ok,
    wait,
};

use super::{uncaptured, with_evil};
use crate::{
    interop::credentials_of,
    mesh::{Mesh, peer_authentication},
    tokens::{Key, bearer},
};

pub(super) fn identity(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}

/// A policy that lets in these accounts alone.
pub(super) fn only(accounts: &[&str]) -> String {
    policy(&format!("serviceAccounts: [{}]", accounts.join(", ")))
}

/// A policy that lets in those of one source alone; `source` is flow YAML.
fn policy(source: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: only, namespace: default}}
spec:
  selector: {{matchLabels: {{app: recommendations}}}}
  rules: [{{from: [{{source: {{{source}}}}}]}}]
"
    )
}

/// A policy that lets in the address of a pod alone, whoever has it.
fn by_address(pod: &Pod) -> String {
    policy(&format!("ipBlocks: [{}]", pod.v4))
}

/// What curl of `pod` gets from the service, from the pod's address `from`: the status, and the body.
#[track_caller]
fn ask_from(pod: &Pod, from: &str, url: &str) -> (String, String) {
    let said = pod.curl(&["--interface", from, "--write-out", "\n%{http_code}", url]);
    let (body, status) = said.stdout.rsplit_once('\n').unwrap_or_default();
    (status.to_owned(), body.to_owned())
}

#[test]
fn a_neighbours_address_taken_over_gains_neither_its_identity_nor_its_place_at_another_node() {
    let (mesh, evil) = with_evil("hostile address", "");
    let neighbour = &mesh.client;
    evil.netns
        .ip(&format!("addr add {}/32 dev eth0\n", neighbour.v4));
    let urls = [
        format!("http://{}/", mesh.service("recommendations", 80)),
        format!("http://{}:8080/", mesh.v1.v4),
    ];
    for url in &urls {
        let ask = || ask_from(&evil, &neighbour.v4, url);
        let (status, body) = ask();
        assert_eq!(status, "200", "{url}");
        assert!(body.contains(&format!("\"peer\":\"{}:", evil.v4)), "{body}");
        mesh.apply(&only(&["client"]));
        assert_ne!(ask().0, "200", "{url}: as the neighbour");
        mesh.apply(&only(&["evil"]));
        assert_eq!(ask().0, "200", "{url}: as itself");
        mesh.apply(&by_address(neighbour));
        assert_ne!(ask().0, "200", "{url}: by the neighbour's address");
        mesh.lab.delete("AuthorizationPolicy", "default", "only");
        mesh.settle();
    }
    wait::until_true("the metrics", wait::PATIENCE, || {
        recorded(&mesh.b, "evil") > 0.0
    });
    assert!(recorded(&mesh.b, "client") < 1.0);
    mesh.apply(&by_address(neighbour));
    assert_eq!(mesh.get("/").status, 200, "the neighbour itself");
}

/// Connections and requests that servers of the agent's node had from an account.
fn recorded(agent: &Agent, account: &str) -> f64 {
    let principal = identity(account);
    let labels = [
        ("reporter", "destination"),
        ("source_principal", &*principal),
    ];
    agent.metric("istio_tcp_connections_opened_total", &labels)
        + agent.metric("istio_requests_total", &labels)
}

/// Between pods of one node no packet shows an address: what the agent sees is what the pod's kernel
/// says. What counts is what the pod's status says.
#[test]
fn a_neighbours_address_taken_over_gains_nothing_on_the_same_node_either() {
    let (mesh, evil) = with_evil("hostile address here", "");
    let server = mesh.lab.pod("near-server").label("app", "recommendations");
    let server = server.account("recommendations").start();
    let app = App::http(&server, 8080);
    evil.netns
        .ip(&format!("addr add {}/32 dev eth0\n", mesh.client.v4));
    let url = format!("http://{}:8080/", server.v4);
    let ask = || ask_from(&evil, &mesh.client.v4, &url);
    mesh.apply(&only(&["client"]));
    assert_ne!(ask().0, "200", "as the neighbour");
    mesh.apply(&by_address(&mesh.client));
    assert_ne!(ask().0, "200", "by the neighbour's address");
    assert_eq!(app.connections(), 0);
    mesh.apply(&only(&["evil"]));
    assert_eq!(ask().0, "200", "as itself");
    // It is where its status says, for policy and for the application.
    mesh.apply(&by_address(&evil));
    let (status, body) = ask();
    assert_eq!(status, "200", "by its own address");
    let own = format!("\"peer\":\"{}:", evil.v4);
    assert!(body.contains(&own), "{body}");
    wait::until_true("the metrics", wait::PATIENCE, || {
        recorded(&mesh.a, "evil") > 0.0
    });
    assert!(recorded(&mesh.a, "client") < 1.0);
}

/// Bytes of a request whose answer ends with the connection.
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: tunnel\r\nConnection: close\r\n\r\n";

/// Everything a peer could be fooled by.
fn forged(neighbour: &Pod) -> [(&'static str, String); 5] {
    let xfcc = format!("URI={}", identity("client"));
    [
        ("forwarded", format!("for=\"{}:1234\"", neighbour.v4)),
        (
            "baggage",
            "k8s.namespace.name=default,k8s.deployment.name=client,service.name=client".to_owned(),
        ),
        ("x-forwarded-for", neighbour.v4.clone()),
        ("x-forwarded-client-cert", xfcc),
        ("x-envoy-peer-metadata-id", "client.default".to_owned()),
    ]
}

#[track_caller]
fn tunnelled(pod: &Pod, mesh: &Mesh, credentials: &Path, to: &str) -> tunnel::Connected {
    let address = format!("{}:15008", mesh.v1.v4);
    let headers = forged(&mesh.client);
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(key, value)| (*key, &**value))
        .collect();
    tunnel::connect(pod, &address, credentials, to, &headers, REQUEST)
}

#[test]
fn tunnel_headers_forged_under_an_own_certificate_are_recorded_and_judged_as_its_own() {
    let strict = peer_authentication("default", "STRICT");
    let mesh = Mesh::with("hostile headers", &[], &strict);
    let evil = uncaptured(&mesh.lab, "evil");
    mesh.settle();
    let root = mesh.lab.directory().join("ca/root.pem");
    let own = mesh.lab.directory().join("evil");
    let credentials = credentials_of(&own, &root, &identity("evil"));
    let app = format!("{}:8080", mesh.v1.v4);

    // What it can: to speak for itself without an agent.
    let connected = tunnelled(&evil, &mesh, &credentials, &app);
    assert_eq!(connected.status, Some(200), "{}", connected.said);
    let body = String::from_utf8_lossy(&connected.body).into_owned();
    assert!(body.contains(&format!("\"peer\":\"{}:", evil.v4)), "{body}");

    // What it cannot: to be taken for the client.
    for (account, want) in [("client", 401), ("evil", 200)] {
        mesh.apply(&only(&[account]));
        let connected = tunnelled(&evil, &mesh, &credentials, &app);
        assert_eq!(connected.status, Some(want), "only {account}");
    }
    mesh.apply(&by_address(&mesh.client));
    let connected = tunnelled(&evil, &mesh, &credentials, &app);
    assert_eq!(connected.status, Some(401), "by address");
    wait::until("the metric", wait::PATIENCE, || {
        match recorded(&mesh.b, "evil") {
            2.0.. => Ok(()),
            _ => Err(mesh.b.admin("/metrics").text()),
        }
    });
    let metrics = mesh.b.admin("/metrics").text();
    assert!(!metrics.contains(&identity("client")), "{metrics}");
    assert!(!metrics.contains("source_workload=\"client\""), "{metrics}");
}

#[test]
fn a_certificate_that_a_pod_made_itself_or_of_another_trust_domain_opens_no_tunnel() {
    let mesh = Mesh::start("hostile certificate");
    let evil = uncaptured(&mesh.lab, "evil");
    mesh.settle();
    let root = mesh.lab.directory().join("ca/root.pem");
    let directory = mesh.lab.directory().join("evil");
    let app = format!("{}:8080", mesh.v1.v4);
    for (authority, named) in [
        (own_root(&directory), identity("client")),
        (
            root,
            identity("client").replace("cluster.local", "evil.example"),
        ),
    ] {
        let credentials = credentials_of(&directory, &authority, &named);
        let connected = tunnelled(&evil, &mesh, &credentials, &app);
        assert_eq!(connected.status, None, "{named}: {}", connected.said);
    }
    assert_eq!(mesh.apps[0].connections(), 0);
}

/// A root that nobody trusts, key and certificate in one file.
#[track_caller]
fn own_root(directory: &Path) -> PathBuf {
    std::fs::create_dir_all(directory).unwrap();
    let (file, key) = (
        directory.join("own-root.pem"),
        directory.join("own-root.key"),
    );
    let mut openssl = std::process::Command::new("openssl");
    openssl.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1".split(' '));
    openssl
        .args(["-subj", "/O=cluster.local", "-keyout"])
        .arg(&key);
    run_ok(openssl.arg("-out").arg(&file));
    let both = std::fs::read_to_string(&key).unwrap() + &std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, both).unwrap();
    file
}

#[test]
fn ports_of_the_mesh_lead_nowhere_whoever_speaks_to_them() {
    let (mesh, evil) = with_evil("hostile ports", "");
    let outsider = mesh.lab.pod("outsider").outside().start();
    mesh.settle();
    let ports = [15001, 15006, 15008];
    for mode in ["PERMISSIVE", "STRICT"] {
        mesh.apply(&peer_authentication("default", mode));
        for pod in [&evil, &outsider] {
            for server in [&mesh.v1, &mesh.client] {
                for port in ports {
                    let address = format!("{}:{port}", server.v4);
                    let answer = pod.run(|| client::get(&address, "own", "/"));
                    assert!(answer.is_err(), "{mode} {} {address}: {answer:?}", pod.name);
                }
            }
        }
    }
    // The agent's listeners in it, where they are.
    let refused = || {
        let labels = [("response_flags", "DENY")];
        mesh.a.metric("istio_tcp_connections_closed_total", &labels)
    };
    let before = refused();
    for address in [
        "127.0.0.1:15001",
        "127.0.0.1:15006",
        "[::1]:15001",
        "[::1]:15006",
    ] {
        let answer = evil.run(|| client::get(address, "own", "/"));
        assert!(answer.is_err(), "{address}: {answer:?}");
    }
    wait::until("loops to be recorded", wait::PATIENCE, || {
        let more = refused() - before;
        if more >= 4.0 { Ok(()) } else { Err(more) }
    });
    assert_eq!(mesh.apps.iter().map(App::connections).sum::<u64>(), 0);
    for agent in [&mesh.a, &mesh.b] {
        wait::until("nothing to go round", wait::PATIENCE, || {
            let threads = agent.admin_json("/status")["node"]["threads"]["connections"].clone();
            let live: u64 = threads
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|it| it.as_u64())
                .sum();
            if live <= 4 { Ok(()) } else { Err(threads) }
        });
    }
}

#[test]
fn a_tunnel_leads_to_its_own_pods_applications_and_nowhere_else() {
    let mesh = Mesh::start("hostile streams");
    let free = uncaptured(&mesh.lab, "free");
    mesh.settle();
    let root = mesh.lab.directory().join("ca/root.pem");
    let own = mesh.lab.directory().join("free");
    let credentials = credentials_of(&own, &root, &identity("evil"));
    for port in [15001, 15006, 15008] {
        let to = format!("{}:{port}", mesh.v1.v4);
        assert_eq!(
            tunnelled(&free, &mesh, &credentials, &to).status,
            Some(503),
            "{to}"
        );
    }
    // Another pod's address, the node's, the loopback, the agent's metrics: no door to them.
    let node = mesh.lab.b.addresses().0;
    for to in [
        format!("{}:8080", mesh.v2.v4),
        format!("{node}:10250"),
        "127.0.0.1:8080".to_owned(),
        "127.0.0.1:15020".to_owned(),
        "recommendations:80".to_owned(),
    ] {
        assert_eq!(
            tunnelled(&free, &mesh, &credentials, &to).status,
            Some(400),
            "{to}"
        );
    }
    assert_eq!(mesh.apps.iter().map(App::connections).sum::<u64>(), 0);
}

#[test]
fn another_pods_token_replayed_gains_its_subject_and_never_its_principal() {
    let (mesh, evil) = with_evil("hostile token", "");
    let key = Key::new(mesh.lab.directory(), "issuer");
    let jwks = serde_json::json!({"keys": [key.public()]});
    mesh.apply(&format!(
        "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: default}}
spec:
  selector: {{matchLabels: {{app: recommendations}}}}
  jwtRules: [{{issuer: \"https://issuer.example\", jwks: '{jwks}'}}]
"
    ));
    let stolen = key.token(&serde_json::json!({"iss": "https://issuer.example", "sub": "client"}));
    let stolen = bearer(&stolen);
    let url = format!("http://{}/", mesh.service("recommendations", 80));
    let ask = |pod: &Pod| {
        let said = pod.curl(&["-H", &stolen, "--write-out", "\n%{http_code}", &url]);
        said.stdout
            .rsplit_once('\n')
            .unwrap_or_default()
            .1
            .to_owned()
    };
    let subject = "requestPrincipals: [\"https://issuer.example/client\"]";
    // What it can: a bearer token is whose hands it is in.
    mesh.apply(&policy(subject));
    assert_eq!(
        (ask(&mesh.client), ask(&evil)),
        ("200".to_owned(), "200".to_owned())
    );
    // What it cannot: to show it as the pod that it was given to.
    mesh.apply(&policy(&format!("{subject}, serviceAccounts: [client]")));
    assert_eq!(
        (ask(&mesh.client), ask(&evil)),
        ("200".to_owned(), "403".to_owned())
    );
}
