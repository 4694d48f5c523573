// SPDX-License-Identifier: Apache-2.0

//! Request bodies that are kept while they pass, so that they can be sent again, or elsewhere too.
//!
//! Knows nothing of retries and mirrors. What is kept is bounded, per request and per source pod;
//! a body that outgrows its bound passes on all the same, but once only. Invariant: of several
//! readers of one body only the newest takes from the client, so that no byte is lost or doubled.

use std::{
    cell::RefCell,
    collections::HashMap,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::http_body::RequestBody;
use crate::model::WorkloadUid;

/// How much of one body is kept.
const MAX_BODY: usize = 1024 * 1024;

/// How much is kept for all requests of one source pod on one thread.
const MAX_POD: usize = 16 * 1024 * 1024;

/// A body that is kept while it passes.
#[derive(Clone)]
pub(crate) struct Replay(Rc<RefCell<Kept>>);

/// One passing of the body.
pub(crate) struct Reader {
    kept: Rc<RefCell<Kept>>,
    generation: u64,
    next: usize,
}

struct Kept {
    client: Pin<Box<RequestBody>>,
    pieces: Vec<Piece>,
    bytes: Allowance,
    /// Too large: it passes once only.
    outgrown: bool,
    ended: bool,
    /// Of the newest reader.
    generation: u64,
    hint: SizeHint,
    /// Who wants all of it.
    wanted: Vec<oneshot::Sender<Vec<Piece>>>,
}

/// A piece of a body.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// What is kept for one request, counted for its pod.
struct Allowance {
    pod: WorkloadUid,
    bytes: usize,
}

thread_local! {
    static BY_POD: RefCell<HashMap<WorkloadUid, usize>> = RefCell::default();
}

impl Allowance {
    /// Counts `more` bytes, if there is room for them.
    fn take(&mut self, more: usize) -> bool {
        BY_POD.with_borrow_mut(|by_pod| {
            let of_pod = by_pod.get(&self.pod).copied().unwrap_or_default();
            let room = self.bytes + more <= MAX_BODY && of_pod + more <= MAX_POD;
            if room && more > 0 {
                by_pod.insert(self.pod.clone(), of_pod + more);
                self.bytes += more;
            }
            room
        })
    }

    fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        BY_POD.with_borrow_mut(|by_pod| {
            if let Some(of_pod) = by_pod.get_mut(&self.pod) {
                *of_pod -= bytes;
                if *of_pod == 0 {
                    by_pod.remove(&self.pod);
                }
            }
        });
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Replay {
    /// Keeps `body`, sent by `pod`.
    pub(crate) fn new(body: RequestBody, pod: &WorkloadUid) -> Self {
        Self(Rc::new(RefCell::new(Kept {
            hint: body.size_hint(),
            ended: body.is_end_stream(),
            client: Box::pin(body),
            pieces: Vec::new(),
            bytes: Allowance {
                pod: pod.clone(),
                bytes: 0,
            },
            outgrown: false,
            generation: 0,
            wanted: Vec::new(),
        })))
    }

    /// A body that is there already.
    pub(crate) fn of(pieces: Vec<Piece>, pod: &WorkloadUid) -> Self {
        let replay = Self::new(RequestBody::Empty, pod);
        {
            let mut kept = replay.0.borrow_mut();
            let length = |piece: &Piece| match piece {
                Piece::Data(bytes) => bytes.len() as u64,
                Piece::Trailers(_) => 0,
            };
            kept.hint = SizeHint::with_exact(pieces.iter().map(length).sum());
            kept.pieces = pieces;
        }
        replay
    }

    /// The body from its beginning; readers before it get no further.
    pub(crate) fn read(&self) -> RequestBody {
        let mut kept = self.0.borrow_mut();
        kept.generation += 1;
        RequestBody::Replayed(Reader {
            kept: Rc::clone(&self.0),
            generation: kept.generation,
            next: 0,
        })
    }

    /// Whether the body can still be read from its beginning.
    pub(crate) fn is_whole(&self) -> bool {
        !self.0.borrow().outgrown
    }

    /// Resolves to all of the body once it has passed; fails if it outgrows its bound or breaks.
    pub(crate) fn all(&self) -> oneshot::Receiver<Vec<Piece>> {
        let (sender, receiver) = oneshot::channel();
        let mut kept = self.0.borrow_mut();
        kept.wanted.push(sender);
        kept.tell();
        receiver
    }
}

impl Kept {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.outgrown {
            return;
        }
        let (piece, length) = if let Some(bytes) = frame.data_ref() {
            (Piece::Data(bytes.clone()), bytes.len())
        } else if let Some(trailers) = frame.trailers_ref() {
            (Piece::Trailers(trailers.clone()), 0)
        } else {
            return;
        };
        if self.bytes.take(length) {
            self.pieces.push(piece);
        } else {
            self.outgrown = true;
            self.pieces = Vec::new();
            self.wanted = Vec::new();
            self.bytes.give_back();
        }
    }

    fn tell(&mut self) {
        if self.ended && !self.outgrown {
            for wanted in self.wanted.drain(..) {
                // Whoever wanted it may have gone.
                wanted.send(self.pieces.clone()).ok();
            }
        }
    }
}

impl Reader {
    /// What the body is made of, one after the other.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut kept = self.kept.borrow_mut();
        if !kept.outgrown
            && let Some(piece) = kept.pieces.get(self.next)
        {
            self.next += 1;
            return Poll::Ready(Some(Ok(match piece.clone() {
                Piece::Data(bytes) => Frame::data(bytes),
                Piece::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        if kept.generation != self.generation {
            // Given up: whoever polls it is about to drop it.
            return Poll::Pending;
        }
        if kept.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(kept.client.as_mut().poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                kept.keep(frame);
                self.next += 1;
                kept.ended = kept.client.is_end_stream();
            }
            // What broke is never whole.
            Some(Err(_)) => kept.wanted = Vec::new(),
            None => kept.ended = true,
        }
        kept.tell();
        Poll::Ready(frame)
    }

    /// Whether nothing is left.
    pub(crate) fn is_end(&self) -> bool {
        let kept = self.kept.borrow();
        kept.ended && (kept.outgrown || self.next >= kept.pieces.len())
    }

    /// How much there is in all.
    pub(crate) fn hint(&self) -> SizeHint {
        match self.next {
            0 => self.kept.borrow().hint,
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> WorkloadUid {
        WorkloadUid("pod".into())
    }

    /// The data of a body that is there.
    fn text(body: &mut RequestBody) -> String {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut text = String::new();
        while let Poll::Ready(Some(frame)) = Pin::new(&mut *body).poll_frame(&mut context) {
            let data = frame.unwrap().into_data().unwrap_or_default();
            text.push_str(std::str::from_utf8(&data).unwrap());
        }
        text
    }

    fn said(parts: &[&'static str]) -> Vec<Piece> {
        let piece = |text: &&'static str| Piece::Data(Bytes::from_static(text.as_bytes()));
        parts.iter().map(piece).collect()
    }

    #[test]
    fn a_body_is_read_again_from_its_beginning() {
        let first = Replay::of(said(&["one ", "two ", "three"]), &pod());
        // What passes from one to the other comes piece by piece.
        let second = Replay::new(first.read(), &pod());
        let mut early = second.read();
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut early).poll_frame(&mut context).is_ready());
        let mut late = second.read();
        assert_eq!(text(&mut late), "one two three");
        assert!(late.is_end_stream());
        assert!(second.is_whole());
    }

    #[test]
    fn an_older_reader_takes_nothing_from_the_client() {
        let source = Replay::of(said(&["one ", "two"]), &pod());
        let replay = Replay::new(source.read(), &pod());
        let mut old = replay.read();
        let mut new = replay.read();
        assert_eq!(text(&mut old), "");
        assert_eq!(text(&mut new), "one two");
    }

    #[test]
    fn whoever_wants_all_gets_it_when_it_has_passed() {
        let source = Replay::of(said(&["one ", "two"]), &pod());
        let replay = Replay::new(source.read(), &pod());
        let mut all = replay.all();
        assert!(all.try_recv().is_err());
        text(&mut replay.read());
        let pieces = all.try_recv().unwrap();
        assert_eq!(text(&mut Replay::of(pieces, &pod()).read()), "one two");
    }

    #[test]
    fn a_body_that_outgrows_its_bound_passes_once() {
        let large: &'static str = "x".repeat(MAX_BODY / 2 + 1).leak();
        let source = Replay::of(said(&["begin ", large, large, " end"]), &pod());
        let replay = Replay::new(source.read(), &pod());
        let mut all = replay.all();
        let passed = text(&mut replay.read());
        assert_eq!(passed.len(), 2 * large.len() + "begin  end".len());
        assert!(!replay.is_whole());
        assert!(all.try_recv().is_err());
        drop((replay, source));
        assert!(BY_POD.with_borrow(HashMap::is_empty), "nothing is kept");
    }

    #[test]
    fn what_one_pod_keeps_is_bounded() {
        let piece: &'static str = "x".repeat(MAX_BODY).leak();
        let keep = |pod: &WorkloadUid| {
            let source = Replay::of(said(&[piece]), pod);
            let replay = Replay::new(source.read(), pod);
            text(&mut replay.read());
            replay
        };
        let kept: Vec<Replay> = (0..=MAX_POD / MAX_BODY).map(|_| keep(&pod())).collect();
        let whole = kept.iter().filter(|replay| replay.is_whole()).count();
        assert_eq!(whole, MAX_POD / MAX_BODY);
        assert!(keep(&WorkloadUid("other".into())).is_whole());
    }
}
