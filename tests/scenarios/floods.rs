// SPDX-License-Identifier: Apache-2.0

//! Promise 10: a pod that asks for too much. Its neighbour is served as ever, the agent's memory stays
//! bounded, the culprit is named, and when the flood is over all is as it was.
//!
//! Nothing here is about time: that a neighbour is not slowed down is measured, not tested.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use mesh_tests::{Agent, App, Pod, app::Habit, client, wait};

use crate::{hostile, mesh::Mesh};

/// A node that is small enough to be flooded.
const SMALL: [&str; 6] = [
    "--max-connections",
    "200",
    "--max-handshakes",
    "32",
    "--max-requests",
    "256",
];

/// What a flood may make the agent grow by. A connection that holds all that it may takes less than a
/// quarter of a megabyte, and a flood has no more than a hundred.
const GROWTH: u64 = 64 << 20;

/// How many connections a flood opens: more than it gets.
const MANY: usize = 250;

/// A flood may leave behind what pools keep.
const KEPT_FILES: usize = 24;

/// The mesh on small nodes, and an enrolled pod on the client's that floods.
#[track_caller]
fn with_flooder(name: &str) -> (Mesh, Pod) {
    with_flooder_by(name, &SMALL)
}

/// The same, with these flags.
#[track_caller]
fn with_flooder_by(name: &str, flags: &[&str]) -> (Mesh, Pod) {
    let mesh = Mesh::with(name, flags, "");
    let flooder = mesh.lab.pod("flooder").start();
    mesh.settle();
    // Tunnels, code and buffers that everybody needs are there before anything is measured.
    for _ in 0..20 {
        mesh.get("/");
    }
    (mesh, flooder)
}

/// The client's requests, each on a connection of its own and then many on one.
#[track_caller]
fn check_neighbour(mesh: &Mesh) {
    for _ in 0..30 {
        assert_eq!(mesh.get("/").status, 200);
    }
    let answers: usize = mesh.get_many(50).values().sum();
    assert_eq!(answers, 50);
}

/// What an agent says about a budget of a pod.
fn budget(agent: &Agent, metric: &str, pod: &str, side: &str, of: &str) -> f64 {
    let labels = [("pod", pod), ("side", side), ("budget", of)];
    agent.metric(&format!("mesh_agent_budget_{metric}"), &labels)
}

/// How often the agent warned that a pod has used up a budget.
fn warnings(agent: &Agent, pod: &str) -> usize {
    let log = agent.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("used up its budget"));
    lines.filter(|line| line.contains(pod)).count()
}

/// What is to be as it was when a flood is over.
struct Level {
    files: usize,
    bytes: u64,
}

impl Level {
    fn of(agent: &Agent) -> Self {
        Self {
            files: agent.open_files_at_rest(),
            bytes: agent.resident_bytes(),
        }
    }

    #[track_caller]
    fn check_memory(&self, agent: &Agent) {
        let grown = agent.resident_bytes().saturating_sub(self.bytes);
        assert!(grown <= GROWTH, "grown by {grown} bytes");
    }

    #[track_caller]
    fn wait_back(&self, agent: &Agent, pod: &str) {
        let held = || {
            let sides = ["outbound", "inbound"].map(|side| {
                let of = |of| budget(agent, "used", pod, side, of);
                of("connections") + of("handshakes") + of("requests")
            });
            sides.iter().sum::<f64>()
        };
        wait::until("everything to be given back", wait::PATIENCE * 3, || {
            let (held, files) = (held(), agent.open_files());
            let is_back = held < 1.0 && files <= self.files + KEPT_FILES;
            if is_back { Ok(()) } else { Err((held, files)) }
        });
    }
}

/// Opens connections from `pod` that say `words` each, and nothing after.
#[track_caller]
fn open(pod: &Pod, address: &str, count: usize, words: &[u8]) -> Vec<TcpStream> {
    pod.run(|| {
        let open = |_| {
            let mut stream = client::connect(address).unwrap();
            // The mesh may have had enough of it already.
            stream.write_all(words).unwrap_or_default();
            stream
        };
        (0..count).map(open).collect()
    })
}

