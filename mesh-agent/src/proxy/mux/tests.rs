// SPDX-License-Identifier: Apache-2.0

//! What a session does with peers that do not keep to the rules; those that do: `model`.

mod model;
mod user;

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::StatusCode;

use super::{
    super::{
        BudgetLimits,
        budgets::{Budgets, Ledger, Loan},
        tests::mesh::workload,
    },
    MuxLimits,
    frame::{Frame, Open, Parting, Reason, put_data_header},
    session::{MuxError, Role, Session},
};

/// What a server says to frames of a client that nobody wrote by the book.
#[track_caller]
fn check_violation(prelude: &[Frame], bytes: &[u8], want: &str) {
    let limits = MuxLimits {
        max_streams: 10,
        stream_window: 256 * 1024,
    };
    let mut server = Session::new(Role::Server, limits);
    let mut sent = Vec::new();
    prelude.iter().for_each(|frame| frame.put(&mut sent));
    server.receive(&sent).expect("the prelude is fine");
    let error = server.receive(bytes).expect_err("a violation");
    assert_eq!(
        error.to_string(),
        format!("the peer broke the tunnel's protocol: {want}")
    );
}

fn opened(stream: u32) -> Frame {
    let open = Open {
        window: 64 * 1024,
        authority: "10.0.0.1:80".parse().unwrap(),
        forwarded: None,
        baggage: None,
        traceparent: None,
    };
    Frame::Open { stream, open }
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.put(&mut bytes);
    bytes
}

#[test]
fn what_may_not_be_sent_ends_the_session() {
    let end = Frame::End { stream: 1 };
    check_violation(&[], &bytes_of(&end), "a stream that was never opened");
    check_violation(&[], &bytes_of(&opened(2)), "a stream out of turn");
    check_violation(&[opened(1)], &bytes_of(&opened(1)), "a stream out of turn");
    check_violation(
        &[opened(1), end.clone()],
        &bytes_of(&end),
        "bytes after the end",
    );
    let hello = Frame::Hello { max_streams: 1 };
    check_violation(&[], &bytes_of(&hello), "a hello out of turn");
    let accept = Frame::Accept {
        stream: 1,
        window: 64 * 1024,
        baggage: None,
    };
    check_violation(
        &[opened(1)],
        &bytes_of(&accept),
        "an answer from the client",
    );
    let credit = Frame::Credit {
        stream: 1,
        bytes: 0x3fff_ffff,
    };
    check_violation(&[opened(1)], &bytes_of(&credit), "a window without bounds");
    let mut flood = Vec::new();
    for _ in 0..5 {
        put_data_header(&mut flood, 1, 16 * 1024);
        flood.extend_from_slice(&[0; 16 * 1024]);
    }
    check_violation(&[opened(1)], &flood, "more bytes than there is room for");
}

#[test]
fn opening_and_resetting_without_reading_is_no_way_around_the_limit() {
    let mut server = Session::new(
        Role::Server,
        MuxLimits {
            max_streams: 10,
            stream_window: 256 * 1024,
        },
    );
    let mut ended = None;
    for stream in 1..100_000 {
        let mut bytes = bytes_of(&opened(stream));
        let reason = Reason::Cancelled;
        Frame::Reset { stream, reason }.put(&mut bytes);
        if let Err(error) = server.receive(&bytes) {
            ended = Some(error);
            break;
        }
        assert!(server.streams.len() <= 20 && server.control.len() < 2000);
    }
    assert!(matches!(ended, Some(MuxError::Violation(_))), "{ended:?}");
}

#[test]
fn windows_together_are_bounded_and_given_back() {
    let limits = MuxLimits {
        max_streams: 256,
        stream_window: 256 * 1024,
    };
    let mut server = Session::new(Role::Server, limits);
    let mut last = 0;
    // The second time there is as much to give as the first.
    for _ in 0..2 {
        let (mut windows, mut held) = (0, Vec::new());
        for _ in 0..256 {
            last += 1;
            server.receive(&bytes_of(&opened(last))).unwrap();
            let (id, _) = server.next_arrival().unwrap();
            server.accept(id, None);
            windows += server.streams[&id].window;
            held.push(id);
        }
        assert_eq!(windows, 256 * 64 * 1024 + 42 * 192 * 1024);
        held.into_iter().for_each(|id| server.let_go(id));
        server.fill(&mut Vec::new(), usize::MAX);
        assert_eq!(server.streams.len(), 0);
    }
}

