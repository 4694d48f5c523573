// SPDX-License-Identifier: Apache-2.0

//! A node with two pods, one Service and a route, for the tests of this folder.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use super::{hand_over::HandOver, views::Views};
use crate::{
    config::{KindState, Origin, Problem, Report, Severity, SourceKind, SourceState},
    datapath::{Books, Direction, ExistingConnection, Hook, NetnsId, Observation, PodObservation},
    identity::{CertificateAuthority, Identities, KeySets},
    model::{
        Backend, Cluster, Endpoint, HttpRoutes, HttpRule, InboundPolicy, MtlsMode, ObjectRef,
        OpaquePort, Protocol, Schedule, Service, ServiceName, ServicePort, Snapshot, SpiffeId,
        Visibility, Workload, WorkloadUid,
    },
    proxy::{ProxyView, ThreadView},
    tasks::Tasks,
    telemetry::{AccessLogFormat, LogFormat, Telemetry, log},
};

/// Whoever held a lock did not panic.
const UNPOISONED: &str = "no test panics with it";

/// Views whose every part can be changed.
pub(super) struct Sample {
    pub(super) views: Views,
    pub(super) tasks: Tasks,
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) observation: Arc<Mutex<Observation>>,
    pub(super) proxy: Arc<Mutex<ProxyView>>,
    _report: watch::Sender<Arc<Report>>,
    /// The log level lives as long as this.
    _subscriber: Box<dyn std::any::Any + Send + Sync>,
}

impl Sample {
    /// Everything in place: ready.
    pub(super) async fn ready() -> Self {
        let sample = Self::new();
        let snapshot = sample.views.snapshot.borrow().clone();
        let web = snapshot
            .local_enrolled()
            .next()
            .expect("the sample has one")
            .clone();
        sample.views.identities.want([web.identity.clone()]);
        sample.views.identities.ready(&web.identity).await;
        sample.proxy.lock().expect(UNPOISONED).applied_generation = snapshot.generation;
        sample.observation.lock().expect(UNPOISONED).generation = snapshot.generation;
        sample.observation.lock().expect(UNPOISONED).pods = vec![PodObservation {
            uid: web.uid.clone(),
            netns: Some(NetnsId(4_026_532_000)),
            interface: "eth0".to_owned(),
            hook: Hook::Tcx,
            programs: vec!["capture_outbound"],
            state: "active",
            captured_since: Some(SystemTime::now() - Duration::from_secs(90)),
            held_since: Some(SystemTime::now() - Duration::from_secs(91)),
            counters: BTreeMap::from([("captured", 7), ("dropped", 0)]),
            error: None,
            broken: None,
            books: Books::default(),
            waits: false,
            first_container: Some(SystemTime::now() - Duration::from_secs(89)),
            existing: vec![ExistingConnection {
                local: ([10, 1, 1, 3], 40_000).into(),
                remote: ([10, 1, 9, 9], 5432).into(),
                direction: Direction::Outbound,
            }],
            close_existing_after: Some(Duration::from_secs(600)),
        }];
        sample
    }

    /// Configuration is there, and nothing else yet.
    pub(super) fn new() -> Self {
        let tasks = Tasks::new();
        let snapshot = watch::Sender::new(Arc::new(snapshot()));
        let report = watch::Sender::new(Arc::new(report()));
        let authority =
            CertificateAuthority::in_memory("cluster.local").expect("an authority can be made");
        let (subscriber, log) =
            log::build(LogFormat::Text, "info", std::io::sink()).expect("a subscriber can be made");
        let observation = Arc::new(Mutex::new(Observation {
            kernel: "6.18.44".to_owned(),
            counters: BTreeMap::from([("map_full", 0), ("verdict_pass", 3)]),
            ..Observation::default()
        }));
        let proxy = Arc::new(Mutex::new(ProxyView {
            threads: [2, 1]
                .map(|connections| ThreadView {
                    alive: true,
                    connections,
                    ..ThreadView::default()
                })
                .to_vec(),
            pods: HashMap::from([(WorkloadUid("uid-web".into()), 3)]),
            ..ProxyView::default()
        }));
        let views = Views {
            snapshot: snapshot.subscribe(),
            report: report.subscribe(),
            source: watch::Sender::new(Arc::new(source())).subscribe(),
            identities: Identities::new(authority, Duration::from_secs(3600), tasks.clone()),
            keys: KeySets::default(),
            telemetry: Telemetry::new(AccessLogFormat::Off),
            datapath: reader(&observation),
            proxy: reader(&proxy),
            log,
            hand_over: HandOver::default(),
        };
        Self {
            views,
            tasks,
            snapshot,
            observation,
            proxy,
            _report: report,
            _subscriber: Box::new(subscriber),
        }
    }
}

fn reader<T: Clone + Send + 'static>(shared: &Arc<Mutex<T>>) -> Arc<dyn Fn() -> T + Send + Sync> {
    let shared = Arc::clone(shared);
    Arc::new(move || shared.lock().expect(UNPOISONED).clone())
}