#[test]
fn connections_that_a_pod_holds_open_leave_its_neighbours_theirs() {
    let (mesh, flooder) = with_flooder("floods connections");
    let level = Level::of(&mesh.a);
    let used = || budget(&mesh.a, "used", "flooder", "outbound", "connections");
    let flood = open(&flooder, &mesh.service("recommendations", 80), MANY, b"");
    wait::until_true("the flood to be held back", wait::PATIENCE, || {
        budget(
            &mesh.a,
            "held_back_total",
            "flooder",
            "outbound",
            "connections",
        ) > 0.0
    });
    check_neighbour(&mesh);
    // Two sides of two pods have 25 each of their own, and the flood two thirds of the rest.
    assert!(used() <= 92.0 + 2.0, "{}", used());
    assert_eq!(warnings(&mesh.a, "flooder"), 1, "{}", mesh.a.log_tail());
    assert_eq!(warnings(&mesh.a, "pod=client"), 0);
    let row = hostile::row(&mesh, &flooder);
    let told = &row["budgets"]["outbound"]["connections"];
    assert!(told["heldBack"].as_u64() > Some(0), "{row}");
    level.check_memory(&mesh.a);
    drop(flood);
    level.wait_back(&mesh.a, "flooder");
    check_neighbour(&mesh);
    let again =
        flooder.run(|| client::get(&mesh.service("recommendations", 80), "recommendations", "/"));
    assert_eq!(again.unwrap().status, 200, "it is a pod like others again");
}

/// The begin of a TLS record that would hold a ClientHello.
const BEGUN: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0];

#[test]
fn handshakes_that_never_end_leave_others_theirs() {
    let mesh = Mesh::with("floods handshakes", &SMALL, "");
    let evil = hostile::uncaptured(&mesh.lab, "evil");
    mesh.settle();
    check_neighbour(&mesh);
    let level = Level::of(&mesh.b);
    let tunnels = format!("{}:15008", mesh.v1.v4);
    let silent = open(&evil, &tunnels, 20, b"");
    let slow = open(&evil, &tunnels, 20, BEGUN);
    let held_back = || {
        budget(
            &mesh.b,
            "held_back_total",
            &mesh.v1.name,
            "inbound",
            "handshakes",
        )
    };
    wait::until_true("handshakes to be held back", wait::PATIENCE, || {
        held_back() > 0.0
    });
    // Whoever has no tunnel yet gets one.
    let late = mesh.lab.pod("late").start();
    mesh.settle();
    let v1 = format!("{}:8080", mesh.v1.v4);
    for _ in 0..5 {
        let answer = late.run(|| client::get(&v1, "late", "/"));
        assert_eq!(answer.unwrap().status, 200);
    }
    check_neighbour(&mesh);
    let used = budget(&mesh.b, "used", &mesh.v1.name, "inbound", "handshakes");
    assert!(used <= 4.0, "one address has two, and others some: {used}");
    assert!(mesh.b.log().contains(&evil.v4), "{}", mesh.b.log_tail());
    level.check_memory(&mesh.b);
    drop((silent, slow));
    let handshakes = || budget(&mesh.b, "used", &mesh.v1.name, "inbound", "handshakes");
    wait::until_true("handshakes to end", wait::PATIENCE * 3, || {
        handshakes() < 1.0
    });
    check_neighbour(&mesh);
}

#[test]
fn connections_to_a_pod_from_one_address_leave_room_for_others() {
    let mesh = Mesh::with("floods one address", &SMALL, "");
    let evil = hostile::uncaptured(&mesh.lab, "evil");
    mesh.settle();
    check_neighbour(&mesh);
    let level = Level::of(&mesh.b);
    let plaintext = format!("{}:8080", mesh.v1.v4);
    let flood = open(&evil, &plaintext, MANY, b"");
    let of = |metric| budget(&mesh.b, metric, &mesh.v1.name, "inbound", "connections");
    wait::until_true("some of it to be refused", wait::PATIENCE, || {
        of("refused_total") > 0.0
    });
    check_neighbour(&mesh);
    assert!(mesh.b.log().contains(&evil.v4), "{}", mesh.b.log_tail());
    level.check_memory(&mesh.b);
    drop(flood);
    level.wait_back(&mesh.b, "evil");
    wait::until_true("connections to end", wait::PATIENCE * 3, || {
        of("used") < 8.0
    });
    check_neighbour(&mesh);
}