/// A server whose streams may hold what a ledger lends, which is not much.
fn lent() -> (Session, Arc<Ledger>) {
    let limits = BudgetLimits {
        bytes: 2 << 20,
        ..BudgetLimits::default()
    };
    let pod = Budgets::new(&limits, 1).open(&Arc::new(workload("server")));
    let ledger = pod.inbound.bytes;
    let limits = MuxLimits {
        max_streams: 256,
        stream_window: 256 * 1024,
    };
    let mut server = Session::new(Role::Server, limits);
    server.loan = Loan::of(&ledger);
    (server, ledger)
}

/// Accepts `count` streams; gives the windows that they have.
fn accept_all(server: &mut Session, count: u32) -> Vec<u32> {
    let accept = |stream| {
        server.receive(&bytes_of(&opened(stream))).unwrap();
        let (id, _) = server.next_arrival().unwrap();
        server.accept(id, None);
        server.streams[&id].window
    };
    (1..=count).map(accept).collect()
}

/// What a peer sends on stream 1.
fn sent(count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..count / (16 * 1024) {
        put_data_header(&mut bytes, 1, 16 * 1024);
        bytes.extend_from_slice(&[0; 16 * 1024]);
    }
    bytes
}

/// The reader of stream 1 takes so much; gives its window then.
fn read_some(server: &mut Session, count: usize) -> u32 {
    server.skip_received(1, count);
    server.give_back(1, count);
    server.fill(&mut Vec::new(), usize::MAX);
    let stream = &server.streams[&1];
    let held = u32::try_from(stream.received.len()).unwrap();
    assert_eq!(stream.room + held + stream.owed, stream.window);
    stream.window
}

#[test]
fn what_streams_may_hold_beyond_the_least_is_lent_to_whose_they_are() {
    let (mut server, ledger) = lent();
    let windows = accept_all(&mut server, 40);
    let large = windows.iter().filter(|window| **window == 256 * 1024);
    let large = large.count();
    assert!((3..10).contains(&large), "{windows:?}");
    assert!(windows.iter().all(|window| *window >= 64 * 1024));
    let view = ledger.observe();
    assert_eq!(view.used, large * 192 * 1024);
    assert!(view.held_back > 0);
    (1..=40).for_each(|id| server.let_go(id));
    server.fill(&mut Vec::new(), usize::MAX);
    assert_eq!(ledger.observe().used, 0);
}

#[test]
fn a_window_shrinks_where_others_need_it_and_grows_again() {
    let (mut server, ledger) = lent();
    accept_all(&mut server, 40);
    assert!(server.loan.is_over());
    let used = ledger.observe().used;
    server.receive(&sent(256 * 1024)).unwrap();
    assert_eq!(read_some(&mut server, 128 * 1024), 128 * 1024);
    assert_eq!(ledger.observe().used, used - 128 * 1024);
    (2..=40).for_each(|id| server.let_go(id));
    assert_eq!(read_some(&mut server, 128 * 1024), 256 * 1024);
    assert_eq!(ledger.observe().used, 192 * 1024);
    // All that it gave back can come again.
    server.receive(&sent(256 * 1024)).unwrap();
    drop(server);
    assert_eq!(ledger.observe().used, 0);
}

