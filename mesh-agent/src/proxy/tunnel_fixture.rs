// SPDX-License-Identifier: Apache-2.0

//! Both ends of tunnels in one thread, over loopback TCP: what tests of tunnels stand on.
//!
//! Knows nothing of any single test. Invariant: everything is real but the pods.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::LocalSet,
};

use super::{
    hbone::{self, Around, BulkSessions, ConnectRequest, HboneLimits},
    tunnel::{ConnectHeaders, TunnelError, TunnelLimits, TunnelStream, Tunnels},
};
pub(super) use crate::telemetry::chain;
use crate::{
    datapath::{Connector, Netns},
    identity::{Alpn, CertificateAuthority, Identities},
    model::{InboundPolicy, SpiffeId, Workload, WorkloadUid},
    tasks::Tasks,
};

/// The trust domain of tests.
pub(super) const DOMAIN: &str = "cluster.local";

/// How long certificates live in tests that are not about them.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Longer than anything should take; a test that waits so long hangs.
pub(super) const HANGS: Duration = Duration::from_secs(120);

/// Runs a test as a data thread would run it.
pub(super) fn on_data_thread<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async {
        tokio::time::timeout(HANGS, test)
            .await
            .expect("the test hangs")
    };
    LocalSet::new().block_on(&runtime, Box::pin(limited));
}

thread_local! {
    /// What the client and the server of the current test speak at best.
    static SPOKEN: Cell<(Alpn, Alpn)> = const { Cell::new((Alpn::Hbone, Alpn::Hbone)) };
}

/// Runs a test as a data thread would run it, for every kind of tunnel.
pub(super) fn on_each_tunnel(test: impl AsyncFn()) {
    for alpn in [Alpn::Hbone, Alpn::Mux] {
        on_tunnel(alpn, alpn, &test);
    }
}

/// Runs a test as a data thread would run it; the client and the server speak these at best.
pub(super) fn on_tunnel(client: Alpn, server: Alpn, test: impl AsyncFn()) {
    SPOKEN.set((client, server));
    eprintln!("client: {client:?}, server: {server:?}");
    on_data_thread(test());
}

/// A pod called `name` of service account `name`.
pub(super) fn workload(domain: &str, name: &str) -> Arc<Workload> {
    Arc::new(Workload {
        uid: WorkloadUid(format!("uid-{name}").into()),
        name: name.into(),
        namespace: "default".into(),
        identity: SpiffeId::new(domain, "default", name),
        node: "node-a".into(),
        addresses: vec!["127.0.0.1".parse().unwrap()],
        labels: Arc::default(),
        owner: name.into(),
        canonical_service: name.into(),
        canonical_revision: "v1".into(),
        enrolled: true,
        netns: None,
        host_network: false,
        ready: true,
        probe_ports: Vec::new(),
        close_existing_after: None,
        inbound: InboundPolicy::default(),
        scope: Arc::default(),
    })
}

/// The identities of `workloads`, all live.
pub(super) async fn identities(
    authority: &CertificateAuthority,
    ttl: Duration,
    workloads: &[&Arc<Workload>],
) -> Identities {
    let identities = Identities::new(authority.clone(), ttl, Tasks::new());
    identities.want(workloads.iter().map(|one| one.identity.clone()));
    for one in workloads {
        identities.ready(&one.identity).await;
    }
    identities
}

/// A pod's HBONE port.
#[derive(Clone)]
pub(super) struct Server(Rc<ServerState>);

struct ServerState {
    address: SocketAddr,
    local: Arc<Workload>,
    identities: Identities,
    sessions: BulkSessions,
    accepted: Cell<usize>,
    errors: RefCell<Vec<String>>,
    /// Replaced when drained, so that later connections are not.
    tasks: RefCell<Tasks>,
    /// One per live connection; dropped, it cuts the connection.
    cuts: RefCell<Vec<tokio::sync::oneshot::Sender<()>>>,
}

