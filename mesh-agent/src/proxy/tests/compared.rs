// SPDX-License-Identifier: Apache-2.0

//! What rules for traffic do, beside an Envoy that has the same rules as Istio would write them.
//!
//! The same requests go to both; what clients are answered and what endpoints are asked must be the
//! same. Ours are read and compiled as any configuration is. What may differ, and why, is in
//! [`OWN_FIELDS`], and in the tests whose names say so.

mod answers;
mod bootstrap;
mod case;
mod client;
mod cors;
mod endpoint;
mod faults;
mod heads;
mod http2;
mod limits;
mod outliers;
mod retries;
mod shares;

use std::{collections::BTreeSet, fs, net::SocketAddr, sync::Arc, time::Duration};

use self::{
    case::{Case, Step},
    client::Told,
    endpoint::{B, Endpoints},
};
use super::{differential::wire::Asked, envoy::Envoy, mesh::Mesh};
use crate::{
    config::{Index, IndexSettings, Severity, file},
    proxy::{Http1Engine, RequestHeaders},
    tasks::Tasks,
};

/// How long an answer, or a copy of a request, may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fields of requests and answers that say who the proxy is, and when, as those do that begin with
/// `x-envoy-`.
const OWN_FIELDS: [&str; 5] = [
    "connection",
    "date",
    "server",
    "x-forwarded-for",
    "x-forwarded-proto",
];

/// Answers that say in words of one's own what went wrong with an endpoint.
const OWN_WORDS: &str = "upstream connect error or disconnect/reset before headers";

/// What differs: the case, the request and why.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("odd paths", "GET /a%00", "an encoded NUL is carried"),
    (
        "prefixes and patterns",
        "OPTIONS /a",
        "without credentials `*` means what is asked for, which Envoy says instead",
    ),
    ("grpc", "GET /", NO_GRPC),
    ("not found", "GET /", NO_GRPC),
];

const NO_GRPC: &str = "an aborted client that does not speak gRPC gets the status of HTTP that stands for it, not 200";

/// Cases, an Envoy that has them all, and us.
struct Stand {
    /// Until the test ends.
    _mesh: Mesh,
    _envoy: Envoy,
    cases: Vec<Case>,
    ours: Side,
    its: Side,
}

/// Where one of the two is asked, and what is behind it, case by case.
struct Side {
    through: Vec<SocketAddr>,
    /// Whether HTTP/2 is spoken.
    http2: Vec<bool>,
    endpoints: Vec<Endpoints>,
    tasks: Tasks,
}

/// What a request came to.
#[derive(Debug)]
struct Story {
    told: Told,
    /// What `$A` was asked, try after try, and `$B`.
    asked: Vec<String>,
    copied: Vec<String>,
    /// Which endpoints of `$A` were asked.
    at: Vec<usize>,
}

impl Story {
    /// Whether it is the same, be it by other endpoints.
    fn is_like(&self, other: &Self) -> bool {
        let distinct = |at: &[usize]| at.iter().collect::<BTreeSet<_>>().len();
        self.told == other.told
            && self.asked == other.asked
            && self.copied == other.copied
            && distinct(&self.at) == distinct(&other.at)
    }

    /// The number of its status.
    fn code(&self) -> u16 {
        let code = self.told.status.rsplit(' ').next();
        code.and_then(|code| code.parse().ok()).expect("a status")
    }
}

impl Stand {
    async fn start(cases: Vec<Case>) -> Self {
        Self::start_adding(cases, RequestHeaders::None).await
    }

    /// The same, where our requests are given these headers.
    async fn start_adding(cases: Vec<Case>, request_headers: RequestHeaders) -> Self {
        let mesh = Mesh::start_adding(Http1Engine::default(), request_headers);
        let (ours, its) = (both(&mesh, &cases).await, both(&mesh, &cases).await);
        let envoy = Envoy::start(|listen| bootstrap::envoy(&its, listen));
        let text = bootstrap::manifests(&ours, mesh.port());
        mesh.know(&compiled(&text, mesh.port())).await;
        let port = mesh.port();
        let vips = (0..cases.len()).map(|number| (bootstrap::vip(number), port).into());
        let ours = Side::new(&mesh, vips.collect(), ours);
        let its = Side::new(&mesh, vec![envoy.address(); cases.len()], its);
        Self {
            _mesh: mesh,
            _envoy: envoy,
            cases,
            ours,
            its,
        }
    }

