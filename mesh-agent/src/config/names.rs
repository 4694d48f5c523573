// SPDX-License-Identifier: Apache-2.0

//! Asks name servers for what ServiceEntries name, again and again.
//!
//! By the resolver of the C library, on threads where it may block: it knows the node's own hosts file,
//! search domains and options, and whoever configures the pod's DNS configures this. It tells no
//! lifetimes, so that everything is asked for anew at one interval. Knows nothing of what the names
//! are for. Invariant: an answer stays until there is another; that there is none now changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::index::Index;
use crate::tasks::Tasks;

/// How often a name that resolves is asked for again.
const REFRESH: Duration = Duration::from_secs(30);

/// How soon one that does not is asked for again, at first and at most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many names are asked for at a time.
const AT_A_TIME: usize = 16;

/// How long there may be nothing to do.
const IDLE: Duration = Duration::from_secs(3600);

/// What is to be resolved, and where the answers go.
#[derive(Debug)]
pub(super) struct Questions {
    pub(super) names: watch::Receiver<Arc<BTreeSet<Arc<str>>>>,
    pub(super) answers: mpsc::UnboundedSender<Answer>,
}

/// What a name resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) name: Arc<str>,
    /// In order, each once.
    pub(super) addresses: Vec<IpAddr>,
}

/// What is known of a name.
struct Known {
    due: Instant,
    retry: Duration,
    is_asked: bool,
    last: Vec<IpAddr>,
}

/// Resolves the names of `index` from now on, until drained.
pub fn resolve(index: &mut Index, tasks: &Tasks) {
    let questions = index.questions();
    let (drain, threads) = (tasks.drain(), tasks.clone());
    let ask = move |name: Arc<str>| {
        let threads = threads.clone();
        async move {
            let asking = threads.blocking("resolve-name", move || ask(&name));
            let late = || io::Error::from(io::ErrorKind::TimedOut);
            match timeout(PATIENCE, asking).await {
                Ok(Some(answer)) => answer,
                Ok(None) => Err(io::Error::other("the resolver panicked")),
                Err(_elapsed) => Err(late()),
            }
        }
    };
    tasks.spawn("resolve-names", async move {
        // Cancel-safe: nothing is left to be done when the agent ends.
        tokio::select! {
            () = follow(questions, ask) => {}
            () = drain.requested() => {}
        }
    });
}

fn ask(name: &str) -> io::Result<Vec<IpAddr>> {
    let found = (name, 0).to_socket_addrs()?;
    Ok(found.map(|socket| socket.ip()).collect())
}

/// Goes on until nobody asks any more.
async fn follow<Asking>(mut questions: Questions, ask: impl Fn(Arc<str>) -> Asking)
where
    Asking: Future<Output = io::Result<Vec<IpAddr>>>,
{
    let mut known: BTreeMap<Arc<str>, Known> = BTreeMap::new();
    let mut asking = FuturesUnordered::new();
    questions.names.mark_changed();
    loop {
        let now = Instant::now();
        for (name, one) in &mut known {
            if asking.len() < AT_A_TIME && !one.is_asked && one.due <= now {
                one.is_asked = true;
                let name = Arc::clone(name);
                let answer = ask(Arc::clone(&name));
                asking.push(async move { (name, answer.await) });
            }
        }
        let waiting = known.values().filter(|one| !one.is_asked);
        let next = waiting.map(|one| one.due).min();
        let next = next.unwrap_or(now + IDLE);
        let has_room = asking.len() < AT_A_TIME;
        // Cancel-safe: all arms only wait; what they wait for stays.
        tokio::select! {
            changed = questions.names.changed() => {
                if changed.is_err() {
                    return;
                }
                let names = Arc::clone(&questions.names.borrow_and_update());
                known.retain(|name, _| names.contains(name));
                for name in names.iter().filter(|name| !known.contains_key(*name)).cloned().collect::<Vec<_>>() {
                    known.insert(name, Known::new());
                }
            }
            Some((name, answer)) = asking.next(), if !asking.is_empty() => {
                let Some(one) = known.get_mut(&name) else {
                    continue;
                };
                if let Some(answer) = one.take(name, answer)
                    && questions.answers.send(answer).is_err()
                {
                    return;
                }
            }
            () = sleep_until(next), if has_room => {}
        }
    }
}

impl Known {
    fn new() -> Self {
        Self {
            due: Instant::now(),
            retry: FIRST_RETRY,
            is_asked: false,
            last: Vec::new(),
        }
    }

    /// Takes in what was answered; what is to be told, if that is something new.
    fn take(&mut self, name: Arc<str>, answer: io::Result<Vec<IpAddr>>) -> Option<Answer> {
        self.is_asked = false;
        let why = match answer {
            Ok(mut addresses) if !addresses.is_empty() => {
                addresses.sort();
                addresses.dedup();
                self.due = Instant::now() + REFRESH;
                self.retry = FIRST_RETRY;
                if self.last == addresses {
                    return None;
                }
                self.last.clone_from(&addresses);
                return Some(Answer { name, addresses });
            }
            Ok(_) => "it has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        let stale = !self.last.is_empty();
        tracing::warn!(%name, why, stale, "a name of a ServiceEntry does not resolve");
        self.due = Instant::now() + self.retry;
        self.retry = (self.retry * 2).min(LAST_RETRY);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque};

    use super::*;

    type Script = RefCell<VecDeque<io::Result<Vec<IpAddr>>>>;

    fn addresses(last: &[u8]) -> Vec<IpAddr> {
        last.iter().map(|last| [10, 0, 0, *last].into()).collect()
    }

    fn names(names: &[&str]) -> Arc<BTreeSet<Arc<str>>> {
        Arc::new(names.iter().map(|name| Arc::from(*name)).collect())
    }

    /// What is told while the resolver answers as in `script`, then never again.
    async fn check(script: Script, want: &[&[u8]]) {
        let (wanted, names_of) = watch::channel(names(&["a.example"]));
        let (answers, mut told) = mpsc::unbounded_channel();
        let questions = Questions {
            names: names_of,
            answers,
        };
        let ask = |_name| {
            let next = script.borrow_mut().pop_front();
            async move {
                match next {
                    Some(next) => next,
                    None => std::future::pending().await,
                }
            }
        };
        let end = Instant::now() + Duration::from_secs(600);
        // Cancel-safe: both end here.
        tokio::select! {
            () = follow(questions, ask) => {}
            () = sleep_until(end) => {}
        }
        drop(wanted);
        let mut got = Vec::new();
        while let Ok(answer) = told.try_recv() {
            got.push(answer.addresses);
        }
        let want: Vec<_> = want.iter().map(|want| addresses(want)).collect();
        assert_eq!(got, want);
        assert!(script.borrow().is_empty());
    }

    fn gone() -> io::Result<Vec<IpAddr>> {
        Err(io::Error::other("no such host"))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_new_is_told_once_and_in_order() {
        let script = [
            Ok(addresses(&[2, 1, 2])),
            Ok(addresses(&[1, 2])),
            Ok(addresses(&[3])),
        ];
        check(RefCell::new(script.into()), &[&[1, 2], &[3]]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_outlives_an_outage_of_the_name_servers() {
        let script = [
            gone(),
            Ok(addresses(&[1])),
            gone(),
            Ok(Vec::new()),
            Ok(addresses(&[1])),
            Ok(addresses(&[2])),
        ];
        check(RefCell::new(script.into()), &[&[1], &[2]]).await;
    }
}
