// SPDX-License-Identifier: Apache-2.0

//! A proxy with one captured pod, and applications to reach.

mod client;
mod facts;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub(in crate::proxy) use self::facts::workload;
pub(super) use self::{
    client::{connect, ending, get, read_answer, read_head, read_text},
    facts::{cluster, cluster_of, opaque_rule, port, refused, rule, to},
};
use crate::{
    datapath::{Connector, Netns, PodSockets},
    identity::{Alpn, CertificateAuthority, CredentialSources, Identities, KeySets},
    model::{
        Cluster, HttpRoutes, HttpRule, NamedPort, NamedPorts, OpaquePort, OpaqueRoutes, OpaqueRule,
        PathNormalization, Protocol, Service, ServiceName, ServicePort, Snapshot, Visibility,
        Workload,
    },
    proxy::{BudgetLimits, Http1Engine, Proxy, ProxySettings, RequestHeaders, Shared},
    tasks::Tasks,
    telemetry::{AccessLogFormat, Telemetry},
};

/// More than any head takes that is not meant to be slow.
const HEAD_TIME: Duration = Duration::from_secs(60);

/// A running proxy.
pub(super) struct Mesh {
    pub(super) proxy: Proxy,
    pub(super) tasks: Tasks,
    telemetry: Telemetry,
    identities: Identities,
    snapshots: watch::Sender<Arc<Snapshot>>,
    state: Mutex<State>,
    port: u16,
}

#[derive(Default)]
struct State {
    generation: u64,
    services: Vec<(SocketAddr, Arc<Service>, Arc<ServicePort>)>,
    workloads: Vec<Arc<Workload>>,
    named: Vec<Arc<NamedPort>>,
}

impl Mesh {
    /// A proxy with two data threads and one captured pod without services.
    pub(super) fn start() -> Self {
        Self::start_with(Http1Engine::default())
    }

    /// The same with what is to serve HTTP/1.1.
    pub(super) fn start_with(http1: Http1Engine) -> Self {
        Self::start_adding(http1, RequestHeaders::None)
    }

    /// The same, where requests are given these headers.
    pub(super) fn start_adding(http1: Http1Engine, request_headers: RequestHeaders) -> Self {
        Self::build(http1, request_headers, BudgetLimits::default(), HEAD_TIME)
    }

    /// The same with what there is for all workloads, and no headers.
    pub(super) fn start_within(http1: Http1Engine, budgets: BudgetLimits) -> Self {
        Self::build(http1, RequestHeaders::None, budgets, HEAD_TIME)
    }

    /// The same where heads of requests may take no longer than this.
    pub(super) fn start_hurried(http1: Http1Engine, head_time: Duration) -> Self {
        let budgets = BudgetLimits::default();
        Self::build(http1, RequestHeaders::None, budgets, head_time)
    }

    fn build(
        http1: Http1Engine,
        request_headers: RequestHeaders,
        budgets: BudgetLimits,
        head_time: Duration,
    ) -> Self {
        let tasks = Tasks::new();
        let telemetry = Telemetry::new(AccessLogFormat::Off);
        let authority = CertificateAuthority::in_memory("cluster.local").expect("an authority");
        let identities = Identities::new(authority, Duration::from_secs(3600), tasks.clone());
        let (snapshots, receiver) = watch::channel(Arc::default());
        let shared = Shared {
            snapshot: receiver,
            identities: identities.clone(),
            connector: Connector::untagged(),
            telemetry: telemetry.clone(),
            tasks: tasks.clone(),
            encrypt_on_node: false,
            keys: KeySets::default(),
            http1,
            request_headers,
            path_normalization: PathNormalization::default(),
            head_time,
        };
        let settings = ProxySettings {
            threads: 2,
            tunnel: Alpn::Mux,
            budgets,
        };
        let proxy = Proxy::start(&settings, shared).expect("threads");
        let outbound = StdListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        let port = outbound.local_addr().expect("bound").port();
        let client = Arc::new(workload("client"));
        proxy.capture(PodSockets {
            workload: Arc::clone(&client),
            netns: Netns::current().expect("our namespace"),
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            outbound: vec![outbound],
            inbound: Vec::new(),
            accepts: Arc::default(),
        });
        let mesh = Self {
            proxy,
            tasks,
            telemetry,
            identities,
            snapshots,
            state: Mutex::default(),
            port,
        };
        mesh.state.lock().expect("no panic").workloads.push(client);
        mesh
    }

