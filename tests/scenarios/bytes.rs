// SPDX-License-Identifier: Apache-2.0

//! Streams of bytes: exact at any size, bounded in memory, many at a time.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use mesh_tests::{
    App,
    app::{Habit, habit},
    client, wait,
};

use crate::mesh::Mesh;

const GIB: u64 = 1 << 30;
const PIECE: usize = 1 << 20;

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
fn a_gibibyte_arrives_as_it_was_sent_and_the_answer_after_a_half_close() {
    let (_app, mesh, address) = with_habit("bytes gib", Habit::Digest);
    let (said, expected) = mesh.client.run(|| {
        let mut stream = client::connect(&address).unwrap();
        let mut expected = habit::Digest::default();
        let piece = habit::pattern(0, PIECE);
        for turn in 0..GIB / PIECE as u64 {
            // No two pieces alike, and cheap to make.
            let mut piece = piece.clone();
            piece[..8].copy_from_slice(&turn.to_le_bytes());
            expected.update(&piece);
            stream.write_all(&piece).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream.read_to_string(&mut said).unwrap();
        (said, expected.text())
    });
    assert_eq!(said, expected);
}

#[test]
fn a_reader_that_stops_costs_a_bounded_amount_of_memory() {
    let (_app, mesh, address) = with_habit("bytes stalled", Habit::Source(GIB));
    let before = [mesh.a.resident_bytes(), mesh.b.resident_bytes()];
    let readers: Vec<TcpStream> = mesh.client.run(|| {
        (0..20)
            .map(|_| client::connect(&address).unwrap())
            .collect()
    });
    // The sources have filled all there is to fill when nobody gets further.
    let mut last = (0, 0);
    wait::until("buffers to be full", wait::PATIENCE, || {
        std::thread::sleep(Duration::from_millis(200));
        let now = (mesh.a.resident_bytes(), mesh.b.resident_bytes());
        let same = now == last && now.0 > 0;
        last = now;
        if same { Ok(()) } else { Err(now) }
    });
    let after = [mesh.a.resident_bytes(), mesh.b.resident_bytes()];
    for (before, after) in before.iter().zip(after) {
        let per_stream = after.saturating_sub(*before) / 20;
        assert!(
            per_stream < 2 << 20,
            "{per_stream} bytes for a stalled stream"
        );
    }
    // A neighbour is served meanwhile.
    assert_eq!(mesh.get("/").status, 200);
    drop(readers);
}

#[test]
fn five_thousand_connections_are_open_at_once() {
    let (app, mesh, address) = with_habit("bytes many", Habit::Echo);
    mesh.client.run(|| {
        let mut streams = Vec::new();
        for index in 0..5000_u32 {
            let mut stream = client::connect(&address)
                .unwrap_or_else(|error| panic!("connection {index}: {error}"));
            stream.write_all(&index.to_le_bytes()).unwrap();
            streams.push(stream);
        }
        for (index, stream) in streams.iter_mut().enumerate() {
            let mut echoed = [0; 4];
            stream
                .read_exact(&mut echoed)
                .unwrap_or_else(|error| panic!("connection {index}: {error}"));
            assert_eq!(u32::from_le_bytes(echoed) as usize, index);
        }
        assert_eq!(app.open(), 5000);
    });
    wait::until_true("all connections to end", Duration::from_secs(20), || {
        app.open() == 0
    });
    println!(
        "open files afterwards: {} and {}",
        mesh.a.open_files(),
        mesh.b.open_files()
    );
}
