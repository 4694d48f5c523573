// SPDX-License-Identifier: Apache-2.0

//! What the model decides for every request, and what a snapshot costs: `cargo bench --bench model`.
//!
//! Not part of the agent; `docs/benchmarks.md` has the numbers.

use std::{hint::black_box, net::SocketAddr, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use mesh_agent::model::{
    Ask, Backend, Client, Cluster, Endpoint, EndpointLoad, HeaderEdit, HeaderEdits, HttpMatch,
    HttpRoutes, HttpRule, InboundPolicy, Nearness, ObjectRef, Outlier, PathMatch, Place, Position,
    Protocol, RequestHead, Schedule, ServiceName, ServicePort, SharedMap, SpiffeId, Spread,
    TextMatch, UpstreamPolicy, UpstreamUse, Workload, WorkloadUid,
};

const RULES: usize = 1_000;
const ENDPOINTS: usize = 10_000;

fn origin() -> ObjectRef {
    ObjectRef {
        kind: "VirtualService".into(),
        namespace: "default".into(),
        name: "web".into(),
    }
}

fn workload() -> Workload {
    Workload {
        uid: WorkloadUid("client".into()),
        name: "client".into(),
        namespace: "default".into(),
        identity: SpiffeId::new("cluster.local", "default", "client"),
        node: "n1".into(),
        addresses: Vec::new(),
        labels: Arc::default(),
        owner: "client".into(),
        canonical_service: "client".into(),
        canonical_revision: "latest".into(),
        enrolled: true,
        netns: None,
        host_network: false,
        ready: true,
        probe_ports: Vec::new(),
        close_existing_after: None,
        inbound: InboundPolicy::default(),
        scope: Arc::default(),
    }
}

fn endpoints_of(count: usize) -> Vec<Endpoint> {
    let address = |number: usize| {
        let number = u32::try_from(number).expect("few endpoints");
        SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + number).into(), 80)
    };
    let endpoint = |number| Endpoint {
        address: address(number),
        workload: None,
        place: None,
        tls: None,
        proxy_protocol: None,
        upkeep: None,
        weight: 1,
        load: Arc::new(EndpointLoad::default()),
    };
    (0..count).map(endpoint).collect()
}

fn cluster_of(endpoints: Vec<Endpoint>) -> Cluster {
    Cluster::new(
        ServiceName::new("default", "web"),
        "web.default.svc.cluster.local".into(),
        80,
        None,
        None,
        endpoints,
    )
}

fn cluster(endpoints: usize) -> Arc<Cluster> {
    Arc::new(cluster_of(endpoints_of(endpoints)))
}

/// A port with [`RULES`] rules, each with the condition that it is given.
fn port(condition: impl Fn(usize) -> HttpMatch) -> ServicePort {
    let cluster = cluster(1);
    let rule = |number: usize| HttpRule {
        name: number.to_string().into(),
        origin: origin(),
        matches: vec![condition(number)],
        backends: vec![Backend::Cluster {
            cluster: Arc::clone(&cluster),
            edits: None,
            rewrite: None,
            treatment: None,
        }],
        schedule: Schedule::new(&[1], Position::default()),
        weights: vec![1],
        timeout: None,
        treatment: None,
    };
    ServicePort {
        number: 80,
        name: "http".into(),
        protocol: Protocol::Http,
        cluster: Arc::clone(&cluster),
        subsets: Vec::new(),
        consumer_routes: Vec::new(),
        opaque: Default::default(),
        routes: Some(Arc::new(HttpRoutes {
            rules: (0..RULES).map(rule).collect(),
            origin: origin(),
        })),
    }
}

fn decide(criterion: &mut Criterion, what: &str, port: &ServicePort, path: &str) {
    let client = workload();
    let uri: Uri = path.parse().expect("a path");
    let mut headers = HeaderMap::new();
    headers.insert("x-user", HeaderValue::from_static("user-0999"));
    headers.insert("user-agent", HeaderValue::from_static("curl/8.0"));
    headers.insert("accept", HeaderValue::from_static("*/*"));
    let head = RequestHead {
        method: &Method::GET,
        uri: &uri,
        authority: "web",
        scheme: "http",
        headers: &headers,
    };
    let client = Client { workload: &client };
    criterion.bench_function(what, |bencher| {
        bencher.iter(|| port.decide(black_box(&client), black_box(&head)));
    });
}

