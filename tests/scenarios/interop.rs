// SPDX-License-Identifier: Apache-2.0

//! The tunnel against a second implementation: Istio's echo programs speak HBONE themselves.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use mesh_tests::{Wire, command::run_ok, foreign};

use crate::mesh::{Mesh, Pods, peer_authentication};

/// Whom the foreign programs' certificates name.
const IDENTITY: &str = "spiffe://cluster.local/ns/default/sa/foreign";

/// A certificate for [`IDENTITY`] by the agents' own authority, made with openssl.
#[track_caller]
fn credentials(directory: &Path) -> PathBuf {
    let root = directory.join("ca/root.pem");
    credentials_of(&directory.join("credentials"), &root, IDENTITY)
}

/// A certificate for `identity` by the authority in the file `root`, made with openssl in the directory `own`.
#[track_caller]
pub(crate) fn credentials_of(own: &Path, root: &Path, identity: &str) -> PathBuf {
    fs::create_dir_all(own).unwrap();
    fs::write(
        own.join("extensions"),
        format!(
            "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\n\
         extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=critical,URI:{identity}\n"
        ),
    )
    .unwrap();
    let openssl = |arguments: &[&str]| {
        run_ok(Command::new("openssl").current_dir(own).args(arguments));
    };
    let root = root.to_str().unwrap();
    openssl(&[
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-out",
        "raw.pem",
    ]);
    openssl(&[
        "pkcs8", "-topk8", "-nocrypt", "-in", "raw.pem", "-out", "key.pem",
    ]);
    openssl(&[
        "req",
        "-new",
        "-key",
        "key.pem",
        "-subj",
        "/O=lab",
        "-out",
        "request.pem",
    ]);
    openssl(&[
        "x509",
        "-req",
        "-in",
        "request.pem",
        "-CA",
        root,
        "-CAkey",
        root,
        "-set_serial",
        "77",
        "-days",
        "1",
        "-extfile",
        "extensions",
        "-out",
        "certificate.pem",
    ]);
    openssl(&["x509", "-in", root, "-out", "root.pem"]);
    own.to_owned()
}

#[test]
fn the_agent_tunnels_to_a_foreign_server() {
    let pods = Pods::start("interop server");
    let foreign = pods
        .lab
        .pod("foreign")
        .on_b()
        .label("app", "foreign")
        .start();
    pods.lab.service("foreign").port("http", 80, 8080).create();
    // No agent on node b: the pod speaks HBONE itself.
    let agent = pods.lab.a.start_agent(&[]);
    let credentials = credentials(pods.lab.directory());
    let _echo = foreign::istio_echo(&pods.lab, &foreign, 8080, &credentials);
    pods.lab.settle(&[&agent]);
    let wire = Wire::listen(&pods.lab);
    let said = pods.client.curl(&[
        "--fail",
        "-H",
        "X-Marker: in-a-header-77",
        "http://foreign/",
    ]);
    assert!(said.ok(), "{}\n{}", said.stderr, agent.log_tail());
    assert!(said.stdout.contains("in-a-header-77"), "{}", said.stdout);
    let crossed = wire.stop();
    assert_eq!(crossed.hits(b"in-a-header-77"), 0);
    crossed.tls_records().unwrap();
}

#[test]
fn a_server_with_another_identity_gets_nothing() {
    let pods = Pods::start("interop impostor");
    let impostor = pods
        .lab
        .pod("foreign")
        .on_b()
        .account("other")
        .label("app", "foreign")
        .start();
    pods.lab.service("foreign").port("http", 80, 8080).create();
    let agent = pods.lab.a.start_agent(&[]);
    let credentials = credentials(pods.lab.directory());
    let echo = foreign::istio_echo(&pods.lab, &impostor, 8080, &credentials);
    pods.lab.settle(&[&agent]);
    let said = pods.client.curl(&["-i", "http://foreign/"]);
    assert!(
        said.stdout.starts_with("HTTP/1.1 503"),
        "{}{}",
        said.stdout,
        said.stderr
    );
    assert!(!echo.log().contains("HTTP Request"), "{}", echo.log());
}

#[track_caller]
fn foreign_client(mesh: &Mesh, with_certificate: bool) -> mesh_tests::command::Ran {
    let foreign = mesh.lab.pod("foreign").outside().start();
    mesh.settle();
    let credentials = credentials(mesh.lab.directory());
    let client = foreign::istio_program("client");
    let hbone = format!("{}:15008", mesh.v1.v4);
    let url = format!("http://{}:8080/", mesh.v1.v4);
    let (certificate, key) = (
        credentials.join("certificate.pem"),
        credentials.join("key.pem"),
    );
    let mut arguments = vec!["--hbone", &hbone, "--hbone-insecure-skip-verify"];
    if with_certificate {
        arguments.extend(["--hbone-client-cert", certificate.to_str().unwrap()]);
        arguments.extend(["--hbone-client-key", key.to_str().unwrap()]);
    }
    arguments.push(&url);
    foreign.exec(client.to_str().unwrap(), &arguments)
}

#[test]
fn a_foreign_client_tunnels_to_the_agent() {
    let mesh = Mesh::with(
        "interop client",
        &[],
        &peer_authentication("default", "STRICT"),
    );
    let ran = foreign_client(&mesh, true);
    assert!(
        ran.ok() && ran.stdout.contains("StatusCode=200"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    assert_eq!(mesh.apps[0].work(), 1);
    mesh_tests::wait::until_true(
        "the identity in the metrics",
        mesh_tests::wait::PATIENCE,
        || {
            mesh.b
                .admin("/metrics")
                .text()
                .contains(&format!("source_principal=\"{IDENTITY}\""))
        },
    );
}

#[test]
fn a_foreign_client_without_a_certificate_gets_nothing() {
    let mesh = Mesh::with(
        "interop anonymous",
        &[],
        &peer_authentication("default", "STRICT"),
    );
    let ran = foreign_client(&mesh, false);
    assert!(!ran.stdout.contains("StatusCode=200"), "{}", ran.stdout);
    assert_eq!(mesh.apps[0].connections(), 0);
}
