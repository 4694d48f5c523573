// SPDX-License-Identifier: Apache-2.0

//! Clients of HTTP/2 that mean harm: each limit holds, and what it ends is their own connection.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Semaphore};

use super::{
    frames::{
        CONTINUATION, DATA, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, field, frame, get, hello,
        read, read_kind, write_on,
    },
    mesh::{Mesh, cluster, connect},
};
use crate::model::Protocol;

const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const WHOLE: u8 = END_STREAM | END_HEADERS;

/// What a client that does not read can make the agent and the kernel hold, at the very most.
const MOST_UNREAD: usize = 32 << 20;

/// A service whose application answers nothing before it is told to, and counts the requests it saw.
async fn silent(mesh: &Mesh) -> (SocketAddr, Arc<AtomicUsize>, Arc<Semaphore>) {
    let (seen, words) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
    let (count, wait) = (Arc::clone(&seen), Arc::clone(&words));
    let app = mesh.app(move |stream| {
        let (count, wait) = (Arc::clone(&count), Arc::clone(&wait));
        async move {
            let service = service_fn(move |_request: Request<Incoming>| {
                let wait = Arc::clone(&wait);
                count.fetch_add(1, Ordering::Relaxed);
                async move {
                    wait.acquire().await.expect("never closed").forget();
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                }
            });
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(2048)
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        }
    });
    let app = app.await;
    let vip = mesh.service(1, Protocol::Http, cluster(&[app]), vec![]);
    (vip.await, seen, words)
}

/// A connection that has said hello.
async fn client(vip: SocketAddr) -> TcpStream {
    let mut stream = connect(vip).await;
    stream.write_all(&hello()).await.expect("room");
    stream
}

/// Whether another client's request is answered.
async fn check_neighbour(vip: SocketAddr, words: &Semaphore) {
    let mut neighbour = client(vip).await;
    // Hostile ones may have got through to it.
    words.add_permits(50_000);
    let request = frame(HEADERS, WHOLE, 1, &get());
    neighbour.write_all(&request).await.expect("room");
    let answer = read_kind(&mut neighbour, HEADERS).await.expect("an answer");
    // `:status: 200` of the static table.
    assert_eq!((answer.stream, answer.payload[0]), (1, 0x88));
}

#[tokio::test]
async fn continuations_without_end_end_the_connection() {
    let mesh = Mesh::start();
    let (vip, seen, words) = silent(&mesh).await;
    let mut hostile = client(vip).await;
    let begun = frame(HEADERS, END_STREAM, 1, &get());
    hostile.write_all(&begun).await.expect("room");
    let more = frame(CONTINUATION, 0, 1, &field("x", &"y".repeat(1000)));
    let taken = write_on(&mut hostile, &more, MOST_UNREAD).await;
    assert!(taken < MOST_UNREAD, "{taken} bytes of one head were taken");
    let goaway = read_kind(&mut hostile, GOAWAY).await;
    if let Some(goaway) = goaway {
        assert_eq!(goaway.code(), ENHANCE_YOUR_CALM);
    }
    assert_eq!(seen.load(Ordering::Relaxed), 0, "it was no request");
    check_neighbour(vip, &words).await;
}

