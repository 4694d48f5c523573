// SPDX-License-Identifier: Apache-2.0

//! Request bodies that are kept while they pass, so that they can be sent again, or elsewhere too.
//!
//! Knows nothing of retries and mirrors. What is kept is bounded, per request and per source pod;
//! a body that outgrows its bound passes on all the same, but once only. Invariant: of several
//! readers of one body only the newest takes from the client, so that no byte is lost or doubled.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::{budgets::Loan, http_body::RequestBody};

/// How much of one body is kept.
const MAX_BODY: usize = 1024 * 1024;

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
    /// What is kept is lent, until nobody has any of it.
    loan: Rc<RefCell<Loan>>,
    /// Too large: it passes once only.
    outgrown: bool,
    ended: bool,
    /// Of the newest reader.
    generation: u64,
    hint: SizeHint,
    /// Who wants all of it.
    wanted: Vec<oneshot::Sender<Copied>>,
}

/// A body that has passed.
#[derive(Debug)]
pub(crate) struct Copied {
    pieces: Vec<Piece>,
    loan: Rc<RefCell<Loan>>,
}

/// A piece of a body.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl From<Vec<Piece>> for Copied {
    /// One that nobody keeps for anybody else.
    fn from(pieces: Vec<Piece>) -> Self {
        Self {
            pieces,
            loan: Rc::default(),
        }
    }
}

impl Replay {
    /// Keeps `body` as far as what that takes is lent.
    pub(crate) fn new(body: RequestBody, loan: Loan) -> Self {
        Self::keeping(body, Rc::new(RefCell::new(loan)))
    }

    fn keeping(body: RequestBody, loan: Rc<RefCell<Loan>>) -> Self {
        Self(Rc::new(RefCell::new(Kept {
            hint: body.size_hint(),
            ended: body.is_end_stream(),
            client: Box::pin(body),
            pieces: Vec::new(),
            loan,
            outgrown: false,
            generation: 0,
            wanted: Vec::new(),
        })))
    }

    /// A body that is there already.
    pub(crate) fn of(copied: Copied) -> Self {
        let Copied { pieces, loan } = copied;
        let replay = Self::keeping(RequestBody::Empty, loan);
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
    pub(crate) fn all(&self) -> oneshot::Receiver<Copied> {
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
        let mut loan = self.loan.borrow_mut();
        if loan.bytes() + length <= MAX_BODY && loan.more(length) {
            self.pieces.push(piece);
        } else {
            self.outgrown = true;
            self.pieces = Vec::new();
            self.wanted = Vec::new();
            let all = loan.bytes();
            loan.less(all);
        }
    }

    fn tell(&mut self) {
        if self.ended && !self.outgrown {
            for wanted in self.wanted.drain(..) {
                // Whoever wanted it may have gone.
                let (pieces, loan) = (self.pieces.clone(), Rc::clone(&self.loan));
                wanted.send(Copied { pieces, loan }).ok();
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
    use std::sync::Arc;

    use super::{
        super::{
            BudgetLimits,
            budgets::{Budgets, Ledger},
            tests::mesh::workload,
        },
        *,
    };

    /// What lends as much as `size` to each of two.
    fn ledgers(size: usize) -> [Arc<Ledger>; 2] {
        let limits = BudgetLimits {
            bytes: size,
            ..BudgetLimits::default()
        };
        let budgets = Budgets::new(&limits, 1);
        let side = |name| budgets.open(&Arc::new(workload(name))).outbound.bytes;
        [side("one"), side("other")]
    }

    fn ledger() -> Arc<Ledger> {
        let [one, _other] = ledgers(64 * MAX_BODY);
        one
    }

    fn used(ledger: &Ledger) -> usize {
        ledger.observe().used
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
        let first = Replay::of(said(&["one ", "two ", "three"]).into());
        // What passes from one to the other comes piece by piece.
        let second = Replay::new(first.read(), Loan::default());
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
        let source = Replay::of(said(&["one ", "two"]).into());
        let replay = Replay::new(source.read(), Loan::default());
        let mut old = replay.read();
        let mut new = replay.read();
        assert_eq!(text(&mut old), "");
        assert_eq!(text(&mut new), "one two");
    }

    #[test]
    fn whoever_wants_all_gets_it_when_it_has_passed() {
        let source = Replay::of(said(&["one ", "two"]).into());
        let replay = Replay::new(source.read(), Loan::default());
        let mut all = replay.all();
        assert!(all.try_recv().is_err());
        text(&mut replay.read());
        let pieces = all.try_recv().unwrap();
        assert_eq!(text(&mut Replay::of(pieces).read()), "one two");
    }

    #[test]
    fn a_body_that_outgrows_its_bound_passes_once() {
        let large: &'static str = "x".repeat(MAX_BODY / 2 + 1).leak();
        let source = Replay::of(said(&["begin ", large, large, " end"]).into());
        let ledger = ledger();
        let replay = Replay::new(source.read(), Loan::of(&ledger));
        let mut all = replay.all();
        let passed = text(&mut replay.read());
        assert_eq!(passed.len(), 2 * large.len() + "begin  end".len());
        assert!(!replay.is_whole());
        assert!(all.try_recv().is_err());
        assert_eq!(used(&ledger), 0, "nothing is kept");
    }

    #[test]
    fn what_one_pod_keeps_is_lent_to_it_and_comes_back() {
        let piece: &'static str = "x".repeat(MAX_BODY).leak();
        let keep = |ledger: &Arc<Ledger>| {
            let source = Replay::of(said(&[piece]).into());
            let replay = Replay::new(source.read(), Loan::of(ledger));
            text(&mut replay.read());
            replay
        };
        let [one, other] = ledgers(16 * MAX_BODY);
        let kept: Vec<Replay> = (0..32).map(|_| keep(&one)).collect();
        let whole = kept.iter().filter(|replay| replay.is_whole()).count();
        assert!((2..12).contains(&whole), "{whole}");
        assert_eq!(used(&one), whole * MAX_BODY);
        assert!(keep(&other).is_whole(), "its neighbour has its own");
        drop(kept);
        assert_eq!((used(&one), used(&other)), (0, 0));
    }

    #[test]
    fn a_copy_is_lent_as_long_as_somebody_has_it() {
        let source = Replay::of(said(&["one ", "two"]).into());
        let ledger = ledger();
        let replay = Replay::new(source.read(), Loan::of(&ledger));
        let mut all = replay.all();
        text(&mut replay.read());
        let copy = Replay::of(all.try_recv().unwrap());
        drop((replay, all));
        assert_eq!(used(&ledger), 7);
        assert_eq!(text(&mut copy.read()), "one two");
        drop(copy);
        assert_eq!(used(&ledger), 0);
    }
}