/// Writes as fast as it can from `pod` on `count` connections until it is told to stop.
fn pour(pod: &Pod, address: &str, count: usize) -> (Arc<AtomicBool>, Vec<JoinHandle<u64>>) {
    let stop = Arc::<AtomicBool>::default();
    let pouring = (0..count).map(|_| {
        let (stop, address) = (Arc::clone(&stop), address.to_owned());
        pod.spawn(move || {
            let mut stream = client::connect(&address).unwrap();
            let piece = vec![7; 64 * 1024];
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) && stream.write_all(&piece).is_ok() {
                written += piece.len() as u64;
            }
            written
        })
    });
    let pouring = pouring.collect();
    (stop, pouring)
}

#[test]
fn bytes_as_fast_as_they_go_leave_neighbours_their_requests() {
    let (mesh, flooder) = with_flooder("floods bytes");
    let _sink = App::tcp(&mesh.v1, 9000, Habit::Digest);
    let level = Level::of(&mesh.a);
    let (stop, pouring) = pour(&flooder, &format!("{}:9000", mesh.v1.v4), 8);
    check_neighbour(&mesh);
    level.check_memory(&mesh.a);
    stop.store(true, Ordering::Relaxed);
    let written: u64 = pouring.into_iter().map(|one| one.join().unwrap()).sum();
    assert!(written > 1 << 20, "it was a flood: {written}");
    level.wait_back(&mesh.a, "flooder");
    check_neighbour(&mesh);
}

#[test]
fn readers_that_stop_leave_neighbours_their_requests() {
    let (mesh, flooder) = with_flooder("floods readers");
    let levels = [Level::of(&mesh.a), Level::of(&mesh.b)];
    let request = b"GET /stream?chunks=1000&size=65536 HTTP/1.1\r\nHost: recommendations\r\n\r\n";
    let service = mesh.service("recommendations", 80);
    let mut flood = open(&flooder, &service, 60, request);
    // The first bytes of an answer have come: the rest is under way.
    for one in &mut flood {
        one.read_exact(&mut [0; 12]).unwrap();
    }
    check_neighbour(&mesh);
    for (level, agent) in levels.iter().zip([&mesh.a, &mesh.b]) {
        level.check_memory(agent);
    }
    drop(flood);
    levels[0].wait_back(&mesh.a, "flooder");
    check_neighbour(&mesh);
}

/// What of HTTP/2 a flood needs.
mod frames {
    /// The preface, and SETTINGS with windows as large as they can be.
    pub(super) fn hello() -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
        bytes.extend(frame(8, 0, 0, &0x7fff_0000u32.to_be_bytes()));
        bytes
    }

    /// A GET of `path` as a stream of its own.
    pub(super) fn get(stream: u32, path: &str) -> Vec<u8> {
        // END_STREAM and END_HEADERS.
        frame(1, 5, stream, &head(path))
    }

    /// The same, of which some is still to come.
    pub(super) fn begun(stream: u32) -> Vec<u8> {
        frame(1, 1, stream, &head("/"))
    }

    fn head(path: &str) -> Vec<u8> {
        let literal = |index: u8, text: &str| {
            let length = u8::try_from(text.len()).unwrap();
            [&[index, length], text.as_bytes()].concat()
        };
        let mut block = vec![0x82, 0x86];
        block.extend(literal(0x04, path));
        block.extend(literal(0x01, "recommendations"));
        block
    }

    /// RST_STREAM: CANCEL.
    pub(super) fn reset(stream: u32) -> Vec<u8> {
        frame(3, 0, stream, &8u32.to_be_bytes())
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }
}

/// Streams of one connection, begun by `begin`, which gets their numbers.
fn streams(count: u32, begin: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let numbers = (0..count).map(|index| 2 * index + 1);
    numbers.flat_map(begin).collect()
}

#[test]
fn streams_of_http2_that_nobody_reads_leave_neighbours_their_requests() {
    let (mesh, flooder) = with_flooder("floods streams");
    let level = Level::of(&mesh.a);
    let begin = |stream| frames::get(stream, "/stream?chunks=1000&size=65536");
    let words = [frames::hello(), streams(200, begin)].concat();
    let mut flood = open(&flooder, &mesh.service("recommendations", 80), 4, &words);
    for one in &mut flood {
        one.read_exact(&mut [0; 9]).unwrap();
    }
    check_neighbour(&mesh);
    let refused = || budget(&mesh.a, "refused_total", "flooder", "outbound", "requests");
    wait::until_true("requests to be refused", wait::PATIENCE, || refused() > 0.0);
    assert_eq!(warnings(&mesh.a, "flooder"), 1, "{}", mesh.a.log_tail());
    level.check_memory(&mesh.a);
    drop(flood);
    level.wait_back(&mesh.a, "flooder");
    check_neighbour(&mesh);
}