#[tokio::test]
async fn empty_continuations_without_end_end_the_connection() {
    let mesh = Mesh::start();
    let (vip, _, words) = silent(&mesh).await;
    let mut hostile = client(vip).await;
    let begun = frame(HEADERS, END_STREAM, 1, &get());
    hostile.write_all(&begun).await.expect("room");
    let more = frame(CONTINUATION, 0, 1, &[]).repeat(100);
    let taken = write_on(&mut hostile, &more, MOST_UNREAD).await;
    assert!(taken < MOST_UNREAD, "{taken} bytes of nothing were taken");
    check_neighbour(vip, &words).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_and_its_connection_goes_on() {
    let mesh = Mesh::start();
    let (vip, seen, words) = silent(&mesh).await;
    let mut hostile = client(vip).await;
    let fields = [get(), field("x", &"y".repeat(15_000))].concat();
    hostile
        .write_all(&frame(HEADERS, END_STREAM, 1, &fields))
        .await
        .expect("room");
    for rest in (0..4).rev() {
        let flags = if rest == 0 { END_HEADERS } else { 0 };
        let more = frame(CONTINUATION, flags, 1, &field("x", &"y".repeat(15_000)));
        hostile.write_all(&more).await.expect("room");
    }
    let answer = loop {
        let frame = read(&mut hostile).await.expect("the connection goes on");
        if frame.stream == 1 {
            break frame;
        }
    };
    // 431, or a reset where there is nobody to answer.
    assert!([HEADERS, RST_STREAM].contains(&answer.kind), "{answer:?}");
    assert_eq!(seen.load(Ordering::Relaxed), 0, "it was no request");
    words.add_permits(1);
    let request = frame(HEADERS, WHOLE, 3, &get());
    hostile.write_all(&request).await.expect("room");
    let answer = loop {
        let frame = read(&mut hostile).await.expect("the connection goes on");
        if frame.stream == 3 {
            break frame;
        }
    };
    assert_eq!((answer.kind, answer.payload[0]), (HEADERS, 0x88));
}

#[tokio::test]
async fn streams_opened_and_reset_in_a_loop_end_the_connection() {
    let mesh = Mesh::start();
    let (vip, _, words) = silent(&mesh).await;
    let mut hostile = client(vip).await;
    let flood: Vec<u8> = (0..10_000u32)
        .flat_map(|index| {
            let stream = 2 * index + 1;
            let reset = frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
            [frame(HEADERS, WHOLE, stream, &get()), reset].concat()
        })
        .collect();
    // It ends somewhere in there.
    hostile.write_all(&flood).await.unwrap_or_default();
    if let Some(goaway) = read_kind(&mut hostile, GOAWAY).await {
        assert_eq!(goaway.code(), ENHANCE_YOUR_CALM);
    }
    assert!(read(&mut hostile).await.is_none(), "it is not served on");
    check_neighbour(vip, &words).await;
}

#[tokio::test]
async fn no_more_streams_are_begun_than_may_be_under_way() {
    let mesh = Mesh::start();
    let (vip, seen, words) = silent(&mesh).await;
    let mut hostile = client(vip).await;
    let streams = 1100u32;
    let flood: Vec<u8> = (0..streams)
        .flat_map(|index| frame(HEADERS, WHOLE, 2 * index + 1, &get()))
        .collect();
    hostile.write_all(&flood).await.expect("room");
    for _ in 0..76 {
        let reset = read_kind(&mut hostile, RST_STREAM)
            .await
            .expect("a refusal");
        assert_eq!(reset.code(), REFUSED_STREAM);
    }
    assert!(seen.load(Ordering::Relaxed) <= 1024);
    words.add_permits(2048);
    for _ in 0..1024 {
        let answer = read_kind(&mut hostile, HEADERS).await.expect("an answer");
        assert_eq!(answer.payload[0], 0x88);
    }
}

#[tokio::test]
async fn who_reads_no_answers_to_pings_and_settings_is_not_listened_to_for_ever() {
    let mesh = Mesh::start();
    let (vip, _, words) = silent(&mesh).await;
    for frame in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])] {
        let mut hostile = client(vip).await;
        let taken = write_on(&mut hostile, &frame.repeat(1000), 4 * MOST_UNREAD).await;
        assert!(taken <= MOST_UNREAD, "{taken} bytes were taken");
        check_neighbour(vip, &words).await;
    }
}

#[tokio::test]
async fn frames_with_nothing_in_them_end_the_connection() {
    let mesh = Mesh::start();
    let (vip, _, words) = silent(&mesh).await;
    let mut hostile = client(vip).await;
    let begun = frame(
        HEADERS,
        END_HEADERS,
        1,
        &[&[0x83, 0x86, 0x84][..], &field(":authority", "shop")].concat(),
    );
    hostile.write_all(&begun).await.expect("room");
    let nothing = frame(DATA, 0, 1, &[]).repeat(1000);
    let taken = write_on(&mut hostile, &nothing, MOST_UNREAD).await;
    assert!(taken < MOST_UNREAD, "{taken} bytes of nothing were taken");
    check_neighbour(vip, &words).await;
}
