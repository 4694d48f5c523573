// SPDX-License-Identifier: Apache-2.0

//! nginx, Go and Python as servers, and curl, Go and Python as clients: programs that know
//! nothing of a mesh, through it.

use mesh_tests::{
    Lab, Pod,
    command::Ran,
    foreign::{self, PYTHON},
    wire::Wire,
};

use crate::mesh::peer_authentication;

/// A server of one kind in the mesh under STRICT, on port 8080 behind `server:80`.
#[track_caller]
fn check(
    name: &str,
    serve: fn(&Lab, &Pod, u16) -> foreign::Server,
    path: &str,
    expected: impl Fn(&str, &str) -> bool,
) {
    let lab = Lab::new(name);
    lab.apply(&peer_authentication("default", "STRICT"));
    let client = lab.pod("client").start();
    let server = lab
        .pod("server")
        .on_b()
        .label("app", "server")
        .label("version", "v1")
        .start();
    lab.service("server").port("http", 80, 8080).create();
    let _running = serve(&lab, &server, 8080);
    let agents = [lab.a.start_agent(&[]), lab.b.start_agent(&[])];
    lab.settle(&[&agents[0], &agents[1]]);
    let url = format!("http://server{path}");
    let script = format!(
        "import urllib.request as r; print(r.urlopen({url:?}, timeout=10).read().decode(), end='')"
    );
    let go = foreign::go_program();
    let wire = Wire::listen(&lab);
    let clients: [(&str, Ran); 3] = [
        ("curl", client.curl(&["--fail", &url])),
        ("python", client.exec(PYTHON, &["-c", &script])),
        ("go", client.exec(go.to_str().unwrap(), &["get", &url, "1"])),
    ];
    for (kind, ran) in clients {
        assert!(ran.ok(), "{kind}: {}", ran.stderr);
        assert!(
            expected(&ran.stdout, &client.v4),
            "{kind}: {:?}",
            ran.stdout
        );
    }
    wire.stop().tls_records().unwrap();
}

#[test]
fn nginx_serves_through_the_mesh() {
    check("programs nginx", foreign::nginx, "/", |said, _| {
        said.contains("server v1")
    });
}

#[test]
fn python_serves_through_the_mesh() {
    check("programs python", foreign::python, "/hello", |said, _| {
        said.contains("server")
    });
}

#[test]
fn go_serves_through_the_mesh_and_sees_its_client() {
    check("programs go", foreign::go, "/", |said, peer| {
        said.contains(&format!("server HTTP/1.1 {peer} 0"))
    });
}

/// A Go server behind a port named for gRPC, and what the Go client says to it.
#[track_caller]
fn go_talk(name: &str, port: &str, arguments: &[&str]) -> String {
    let lab = Lab::new(name);
    let client = lab.pod("client").start();
    let server = lab.pod("server").on_b().label("app", "server").start();
    lab.service("server").port(port, 80, 8080).create();
    let _running = foreign::go(&lab, &server, 8080);
    let agents = [lab.a.start_agent(&[]), lab.b.start_agent(&[])];
    lab.settle(&[&agents[0], &agents[1]]);
    let wire = Wire::listen(&lab);
    let go = foreign::go_program();
    let ran = client.exec(go.to_str().unwrap(), arguments);
    assert!(ran.ok(), "{}{}", ran.stdout, ran.stderr);
    wire.stop().tls_records().unwrap();
    ran.stdout
}

#[test]
fn grpc_calls_pass() {
    let said = go_talk("programs unary", "grpc", &["unary", "server:80", "200"]);
    assert_eq!(said, "200 server x\n");
}

#[test]
fn a_grpc_stream_in_both_directions_passes() {
    let said = go_talk("programs stream", "grpc", &["stream", "server:80", "500"]);
    assert_eq!(said, "500 server\n");
}

#[test]
fn a_websocket_passes() {
    let said = go_talk(
        "programs websocket",
        "http",
        &["websocket", "ws://server:80/ws", "200"],
    );
    assert_eq!(said, "200 echoed\n");
}
