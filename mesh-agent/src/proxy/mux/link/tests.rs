// SPDX-License-Identifier: Apache-2.0

//! Both ends of a mux over an in-memory connection.

use std::{cell::Cell, future::Future, time::Duration};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream},
    task::LocalSet,
};

use super::*;
use crate::tasks::Tasks;

const LIMITS: MuxLimits = MuxLimits {
    max_streams: 1000,
    stream_window: 256 * 1024,
};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async {
        let limited = tokio::time::timeout(Duration::from_secs(60), Box::pin(test));
        limited.await.expect("it hangs");
    };
    LocalSet::new().block_on(&runtime, limited);
}

fn beside(task: impl Future<Output = ()> + 'static) {
    Tasks::new().spawn_local("beside", task);
}

type Io = BufReader<DuplexStream>;
type Ended = tokio::sync::oneshot::Receiver<Result<(), MuxError>>;

/// A client and how both ends end; the server gives each stream to `on_stream`.
fn ends(on_stream: impl Fn(Incoming) + 'static) -> (Opener, Ended, Ended) {
    let (near, far) = tokio::io::duplex(32 * 1024);
    let (opener, driver) = client(BufReader::new(near), LIMITS);
    let near_ended = drive(driver, |_never| panic!("servers open no streams"));
    let far_ended = drive(server(BufReader::new(far), LIMITS), on_stream);
    (opener, near_ended, far_ended)
}

fn drive(mut driver: Driver<Io>, on_stream: impl Fn(Incoming) + 'static) -> Ended {
    let (sender, ended) = tokio::sync::oneshot::channel();
    beside(async move {
        let end = poll_fn(|context| {
            let ended = driver.poll(context);
            while let Some(incoming) = driver.arrival() {
                on_stream(incoming);
            }
            ended
        });
        drop(sender.send(end.await));
    });
    ended
}

fn echo(incoming: Incoming) {
    beside(async move {
        let (mut read, mut write) = tokio::io::split(incoming.accept(None));
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            write.shutdown().await.ok();
        }
    });
}

fn to() -> Open {
    Open {
        window: 0,
        authority: "10.0.0.1:80".parse().unwrap(),
        forwarded: None,
        baggage: None,
        traceparent: None,
    }
}

async fn open(opener: &Opener) -> MuxStream {
    opener.open(to()).await.unwrap().0
}

