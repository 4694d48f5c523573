// SPDX-License-Identifier: Apache-2.0

//! Reads all objects of one kind, then follows their changes, for ever.
//!
//! A list comes in pages; a watch goes on from the list's version, then from that of the last
//! object or bookmark, over any number of connections. Only when the server says that this version
//! is too old is the list read again. Errors are answered by waiting longer and longer, with
//! chance, so that a thousand agents do not come back at once.
//! Reference: Kubernetes API concepts, "Efficient detection of changes".

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    super::object::Kind,
    parse::{self, Item, Line},
    prune::Mask,
    server::{Server, ServerError},
};

/// Objects per page: at some kilobytes an object, a page is a few megabytes at most.
const PAGE: usize = 500;

/// The first wait after an error.
const SHORTEST: Duration = Duration::from_millis(500);

/// The longest wait between tries.
const LONGEST: Duration = Duration::from_secs(30);

/// Servers are asked to end a watch after this and up to as much again, so that agents spread over
/// API servers anew from time to time.
const WATCH: Duration = Duration::from_secs(300);

/// A watch that ends before this without a line is a failure.
const SHORT_WATCH: Duration = Duration::from_secs(1);

const OBJECTS: &str = "application/json";
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const METADATA: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// What is read and followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: Kind,
    /// `/api/v1/pods`.
    pub(super) path: String,
    /// Encoded for a query; empty if all objects count.
    pub(super) fields: &'static str,
    pub(super) metadata_only: bool,
}

/// What a watch tells.
#[derive(Debug)]
pub(super) enum News {
    /// A list begins.
    Begin,
    /// A part of the list.
    Part(Vec<Item>),
    /// The list is complete: what was not in it is not there. It is of this version.
    End(String),
    Applied(Item),
    Deleted(Item),
    /// Changes will arrive from now on.
    Following,
    /// Nothing happened up to this version.
    Bookmark(String),
    /// The server ended the watch, as it does from time to time.
    Ended,
    /// It went wrong and will be tried again.
    Failed {
        /// In words.
        error: String,
        /// There is no such resource.
        absent: bool,
    },
}

/// What the collector is told.
#[derive(Debug)]
pub(super) enum Input {
    /// These kinds are read from now on, each by a watch with this number.
    Kinds(BTreeMap<Kind, u64>),
    /// Which kinds there are could not be found out.
    Undiscovered(String),
    News(Message),
}

/// News of a target.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// Tells watches of one kind apart.
    pub(super) run: u64,
    pub(super) news: News,
}

/// One watch.
pub(super) struct Watch {
    pub(super) server: Server,
    pub(super) target: Target,
    pub(super) mask: Mask,
    pub(super) run: u64,
    pub(super) sender: mpsc::Sender<Input>,
}

/// Nobody wants the news any more.
struct Unwanted;

/// Why a turn ended.
enum Stop {
    Unwanted,
    Failed(ServerError),
}

impl From<Unwanted> for Stop {
    fn from(_: Unwanted) -> Self {
        Self::Unwanted
    }
}

impl From<ServerError> for Stop {
    fn from(error: ServerError) -> Self {
        Self::Failed(error)
    }
}

impl From<serde_json::Error> for Stop {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl Watch {
    /// Goes on until nobody listens. Cancel-safe: what was not told is read again.
    pub(super) async fn run(self) {
        let mut version: Option<String> = None;
        let mut pause = Pause::default();
        loop {
            let turn = match &mut version {
                None => self.list().await.map(|listed| version = Some(listed)),
                Some(version) => self.follow(version, &mut pause).await,
            };
            match turn {
                Ok(()) => {}
                Err(Stop::Unwanted) => return,
                Err(Stop::Failed(error)) => {
                    if error.is_expired() || error.is_absent() {
                        version = None;
                    }
                    let news = News::Failed {
                        absent: error.is_absent(),
                        error: error.to_string(),
                    };
                    if self.tell(news).await.is_err() {
                        return;
                    }
                    sleep(pause.next()).await;
                }
            }
        }
    }

