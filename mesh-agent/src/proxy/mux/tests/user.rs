// SPDX-License-Identifier: Apache-2.0

//! Users of one end of a mux, and what is known of them: each has written so much, read so much,
//! and ended or not.
//!
//! A user acts only when it was woken, so a wake-up that is missing shows as a standstill. Knows
//! nothing of the other end but which bytes it writes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use http::StatusCode;

use super::super::{
    MuxLimits,
    frame::Open,
    session::{MuxError, Role, SEND_QUEUE, Session, Unopened},
};

/// Whether somebody may act.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One half of what a user does.
struct Turn {
    flag: Arc<Flag>,
    waker: Waker,
}

impl Turn {
    fn new() -> Self {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&flag));
        Self { flag, waker }
    }

    fn is_woken(&self) -> bool {
        self.flag.0.load(Ordering::Relaxed)
    }

    /// Must be woken before it may act again.
    fn sleep(&self) {
        self.flag.0.store(false, Ordering::Relaxed);
    }
}

/// One end of a stream, and what is known of it.
pub(super) struct User {
    pub(super) id: u32,
    reads: Turn,
    writes: Turn,
    /// What it will write in all.
    pub(super) wants: usize,
    pub(super) written: usize,
    pub(super) shut_down: bool,
    pub(super) read: usize,
    /// How reading ended.
    pub(super) end: Option<Result<(), MuxError>>,
    /// It does not read for now.
    pub(super) is_stopped: bool,
    pub(super) is_answered: bool,
}

impl User {
    pub(super) fn new(id: u32, wants: usize, is_answered: bool) -> Self {
        Self {
            id,
            reads: Turn::new(),
            writes: Turn::new(),
            wants,
            written: 0,
            shut_down: false,
            read: 0,
            end: None,
            is_stopped: false,
            is_answered,
        }
    }

    pub(super) fn has_done(&self) -> bool {
        self.end.is_some() && self.shut_down
    }
}

/// One end of the mux.
pub(super) struct End {
    pub(super) session: Session,
    pub(super) users: BTreeMap<u32, User>,
    /// Written by streams that are gone: how much, and whether it was ended.
    pub(super) past: BTreeMap<u32, (usize, bool)>,
    /// On its way to the other end.
    pub(super) pipe: Vec<u8>,
}

/// The byte at `offset` of what `role` writes on stream `id`.
fn byte(role: Role, id: u32, offset: usize) -> u8 {
    let seed = u64::try_from(offset).unwrap() ^ (u64::from(id) << 40);
    let mixed = (seed * 2 + u64::from(role == Role::Client)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0]
}

impl End {
    pub(super) fn new(role: Role, limits: MuxLimits) -> Self {
        Self {
            session: Session::new(role, limits),
            users: BTreeMap::new(),
            past: BTreeMap::new(),
            pipe: Vec::new(),
        }
    }

    pub(super) fn wake(&mut self) {
        self.session.woken.drain(..).for_each(Waker::wake);
    }

    pub(super) fn open(&mut self, wants: usize) {
        let open = Open {
            window: 0,
            authority: "10.0.0.1:80".parse().unwrap(),
            forwarded: None,
            baggage: Some("model".to_owned()),
            traceparent: None,
        };
        if self.session.has_place() {
            let id = self.session.open(open).unwrap();
            self.users.insert(id, User::new(id, wants, false));
        }
    }

    /// Answers all that came.
    pub(super) fn answer(&mut self, random: &mut fastrand::Rng) {
        while let Some((id, open)) = self.session.next_arrival() {
            assert_eq!(open.baggage.as_deref(), Some("model"));
            if random.u8(..10) == 0 {
                self.session.refuse(id, StatusCode::SERVICE_UNAVAILABLE);
                self.session.let_go(id);
            } else {
                self.session.accept(id, None);
                let wants = random.usize(..400_000);
                self.users.insert(id, User::new(id, wants, true));
            }
        }
    }

