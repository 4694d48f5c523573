// SPDX-License-Identifier: Apache-2.0

//! Routes for bytes, from node to node: connections by weight, TLS by the name that is asked for.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::Shutdown,
    process::{Child, Command, Stdio},
    time::Duration,
};

use mesh_tests::{
    App, Pod,
    app::{Habit, habit},
    client, wait,
};

use crate::mesh::Mesh;

/// A Service `raw` over both versions and a Service for each, port 9000 named `name`, with an
/// application of each version.
#[track_caller]
fn raw(mesh: &Mesh, name: &str, habit: Habit) -> [App; 2] {
    let apps = [&mesh.v1, &mesh.v2].map(|pod| App::tcp(pod, 9000, habit));
    let all = [("app", "recommendations")];
    mesh.lab
        .service("raw")
        .selector(&all)
        .port(name, 9000, 9000)
        .create();
    for version in ["v1", "v2"] {
        mesh.lab
            .service(&format!("raw-{version}"))
            .selector(&[("app", "recommendations"), ("version", version)])
            .port(name, 9000, 9000)
            .create();
    }
    mesh.settle();
    apps
}

/// The subsets of `raw`, and rules for it: flow YAML.
fn rules(rules: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: raw, namespace: default}}
spec:
  host: raw
  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: raw, namespace: default}}
spec: {{hosts: [raw, '*.svc.cluster.local'], {rules}}}
"
    )
}

/// Sends `said` over a new connection of the client, ends, and hears the answer to its end.
#[track_caller]
fn converse(mesh: &Mesh, said: &[u8]) -> std::io::Result<Vec<u8>> {
    let address = mesh.service("raw", 9000);
    mesh.client.run(|| {
        let mut stream = client::connect(&address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(said)?;
        stream.shutdown(Shutdown::Write)?;
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard)?;
        Ok(heard)
    })
}

/// How many connections each application has had.
fn had(apps: &[App; 2]) -> [u64; 2] {
    [apps[0].connections(), apps[1].connections()]
}

#[test]
fn connections_are_split_by_weight_and_megabytes_arrive_whole() {
    let mesh = Mesh::start("opaque tcp");
    let apps = raw(&mesh, "tcp", Habit::Digest);
    let route = "tcp: [{route: [{destination: {host: raw, subset: v1}, weight: 9}, \
                 {destination: {host: raw, subset: v2}, weight: 1}]}]";
    mesh.apply(&rules(route));
    let said = habit::pattern(0, 3 << 20);
    let mut digest = habit::Digest::default();
    digest.update(&said);
    let want = digest.text();
    let before = had(&apps);
    let mut answers = BTreeMap::new();
    for _ in 0..40 {
        let heard = converse(&mesh, &said).expect("a whole conversation");
        *answers
            .entry(String::from_utf8(heard).unwrap())
            .or_insert(0) += 1;
    }
    assert_eq!(answers, BTreeMap::from([(want, 40)]));
    let after = had(&apps);
    assert_eq!([after[0] - before[0], after[1] - before[1]], [36, 4]);
}

#[test]
fn a_tcp_route_splits_connections_where_no_protocol_is_declared() {
    let mesh = Mesh::start("opaque route");
    let apps = raw(&mesh, "whatever", Habit::Digest);
    mesh.apply(
        "
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: raw, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: raw}]
  rules: [{backendRefs: [{name: raw-v1, port: 9000, weight: 1}, {name: raw-v2, port: 9000, weight: 3}]}]
",
    );
    for _ in 0..20 {
        converse(&mesh, b"GET / HTTP/1.1\r\n\r\n").expect("bytes, whatever they look like");
    }
    assert_eq!(had(&apps), [5, 15]);
}

/// A ClientHello that asks for `name`, and what a client might say after it.
fn hello(name: &str) -> Vec<u8> {
    let short = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    let mut extension = vec![0, 0];
    extension.extend(short(name.len() + 5));
    extension.extend(short(name.len() + 3));
    extension.push(0);
    extension.extend(short(name.len()));
    extension.extend(name.as_bytes());
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(short(extension.len()));
    body.extend(extension);
    let mut record = vec![22, 3, 1];
    record.extend(short(body.len() + 4));
    record.extend([1, 0]);
    record.extend(short(body.len()));
    record.extend(body);
    record.extend(habit::pattern(7, 100_000));
    record
}

