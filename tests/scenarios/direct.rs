// SPDX-License-Identifier: Apache-2.0

//! The fixtures themselves, without any agent: what pods say to each other directly.
//!
//! When one of these fails, what the other scenarios say means nothing.

use std::{io::Read as _, net::Shutdown};

use mesh_tests::{
    App, Http1, Lab, Wire,
    app::{Habit, habit},
    client::{self, http2},
    foreign,
};

#[test]
fn pods_on_two_nodes_talk_over_both_families() {
    let lab = Lab::new("direct families");
    let client = lab.pod("client").start();
    let server = lab.pod("server").on_b().label("version", "v1").start();
    let _app = App::http(&server, 8080);
    for (own, address) in [(&client.v4, &server.v4), (&client.v6, &server.v6)] {
        let address = std::net::SocketAddr::new(address.parse().unwrap(), 8080).to_string();
        let answer = client.run(|| client::get(&address, "server", "/")).unwrap();
        assert_eq!(answer.field("version"), "v1");
        let peer: std::net::SocketAddr = answer.field("peer").parse().unwrap();
        assert_eq!(peer.ip().to_string(), *own);
    }
}

#[test]
fn a_name_of_the_lab_resolves_in_a_pod() {
    let lab = Lab::new("direct names");
    let client = lab.pod("client").start();
    let server = lab.pod("server").on_b().start();
    let _app = App::http(&server, 80);
    lab.resolve("server", &server.v4);
    let ran = client.curl(&["http://server/"]);
    assert!(ran.ok(), "{}", ran.stderr);
    assert!(ran.stdout.contains("\"pod\":\"server\""), "{}", ran.stdout);
}

#[test]
fn the_wire_shows_what_is_not_encrypted() {
    let lab = Lab::new("direct wire");
    let client = lab.pod("client").start();
    let server = lab.pod("server").on_b().start();
    let _app = App::http(&server, 80);
    let wire = Wire::listen(&lab);
    let address = format!("{}:80", server.v4);
    let answer = client.run(|| {
        Http1::connect(&address, "server")?.request("POST", "/", &[], b"a-marker-in-the-body")
    });
    assert_eq!(answer.unwrap().json()["body_bytes"], 20);
    let crossed = wire.stop();
    assert_eq!(crossed.hits(b"a-marker-in-the-body"), 1);
    assert!(
        crossed
            .tls_records()
            .unwrap_err()
            .contains("POST / HTTP/1.1")
    );
}

#[test]
fn the_servers_have_their_habits() {
    let lab = Lab::new("direct habits");
    let client = lab.pod("client").start();
    let server = lab.pod("server").on_b().start();
    let _digest = App::tcp(&server, 1, Habit::Digest);
    let _banner = App::tcp(&server, 2, Habit::Banner);
    let _head = App::tcp(&server, 3, Habit::Head);
    let _reset = App::tcp(&server, 4, Habit::Reset);
    let said = client.run(|| {
        let mut stream = client::connect(&format!("{}:1", server.v4)).unwrap();
        std::io::Write::write_all(&mut stream, &habit::pattern(0, 1 << 20)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    });
    let mut expected = habit::Digest::default();
    expected.update(&habit::pattern(0, 1 << 20));
    assert_eq!(said, expected.text());
    let greeting = client.run(|| {
        let mut greeting = vec![0; habit::BANNER.len()];
        let mut stream = client::connect(&format!("{}:2", server.v4)).unwrap();
        stream.read_exact(&mut greeting).unwrap();
        greeting
    });
    assert_eq!(greeting, habit::BANNER);
    let head = client.run(|| {
        let mut http = Http1::connect(&format!("{}:3", server.v4), "server").unwrap();
        http.request("GET", "/", &[("X-OddCase", "1")], b"")
            .unwrap()
    });
    assert!(head.text().contains("X-OddCase: 1\r\n"), "{}", head.text());
    let reset = client.run(|| client::get(&format!("{}:4", server.v4), "server", "/"));
    assert_eq!(
        reset.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
}

#[test]
fn many_requests_share_an_http2_connection() {
    let lab = Lab::new("direct http2");
    let client = lab.pod("client").start();
    let server = lab.pod("server").on_b().start();
    let app = App::http(&server, 80);
    let address = format!("{}:80", server.v4);
    let answers = client.run(|| http2::get_many(&address, "server", "/", 100, 10));
    assert_eq!(answers.len(), 100);
    assert!(
        answers
            .iter()
            .all(|answer| answer.json()["protocol"] == "HTTP/2.0")
    );
    assert_eq!((app.connections(), app.work()), (1, 100));
}

#[test]
fn other_peoples_programs_run_in_pods() {
    let lab = Lab::new("direct programs");
    let client = lab.pod("client").start();
    let server = lab.pod("server").on_b().label("version", "v1").start();
    let _nginx = foreign::nginx(&lab, &server, 80);
    let _python = foreign::python(&lab, &server, 81);
    let _go = foreign::go(&lab, &server, 82);
    let said = |path: &str| {
        client
            .curl(&[&format!("http://{}{path}", server.v4)])
            .stdout
    };
    assert_eq!(said(":80/"), "server v1\n");
    assert_eq!(said(":81/hello"), "server\n");
    assert_eq!(said(":82/"), format!("server HTTP/1.1 {} 0\n", client.v4));
    let go = foreign::go_program();
    let go = go.to_str().unwrap();
    let address = format!("{}:82", server.v4);
    for command in ["unary", "stream"] {
        let ran = client.exec(go, &[command, &address, "3"]);
        assert!(
            ran.stdout.starts_with("3 server"),
            "{command}: {}{}",
            ran.stdout,
            ran.stderr
        );
    }
    let ran = client.exec(go, &["websocket", &format!("ws://{address}/ws"), "3"]);
    assert_eq!(ran.stdout, "3 echoed\n", "{}", ran.stderr);
}
