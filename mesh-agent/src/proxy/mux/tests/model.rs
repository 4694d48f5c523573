// SPDX-License-Identifier: Apache-2.0

//! Two sessions joined by pipes that cut anywhere, and users who do anything at any time, against
//! a model: what was written, in which order, and whether it was ended.

use super::{
    super::{
        MuxLimits,
        frame::{Frame, Parting},
        session::{Role, SEND_QUEUE},
    },
    user::End,
};

/// How many histories are tried.
const SEEDS: u64 = 10;

struct Model {
    ends: [End; 2],
    random: fastrand::Rng,
}

impl Model {
    fn new(seed: u64) -> Self {
        let limits = MuxLimits {
            max_streams: if seed.is_multiple_of(3) { 10 } else { 500 },
            stream_window: 256 * 1024,
        };
        Self {
            ends: [
                End::new(Role::Client, limits),
                End::new(Role::Server, limits),
            ],
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Moves some bytes from one end to the other, cut anywhere.
    fn transmit(&mut self, from: usize, most: usize) -> usize {
        let [a, b] = &mut self.ends;
        let (from, to) = if from == 0 { (a, b) } else { (b, a) };
        let enough = self.random.usize(1..100_000);
        if from.pipe.len() < 100_000 {
            from.session.fill(&mut from.pipe, enough);
        }
        let count = self.random.usize(0..=most).min(from.pipe.len());
        to.session
            .receive(&from.pipe[..count])
            .expect("no end breaks the protocol");
        from.pipe.drain(..count);
        from.wake();
        to.wake();
        count
    }

    /// One thing that happens.
    fn happen(&mut self) {
        let side = self.random.usize(..2);
        match self.random.u8(..100) {
            0..40 => {
                self.transmit(side, 50_000);
            }
            40..45 => {
                let wants = self.random.usize(..400_000);
                self.ends[0].open(wants);
            }
            45..50 => self.ends[1].answer(&mut self.random),
            choice => {
                let end = &mut self.ends[side];
                let ids: Vec<u32> = end.users.keys().copied().collect();
                let Some(id) = self.random.choice(ids) else {
                    return;
                };
                let user = end.users.get_mut(&id).unwrap();
                match choice {
                    50 => user.is_stopped = !user.is_stopped,
                    51 if self.random.u8(..4) == 0 => end.let_go(id),
                    _ if user.has_done() => end.let_go(id),
                    _ => end.step(id, &mut self.random),
                }
            }
        }
        self.check();
    }

    /// Whatever happened, no orderly end came early.
    fn check(&self) {
        for (side, end) in self.ends.iter().enumerate() {
            let other = &self.ends[1 - side];
            for user in end.users.values() {
                let (written, is_ended) = other.wrote(user.id);
                assert!(user.read <= written);
                if matches!(user.end, Some(Ok(()))) {
                    assert!(is_ended, "an end that nobody asked for");
                    assert_eq!(user.read, written, "bytes are missing before the end");
                }
            }
        }
    }

    /// Lets everybody do all they can, but readers that are `stopped`. Standing still with work left
    /// would fail what follows.
    fn finish(&mut self) {
        let mut still = 0;
        while still < 20 {
            let mut moved = self.transmit(0, 200_000) + self.transmit(1, 200_000);
            self.ends[1].answer(&mut self.random);
            for side in 0..2 {
                let ids: Vec<u32> = self.ends[side].users.keys().copied().collect();
                for id in ids {
                    let before = self.ends[side]
                        .users
                        .get(&id)
                        .map(|user| (user.read, user.written));
                    self.ends[side].step(id, &mut self.random);
                    let after = self.ends[side]
                        .users
                        .get(&id)
                        .map(|user| (user.read, user.written));
                    moved += usize::from(before != after);
                }
                self.ends[side].wake();
            }
            self.check();
            still = if moved == 0 { still + 1 } else { 0 };
        }
    }
}

#[test]
fn every_byte_arrives_in_order_whatever_happens() {
    let (mut complete, mut broken) = (0, 0);
    for seed in 0..SEEDS {
        let mut model = Model::new(seed);
        for _ in 0..model.random.usize(..3000) {
            model.happen();
        }
        if seed.is_multiple_of(4) {
            model.ends[1].session.close();
        }
        for end in &mut model.ends {
            end.users
                .values_mut()
                .for_each(|user| user.is_stopped = false);
        }
        model.finish();
        for end in &mut model.ends {
            for user in end.users.values() {
                assert!(
                    user.is_answered,
                    "seed {seed}: stream {} waits for ever",
                    user.id
                );
                match &user.end {
                    Some(Ok(())) => complete += 1,
                    Some(Err(_)) => broken += 1,
                    None => panic!("seed {seed}: stream {} stands still", user.id),
                }
            }
            let all: Vec<u32> = end.users.keys().copied().collect();
            all.into_iter().for_each(|id| end.let_go(id));
        }
        model.finish();
        for end in &model.ends {
            assert_eq!(
                (end.session.live, end.session.streams.len()),
                (0, 0),
                "seed {seed}"
            );
        }
    }
    assert!(
        complete > 50 && broken > 5,
        "{complete} complete, {broken} broken"
    );
}

#[test]
fn a_reader_that_stops_stalls_only_its_own_stream() {
    let mut model = Model::new(1);
    for _ in 0..50 {
        model.ends[0].open(400_000);
    }
    model.transmit(0, usize::MAX >> 1);
    model.finish();
    let mut again = Model::new(1);
    for _ in 0..50 {
        again.ends[0].open(400_000);
    }
    again.transmit(0, usize::MAX >> 1);
    again.ends[1].answer(&mut again.random);
    for user in again.ends[1]
        .users
        .values_mut()
        .filter(|user| user.id % 5 == 0)
    {
        user.is_stopped = true;
    }
    again.finish();
    for user in again.ends[1].users.values() {
        if user.is_stopped {
            assert_eq!((user.read, user.end.is_none()), (0, true));
            let held = again.ends[1].session.streams[&user.id].received.len();
            assert!(held <= 256 * 1024, "{held} bytes are held");
        } else {
            assert_eq!((user.read, user.end.is_some()), (400_000, true));
        }
    }
}

#[test]
fn streams_take_turns() {
    let mut model = Model::new(1);
    for _ in 0..4 {
        model.ends[0].open(0);
    }
    let session = &mut model.ends[0].session;
    for id in 1..=4 {
        session.write_copy(id, &[0; SEND_QUEUE]);
    }
    let mut out = Vec::new();
    // OPENs go first, and early bytes go no further than the window that everybody has.
    session.fill(&mut out, usize::MAX);
    let opens = 4 * (8 + 4 + 7 + 2 * 3 + "model".len());
    assert_eq!(out.len(), opens + 4 * (SEND_QUEUE + 4 * 8));
    for (turn, frame) in out[opens..].chunks(16 * 1024 + 8).enumerate() {
        let want = u32::try_from(turn % 4 + 1).unwrap();
        assert_eq!(frame[4..8], want.to_be_bytes());
    }
    session.write_copy(1, &[0]);
    out.clear();
    session.fill(&mut out, usize::MAX);
    assert_eq!(out, [0; 0], "sent beyond the window");
}

#[test]
fn streams_that_meet_a_goaway_are_served() {
    let mut model = Model::new(1);
    model.ends[0].open(10);
    model.ends[1].session.close();
    model.finish();
    let [client, server] = &model.ends;
    assert!(client.session.is_going && !client.session.has_place());
    let read = |end: &End| end.users.values().map(|user| user.read).collect::<Vec<_>>();
    assert_eq!(read(server), [10]);
    assert_eq!(read(client), [server.wrote(1).0]);
}

#[test]
fn streams_after_the_last_one_of_a_goaway_were_not_acted_on() {
    let mut client = End::new(Role::Client, Model::new(1).ends[0].session.limits);
    client.open(10);
    client.open(10);
    let mut bytes = Vec::new();
    let (last, parting) = (1, Parting::Leaving);
    Frame::GoAway { last, parting }.put(&mut bytes);
    client.session.receive(&bytes).unwrap();
    assert!(client.await_answer(1) && !client.await_answer(2));
}