    /// Reads all objects; returns the version to go on from.
    async fn list(&self) -> Result<String, Stop> {
        self.tell(News::Begin).await?;
        let accept = if self.target.metadata_only {
            METADATA_LIST
        } else {
            OBJECTS
        };
        let mut next = String::new();
        loop {
            let mut query = format!("{}?limit={PAGE}", self.target.path);
            self.add_fields(&mut query);
            if !next.is_empty() {
                query.push_str("&continue=");
                query.push_str(&encode(&next));
            }
            let text = self.server.get(&query, accept).await?;
            let page = parse::page(&text, self.mask)?;
            drop(text);
            let of_kind = |value| Item::new(self.target.kind, value);
            let items = page.items.into_iter().filter_map(of_kind).collect();
            self.tell(News::Part(items)).await?;
            next = page.next;
            if next.is_empty() {
                self.tell(News::End(page.version.clone())).await?;
                return Ok(page.version);
            }
        }
    }

    /// Follows changes until the server ends it or it fails; moves `version` forward.
    async fn follow(&self, version: &mut String, pause: &mut Pause) -> Result<(), Stop> {
        let accept = if self.target.metadata_only {
            METADATA
        } else {
            OBJECTS
        };
        let seconds = WATCH.mul_f64(1.0 + fastrand::f64()).as_secs();
        let mut query = format!(
            "{}?watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={seconds}",
            self.target.path
        );
        self.add_fields(&mut query);
        let mut lines = self.server.lines(&query, accept).await?;
        self.tell(News::Following).await?;
        let (begin, mut silent) = (Instant::now(), true);
        while let Some(text) = lines.next().await? {
            silent = false;
            let news = match parse::line(&text, self.mask)? {
                Line::Applied(value) => self.moved(value, version, News::Applied),
                Line::Deleted(value) => self.moved(value, version, News::Deleted),
                Line::Bookmark(to) if !to.is_empty() => {
                    version.clone_from(&to);
                    Some(News::Bookmark(to))
                }
                Line::Failed { code, message } => {
                    return Err(ServerError::Refused { code, message }.into());
                }
                Line::Bookmark(_) | Line::Unknown => None,
            };
            pause.reset();
            if let Some(news) = news {
                self.tell(news).await?;
            }
        }
        if silent && begin.elapsed() < SHORT_WATCH {
            return Err(ServerError::Short.into());
        }
        pause.reset();
        self.tell(News::Ended).await?;
        Ok(())
    }

    fn moved(
        &self,
        value: serde_json::Value,
        version: &mut String,
        news: fn(Item) -> News,
    ) -> Option<News> {
        let item = Item::new(self.target.kind, value)?;
        if !item.version.is_empty() {
            version.clone_from(&item.version);
        }
        Some(news(item))
    }

    fn add_fields(&self, query: &mut String) {
        if !self.target.fields.is_empty() {
            query.push_str("&fieldSelector=");
            query.push_str(self.target.fields);
        }
    }

    async fn tell(&self, news: News) -> Result<(), Unwanted> {
        let message = Message {
            kind: self.target.kind,
            run: self.run,
            news,
        };
        let sent = self.sender.send(Input::News(message)).await;
        sent.map_err(|_gone| Unwanted)
    }
}

/// How long to wait after an error.
pub(super) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(SHORTEST)
    }
}

impl Pause {
    /// Half of it is chance.
    pub(super) fn next(&mut self) -> Duration {
        let longest = self.0;
        self.0 = (self.0 * 2).min(LONGEST);
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    pub(super) fn reset(&mut self) {
        self.0 = SHORTEST;
    }
}

/// Encodes what may stand in a query's value.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_limit_and_are_never_the_same() {
        let mut pause = Pause::default();
        let first = pause.next();
        assert!(first >= SHORTEST / 2 && first <= SHORTEST, "{first:?}");
        let last = (0..20).map(|_| pause.next()).last().unwrap();
        assert!(last >= LONGEST / 2 && last <= LONGEST, "{last:?}");
        pause.reset();
        assert!(pause.next() <= SHORTEST);
    }

    #[test]
    fn a_token_is_encoded_for_a_query() {
        assert_eq!(encode("aZ0-._~=/&"), "aZ0-._~%3D%2F%26");
    }
}