    /// Asks both for everything, and compares.
    async fn compare(&self) {
        let mut wrong = String::new();
        let mut differs = BTreeSet::new();
        for (number, case) in self.cases.iter().enumerate() {
            for step in &case.steps {
                let (ours, its) = self.play(number, step).await;
                let what = case.what;
                if ours.is_like(&its) {
                    continue;
                }
                if let Some(allowed) = allowed(what, step) {
                    differs.insert(allowed);
                } else {
                    wrong += &format!("{what}: {step:?}\n  ours {ours:?}\n  its  {its:?}\n");
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
        for allowed in ALLOWED {
            let here = self.cases.iter().any(|case| case.what == allowed.0);
            assert!(
                !here || differs.contains(allowed),
                "the same by now: {allowed:?}"
            );
        }
    }

    /// Our story, and Envoy's.
    async fn play(&self, number: usize, step: &Step) -> (Story, Story) {
        tokio::join!(self.ours.play(number, step), self.its.play(number, step))
    }

    /// Our stories, and Envoy's, of requests one after the other.
    async fn tell(&self, number: usize, steps: &[Step]) -> [Vec<Story>; 2] {
        let all = async |side: &Side| {
            let mut stories = Vec::new();
            for step in steps {
                stories.push(side.play(number, step).await);
            }
            stories
        };
        let (ours, its) = tokio::join!(all(&self.ours), all(&self.its));
        [ours, its]
    }

    /// Our answers, and Envoy's, to requests of which so many are under way at once, by status.
    async fn at_once(&self, number: usize, step: &Step, count: usize) -> [Vec<String>; 2] {
        let all = async |side: &Side| {
            side.endpoints[number].set(step);
            let asked = (0..count).map(|_| side.answer(number, step));
            let answers = futures_util::future::join_all(asked).await.into_iter();
            let mut told: Vec<String> = answers.map(|answer| format!("{answer:?}")).collect();
            told.sort();
            told
        };
        let (ours, its) = tokio::join!(all(&self.ours), all(&self.its));
        [ours, its]
    }
}

async fn both(mesh: &Mesh, cases: &[Case]) -> Vec<(Case, Endpoints)> {
    let mut all = Vec::new();
    for case in cases {
        all.push((case.clone(), Endpoints::start(mesh, case).await));
    }
    all
}

/// The snapshot that `text` makes.
fn compiled(text: &str, port: u16) -> Arc<crate::model::Snapshot> {
    let name = format!("mesh-agent-compared-{}-{port}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir_all(&directory).expect("a directory for temporary files");
    fs::write(directory.join("all.yaml"), text).expect("room");
    let mut index = Index::new(IndexSettings {
        node: "node".to_owned(),
        ..IndexSettings::default()
    });
    file::load_once(&directory, &mut index).expect("it can be read");
    fs::remove_dir_all(&directory).ok();
    index.publish();
    let report = index.report().borrow().clone();
    let bad = report.problems.iter();
    let bad: Vec<String> = bad
        .filter(|one| one.severity == Severity::Error)
        .map(ToString::to_string)
        .collect();
    assert!(bad.is_empty(), "{}\n{text}", bad.join("\n"));
    index.subscribe().borrow().clone()
}

impl Side {
    fn new(mesh: &Mesh, through: Vec<SocketAddr>, cases: Vec<(Case, Endpoints)>) -> Self {
        let http2 = cases.iter().map(|(case, _)| case.http2).collect();
        let endpoints = cases.into_iter().map(|(_, endpoints)| endpoints).collect();
        Self {
            through,
            http2,
            endpoints,
            tasks: mesh.tasks.clone(),
        }
    }

    async fn play(&self, number: usize, step: &Step) -> Story {
        let endpoints = &self.endpoints[number];
        endpoints.set(step);
        let told = self.answer(number, step).await;
        let copies = || {
            endpoints
                .seen()
                .iter()
                .filter(|(which, _)| *which == B)
                .count()
        };
        let copied = async {
            while copies() < step.copies {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, copied).await.ok();
        let (b, a): (Vec<_>, Vec<_>) = endpoints
            .seen()
            .into_iter()
            .partition(|(which, _)| *which == B);
        let at = a.iter().map(|(which, _)| *which).collect();
        let shown = |all: Vec<(usize, Asked)>| all.iter().map(|(_, asked)| show(asked)).collect();
        Story {
            told,
            asked: shown(a),
            copied: shown(b),
            at,
        }
    }

    async fn answer(&self, number: usize, step: &Step) -> Told {
        let (to, host) = (self.through[number], bootstrap::host(number));
        match self.http2[number] {
            true => client::http2(&self.tasks, to, &host, step).await,
            false => client::http1(to, &host, step).await,
        }
    }
}

fn is_own(field: &str) -> bool {
    OWN_FIELDS.contains(&field) || field.starts_with("x-envoy-")
}

fn allowed(what: &str, step: &Step) -> Option<&'static (&'static str, &'static str, &'static str)> {
    let asked = format!("{} {}", step.method, step.path);
    let mut all = ALLOWED.iter();
    all.find(|(case, request, _why)| *case == what && *request == asked)
}

/// A request as an endpoint saw it.
fn show(asked: &Asked) -> String {
    let fields = asked.fields.iter();
    let fields =
        fields.map(|(name, values)| format!("{name}: {}", values.join(",").replace(", ", ",")));
    // Nothing is a body of no bytes.
    let fields = fields.filter(|field| field != "content-length: 0");
    let fields: Vec<String> = fields
        .filter(|field| !is_own(field.split(':').next().unwrap_or_default()))
        .collect();
    let body = match asked.body.len() {
        0..200 => String::from_utf8_lossy(&asked.body).into_owned(),
        long => format!("{long} bytes"),
    };
    format!("{} [{}] {body}", asked.line, fields.join("; "))
}