#[test]
fn tls_goes_by_the_name_that_is_asked_for_and_arrives_unchanged() {
    let mesh = Mesh::with("opaque tls", &["--access-log", "json"], "");
    let apps = raw(&mesh, "tls", Habit::Echo);
    let rule = |name: &str, version: &str| {
        format!(
            "{{match: [{{sniHosts: ['{name}']}}], route: [{{destination: {{host: raw, subset: {version}}}}}]}}"
        )
    };
    let list = [
        rule("one.svc.cluster.local", "v1"),
        rule("*.svc.cluster.local", "v2"),
    ];
    mesh.apply(&rules(&format!("tls: [{}]", list.join(", "))));
    for (name, want) in [("one", [1, 0]), ("ONE", [2, 0]), ("a.b", [2, 1])] {
        let said = hello(&format!("{name}.svc.cluster.local"));
        assert_eq!(converse(&mesh, &said).expect("an echo"), said);
        assert_eq!(had(&apps), want, "{name}");
    }
    converse(&mesh, &hello("elsewhere")).expect_err("no rule is for that name");
    mesh.a.wait_log("\"NR\"");
    wait::until("nobody else to be reached", wait::PATIENCE, || {
        let had = had(&apps);
        if had == [2, 1] { Ok(()) } else { Err(had) }
    });
}

/// A server in a pod outside of the mesh that speaks TLS as `bank.example.com`, and turns lines around.
struct Bank {
    server: Child,
    /// Who has signed it.
    roots: String,
}

impl Bank {
    #[track_caller]
    fn start(mesh: &Mesh, pod: &Pod) -> Self {
        let file = |name: &str| {
            let path = mesh.lab.directory().join(name);
            path.to_str().expect("a path in UTF-8").to_owned()
        };
        let (key, roots) = (file("bank-key.pem"), file("bank.pem"));
        let of_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        let of_name = "-days 2 -subj /CN=bank -addext basicConstraints=critical,CA:FALSE \
                       -addext subjectAltName=DNS:bank.example.com";
        let made = Command::new("openssl")
            .args(["req", "-x509", "-keyout", &key, "-out", &roots])
            .args(of_key.split_whitespace())
            .args(of_name.split_whitespace())
            .stderr(Stdio::null())
            .status();
        assert!(made.expect("openssl is there").success(), "no certificate");
        let server = pod
            .command("openssl")
            .args(["s_server", "-accept", "9443", "-rev", "-quiet"])
            .args(["-key", &key, "-cert", &roots])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let server = server.expect("openssl is there");
        Self { server, roots }
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

/// What the bank answers to a line.
#[track_caller]
fn ask(mesh: &Mesh) -> std::io::Result<String> {
    let address = mesh.service("bank", 443);
    mesh.client.run(|| {
        let mut stream = client::connect(&address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(b"money\n")?;
        let mut heard = [0; 6];
        stream.read_exact(&mut heard)?;
        Ok(String::from_utf8_lossy(&heard).into_owned())
    })
}

#[test]
fn tls_that_a_rule_asks_for_is_spoken_or_nothing_is_said() {
    let mesh = Mesh::with("opaque bank", &["--access-log", "json"], "");
    // In the Service's namespace, and not in the mesh.
    let pod = mesh.lab.pod("bank").on_b().label("app", "bank");
    let pod = pod.label("mesh-agent.io/enrolled", "false").start();
    let bank = Bank::start(&mesh, &pod);
    mesh.lab
        .service("bank")
        .selector(&[("app", "bank")])
        .port("tcp", 443, 9443)
        .create();
    let rule = |tls: &str| {
        mesh.apply(&format!(
            "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: bank, namespace: default}}
spec: {{host: bank, trafficPolicy: {{tls: {{{tls}}}}}}}
"
        ));
    };
    let roots = format!("caCertificates: {}", bank.roots);
    rule(&format!("mode: SIMPLE, sni: bank.example.com, {roots}"));
    wait::until("the bank to answer", wait::PATIENCE, || match ask(&mesh) {
        Ok(answer) if answer == "yenom\n" => Ok(()),
        other => Err(other),
    });
    // Whoever else it is, or if it cannot be told, nothing is said.
    for tls in [
        format!("mode: SIMPLE, sni: elsewhere.example.com, {roots}"),
        "mode: SIMPLE, sni: bank.example.com, caCertificates: /nonexistent".to_owned(),
        "mode: ISTIO_MUTUAL".to_owned(),
        "mode: MUTUAL, credentialName: bank".to_owned(),
    ] {
        rule(&tls);
        ask(&mesh).expect_err(&tls);
        mesh.a.wait_log("TLS: ");
    }
    mesh.a.wait_log("\"UF\"");
}