/// Whether a connection ends, in order or not: it is not served on.
#[track_caller]
fn check_ended(mut one: TcpStream) {
    one.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut said = Vec::new();
    let ended = one.read_to_end(&mut said);
    let silent = ended.as_ref().is_err_and(|error| {
        matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        )
    });
    assert!(!silent, "after {} bytes: {ended:?}", said.len());
}

#[test]
fn streams_of_http2_opened_and_reset_in_a_loop_end_their_connection_alone() {
    let (mesh, flooder) = with_flooder("floods resets");
    let level = Level::of(&mesh.a);
    let begin = |stream| [frames::get(stream, "/slow?ms=60000"), frames::reset(stream)].concat();
    let words = [frames::hello(), streams(20_000, begin)].concat();
    let flood = open(&flooder, &mesh.service("recommendations", 80), 4, &words);
    check_neighbour(&mesh);
    level.check_memory(&mesh.a);
    for one in flood {
        check_ended(one);
    }
    level.wait_back(&mesh.a, "flooder");
    check_neighbour(&mesh);
}

#[test]
fn heads_that_do_not_end_are_ended_and_leave_neighbours_their_requests() {
    let flags = [&SMALL[..], &["--request-head-timeout", "2s"]].concat();
    let (mesh, flooder) = with_flooder_by("floods heads", &flags);
    let level = Level::of(&mesh.a);
    let service = mesh.service("recommendations", 80);
    let begun = b"GET / HTTP/1.1\r\nHost: recommendations\r\nX-Slow: ";
    let slow = open(&flooder, &service, 60, begun);
    let words = [frames::hello(), frames::begun(1)].concat();
    let streams = open(&flooder, &service, 20, &words);
    check_neighbour(&mesh);
    level.check_memory(&mesh.a);
    for mut one in slow {
        one.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut said = Vec::new();
        one.read_to_end(&mut said).unwrap();
        assert!(
            said.starts_with(b"HTTP/1.1 408 "),
            "{:?}",
            said.escape_ascii()
        );
    }
    for one in streams {
        check_ended(one);
    }
    level.wait_back(&mesh.a, "flooder");
    check_neighbour(&mesh);
}

/// What may wait for readers on a small node, in bytes.
const WAITING: &str = "4194304";

#[test]
fn what_waits_for_readers_that_stop_stays_within_its_budget() {
    let flags = [&SMALL[..], &["--max-waiting-bytes", WAITING]].concat();
    let (mesh, flooder) = with_flooder_by("floods waiting", &flags);
    let level = Level::of(&mesh.a);
    let request = b"GET /stream?chunks=1000&size=65536 HTTP/1.1\r\nHost: recommendations\r\n\r\n";
    let service = mesh.service("recommendations", 80);
    let mut flood = open(&flooder, &service, 60, request);
    for one in &mut flood {
        one.read_exact(&mut [0; 12]).unwrap();
    }
    let of = |metric| budget(&mesh.a, metric, "flooder", "outbound", "bytes");
    wait::until_true("streams to have the least", wait::PATIENCE, || {
        of("held_back_total") > 0.0
    });
    check_neighbour(&mesh);
    // Two sides of two pods have 512 KiB each of their own, and the flood two thirds of the rest, and a window.
    assert!(of("used") <= f64::from(2_200_000), "{}", of("used"));
    assert_eq!(warnings(&mesh.a, "flooder"), 1, "{}", mesh.a.log_tail());
    let row = hostile::row(&mesh, &flooder);
    let told = &row["budgets"]["outbound"]["bytes"];
    assert!(told["heldBack"].as_u64() > Some(0), "{row}");
    level.check_memory(&mesh.a);
    // Whoever reads on gets more than any window holds.
    for one in flood.iter_mut().take(3) {
        one.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        one.read_exact(&mut vec![0; 4 << 20]).unwrap();
    }
    drop(flood);
    level.wait_back(&mesh.a, "flooder");
    check_neighbour(&mesh);
}
