// SPDX-License-Identifier: Apache-2.0

//! The beginning of a request's body, read before the request goes on, so that a provider may look at it.
//!
//! Knows nothing of providers. What is kept is bounded per request by who wants to see it, and per pod: who
//! finds no room waits. Invariant: what was read goes on before what follows it, byte for byte, with its
//! trailers; framed as the client framed it.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::http_body::{Progress, RequestBody};
use crate::model::{
    WorkloadUid,
    provider::{Excerpt, ShownBody},
};

/// How long it may take until there is as much as is wanted.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much is kept of all requests to one pod on one thread. At least four of the largest that can be wanted.
const MAX_POD: usize = 16 * 1024 * 1024;

/// How much goes on at a time.
const PART: usize = 64 * 1024;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// It is longer than may be.
    #[error("the body is too large")]
    TooLarge,
    /// It did not come, or other bodies left no room for it.
    #[error("the body did not come in time")]
    TooSlow,
    /// The client broke off.
    #[error("the body broke off")]
    Broken(#[from] hyper::Error),
}

/// A body whose beginning was read.
pub(crate) struct Ahead {
    /// What follows.
    rest: RequestBody,
    kept: Bytes,
    trailers: Option<HeaderMap>,
    /// Nothing follows.
    is_whole: bool,
    /// It is on its way.
    goes_on: bool,
    progress: Rc<Progress>,
    room: Option<Room>,
}

/// What may be kept for one request to a pod.
struct Room {
    pod: WorkloadUid,
    taken: Option<OwnedSemaphorePermit>,
}

thread_local! {
    static ROOMS: RefCell<HashMap<WorkloadUid, Arc<Semaphore>>> = RefCell::default();
}

/// Reads as much of `body`, which is for `pod`, as is `shown`; nothing if there is none. `most` may be asked for
/// later on.
///
/// # Errors
/// If the request must not go on.
pub(crate) async fn read(
    body: &mut RequestBody,
    shown: &ShownBody,
    most: usize,
    pod: &WorkloadUid,
) -> Result<Option<Excerpt>, Unread> {
    let Some(ahead) = Ahead::of(body) else {
        return Ok(None);
    };
    // Cancel-safe: who has waited for so long refuses the request, and the body with it.
    let reading = tokio::time::timeout(PATIENCE, ahead.read(shown, most, pod)).await;
    reading.unwrap_or(Err(Unread::TooSlow)).map(Some)
}

impl Ahead {
    /// All of `rest`, of which nothing was read; what comes of it does not go on at once.
    fn new(rest: RequestBody, progress: Rc<Progress>) -> Self {
        progress.hold_back();
        Self {
            rest,
            kept: Bytes::new(),
            trailers: None,
            is_whole: false,
            goes_on: false,
            progress,
            room: None,
        }
    }

    /// `body` as one that can be read ahead; `None` if there is nothing to read.
    fn of(body: &mut RequestBody) -> Option<&mut Self> {
        if let RequestBody::Streaming { progress, .. } = body {
            let progress = Rc::clone(progress);
            let rest = std::mem::replace(body, RequestBody::Empty);
            *body = RequestBody::Ahead(Box::new(Self::new(rest, progress)));
        }
        match body {
            RequestBody::Ahead(ahead) => Some(ahead),
            RequestBody::Empty | RequestBody::Streaming { .. } | RequestBody::Replayed(_) => None,
        }
    }

    async fn read(
        &mut self,
        shown: &ShownBody,
        most: usize,
        pod: &WorkloadUid,
    ) -> Result<Excerpt, Unread> {
        let length = self.size_hint().exact();
        let length = length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        if !shown.partial && length.is_some_and(|length| length > shown.most) {
            return Err(Unread::TooLarge);
        }
        if self.room.is_none() {
            let bytes = length.unwrap_or(usize::MAX).min(most);
            self.room = Some(Room::take(pod, bytes).await);
        }
        // One byte more tells whether that is all, for whom a part will not do.
        self.fill(shown.most + usize::from(!shown.partial)).await?;
        let is_longer = self.kept.len() > shown.most;
        if is_longer && !shown.partial {
            return Err(Unread::TooLarge);
        }
        Ok(Excerpt {
            bytes: self.kept.slice(..self.kept.len().min(shown.most)),
            is_partial: is_longer || !self.is_whole,
        })
    }