async fn exchange(mut stream: MuxStream, text: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let writing = async {
        write.write_all(text).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (read, ()) = tokio::join!(read.read_to_end(&mut answer), writing);
    read.unwrap();
    answer
}

#[test]
fn a_thousand_streams_share_a_session() {
    run(async {
        let (opener, near, far) = ends(echo);
        open(&opener).await;
        let streams = join_all((0..1000).map(|_| open(&opener))).await;
        assert!(
            !opener.has_place(1000),
            "there is room for more than the peer allows"
        );
        let refused = opener.open(to()).await;
        assert!(matches!(refused, Err(Unopened::NotActedOn)), "{refused:?}");
        let answers = streams
            .into_iter()
            .enumerate()
            .map(|(number, stream)| async move {
                let text = format!("stream {number} ").repeat(number);
                assert!(exchange(stream, text.as_bytes()).await == text.as_bytes());
            });
        join_all(answers).await;
        opener.close();
        near.await.unwrap().unwrap();
        far.await.unwrap().unwrap();
    });
}

#[test]
fn a_driver_that_is_dropped_resets_all_streams() {
    run(async {
        let (near, far) = tokio::io::duplex(1024);
        let (opener, driver) = client(BufReader::new(near), LIMITS);
        let far_ended = drive(server(BufReader::new(far), LIMITS), echo);
        let mut driver = Some(driver);
        let opening = async { join_all((0..3).map(|_| open(&opener))).await };
        let mut opening = Box::pin(opening);
        let mut streams = poll_fn(|context| {
            let driving = driver.as_mut().unwrap();
            assert!(driving.poll(context).is_pending());
            opening.as_mut().poll(context)
        })
        .await;
        driver.take();
        for stream in &mut streams {
            let error = stream.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            let error = stream.write_all(b"x").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        let refused = opener.open(to()).await;
        assert!(matches!(refused, Err(Unopened::Broken(MuxError::Closed))));
        let ended = far_ended.await.unwrap();
        assert!(matches!(ended, Err(MuxError::Ended)), "{ended:?}");
    });
}

#[test]
fn a_peer_that_sends_no_frames_is_told_and_left() {
    run(async {
        let (mut near, far) = tokio::io::duplex(1024);
        let ended = drive(server(BufReader::new(far), LIMITS), echo);
        near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let error = ended.await.unwrap().unwrap_err();
        assert!(matches!(error, MuxError::Frame(_)), "{error:?}");
        let mut said = Vec::new();
        near.read_to_end(&mut said).await.unwrap();
        let mut want = Vec::new();
        Frame::GoAway {
            last: 0,
            parting: super::super::frame::Parting::Violation,
        }
        .put(&mut want);
        assert!(said.ends_with(&want), "{said:?}");
    });
}

#[test]
fn a_refusal_and_an_answer_tell_what_the_peer_knows() {
    run(async {
        let (opener, _near, _far) =
            ends(|incoming: Incoming| match incoming.open.authority.port() {
                80 => drop(incoming.accept(Some("service.name=server".to_owned()))),
                81 => incoming.refuse(StatusCode::SERVICE_UNAVAILABLE),
                _ => drop(incoming),
            });
        let (_stream, baggage) = opener.open(to()).await.unwrap();
        assert_eq!(baggage.as_deref(), Some("service.name=server"));
        let at = |port| Open {
            authority: ([10, 0, 0, 1], port).into(),
            ..to()
        };
        let refused = opener.open(at(81)).await.unwrap_err();
        assert!(matches!(
            refused,
            Unopened::Refused(StatusCode::SERVICE_UNAVAILABLE)
        ));
        let dropped = opener.open(at(82)).await.unwrap_err();
        assert!(
            matches!(dropped, Unopened::Broken(MuxError::Reset)),
            "{dropped:?}"
        );
    });
}

#[test]
fn what_was_written_and_ended_goes_out_after_the_stream_was_dropped() {
    run(async {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let sender = Cell::new(Some(sender));
        let (opener, _near, _far) = ends(move |incoming| {
            let sender = sender.take().unwrap();
            beside(async move {
                let mut got = Vec::new();
                let mut stream = incoming.accept(None);
                let count = stream.read_to_end(&mut got).await.unwrap();
                // Nobody reads what we might answer, and we learn of it.
                let error = loop {
                    if let Err(error) = stream.write_all(&[0; 1024]).await {
                        break error.kind();
                    }
                };
                sender.send((count, error)).unwrap();
            });
        });
        let mut stream = open(&opener).await;
        stream.write_all(&[7; 60_000]).await.unwrap();
        stream.shutdown().await.unwrap();
        drop(stream);
        let want = (60_000, io::ErrorKind::ConnectionReset);
        assert_eq!(receiver.await.unwrap(), want);
    });
}

#[test]
fn a_server_that_leaves_finishes_what_is_open() {
    run(async {
        let (near, far) = tokio::io::duplex(1024);
        let (opener, driver) = client(BufReader::new(near), LIMITS);
        let near_ended = drive(driver, |_never| panic!("servers open no streams"));
        let mut driver = server(BufReader::new(far), LIMITS);
        let (leave, mut is_leaving) = tokio::sync::oneshot::channel::<()>();
        let (sender, far_ended) = tokio::sync::oneshot::channel();
        beside(async move {
            let mut has_left = false;
            let end = poll_fn(|context| {
                if !has_left && Pin::new(&mut is_leaving).poll(context).is_ready() {
                    has_left = true;
                    driver.close();
                }
                let ended = driver.poll(context);
                while let Some(incoming) = driver.arrival() {
                    echo(incoming);
                }
                ended
            });
            drop(sender.send(end.await));
        });
        let mut live = open(&opener).await;
        live.write_all(b"before ").await.unwrap();
        drop(leave);
        while !opener.is_going() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(opener.open(to()).await, Err(Unopened::NotActedOn)));
        opener.close();
        assert_eq!(exchange(live, b"after").await, b"before after");
        near_ended.await.unwrap().unwrap();
        let ended: Result<(), MuxError> = far_ended.await.unwrap();
        ended.unwrap();
    });
}

/// Counts the writes that reach a connection.
struct Counted {
    io: Io,
    writes: Rc<Cell<usize>>,
}

impl tokio::io::AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncBufRead for Counted {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Pin::new(&mut self.get_mut().io).poll_fill_buf(context)
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        Pin::new(&mut self.io).consume(count);
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.set(self.writes.get() + 1);
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[test]
fn what_many_streams_queue_in_one_turn_is_written_at_once() {
    run(async {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let writes = Rc::new(Cell::new(0));
        let io = Counted {
            io: BufReader::new(near),
            writes: Rc::clone(&writes),
        };
        let (opener, mut driver) = client(io, LIMITS);
        beside(async move { drop(poll_fn(|context| driver.poll(context)).await) });
        let _far = drive(server(BufReader::new(far), LIMITS), echo);
        let mut streams = join_all((0..50).map(|_| open(&opener))).await;
        writes.set(0);
        for round in 1..=10 {
            for stream in &mut streams {
                stream.write_all(b"ping").await.unwrap();
            }
            for stream in &mut streams {
                stream.read_exact(&mut [0; 4]).await.unwrap();
            }
            assert!(
                writes.get() <= 2 * round,
                "{} writes in {round} rounds",
                writes.get()
            );
        }
    });
}
