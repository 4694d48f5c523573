// SPDX-License-Identifier: Apache-2.0

//! Promise 7: what applications say to each other arrives as it was said.

use std::{
    io::{BufRead as _, Read as _, Write as _},
    net::Shutdown,
    time::{Duration, Instant},
};

use mesh_tests::{
    App, Http1, Response,
    app::{Habit, habit},
    client::{self, http2},
    wait,
};

use crate::mesh::Mesh;

/// A mesh whose `v1` also has a TCP server with `habit` on 9000, as port 9000 of `raw`.
#[track_caller]
fn with_habit(name: &str, habit: Habit) -> (App, Mesh, String) {
    let mesh = Mesh::start(name);
    let app = App::tcp(&mesh.v1, 9000, habit);
    let labels = [("app", "recommendations"), ("version", "v1")];
    mesh.lab
        .service("raw")
        .selector(&labels)
        .port("tcp", 9000, 9000)
        .create();
    mesh.settle();
    let address = mesh.service("raw", 9000);
    (app, mesh, address)
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once_whatever_its_port_is_called() {
    let (_app, mesh, named) = with_habit("protocols banner", Habit::Banner);
    let labels = [("app", "recommendations"), ("version", "v1")];
    mesh.lab
        .service("unnamed")
        .selector(&labels)
        .port("whatever", 25, 9000)
        .create();
    mesh.settle();
    for address in [
        named,
        mesh.service("unnamed", 25),
        format!("{}:9000", mesh.v1.v4),
    ] {
        let took = mesh.client.run(|| {
            let start = Instant::now();
            let mut stream = client::connect(&address).unwrap();
            let mut greeting = vec![0; habit::BANNER.len()];
            stream.read_exact(&mut greeting).unwrap();
            assert_eq!(greeting, habit::BANNER);
            let took = start.elapsed();
            stream.write_all(b"EHLO client\r\n").unwrap();
            let mut echoed = [0; 13];
            stream.read_exact(&mut echoed).unwrap();
            assert_eq!(&echoed, b"EHLO client\r\n");
            took
        });
        assert!(
            took < Duration::from_secs(1),
            "{address}: the greeting took {took:?}"
        );
    }
}

#[test]
fn a_half_closed_connection_still_carries_the_answer() {
    let (_app, mesh, address) = with_habit("protocols half", Habit::Digest);
    let said = mesh.client.run(|| {
        let mut stream = client::connect(&address).unwrap();
        stream.write_all(&habit::pattern(0, 100_000)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    });
    let mut expected = habit::Digest::default();
    expected.update(&habit::pattern(0, 100_000));
    assert_eq!(said, expected.text());
}

#[test]
fn a_server_that_closes_first_is_no_error() {
    let (_app, mesh, address) = with_habit("protocols bye", Habit::CloseFirst);
    // Often: a port that is used again after a server's close is the trap.
    for _ in 0..50 {
        let said = mesh.client.run(|| {
            let mut said = String::new();
            client::connect(&address)
                .unwrap()
                .read_to_string(&mut said)
                .map(|_| said)
        });
        assert_eq!(said.unwrap(), "bye");
    }
}

#[test]
fn a_reset_of_the_server_is_a_reset_at_the_client() {
    let (_app, mesh, address) = with_habit("protocols reset", Habit::Reset);
    let error = mesh.client.run(|| {
        let mut stream = client::connect(&address).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read(&mut [0]).unwrap_err()
    });
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_client_that_goes_away_is_noticed_by_the_server() {
    let (app, mesh, address) = with_habit("protocols gone", Habit::Echo);
    mesh.client.run(|| {
        let mut stream = client::connect(&address).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut echoed = [0; 5];
        stream.read_exact(&mut echoed).unwrap();
        assert_eq!(app.open(), 1);
    });
    wait::until_true("the server's connection to end", wait::PATIENCE, || {
        app.open() == 0
    });
}

#[test]
fn the_server_sees_the_clients_address_over_both_families() {
    let mesh = Mesh::start("protocols peer");
    let (_, v6) = mesh
        .lab
        .service("dual")
        .selector(&[("version", "v1")])
        .port("http", 80, 8080)
        .create();
    mesh.settle();
    let v4 = mesh.service("dual", 80);
    for (address, own) in [
        (v4, &mesh.client.v4),
        (format!("[{v6}]:80"), &mesh.client.v6),
    ] {
        let answer = mesh
            .client
            .run(|| client::get(&address, "dual", "/"))
            .unwrap();
        let peer: std::net::SocketAddr = answer.field("peer").parse().unwrap();
        assert_eq!(peer.ip().to_string(), *own, "{address}");
    }
}

#[test]
fn header_case_is_kept_on_http1() {
    let mesh = Mesh::start("protocols case");
    let _head = App::tcp(&mesh.v1, 9000, Habit::Head);
    mesh.lab
        .service("head")
        .selector(&[("version", "v1")])
        .port("http", 80, 9000)
        .create();
    mesh.settle();
    let address = mesh.service("head", 80);
    let answer: Response = mesh.client.run(|| {
        let mut http = Http1::connect(&address, "head").unwrap();
        http.request("GET", "/", &[("X-OddCase", "1"), ("x-lower", "2")], b"")
            .unwrap()
    });
    let seen = answer.text();
    assert!(
        seen.contains("X-OddCase: 1\r\n") && seen.contains("x-lower: 2\r\n"),
        "{seen}"
    );
    assert!(
        answer
            .headers
            .iter()
            .any(|(key, _)| key == "X-CamelCase-Header"),
        "{answer:?}"
    );
}

#[test]
fn bodies_trailers_and_interim_answers_pass() {
    let mesh = Mesh::start("protocols bodies");
    let address = mesh.service("recommendations", 80);
    let body = habit::pattern(0, 3_000_000);
    let mut digest = habit::Digest::default();
    digest.update(&body);
    mesh.client.run(|| {
        let mut http = Http1::connect(&address, "recommendations").unwrap();
        let answer = http.request("POST", "/", &[], &body).unwrap().json();
        assert_eq!(answer["body_hash"], digest.hash().to_string());
        assert_eq!(answer["body_whole"], true);
        let streamed = http.get("/stream?chunks=50&size=10000").unwrap();
        assert_eq!(streamed.body.len(), 500_000);
        assert!(streamed.header("transfer-encoding").is_some());
        let trailed = http
            .request("GET", "/trailers", &[("TE", "trailers")], b"")
            .unwrap();
        assert_eq!(trailed.text(), "hello");
        assert_eq!(trailed.trailers, [("x-sum".to_owned(), "5".to_owned())]);
        // A client that waits for 100 before it sends its body.
        let raw = http.raw();
        let head = "POST / HTTP/1.1\r\nHost: recommendations\r\nExpect: 100-continue\r\n\
                    Content-Length: 4\r\n\r\n";
        raw.get_mut().write_all(head.as_bytes()).unwrap();
        let interim = Response::read_head(raw).unwrap();
        assert_eq!(interim.status, 100);
        raw.get_mut().write_all(b"body").unwrap();
        let answer = Response::read(raw, "POST").unwrap();
        assert_eq!(answer.json()["body_bytes"], 4);
    });
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    let mesh = Mesh::start("protocols upgrade");
    let address = mesh.service("recommendations", 80);
    mesh.client.run(|| {
        let mut http = Http1::connect(&address, "recommendations").unwrap();
        let headers = [("Connection", "Upgrade"), ("Upgrade", "echo")];
        let answer = http.request("GET", "/", &headers, b"").unwrap();
        assert_eq!(answer.status, 101, "{}", answer.text());
        let raw = http.raw();
        for turn in 0..100 {
            let said = format!("line {turn}\n");
            raw.get_mut().write_all(said.as_bytes()).unwrap();
            let mut heard = String::new();
            raw.read_line(&mut heard).unwrap();
            assert_eq!(heard, said);
        }
    });
}

#[test]
fn http2_with_prior_knowledge_stays_http2() {
    let mesh = Mesh::start("protocols http2");
    let address = mesh.service("recommendations", 80);
    let answers = mesh
        .client
        .run(|| http2::get_many(&address, "recommendations", "/", 20, 5));
    assert!(
        answers
            .iter()
            .all(|answer| answer.json()["protocol"] == "HTTP/2.0"),
        "{answers:?}"
    );
    let trailed = mesh
        .client
        .run(|| http2::get_many(&address, "recommendations", "/trailers", 1, 1));
    assert_eq!(trailed[0].trailers, [("x-sum".to_owned(), "5".to_owned())]);
}

#[test]
fn a_slow_answer_does_not_hold_up_others() {
    let mesh = Mesh::start("protocols slow");
    let address = mesh.service("recommendations", 80);
    let slow = {
        let address = address.clone();
        mesh.client
            .spawn(move || client::get(&address, "recommendations", "/slow?ms=1500"))
    };
    let start = Instant::now();
    assert_eq!(mesh.get_many(50).values().sum::<usize>(), 50);
    assert!(
        start.elapsed() < Duration::from_millis(1400),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(slow.join().unwrap().unwrap().status, 200);
}