    /// Reads until `wanted` bytes are there, or the body is over.
    async fn fill(&mut self, wanted: usize) -> Result<(), hyper::Error> {
        if self.is_whole || self.kept.len() >= wanted {
            return Ok(());
        }
        let mut kept = BytesMut::from(std::mem::take(&mut self.kept));
        while !self.is_whole && kept.len() < wanted {
            let frame = poll_fn(|context| Pin::new(&mut self.rest).poll_frame(context)).await;
            match frame.transpose()?.map(Frame::into_data) {
                // Copied: small pieces would keep the buffers alive that they were read into.
                Some(Ok(data)) => kept.extend_from_slice(&data),
                Some(Err(other)) => self.trailers = other.into_trailers().ok(),
                None => self.is_whole = true,
            }
            self.is_whole |= self.rest.is_end_stream();
        }
        self.kept = kept.freeze();
        Ok(())
    }

    /// What the body is made of, one after the other.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.goes_on = true;
        let part = self.kept.split_to(self.kept.len().min(PART));
        let trailers = match part.is_empty() {
            true => self.trailers.take(),
            false => None,
        };
        if self.kept.is_empty() && self.trailers.is_none() {
            self.room = None;
            self.progress.let_go();
        }
        match trailers {
            _ if !part.is_empty() => Poll::Ready(Some(Ok(Frame::data(part)))),
            Some(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            None if self.is_whole => Poll::Ready(None),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    /// Whether nothing is left. Of a body that turned out to be empty the end goes on all the same.
    pub(crate) fn is_end(&self) -> bool {
        let nothing_kept = self.kept.is_empty() && self.trailers.is_none();
        self.goes_on && nothing_kept && (self.is_whole || self.rest.is_end_stream())
    }

    /// How much there is in all, if the client said so.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let kept = u64::try_from(self.kept.len()).expect("a length fits u64");
        let rest = self.rest.size_hint().exact();
        rest.map_or_else(SizeHint::default, |rest| SizeHint::with_exact(kept + rest))
    }
}

impl Room {
    /// Waits until `bytes` may be kept.
    async fn take(pod: &WorkloadUid, bytes: usize) -> Self {
        let mut room = Self {
            pod: pod.clone(),
            taken: None,
        };
        let all = ROOMS.with_borrow_mut(|rooms| {
            let of_pod = rooms.entry(pod.clone());
            Arc::clone(of_pod.or_insert_with(|| Arc::new(Semaphore::new(MAX_POD))))
        });
        let bytes = u32::try_from(bytes.min(MAX_POD)).unwrap_or(u32::MAX);
        // It is never closed.
        room.taken = all.acquire_many_owned(bytes).await.ok();
        room
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken = None;
        ROOMS.with_borrow_mut(|rooms| {
            let unused = rooms
                .get(&self.pod)
                .is_some_and(|room| Arc::strong_count(room) == 1);
            if unused {
                rooms.remove(&self.pod);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http::HeaderValue;

    use super::*;
    use crate::proxy::{
        budgets::Loan,
        http_replay::{Piece, Replay},
    };

    fn pod() -> WorkloadUid {
        WorkloadUid("pod".into())
    }

    fn said(parts: &[&'static str]) -> Vec<Piece> {
        let piece = |text: &&'static str| Piece::Data(Bytes::from_static(text.as_bytes()));
        parts.iter().map(piece).collect()
    }

    fn body_of(rest: RequestBody) -> RequestBody {
        let progress = Progress::new(&Rc::default());
        RequestBody::Ahead(Box::new(Ahead::new(rest, progress)))
    }

    /// A body that comes piece by piece.
    fn body(pieces: Vec<Piece>) -> RequestBody {
        let source = Replay::of(pieces.into()).read();
        body_of(source)
    }

    /// One that never comes.
    fn silence() -> RequestBody {
        let replay = Replay::of(said(&["silence"]).into());
        let silent = replay.read();
        let replay = Replay::new(silent, Loan::default());
        let (given_up, newest) = (replay.read(), replay.read());
        drop(newest);
        body_of(given_up)
    }

    fn shown(most: usize, partial: bool) -> ShownBody {
        ShownBody {
            most,
            partial,
            as_bytes: false,
        }
    }

    /// What goes on of a body: its data, and whether trailers follow.
    fn rest_of(mut body: RequestBody) -> (String, bool) {
        let mut context = Context::from_waker(Waker::noop());
        let (mut text, mut trailers) = (String::new(), false);
        while !body.is_end_stream()
            && let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut context)
        {
            let frame = frame.unwrap();
            trailers |= frame.is_trailers();
            let data = frame.into_data().unwrap_or_default();
            text.push_str(std::str::from_utf8(&data).unwrap());
        }
        (text, trailers)
    }

    async fn seen(body: &mut RequestBody, most: usize, partial: bool) -> Option<(String, bool)> {
        let excerpt = read(body, &shown(most, partial), most, &pod()).await;
        let excerpt = excerpt.ok()?.expect("there is a body");
        let text = String::from_utf8(excerpt.bytes.to_vec()).unwrap();
        Some((text, excerpt.is_partial))
    }

    /// What is seen of `abc def ` by who sees so much, before it all goes on.
    async fn check(most: usize, partial: bool, want: Option<(&str, bool)>) {
        let mut pieces = said(&["abc ", "def "]);
        pieces.push(Piece::Trailers(HeaderMap::from_iter([(
            http::header::EXPIRES,
            HeaderValue::from_static("0"),
        )])));
        let mut body = body(pieces);
        let seen = seen(&mut body, most, partial).await;
        let want = want.map(|(text, partial)| (text.to_owned(), partial));
        assert_eq!(seen, want, "{most} {partial}");
        if want.is_some() {
            assert_eq!(rest_of(body), ("abc def ".to_owned(), true), "{most}");
        }
        assert!(ROOMS.with_borrow(HashMap::is_empty), "nothing is kept");
    }

    #[tokio::test]
    async fn as_much_is_seen_as_may_be_and_all_goes_on() {
        check(100, false, Some(("abc def ", false))).await;
        check(8, false, Some(("abc def ", false))).await;
        check(7, false, None).await;
        check(1, false, None).await;
        check(100, true, Some(("abc def ", false))).await;
        check(9, true, Some(("abc def ", false))).await;
        check(6, true, Some(("abc de", true))).await;
        check(4, true, Some(("abc ", true))).await;
    }

    #[tokio::test]
    async fn who_comes_second_sees_what_the_first_saw_and_more() {
        let mut body = body(said(&["abc ", "def ", "ghi"]));
        let first = seen(&mut body, 2, true).await.unwrap();
        assert_eq!(first, ("ab".to_owned(), true));
        let second = seen(&mut body, 100, false).await.unwrap();
        assert_eq!(second, ("abc def ghi".to_owned(), false));
        let third = seen(&mut body, 5, true).await.unwrap();
        assert_eq!(third, ("abc d".to_owned(), true));
        assert_eq!(rest_of(body), ("abc def ghi".to_owned(), false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for_without_end() {
        let mut body = silence();
        let unread = read(&mut body, &shown(1, true), 1, &pod()).await;
        assert!(matches!(unread, Err(Unread::TooSlow)), "{unread:?}");
        drop(body);
        assert!(ROOMS.with_borrow(HashMap::is_empty));
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_waits_for_it() {
        let others = Room::take(&pod(), MAX_POD - 2).await;
        let whole = shown(100, false);
        let mut late = body(said(&["abc"]));
        let unread = read(&mut late, &whole, 100, &pod()).await;
        assert!(matches!(unread, Err(Unread::TooSlow)), "{unread:?}");
        let mut elsewhere = body(said(&["abc"]));
        let pod_with_room = WorkloadUid("other".into());
        let seen = read(&mut elsewhere, &whole, 100, &pod_with_room).await;
        assert!(seen.is_ok());
        drop(others);
        assert!(read(&mut late, &whole, 100, &pod()).await.is_ok());
        drop((late, elsewhere));
        assert!(ROOMS.with_borrow(HashMap::is_empty));
    }
}