/// An API server that stopped answering.
fn source() -> SourceState {
    SourceState {
        since: SystemTime::now() - Duration::from_secs(61),
        last_event: Some(SystemTime::now() - Duration::from_secs(62)),
        disk_as_of: Some(SystemTime::now() - Duration::from_secs(3600)),
        kinds: vec![KindState {
            kind: "Pod",
            listed: true,
            objects: 2,
            lists: 1,
            restarts: 3,
            errors: 3,
            error: Some("no answer: connection refused".to_owned()),
            ..KindState::default()
        }],
        ..SourceState::new(SourceKind::Kubernetes)
    }
}

fn report() -> Report {
    Report {
        problems: vec![Problem {
            severity: Severity::Warning,
            code: "IST0101",
            object: Some(object("VirtualService", "recommendations")),
            origin: Origin::default(),
            field: "spec.hosts".to_owned(),
            text: "not found".to_owned(),
            fix: String::new(),
        }],
        generation: 4,
        objects: 9,
        loaded_at: SystemTime::now(),
    }
}

fn object(kind: &str, name: &str) -> ObjectRef {
    ObjectRef {
        kind: kind.into(),
        namespace: "default".into(),
        name: name.into(),
    }
}

/// Two pods on node n1, one of them enrolled, and one on n2.
fn snapshot() -> Snapshot {
    let web = Arc::new(workload("web", "n1", "10.1.1.3"));
    let other = Arc::new(Workload {
        enrolled: false,
        netns: None,
        ..workload("batch", "n1", "10.1.1.9")
    });
    let far = Arc::new(workload("recommendations-v2", "n2", "10.1.2.4"));
    let service = Arc::new(service(&far));
    Snapshot {
        generation: 4,
        node: "n1".into(),
        workloads: [web, other, far]
            .into_iter()
            .map(|pod| (pod.uid.clone(), pod))
            .collect(),
        services: [(service.name.clone(), service)].into(),
        ..Snapshot::default()
    }
}

fn workload(name: &str, node: &str, address: &str) -> Workload {
    Workload {
        uid: WorkloadUid(format!("uid-{name}").into()),
        name: name.into(),
        namespace: "default".into(),
        identity: SpiffeId::new("cluster.local", "default", name),
        node: node.into(),
        addresses: vec![address.parse().expect("a literal address")],
        labels: Arc::default(),
        owner: name.into(),
        canonical_service: name.into(),
        canonical_revision: "latest".into(),
        enrolled: true,
        netns: Some("/run/netns/x".into()),
        host_network: false,
        ready: true,
        probe_ports: Vec::new(),
        close_existing_after: None,
        inbound: InboundPolicy {
            default: MtlsMode::Strict,
            ports: BTreeMap::from([(8080, MtlsMode::Permissive)]),
            ..InboundPolicy::default()
        },
        scope: Arc::default(),
    }
}

/// All requests to one cluster.
fn canary(to: &Arc<Cluster>) -> HttpRule {
    HttpRule {
        name: "canary".into(),
        origin: object("VirtualService", "recommendations"),
        matches: Vec::new(),
        backends: vec![Backend::Cluster {
            cluster: Arc::clone(to),
            edits: None,
            rewrite: None,
            treatment: None,
        }],
        weights: vec![100],
        schedule: Schedule::new(&[100], Default::default()),
        timeout: None,
        treatment: None,
    }
}

fn service(endpoint: &Arc<Workload>) -> Service {
    let name = ServiceName::new("default", "recommendations");
    let cluster = |port, subset: Option<&str>| {
        Arc::new(Cluster::new(
            name.clone(),
            HOST.into(),
            port,
            subset.map(Into::into),
            Some(object("DestinationRule", "recommendations")),
            vec![Endpoint {
                address: ([10, 1, 2, 4], 8080).into(),
                workload: Some(Arc::clone(endpoint)),
                place: None,
                tls: None,
                proxy_protocol: None,
                upkeep: None,
                weight: 1,
                load: Arc::default(),
            }],
        ))
    };
    let v2 = cluster(80, Some("v2"));
    let rule = canary(&v2);
    let http = ServicePort {
        number: 80,
        name: "http".into(),
        protocol: Protocol::Http,
        cluster: cluster(80, None),
        subsets: vec![v2],
        consumer_routes: Vec::new(),
        opaque: OpaquePort::default(),
        routes: Some(Arc::new(HttpRoutes {
            rules: vec![rule].into(),
            origin: object("VirtualService", "recommendations"),
        })),
    };
    let tcp = ServicePort {
        number: 3306,
        name: "mysql".into(),
        protocol: Protocol::Tcp,
        cluster: cluster(3306, None),
        subsets: Vec::new(),
        routes: None,
        ..http.clone()
    };
    Service {
        name,
        hostname: HOST.into(),
        vips: vec![[10, 96, 0, 7].into()],
        ports: vec![Arc::new(http), Arc::new(tcp)],
        captured: true,
        visibility: Visibility::Everyone,
    }
}

const HOST: &str = "recommendations.default.svc.cluster.local";