    /// Adds or changes the service number `number`; gives its VIP once all threads know it.
    pub(super) async fn service(
        &self,
        number: u8,
        protocol: Protocol,
        cluster: Arc<Cluster>,
        rules: Vec<HttpRule>,
    ) -> SocketAddr {
        let port = ServicePort {
            routes: (!rules.is_empty()).then(|| {
                Arc::new(HttpRoutes {
                    rules: rules.into(),
                    origin: facts::origin(),
                })
            }),
            ..port(protocol, cluster)
        };
        self.port_of(number, port).await
    }

    /// The same whose bytes these rules decide about.
    pub(super) async fn opaque_service(
        &self,
        number: u8,
        protocol: Protocol,
        cluster: Arc<Cluster>,
        rules: Vec<OpaqueRule>,
    ) -> SocketAddr {
        let routes = OpaqueRoutes {
            rules,
            otherwise: Arc::clone(&cluster),
            whole: false,
            origin: facts::origin(),
        };
        let port = ServicePort {
            opaque: OpaquePort {
                consumers: Vec::new(),
                routes: Some(Arc::new(routes)),
            },
            ..port(protocol, cluster)
        };
        self.port_of(number, port).await
    }

    /// Adds a host that is told by what clients say, at the port of all VIPs.
    pub(super) async fn name(&self, named: NamedPort) {
        let known = Arc::new(named);
        self.state.lock().expect("no panic").named.push(known);
        self.publish().await;
    }

    async fn port_of(&self, number: u8, port: ServicePort) -> SocketAddr {
        self.named(number, "shop", port).await
    }

    /// A Service of this name, which others than clients look for, too.
    pub(super) async fn service_named(
        &self,
        number: u8,
        name: &str,
        protocol: Protocol,
        cluster: Arc<Cluster>,
    ) -> SocketAddr {
        self.named(number, name, port(protocol, cluster)).await
    }

    async fn named(&self, number: u8, name: &str, port: ServicePort) -> SocketAddr {
        let vip = SocketAddr::from((Ipv4Addr::new(127, 0, 7, number), self.port));
        self.at(vip, name, port).await
    }

    /// Another captured pod, and the VIP that leads it to `cluster`.
    pub(super) async fn neighbour(
        &self,
        name: &str,
        protocol: Protocol,
        cluster: Arc<Cluster>,
    ) -> SocketAddr {
        let listener = StdListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        let number = listener.local_addr().expect("bound").port();
        let neighbour = Arc::new(workload(name));
        self.proxy.capture(PodSockets {
            workload: Arc::clone(&neighbour),
            netns: Netns::current().expect("our namespace"),
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            outbound: vec![listener],
            inbound: Vec::new(),
            accepts: Arc::default(),
        });
        self.add(&neighbour).await;
        let vip = SocketAddr::from((Ipv4Addr::new(127, 0, 7, 1), number));
        self.at(vip, name, port(protocol, cluster)).await
    }

    async fn at(&self, vip: SocketAddr, name: &str, port: ServicePort) -> SocketAddr {
        let port = Arc::new(port);
        let service = Arc::new(Service {
            name: ServiceName::new("default", name),
            hostname: "shop.default.svc.cluster.local".into(),
            vips: vec![vip.ip()],
            ports: vec![Arc::clone(&port)],
            captured: true,
            visibility: Visibility::Everyone,
        });
        {
            let mut state = self.state.lock().expect("no panic");
            state.services.retain(|(known, _, _)| *known != vip);
            state.services.push((vip, service, port));
        }
        self.publish().await;
        vip
    }

    /// Makes all that a configuration has VIPs for known.
    pub(super) async fn know(&self, configured: &Snapshot) {
        {
            let mut state = self.state.lock().expect("no panic");
            for (vip, (service, port)) in configured.by_vip.iter() {
                let known = (*vip, Arc::clone(service), Arc::clone(port));
                state.services.push(known);
            }
        }
        self.publish().await;
    }

