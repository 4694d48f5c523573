// SPDX-License-Identifier: Apache-2.0

//! Where a client of HTTP/2 stands in its frames: whether what is waited for is the rest of a head, or of
//! any other frame that nothing can be done with before it is whole.
//!
//! h2 waits for such a rest as long as the client likes, and does not say so. Here the frames are
//! stepped over on their way to it, nine bytes looked at of each. Knows nothing of their meaning but
//! where heads end. Invariant: bytes pass unchanged. Reference: RFC 9113 sections 3.4, 4.1 and 4.3.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The length of a frame's head.
const FRAME_HEAD: usize = 9;

/// How long the connection preface is.
const PREFACE: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A client's stream of which it is known where in its frames it stands.
#[derive(Debug)]
pub(crate) struct Watched<Client> {
    inner: Client,
    place: Rc<Place>,
}

/// Where a client stands in its frames.
#[derive(Debug, Default)]
pub(crate) struct Place(RefCell<Frames>);

#[derive(Debug)]
struct Frames {
    /// What is to come of a frame's payload, or of the preface.
    rest: usize,
    /// What has come of a frame's head.
    head: [u8; FRAME_HEAD],
    known: usize,
    /// The frame carries a body, which may come as slowly as it likes.
    carries: bool,
    /// A request's head has begun and not ended.
    open: bool,
    /// How often everything that had begun was whole.
    whole: u64,
    /// The client has sent nothing that was not read.
    is_drained: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            rest: PREFACE,
            head: [0; FRAME_HEAD],
            known: 0,
            carries: false,
            open: false,
            whole: 0,
            is_drained: true,
        }
    }
}

impl<Client> Watched<Client> {
    /// Watches a client that has yet to send its preface.
    pub(crate) fn new(inner: Client) -> Self {
        Self {
            inner,
            place: Rc::default(),
        }
    }

    /// Where it stands.
    pub(crate) fn place(&self) -> Rc<Place> {
        Rc::clone(&self.place)
    }
}

impl Place {
    /// What has begun and is no use before it is whole, by a number that it has alone.
    pub(crate) fn begun(&self) -> Option<u64> {
        let frames = self.0.borrow();
        let waits = frames.open || frames.known > 0 || (frames.rest > 0 && !frames.carries);
        (waits && frames.is_drained).then_some(frames.whole)
    }
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.rest == 0 {
                let count = bytes.len().min(FRAME_HEAD - self.known);
                self.head[self.known..self.known + count].copy_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                self.known += count;
                if self.known < FRAME_HEAD {
                    return;
                }
                self.begin();
            }
            let count = bytes.len().min(self.rest);
            bytes = &bytes[count..];
            self.rest -= count;
            if self.rest == 0 && !self.open {
                self.whole += 1;
            }
        }
    }

    /// A frame's head has come.
    fn begin(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.rest = usize::try_from(length).expect("24 bits fit");
        self.known = 0;
        self.carries = kind == DATA;
        if kind == HEADERS || kind == CONTINUATION {
            self.open = flags & END_HEADERS == 0;
        }
    }
}

impl<Client: AsyncRead + Unpin> AsyncRead for Watched<Client> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        let mut frames = self.place.0.borrow_mut();
        frames.pass(&buffer.filled()[before..]);
        // Whoever does not read because the client does not either waits for something else.
        frames.is_drained = read.is_pending();
        drop(frames);
        read
    }
}

impl<Client: AsyncWrite + Unpin> AsyncWrite for Watched<Client> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::frames::{self, frame, get, hello},
        *,
    };

    /// Whether something is waited for after each byte of `bytes`, as a place of its own.
    #[track_caller]
    fn check(bytes: &[u8], want: &[(usize, bool)]) {
        let mut frames = Frames::default();
        frames.pass(&hello());
        let place = Place(RefCell::new(frames));
        assert_eq!(place.begun(), None);
        let mut at = 0;
        for &(end, waits) in want {
            let numbers: Vec<_> = bytes[at..end]
                .iter()
                .map(|byte| {
                    place.0.borrow_mut().pass(&[*byte]);
                    place.begun()
                })
                .collect();
            let last = numbers.last().copied().flatten();
            assert_eq!(last.is_some(), waits, "after {end}: {numbers:?}");
            at = end;
        }
        // Together they come to the same.
        let mut together = Frames::default();
        together.pass(&[&hello(), bytes].concat());
        let apart = place.0.borrow();
        assert_eq!(
            (together.rest, together.known, together.open, together.whole),
            (apart.rest, apart.known, apart.open, apart.whole)
        );
    }

    #[test]
    fn a_head_is_waited_for_until_its_last_frame_is_whole() {
        let begun = frame(frames::HEADERS, 1, 1, &get());
        let more = frame(frames::CONTINUATION, 0, 1, &[0; 3]);
        let last = frame(frames::CONTINUATION, END_HEADERS, 1, &[0; 3]);
        let empty = frame(frames::CONTINUATION, END_HEADERS, 3, &[]);
        let head = begun.len();
        check(
            &[&begun[..], &more, &last, &begun, &empty].concat(),
            &[
                (1, true),
                (9, true),
                (head, true),
                (head + 12, true),
                (head + 23, true),
                (head + 24, false),
                (2 * head + 24, true),
                (2 * head + 33, false),
            ],
        );
    }

    #[test]
    fn all_of_one_head_is_one_wait_and_the_next_is_another() {
        let mut frames = Frames::default();
        frames.pass(&hello());
        let place = Place(RefCell::new(frames));
        let whole = frame(frames::HEADERS, 5, 1, &get());
        let begun = frame(frames::HEADERS, 1, 3, &get());
        let more = frame(frames::CONTINUATION, 0, 3, &[0; 3]);
        let last = frame(frames::CONTINUATION, END_HEADERS, 3, &[0; 3]);
        let pass = |bytes: &[u8]| {
            place.0.borrow_mut().pass(bytes);
            place.begun()
        };
        let first = pass(&whole[..12]);
        assert_eq!(pass(&whole[12..]), None);
        let second = pass(&begun);
        assert!(second.is_some() && second != first);
        assert_eq!(pass(&more), second);
        assert_eq!(pass(&more[..4]), second);
        assert_eq!(pass(&more[4..]), second);
        assert_eq!(pass(&last), None);
    }

    #[test]
    fn a_body_may_take_its_time_and_other_frames_may_not() {
        let data = frame(frames::DATA, 0, 1, &[7; 20]);
        check(&data, &[(8, true), (9, false), (28, false), (29, false)]);
        let ping = frame(frames::PING, 0, 0, &[7; 8]);
        check(&ping, &[(16, true), (17, false)]);
    }

    #[test]
    fn a_preface_that_does_not_end_is_waited_for() {
        let mut frames = Frames::default();
        frames.pass(&hello()[..20]);
        assert!(Place(RefCell::new(frames)).begun().is_some());
    }
}