fn routes(criterion: &mut Criterion) {
    let on_path = |path: PathMatch| HttpMatch {
        path: Some(path),
        ..HttpMatch::default()
    };
    let exact = port(|number| on_path(PathMatch::text_exact(&format!("/v1/{number:04}"), false)));
    decide(
        criterion,
        "route/1000 exact paths, the last",
        &exact,
        "/v1/0999",
    );
    decide(
        criterion,
        "route/1000 exact paths, none",
        &exact,
        "/v2/0999",
    );
    let prefix =
        port(|number| on_path(PathMatch::text_prefix(&format!("/v1/{number:04}/"), false)));
    decide(
        criterion,
        "route/1000 prefixes, the last",
        &prefix,
        "/v1/0999/items/7",
    );
    let header = port(|number| HttpMatch {
        path: Some(PathMatch::text_prefix("/", false)),
        headers: vec![(
            HeaderName::from_static("x-user"),
            TextMatch::Exact(format!("user-{number:04}")),
        )],
        ..HttpMatch::default()
    });
    decide(
        criterion,
        "route/1000 headers at one prefix, the last",
        &header,
        "/v1",
    );
}

/// Numbers that look like chance.
fn random() -> impl FnMut(usize) -> usize {
    let mut seed = 7_usize;
    move |count: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % count
    }
}

/// [`ENDPOINTS`] in three zones, the nearest first, with what was seen of each.
fn spread_cluster() -> Cluster {
    let place = |zone: usize| Place {
        region: "r".into(),
        zone: format!("z{zone}").into(),
        ..Place::default()
    };
    let places: Vec<_> = (0..3).map(|zone| Arc::new(place(zone))).collect();
    let mut endpoints = endpoints_of(ENDPOINTS);
    for (number, endpoint) in endpoints.iter_mut().enumerate() {
        endpoint.place = Some(Arc::clone(&places[number % 3]));
    }
    let policy = UpstreamPolicy {
        spread: Some(Spread::Nearest(Nearness::by_zone())),
        outlier: Some(Outlier {
            server_errors: 5,
            gateway_errors: 0,
            local_failures: None,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejected_percent: 10,
            min_health_percent: 0,
        }),
        ..UpstreamPolicy::default()
    };
    let here = Some(Arc::clone(&places[1]));
    let used = UpstreamUse::new(policy, Position::default(), &endpoints, here);
    cluster_of(endpoints).used(Some(Arc::new(used)))
}

fn endpoints(criterion: &mut Criterion) {
    let plain = cluster(ENDPOINTS);
    let mut chance = random();
    criterion.bench_function("endpoint/of 10000", |bencher| {
        bencher.iter(|| {
            plain
                .pick(&mut chance, black_box(&[]))
                .map(|one| one.address)
        });
    });
    let spread = spread_cluster();
    let ask = Ask {
        now: Duration::from_secs(100),
        ..Ask::default()
    };
    criterion.bench_function("endpoint/of 10000 in three zones", |bencher| {
        bencher.iter(|| {
            let found = spread.choose(black_box(&ask), &mut chance, &[]);
            found.map(|one| one.address)
        });
    });
}

fn headers(criterion: &mut Criterion) {
    let mut headers = HeaderMap::new();
    for number in 0..12 {
        let name: HeaderName = format!("x-header-{number}").parse().expect("a name");
        headers.insert(name, HeaderValue::from_static("some value of usual length"));
    }
    let name = HeaderName::from_static("x-version");
    let edits = HeaderEdits {
        request: vec![HeaderEdit::Set(name, HeaderValue::from_static("v2"))],
        response: Vec::new(),
    };
    criterion.bench_function("headers/one edit", |bencher| {
        bencher.iter(|| edits.apply_request(black_box(&mut headers)));
    });
}

fn snapshots(criterion: &mut Criterion) {
    let map: SharedMap<usize, Arc<usize>> = (0..ENDPOINTS)
        .map(|number| (number, Arc::new(number)))
        .collect();
    criterion.bench_function("snapshot/lookup in 10000", |bencher| {
        bencher.iter(|| map.get(black_box(&777)).is_some());
    });
    criterion.bench_function("snapshot/copy of 10000 with a change", |bencher| {
        bencher.iter(|| {
            let mut next = map.clone();
            next.insert(777, Arc::new(1));
            next.differences(&map, Arc::ptr_eq).len()
        });
    });
}

fn identities(criterion: &mut Criterion) {
    let text = "spiffe://cluster.local/ns/default/sa/web";
    criterion.bench_function("identity/read", |bencher| {
        bencher.iter(|| SpiffeId::parse(black_box(text)).is_ok());
    });
}

criterion_group!(model, routes, endpoints, headers, snapshots, identities);
criterion_main!(model);
