// SPDX-License-Identifier: Apache-2.0

//! What rules for traffic do, beside an Envoy that has the same rules as Istio would write them.
//!
//! The same requests go to both; what clients are answered and what endpoints are asked must be the
//! same. Ours are read and compiled as any configuration is. What may differ, and why, is in
//! [`OWN_FIELDS`], and in the tests whose names say so.

mod answers;
mod bootstrap;
mod case;
mod cors;
mod endpoint;
mod faults;
mod limits;
mod outliers;
mod retries;
mod shares;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::{
    case::{Case, Step},
    endpoint::{B, Endpoints},
};
use super::{
    differential::wire::{self, Asked},
    envoy::Envoy,
    mesh::{Mesh, connect},
};
use crate::config::{Index, IndexSettings, Severity, file};

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
    endpoints: Vec<Endpoints>,
}

/// What a request came to.
#[derive(Debug)]
struct Story {
    status: String,
    fields: BTreeMap<String, String>,
    body: String,
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
        self.answer() == other.answer()
            && self.asked == other.asked
            && self.copied == other.copied
            && distinct(&self.at) == distinct(&other.at)
    }

    /// What the client was answered.
    fn answer(&self) -> (&str, &BTreeMap<String, String>, &str) {
        (&self.status, &self.fields, &self.body)
    }

    /// The number of its status.
    fn code(&self) -> u16 {
        let code = self.status.rsplit(' ').next();
        code.and_then(|code| code.parse().ok()).expect("a status")
    }
}

impl Stand {
    async fn start(cases: Vec<Case>) -> Self {
        let mesh = Mesh::start();
        let (ours, its) = (both(&mesh, &cases).await, both(&mesh, &cases).await);
        let envoy = Envoy::start(|listen| bootstrap::envoy(&its, listen));
        let text = bootstrap::manifests(&ours, mesh.port());
        mesh.know(&compiled(&text, mesh.port())).await;
        let port = mesh.port();
        let vips = (0..cases.len()).map(|number| (bootstrap::vip(number), port).into());
        let ours = Side::new(vips.collect(), ours);
        let its = Side::new(vec![envoy.address(); cases.len()], its);
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
    fn new(through: Vec<SocketAddr>, cases: Vec<(Case, Endpoints)>) -> Self {
        let endpoints = cases.into_iter().map(|(_, endpoints)| endpoints).collect();
        Self { through, endpoints }
    }

    async fn play(&self, number: usize, step: &Step) -> Story {
        let endpoints = &self.endpoints[number];
        endpoints.set(step);
        let (status, fields, body) = self.answer(number, step).await;
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
            status,
            fields,
            body,
            asked: shown(a),
            copied: shown(b),
            at,
        }
    }

    async fn answer(
        &self,
        number: usize,
        step: &Step,
    ) -> (String, BTreeMap<String, String>, String) {
        let mut client = connect(self.through[number]).await;
        let (method, path, host) = (step.method, &step.path, bootstrap::host(number));
        let length = match step.body.is_empty() {
            true => String::new(),
            false => format!("Content-Length: {}\r\n", step.body.len()),
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{}{length}\r\n{}",
            step.head, step.body
        );
        client.write_all(request.as_bytes()).await.expect("room");
        let mut got = Vec::new();
        let read = tokio::time::timeout(PATIENCE, client.read_to_end(&mut got)).await;
        read.expect("an answer in time").expect("no reset");
        let answers = wire::answers(&got, &[method.to_owned()]);
        let answer = answers.into_iter().next().expect("an answer");
        assert!(answer.whole, "{answer:?}");
        let mut fields = answer.fields;
        // A field without a value says as much as none.
        fields.retain(|name, values| !is_own(name) && values.iter().any(|one| !one.is_empty()));
        let mut body = String::from_utf8_lossy(&answer.body).into_owned();
        let message = fields.get_mut("grpc-message").into_iter().flatten();
        for message in message.filter(|message| message.starts_with(OWN_WORDS)) {
            OWN_WORDS.clone_into(message);
        }
        let own = body.starts_with(OWN_WORDS);
        if own {
            body = OWN_WORDS.to_owned();
        }
        if own || method == "HEAD" {
            // There is nothing that it would be the length of.
            fields.retain(|name, _| name != "content-length" && name != "transfer-encoding");
        }
        let joined = fields.into_iter();
        let joined = joined.map(|(name, values)| (name, values.join(",").replace(", ", ",")));
        (answer.status, joined.collect(), body)
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
