// SPDX-License-Identifier: Apache-2.0

//! When sets are fetched, what stays, and a real server.

use std::cell::RefCell;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    identity::token_samples::Issuer,
    model::{
        InboundPolicy, SpiffeId, Workload, WorkloadUid,
        token::{AttachedRules, Authentication, TokenRule},
    },
};

impl KeySets {
    /// Takes in what was fetched.
    pub(in crate::identity) fn put(&self, place: &KeyPlace, keys: Result<KeySet, FetchError>) {
        let mut plans = BTreeMap::from([(place.clone(), Plan::new())]);
        self.want(&plans);
        self.take(place, keys, plans.get_mut(place).unwrap());
    }

    pub(in crate::identity) fn is_asked(&self, place: &KeyPlace) -> bool {
        let slot = self.slot(place);
        slot.is_some_and(|slot| slot.is_asked.load(Ordering::Relaxed))
    }
}

fn place(url: &str) -> KeyPlace {
    KeyPlace {
        url: url.into(),
        discover: false,
        timeout: Duration::from_secs(5),
    }
}

/// A snapshot whose one workload needs the keys of `place`.
fn snapshot(place: &KeyPlace) -> Arc<Snapshot> {
    let rule = TokenRule {
        issuer: "i".into(),
        audiences: Vec::new(),
        keys: KeySource::Remote(place.clone()),
        locations: Vec::new(),
        payload_header: None,
        claim_headers: Vec::new(),
        keeps_token: false,
        space_delimited: Arc::default(),
    };
    let rules = AttachedRules {
        name: "a/b".into(),
        rules: vec![Arc::new(rule)],
        ports: None,
    };
    let workload = Workload {
        uid: WorkloadUid("uid".into()),
        name: "a".into(),
        namespace: "default".into(),
        identity: SpiffeId::new("cluster.local", "default", "a"),
        node: "".into(),
        addresses: Vec::new(),
        labels: Arc::default(),
        owner: "a".into(),
        canonical_service: "a".into(),
        canonical_revision: "latest".into(),
        enrolled: true,
        netns: None,
        host_network: false,
        ready: true,
        probe_ports: Vec::new(),
        close_existing_after: None,
        inbound: InboundPolicy {
            authentication: Arc::new(Authentication::new(vec![rules])),
            ..InboundPolicy::default()
        },
        scope: Arc::default(),
    };
    let snapshot = Snapshot::default();
    snapshot.local.set(vec![Arc::new(workload)]).unwrap();
    Arc::new(snapshot)
}

/// Follows one place for `time`; when it was fetched, in seconds from the begin. The attempts fail
/// whose numbers are in `failing`. `during` runs beside it.
async fn fetches(
    sets: &KeySets,
    failing: &[usize],
    time: u64,
    during: impl Future<Output = ()>,
) -> Vec<u64> {
    let place = place("http://keys");
    let (_publisher, snapshots) = watch::channel(snapshot(&place));
    let (begin, times) = (Instant::now(), RefCell::new(Vec::new()));
    let issuer = Issuer::new("a");
    let fetch = |_place| {
        let mut times = times.borrow_mut();
        times.push(begin.elapsed().as_secs());
        let fails = failing.contains(&(times.len() - 1));
        let keys = KeySet::parse(issuer.keys().as_bytes()).unwrap();
        async move {
            if fails {
                Err(FetchError::NoKeysUrl)
            } else {
                Ok(keys)
            }
        }
    };
    let end = begin + Duration::from_secs(time);
    // Cancel-safe: both end here.
    tokio::select! {
        () = sets.clone().follow(snapshots, fetch) => {}
        () = async { during.await; sleep_until(end).await } => {}
    }
    times.into_inner()
}

