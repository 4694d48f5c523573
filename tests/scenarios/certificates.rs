// SPDX-License-Identifier: Apache-2.0

//! What a DestinationRule has said to a server that other people wrote: whose certificate the agent
//! shows, and who the client is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use mesh_tests::{client, foreign};

use crate::mesh::Pods;

const ADDRESS: &str = "240.1.0.1";
const HOST: &str = "bank.example.com";

/// Makes a root, a server's certificate and a client's, in a directory of `parent`: the client's where
/// the agent is to find it.
fn certificates(parent: &Path) -> PathBuf {
    let directory = parent.join("certificates");
    fs::create_dir_all(directory.join("default")).expect("the lab's directory can be written");
    let openssl = |words: &str| {
        let mut command = Command::new("openssl");
        command.current_dir(&directory).args(words.split(' '));
        let done = command.output().expect("openssl is there");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "openssl {words}: {said}");
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {key} -days 2 -subj /CN=root -keyout root.key -out root.pem"
    ));
    for (name, names) in [("server", HOST), ("default/client", "client")] {
        openssl(&format!(
            "req {key} -subj /CN={names} -addext subjectAltName=DNS:{names} -keyout {name}.key -out {name}.csr"
        ));
        openssl(&format!(
            "x509 -req -days 2 -CA root.pem -CAkey root.key -CAcreateserial -copy_extensions copy -in {name}.csr -out {name}.pem"
        ));
    }
    directory
}

/// A ServiceEntry for the server, and how it is to be spoken to: flow YAML.
fn entry(server: &str, tls: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: bank, namespace: default}}
spec: {{hosts: [{HOST}], addresses: [{ADDRESS}], ports: [{{number: 443, name: http, protocol: HTTP}}], \
        resolution: STATIC, endpoints: [{{address: {server}}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: bank, namespace: default}}
spec: {{host: {HOST}, trafficPolicy: {{tls: {{{tls}}}}}}}
"
    )
}

#[test]
fn nginx_that_wants_a_certificate_gets_the_rules_and_only_then_answers() {
    let pods = Pods::start("certificates");
    let directory = certificates(pods.lab.directory());
    let path = |name: &str| directory.join(name).display().to_string();
    let inside = pods.lab.pod("bank-inside").on_b().start();
    let outside = pods.lab.pod("bank-outside").on_b().outside().start();
    let tls = format!(
        "ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {}; \
         ssl_verify_client on; add_header X-Client $ssl_client_s_dn;",
        path("server.pem"),
        path("server.key"),
        path("root.pem")
    );
    let _servers =
        [&inside, &outside].map(|pod| foreign::nginx_with(&pods.lab, pod, 443, "ssl", &tls));
    let servers = [inside.v4.to_string(), outside.v4.to_string()];
    let mesh = pods.enrol(&["--client-certificates", &directory.display().to_string()]);
    let get = || {
        let to = format!("{ADDRESS}:443");
        let answer = mesh.client.run(|| client::get(&to, HOST, "/"));
        answer.expect("an answer")
    };
    let roots = format!("caCertificates: {}", path("root.pem"));
    let mutual = format!(
        "mode: MUTUAL, {roots}, clientCertificate: {}, privateKey: {}",
        path("default/client.pem"),
        path("default/client.key")
    );
    for server in &servers {
        mesh.apply(&entry(server, &format!("mode: SIMPLE, {roots}")));
        assert_eq!(get().status, 400, "nginx asks for a certificate");
        mesh.apply(&entry(server, &mutual));
        let answer = get();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-client"), Some("CN=client"));
        let elsewhere = mutual.replace("/default/client.key", "/server.key");
        mesh.apply(&entry(server, &elsewhere));
        let answer = get();
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.text().contains("is not below"), "{}", answer.text());
    }
}

#[test]
fn nginx_is_told_its_client_by_the_proxy_protocol() {
    let pods = Pods::start("proxy protocol");
    let inside = pods.lab.pod("told-inside").on_b().start();
    let outside = pods.lab.pod("told-outside").on_b().outside().start();
    let told =
        "add_header X-Client $proxy_protocol_addr; add_header X-To $proxy_protocol_server_addr;";
    let _servers = [&inside, &outside]
        .map(|pod| foreign::nginx_with(&pods.lab, pod, 443, "proxy_protocol", told));
    let servers = [inside.v4.to_string(), outside.v4.to_string()];
    let mesh = pods.enrol(&[]);
    let to = format!("{ADDRESS}:443");
    for server in &servers {
        for version in ["V1", "V2"] {
            let plain = entry(server, "mode: DISABLE");
            let told = format!("trafficPolicy: {{proxyProtocol: {{version: {version}}}, ");
            mesh.apply(&plain.replace("trafficPolicy: {", &told));
            for _ in 0..2 {
                let answer = mesh.client.run(|| client::get(&to, HOST, "/"));
                let answer = answer.expect("an answer");
                assert_eq!(answer.status, 200, "{}", answer.text());
                let client = mesh.client.v4.to_string();
                assert_eq!(answer.header("x-client"), Some(&*client));
                assert_eq!(answer.header("x-to"), Some(ADDRESS));
            }
        }
    }
}