/// A frame that is well formed, and seldom more out of turn than that.
fn any_frame(session: &Session, random: &mut fastrand::Rng) -> Frame {
    let beyond = u32::from(random.u8(..50) == 0);
    let stream = random.u32(1..=session.last.max(1) + beyond);
    match (session.role, random.u8(..30)) {
        (Role::Server, 0..10) => return opened(session.last + 1),
        (Role::Server, 10..20) => return Frame::Credit { stream, bytes: 100 },
        (Role::Client, 0..15) => {
            return Frame::Accept {
                stream: session.last.max(1),
                window: 65_536,
                baggage: None,
            };
        }
        (_, 20..25) => {
            let reason = Reason::Cancelled;
            return Frame::Reset { stream, reason };
        }
        (_, 25..29) => return Frame::End { stream },
        _ => {}
    }
    let reason = if random.bool() {
        Reason::Cancelled
    } else {
        Reason::NotActedOn
    };
    match random.u8(..12) {
        0 => Frame::Hello {
            max_streams: random.u32(..20),
        },
        1 | 2 => opened(stream),
        3 | 4 => Frame::Accept {
            stream,
            window: random.u32(65_536..0x3fff_ffff),
            baggage: None,
        },
        5 => Frame::Refuse {
            stream,
            status: StatusCode::NOT_FOUND,
        },
        6 => Frame::End { stream },
        7 => Frame::Reset { stream, reason },
        8 | 9 => Frame::Credit {
            stream,
            bytes: random.u32(1..0x3fff_ffff),
        },
        10 => Frame::Ping(1),
        _ => Frame::GoAway {
            last: random.u32(..8),
            parting: Parting::Leaving,
        },
    }
}

/// One thing that a user of stream `id` does; false if it lets the stream go.
fn use_stream(session: &mut Session, id: u32, random: &mut fastrand::Rng) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    match random.u8(..6) {
        0 => {
            if let Poll::Ready(Ok(room)) = session.poll_room(id, 1000, &mut context) {
                session.write_copy(id, &vec![0; room]);
            }
        }
        1 => {
            let received = session.poll_received(id, &mut context);
            if let Poll::Ready(Ok(bytes)) = received {
                let count = bytes.len().min(10);
                session.skip_received(id, count);
                session.give_back(id, count);
            }
        }
        2 => drop(session.shut_down(id)),
        3 => drop(session.poll_answer(id, &mut context)),
        4 => {
            session.let_go(id);
            return false;
        }
        _ => {}
    }
    true
}

#[test]
fn whatever_well_formed_frames_come_no_session_panics() {
    let limits = MuxLimits {
        max_streams: 5,
        stream_window: 256 * 1024,
    };
    let (mut violations, mut steps) = (0, 0);
    for seed in 0..20_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let role = if random.bool() {
            Role::Client
        } else {
            Role::Server
        };
        let (mut session, mut held) = (Session::new(role, limits), Vec::new());
        for _ in 0..60 {
            let mut bytes = bytes_of(&any_frame(&session, &mut random));
            if random.u8(..4) == 0 {
                bytes.clear();
                put_data_header(&mut bytes, random.u32(1..=session.last.max(1)), 100);
                bytes.extend_from_slice(&[0; 100]);
            }
            if role == Role::Client && random.bool() {
                let Frame::Open { open, .. } = opened(1) else {
                    unreachable!("it is an OPEN")
                };
                held.extend(session.open(open));
            }
            if session.ended.is_none()
                && let Err(error) = session.receive(&bytes)
            {
                session.end(&error);
                violations += 1;
            }
            while let Some((id, _)) = session.next_arrival() {
                if random.bool() {
                    session.accept(id, None);
                    held.push(id);
                } else {
                    session.refuse(id, StatusCode::NOT_FOUND);
                    session.let_go(id);
                }
            }
            held.retain(|id| use_stream(&mut session, *id, &mut random));
            if random.u8(..40) == 0 {
                session.close();
            }
            session.fill(&mut Vec::new(), random.usize(..500));
            steps += 1;
            if session.ended.is_some() && random.u8(..4) == 0 {
                break;
            }
        }
        session.end(&MuxError::Closed);
        held.into_iter().for_each(|id| session.let_go(id));
        assert_eq!((session.live, session.streams.len()), (0, 0), "seed {seed}");
    }
    assert!(
        violations > 1000 && steps > 50_000,
        "{violations} violations, {steps} steps"
    );
}