    /// Waits for the answer; false if there will be no stream.
    pub(super) fn await_answer(&mut self, id: u32) -> bool {
        let user = self.users.get_mut(&id).unwrap();
        if user.is_answered || !user.reads.is_woken() {
            return true;
        }
        let mut context = Context::from_waker(&user.reads.waker);
        match self.session.poll_answer(id, &mut context) {
            Poll::Pending => user.reads.sleep(),
            Poll::Ready(Ok(_)) => user.is_answered = true,
            Poll::Ready(Err(why)) => {
                assert!(!matches!(why, Unopened::Broken(MuxError::Frame(_))));
                self.let_go(id);
                return false;
            }
        }
        true
    }

    pub(super) fn write(&mut self, id: u32, random: &mut fastrand::Rng) {
        let role = self.session.role;
        let user = self.users.get_mut(&id).unwrap();
        if user.shut_down || !user.writes.is_woken() {
            return;
        }
        let want = random.usize(1..40_000).min(user.wants - user.written);
        if want == 0 {
            // A stream that broke says so; what it wrote is not complete then.
            user.shut_down = self.session.shut_down(id).is_ok();
            user.writes.sleep();
            return;
        }
        let mut context = Context::from_waker(&user.writes.waker);
        match self.session.poll_room(id, want, &mut context) {
            Poll::Pending => user.writes.sleep(),
            Poll::Ready(Err(_)) => {
                user.wants = user.written;
                user.writes.sleep();
            }
            Poll::Ready(Ok(room)) => {
                assert!((1..=want).contains(&room));
                let begin = user.written;
                let bytes: Vec<u8> = (begin..begin + room).map(|at| byte(role, id, at)).collect();
                user.written += room;
                if random.bool() {
                    self.session.write_copy(id, &bytes);
                } else {
                    self.session.write(id, bytes.into());
                }
            }
        }
        assert!(self.session.stream(id).queue.len() <= SEND_QUEUE);
    }

    pub(super) fn read(&mut self, id: u32, random: &mut fastrand::Rng) {
        let role = self.session.role;
        let user = self.users.get_mut(&id).unwrap();
        let may = user.is_answered && user.end.is_none() && !user.is_stopped;
        if !may || !user.reads.is_woken() {
            return;
        }
        let mut context = Context::from_waker(&user.reads.waker);
        let count = match self.session.poll_received(id, &mut context) {
            Poll::Pending => return user.reads.sleep(),
            Poll::Ready(Err(error)) => {
                user.end = Some(Err(error));
                return;
            }
            Poll::Ready(Ok([])) => {
                user.end = Some(Ok(()));
                return;
            }
            Poll::Ready(Ok(bytes)) => {
                assert!(bytes.len() <= 256 * 1024, "more than the window is held");
                let count = random.usize(1..=bytes.len());
                for (at, got) in bytes[..count].iter().enumerate() {
                    let other = if role == Role::Client {
                        Role::Server
                    } else {
                        Role::Client
                    };
                    assert_eq!(*got, byte(other, id, user.read + at), "stream {id}");
                }
                count
            }
        };
        user.read += count;
        let all = self.session.stream(id).received.len() == count;
        if all && random.bool() {
            assert_eq!(self.session.take_received(id).len(), count);
        } else {
            self.session.skip_received(id, count);
        }
        self.session.give_back(id, count);
    }

    pub(super) fn let_go(&mut self, id: u32) {
        let user = self.users.remove(&id).unwrap();
        self.past.insert(id, (user.written, user.shut_down));
        self.session.let_go(id);
    }

    pub(super) fn step(&mut self, id: u32, random: &mut fastrand::Rng) {
        if self.await_answer(id) {
            self.write(id, random);
            self.read(id, random);
        }
    }

    /// What was written on a stream so far, and whether it was ended.
    pub(super) fn wrote(&self, id: u32) -> (usize, bool) {
        match self.users.get(&id) {
            Some(user) => (user.written, user.shut_down),
            None => self.past.get(&id).copied().unwrap_or_default(),
        }
    }
}