    /// Captures another pod, whose applications listen as they do.
    pub(super) fn capture(&self, workload: &Arc<Workload>) {
        self.proxy.capture(PodSockets {
            workload: Arc::clone(workload),
            netns: Netns::current().expect("our namespace"),
            addresses: Vec::new(),
            outbound: Vec::new(),
            inbound: Vec::new(),
            accepts: Arc::default(),
        });
    }

    /// Says where certificates come from that rules name.
    pub(super) fn credentials(&self, sources: CredentialSources) {
        self.identities.set_credential_sources(sources);
    }

    /// Has certificates issued for the workloads.
    pub(super) async fn identify(&self, workloads: &[&Workload]) {
        let wanted = workloads.iter().map(|workload| workload.identity.clone());
        self.identities.want(wanted);
        for workload in workloads {
            self.identities.ready(&workload.identity).await;
        }
    }

    /// Makes a workload known.
    pub(super) async fn add(&self, workload: &Arc<Workload>) {
        let known = Arc::clone(workload);
        self.state.lock().expect("no panic").workloads.push(known);
        self.publish().await;
    }

    /// Makes another state of a workload known.
    pub(super) async fn replace(&self, workload: &Arc<Workload>) {
        {
            let mut state = self.state.lock().expect("no panic");
            state.workloads.retain(|known| known.uid != workload.uid);
            state.workloads.push(Arc::clone(workload));
        }
        self.publish().await;
    }

    /// The port of all VIPs.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Makes a workload unknown.
    pub(super) async fn remove(&self, workload: &Workload) {
        {
            let mut state = self.state.lock().expect("no panic");
            state.workloads.retain(|known| known.uid != workload.uid);
        }
        self.publish().await;
    }

    async fn publish(&self) {
        let generation = {
            let mut state = self.state.lock().expect("no panic");
            state.generation += 1;
            let by_vip = state.services.iter();
            let workloads = state.workloads.iter();
            let named = NamedPorts::new(state.named.iter().cloned());
            self.snapshots.send_replace(Arc::new(Snapshot {
                generation: state.generation,
                node: "node".into(),
                workloads: workloads
                    .clone()
                    .map(|workload| (workload.uid.clone(), Arc::clone(workload)))
                    .collect(),
                by_address: workloads
                    .flat_map(|workload| {
                        let known = |address: &std::net::IpAddr| (*address, Arc::clone(workload));
                        workload.addresses.iter().map(known)
                    })
                    .collect(),
                services: by_vip
                    .clone()
                    .map(|(_, service, _)| (service.name.clone(), Arc::clone(service)))
                    .collect(),
                by_vip: by_vip
                    .map(|(vip, service, port)| (*vip, (Arc::clone(service), Arc::clone(port))))
                    .collect(),
                named: [(self.port, Arc::new(named))].into(),
                ..Snapshot::default()
            }));
            state.generation
        };
        while self.proxy.applied_generation() < generation {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the metrics have a line that holds all of `parts`.
    pub(super) async fn metric(&self, parts: &[&str]) {
        let found = async {
            loop {
                let text = self.telemetry.encode();
                let whole = |line: &str| parts.iter().all(|part| line.contains(part));
                if text.lines().any(whole) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), found)
            .await
            .is_err()
        {
            panic!("no line has {parts:?} in\n{}", self.telemetry.encode());
        }
    }

    /// Runs `serve` for each connection to a new application; gives its address.
    pub(super) async fn app<F>(&self, serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.app_at(Ipv4Addr::LOCALHOST, serve).await
    }

    /// The same at an address.
    pub(super) async fn app_at<F>(
        &self,
        address: Ipv4Addr,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> SocketAddr
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((address, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let tasks = self.tasks.clone();
        self.tasks.spawn("app", async move {
            while let Ok((stream, _)) = listener.accept().await {
                tasks.spawn("app connection", serve(stream));
            }
        });
        address
    }

    /// An application that answers each HTTP/1 request without body with `body`.
    pub(super) async fn http_app(&self, body: &'static str) -> SocketAddr {
        self.app(move |mut stream| async move {
            let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            answer.push_str(body);
            while read_head(&mut stream).await.is_some() {
                stream
                    .write_all(answer.as_bytes())
                    .await
                    .expect("the proxy reads");
            }
        })
        .await
    }
}

/// An address where nothing listens.
pub(super) fn nobody() -> SocketAddr {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("bound")
}
