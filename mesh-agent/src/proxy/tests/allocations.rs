// SPDX-License-Identifier: Apache-2.0

//! What a request costs in memory: how often the allocator is asked, and how large what waits is.
//!
//! The allocator counts for the whole process, so what is counted runs in a process of its own: this
//! test program again, with one test. Bounds are what is needed today, and a little: who exceeds them has
//! to say why.

use std::{
    env,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    rc::Rc,
    thread,
};

use stats_alloc::Region;

use super::mesh::{Mesh, cluster, rule, to};
use crate::{
    ALLOCATOR,
    model::Protocol,
    proxy::{Http1Engine, RequestHeaders, http, http_exchange::Front, http1, inbound, outbound},
};

mod streams;

/// Set to how many requests are counted, in the process that counts.
const ALONE: &str = "MESH_AGENT_TEST_COUNTS_ALLOCATIONS";
const REQUEST: &[u8] =
    b"GET /items/7 HTTP/1.1\r\nHost: shop\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok";
const WARM_UP: usize = 100;
const REQUESTS: &str = "1000";

/// Answers each request that comes; takes no memory meanwhile.
fn serve(mut stream: &TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(count) = stream.read(&mut bytes) {
        if count == 0 || stream.write_all(ANSWER).is_err() {
            return;
        }
    }
}

fn ask(mut stream: &TcpStream, times: usize) {
    let mut bytes = [0; 4096];
    for _ in 0..times {
        stream.write_all(REQUEST).expect("room");
        let mut length = 0;
        while !bytes[..length].ends_with(b"\r\n\r\nok") {
            let count = stream.read(&mut bytes[length..]).expect("an answer");
            assert!(count > 0, "{}", String::from_utf8_lossy(&bytes[..length]));
            length += count;
        }
    }
}

/// How often the allocator is asked for one request of so many, on a connection that has had some.
fn count(protocol: Protocol, requests: usize) -> f64 {
    let app = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = app.local_addr().expect("bound");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (mesh, vip) = runtime.block_on(async {
        let mesh = Mesh::start_adding(Http1Engine::Fast, RequestHeaders::default());
        let rules = vec![rule(vec![(1, to(cluster(&[address])))], None)];
        let vip = mesh.service(1, protocol, cluster(&[address]), rules).await;
        (mesh, vip)
    });
    let captured = SocketAddr::new(vip.ip(), mesh.port());
    let client = TcpStream::connect(captured).expect("captured");
    let mut ask: Box<dyn FnMut(usize)> = if protocol == Protocol::Http {
        drop(thread::spawn(move || {
            app.incoming().flatten().for_each(|stream| serve(&stream));
        }));
        Box::new(move |times| ask(&client, times))
    } else {
        Box::new(streams::begin(app, client))
    };
    ask(WARM_UP);
    let region = Region::new(ALLOCATOR);
    ask(requests);
    let change = region.change();
    #[expect(clippy::cast_precision_loss, reason = "few of them")]
    let per_request = (change.allocations + change.reallocations) as f64 / requests as f64;
    per_request
}

#[track_caller]
fn check_count(protocol: Protocol, name: &str, most: f64) {
    if let Some(requests) = env::var_os(ALONE) {
        let requests = requests.to_str().and_then(|text| text.parse().ok());
        let asked = count(protocol, requests.expect("a number"));
        println!("allocations a request: {asked}");
        assert!(asked <= most, "{asked} allocations a request");
        return;
    }
    let name = format!("proxy::tests::allocations::{name}");
    let output = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", &name, "--nocapture"])
        .env(ALONE, REQUESTS)
        .output()
        .expect("this program again");
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{failed}");
    assert!(text.contains("1 passed"), "it did not run:\n{text}");
}

#[test]
fn a_request_asks_the_allocator_seldom() {
    check_count(Protocol::Http, "a_request_asks_the_allocator_seldom", 11.0);
}

/// With what the client and the application ask for, which are of this process, too.
#[test]
fn a_request_of_http2_asks_the_allocator_seldom() {
    let name = "a_request_of_http2_asks_the_allocator_seldom";
    check_count(Protocol::Http2, name, 50.0);
}

fn size<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
    size_of::<F>()
}

#[track_caller]
fn check_size(what: &str, size: usize, most: usize) {
    println!("{what}: {size} bytes");
    assert!(size <= most, "{what} takes {size} bytes, not {most}");
}

#[test]
fn what_waits_for_an_idle_connection_is_small() {
    check_size("a connection from a pod", size(outbound::serve), 512);
    check_size("HTTP/1.1 by hand", size(http1::serve), 560);
    check_size("a connection to a pod", size(inbound::serve), 1_088);
}

/// It is copied some times until it is where it stays.
#[test]
fn what_waits_for_an_answer_over_http2_is_small() {
    let accept = |front: Rc<Front>, request| http::accept(&front, request);
    check_size("a request of HTTP/2", size(accept), 2_560);
}