#[tokio::test(start_paused = true)]
async fn a_set_is_fetched_again_every_five_minutes_and_stays_the_same_allocation() {
    let sets = KeySets::default();
    let first = RefCell::new(None);
    let during = async {
        sleep_until(Instant::now() + Duration::from_secs(1)).await;
        *first.borrow_mut() = sets.get(&place("http://keys"));
    };
    let times = fetches(&sets, &[], 700, during).await;
    assert_eq!(times, [0, 300, 600]);
    let last = sets.get(&place("http://keys")).unwrap();
    assert!(Arc::ptr_eq(&first.into_inner().unwrap(), &last));
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_fetched_is_tried_again_ever_more_seldom() {
    let sets = KeySets::default();
    let times = fetches(&sets, &[0, 1, 2], 20, async {}).await;
    assert_eq!(times, [0, 1, 3, 7]);
    let views = sets.list();
    let [view] = views.as_slice() else {
        panic!("{views:?}");
    };
    assert_eq!((view.keys, &view.error), (Some(1), &None));
}

#[tokio::test(start_paused = true)]
async fn an_outage_leaves_what_there_is() {
    let sets = KeySets::default();
    let times = fetches(&sets, &[1, 2], 302, async {}).await;
    assert_eq!(times, [0, 300, 301]);
    let [view] = &*sets.list() else { panic!() };
    assert_eq!(view.keys, Some(1));
    assert!(view.error.is_some());
    assert!(sets.get(&place("http://keys")).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_not_there_is_asked_for_but_not_by_everybody() {
    let sets = KeySets::default();
    let during = async {
        for _ in 0..25 {
            sleep_until(Instant::now() + Duration::from_secs(1)).await;
            sets.ask_anew(&place("http://keys"));
        }
    };
    let times = fetches(&sets, &[], 60, during).await;
    assert_eq!(times, [0, 10, 20, 30]);
}

/// A web server that answers each connection in turn; its URL.
async fn server(answers: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    Tasks::new().spawn_local("keys", async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    url
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn fetch(place: &KeyPlace) -> Result<usize, String> {
    fetch_from("127.0.0.1/32", place).await
}

/// The same where a network is allowed.
async fn fetch_from(allowed: &str, place: &KeyPlace) -> Result<usize, String> {
    let fetcher = Fetcher::new(vec![allowed.parse().unwrap()], Tasks::new());
    let fetched = fetcher.key_set(place).await;
    fetched
        .map(|keys| keys.len())
        .map_err(|error| chain(&error))
}

#[tokio::test]
async fn a_set_is_fetched_from_a_web_server() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let keys = Issuer::new("a").keys();
            let url = server(vec![ok(&keys)]).await;
            assert_eq!(fetch(&place(&url)).await, Ok(1));
            let url = server(vec!["HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n".to_owned()]).await;
            let refused = fetch(&place(&url)).await.unwrap_err();
            assert!(refused.contains("302"), "{refused}");
            let url = server(vec![ok(&"x".repeat(2_000_000))]).await;
            let refused = fetch(&place(&url)).await.unwrap_err();
            assert!(refused.contains("reading the answer"), "{refused}");
            let url = server(vec![ok("{}")]).await;
            let refused = fetch(&place(&url)).await.unwrap_err();
            assert!(refused.contains("no list"), "{refused}");
        })
        .await;
}

#[tokio::test]
async fn an_issuer_says_where_its_keys_are() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let keys = server(vec![ok(&Issuer::new("a").keys())]).await;
            let document = format!("{{\"jwks_uri\": \"{keys}/keys\"}}");
            let issuer = KeyPlace {
                discover: true,
                ..place(&server(vec![ok(&document)]).await)
            };
            assert_eq!(fetch(&issuer).await, Ok(1));
        })
        .await;
}

/// Nothing is fetched from there, and why is told; the server is never connected to.
#[track_caller]
fn check_refused(answer: &Result<usize, String>, want: &str) {
    let refused = answer.as_ref().unwrap_err();
    assert!(refused.contains(want), "{refused}");
    assert!(refused.contains("--jwks-allow"), "{refused}");
}

#[tokio::test]
async fn nothing_is_fetched_from_the_node_itself_its_link_or_a_metadata_service() {
    let elsewhere = "10.0.0.0/8";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for (host, want) in [
        ("127.0.0.1", "a loopback address"),
        ("localhost", "a loopback address"),
        ("127.1", "a loopback address"),
        ("[::1]", "a loopback address"),
        ("[::ffff:127.0.0.1]", "a loopback address"),
        ("0.0.0.0", "no address of a host"),
        ("[::]", "no address of a host"),
        ("169.254.169.254", "a link-local address"),
        ("[fe80::1]", "a link-local address"),
        ("[fd00:ec2::254]", "a cloud's metadata service"),
    ] {
        let url = format!("http://{host}:{port}/keys");
        check_refused(&fetch_from(elsewhere, &place(&url)).await, want);
        let issuer = KeyPlace {
            discover: true,
            ..place(&url)
        };
        check_refused(&fetch_from(elsewhere, &issuer).await, want);
    }
    let nobody_came = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(nobody_came.is_err());
}

#[tokio::test]
async fn where_an_issuer_says_its_keys_are_is_judged_as_what_is_written() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let document = "{\"jwks_uri\": \"http://169.254.169.254/latest\"}";
            let issuer = KeyPlace {
                discover: true,
                ..place(&server(vec![ok(document)]).await)
            };
            check_refused(&fetch(&issuer).await, "169.254.169.254");
        })
        .await;
}