impl Server {
    /// Listens as `local` and gives every request to `on_connect`.
    pub(super) async fn start(
        local: &Arc<Workload>,
        identities: &Identities,
        limits: HboneLimits,
        on_connect: impl Fn(ConnectRequest) + Clone + 'static,
    ) -> Self {
        let limits = HboneLimits {
            alpn: SPOKEN.get().1,
            mux_streams: usize::try_from(limits.max_streams).unwrap(),
            ..limits
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self(Rc::new(ServerState {
            address: listener.local_addr().unwrap(),
            local: Arc::clone(local),
            identities: identities.clone(),
            sessions: BulkSessions::default(),
            accepted: Cell::new(0),
            errors: RefCell::default(),
            tasks: RefCell::new(Tasks::new()),
            cuts: RefCell::default(),
        }));
        let accepting = server.clone();
        Tasks::new().spawn_local("accept", async move {
            while let Ok((tcp, _)) = listener.accept().await {
                accepting.connection(tcp, limits, on_connect.clone());
            }
        });
        server
    }

    fn connection(
        &self,
        tcp: tokio::net::TcpStream,
        limits: HboneLimits,
        on_connect: impl Fn(ConnectRequest) + 'static,
    ) {
        self.0.accepted.set(self.0.accepted.get() + 1);
        let (cut, is_cut) = tokio::sync::oneshot::channel::<()>();
        self.0.cuts.borrow_mut().push(cut);
        let tasks = self.0.tasks.borrow().clone();
        let (state, drain) = (Rc::clone(&self.0), tasks.drain());
        tasks.spawn_local("server", async move {
            let (local, identities) = (&state.local, &state.identities);
            let sessions = state.sessions.clone();
            let around = Around {
                drain,
                sessions,
                handshake: None,
                bytes: None,
            };
            let served = hbone::serve_with(&limits, tcp, local, identities, around, on_connect);
            tokio::select! {
                ended = Box::pin(served) => if let Err(error) = ended {
                    state.errors.borrow_mut().push(chain(&error));
                },
                _ = is_cut => {}
            }
        });
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Where bulk sessions find their streams.
    pub(super) fn sessions(&self) -> &BulkSessions {
        &self.0.sessions
    }

    /// How many connections were ever accepted.
    pub(super) fn accepted(&self) -> usize {
        self.0.accepted.get()
    }

    /// How connections ended that did not end in order.
    pub(super) fn errors(&self) -> Vec<String> {
        self.0.errors.borrow().clone()
    }

    /// Sends GOAWAY on all live connections; later ones are served as ever.
    pub(super) fn drain(&self) -> Tasks {
        let tasks = self.0.tasks.replace(Tasks::new());
        tasks.begin_drain();
        tasks
    }

    /// Closes all live connections without a word.
    pub(super) fn cut(&self) {
        self.0.cuts.borrow_mut().clear();
    }
}

/// One client pod, one server pod, and the tunnels between them.
pub(super) struct Mesh {
    pub(super) client: Arc<Workload>,
    pub(super) server_pod: Arc<Workload>,
    pub(super) identities: Identities,
    pub(super) server: Server,
    pub(super) tunnels: Tunnels,
    pub(super) tasks: Tasks,
    pub(super) netns: Netns,
}

impl Mesh {
    pub(super) async fn new(on_connect: impl Fn(ConnectRequest) + Clone + 'static) -> Self {
        Self::with(
            DAY,
            TunnelLimits::default(),
            HboneLimits::default(),
            on_connect,
        )
        .await
    }

    pub(super) async fn with(
        ttl: Duration,
        limits: TunnelLimits,
        server_limits: HboneLimits,
        on_connect: impl Fn(ConnectRequest) + Clone + 'static,
    ) -> Self {
        let authority = CertificateAuthority::in_memory(DOMAIN).unwrap();
        let client = workload(DOMAIN, "client");
        let server_pod = workload(DOMAIN, "server");
        let identities = identities(&authority, ttl, &[&client, &server_pod]).await;
        let server = Server::start(&server_pod, &identities, server_limits, on_connect).await;
        let tasks = Tasks::new();
        let tunnels = tunnels(&identities, &tasks, limits, server.address());
        let netns = Netns::current().unwrap();
        Self {
            client,
            server_pod,
            identities,
            server,
            tunnels,
            tasks,
            netns,
        }
    }

    /// A stream from the client pod to port 80 of the server pod.
    pub(super) async fn open(&self) -> Result<TunnelStream, TunnelError> {
        self.open_as(&self.client, &self.server_pod).await
    }

    pub(super) async fn open_as(
        &self,
        from: &Arc<Workload>,
        to: &Arc<Workload>,
    ) -> Result<TunnelStream, TunnelError> {
        let authority = SocketAddr::new(self.server.address().ip(), 80);
        let headers = ConnectHeaders::default();
        self.tunnels
            .open(from, &self.netns, to, authority, &headers, None)
            .await
    }
}

/// A pool that reaches pods at the port of `server`.
pub(super) fn tunnels(
    identities: &Identities,
    tasks: &Tasks,
    limits: TunnelLimits,
    server: SocketAddr,
) -> Tunnels {
    let limits = TunnelLimits {
        port: server.port(),
        alpn: SPOKEN.get().0,
        mux_streams: limits.max_streams,
        ..limits
    };
    Tunnels::new(
        identities.clone(),
        Connector::untagged(),
        tasks.clone(),
        limits,
    )
}

/// Runs `task` beside the test.
pub(super) fn beside(task: impl Future<Output = ()> + 'static) {
    Tasks::new().spawn_local("beside", task);
}

/// An application that sends back what it gets.
pub(super) fn echo(request: ConnectRequest) {
    beside(async move {
        let (mut read, mut write) = tokio::io::split(request.accept(""));
        // A client that resets the stream ends the application's part, too.
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            write.shutdown().await.ok();
        }
    });
}

/// Sends `text`, ends, and reads to the end.
pub(super) async fn exchange(mut stream: TunnelStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(text).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}
