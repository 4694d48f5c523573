// SPDX-License-Identifier: Apache-2.0

//! The stage of one plane: two nodes, a client pod, a server pod with its applications, and the
//! manifests that our agent gets.
//!
//! Knows nothing of what comes between the pods. Invariants: every plane has the same kernel
//! settings and the same applications; the agent gets what a user has: a route and STRICT mutual
//! TLS, and finds no fault with it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Options, account::with_descendants, congestion, plane::Wanted, rival::Rival};
use crate::{Agent, Lab, Pod, command::run_ok, foreign::Server, topology::LINK};

/// The Service, and the host name of every request.
pub(super) const HOST: &str = "app";

/// HTTP/1.1.
pub(super) const HTTP1: u16 = 8080;
/// HTTP/2 without TLS.
pub(super) const HTTP2: u16 = 8081;
/// gRPC.
pub(super) const GRPC: u16 = 8082;
/// Bytes.
pub(super) const TCP: u16 = 5201;

/// What the small body consists of; to be searched for on the wire.
pub(super) const FILLER: &[u8] = b"x";

const SMALL: usize = 1024;
const LARGE: usize = 1024 * 1024;

/// For clients that open many connections a second, and servers that take them.
const SETTINGS: &[(&str, &str)] = &[
    ("core/somaxconn", "8192"),
    ("ipv4/tcp_max_syn_backlog", "8192"),
    ("ipv4/ip_local_port_range", "20000 65000"),
    ("ipv4/tcp_tw_reuse", "1"),
];

/// What the agent is told besides pods and the Service.
const MANIFESTS: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app}
spec:
  hosts: [app]
  http:
  - match:
    - uri: {prefix: /admin/}
      headers: {x-canary: {exact: always}}
    route:
    - destination: {host: app}
      headers: {request: {set: {x-routed: canary}}}
  - route:
    - destination: {host: app}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
";

/// Everything a plane is measured on.
pub(super) struct Stage {
    pub(super) client: Pod,
    pub(super) server: Pod,
    applications: Vec<Server>,
    /// Who floods, where that is measured.
    pub(super) rival: Option<Rival>,
    /// Where clients send what is for [`HOST`].
    pub(super) target: String,
    pub(super) one_node: bool,
    /// Dropped last.
    pub(super) lab: Lab,
}

impl Stage {
    /// Sets it; `with_service` says whether clients use the Service's address, which only
    /// something between the pods can serve.
    #[track_caller]
    pub(super) fn set(wanted: &Wanted, with_service: bool, options: &Options) -> Self {
        let (name, one_node) = (wanted.name(), wanted.one_node);
        let wants_rival = options.measures.iter().any(|one| one.wants_rival());
        let lab = Lab::new(&format!("bench {name}"));
        let client = lab.pod("client").start();
        let server = lab.pod("server").label("app", HOST).label("version", "v1");
        let server = if one_node { server } else { server.on_b() }.start();
        let namespaces = [&lab.a.netns, &lab.b.netns, &client.netns, &server.netns];
        for netns in namespaces {
            for (key, value) in SETTINGS {
                netns.sysctl(key, value);
            }
        }
        congestion::choose(&options.congestion, &namespaces);
        let service = lab.service(HOST).port("http", HTTP1, HTTP1);
        let service = service.port("http2", HTTP2, HTTP2).port("grpc", GRPC, GRPC);
        let (service, _) = service.port("tcp", TCP, TCP).create();
        let target = if with_service {
            service
        } else {
            server.v4.clone()
        };
        lab.resolve(HOST, &target);
        let applications = start_applications(&lab, &server);
        let rival = (wants_rival && wanted.may_have_rival())
            .then(|| Rival::set(&lab, one_node, with_service, &options.congestion));
        Self {
            client,
            server,
            applications,
            rival,
            target,
            one_node,
            lab,
        }
    }

    /// Where the client finds a port of the server.
    pub(super) fn address(&self, port: u16) -> SocketAddr {
        let text = format!("{}:{port}", self.target);
        text.parse().expect("the lab's addresses are well formed")
    }

    /// How TCP paces itself here.
    pub(super) fn congestion_control(&self) -> String {
        self.client.run(congestion::chosen)
    }

    /// The applications' processes.
    pub(super) fn application_pids(&self) -> Vec<u32> {
        let roots: Vec<u32> = self.applications.iter().map(Server::pid).collect();
        with_descendants(&roots)
    }

    /// The body of a gRPC call, in a file.
    pub(super) fn grpc_body(&self) -> PathBuf {
        self.lab.directory().join("grpc-body")
    }

    /// From now on `percent` of what one node sends to the other is lost, by chance.
    ///
    /// # Panics
    /// When the system cannot do that.
    #[track_caller]
    pub(super) fn lose(&self, percent: f64) {
        let chance = (percent / 100.0).to_string();
        for node in [&self.lab.a, &self.lab.b] {
            let mut iptables = node.netns.command("iptables");
            iptables.args(["-w", "-t", "raw", "-A", "PREROUTING", "-i", LINK]);
            iptables.args(["-m", "statistic", "--mode", "random", "--probability"]);
            run_ok(iptables.args([&chance, "-j", "DROP"]));
        }
    }
}

/// Starts our agents on the nodes that have pods, and waits until both pods are served.
#[track_caller]
pub(super) fn start_agents(stage: &Stage, more: &[String]) -> Vec<Agent> {
    stage.lab.apply(MANIFESTS);
    // Envoy has no access log here either.
    let mut flags = vec!["--access-log", "off"];
    flags.extend(more.iter().map(String::as_str));
    let mut nodes = vec![&stage.lab.a];
    if !stage.one_node {
        nodes.push(&stage.lab.b);
    }
    let agents: Vec<Agent> = nodes.iter().map(|node| node.launch_agent(&flags)).collect();
    agents.iter().for_each(Agent::wait_ready);
    stage.lab.settle(&agents.iter().collect::<Vec<_>>());
    let manifests = stage.lab.config_directory().display().to_string();
    let found = agents[0].analyze(&manifests);
    assert!(
        found.ok(),
        "manifests are not in force: {}{}",
        found.stdout,
        found.stderr
    );
    agents
}

#[track_caller]
fn start_applications(lab: &Lab, pod: &Pod) -> Vec<Server> {
    let directory = lab.directory().join("applications");
    let made = |name: &str| {
        let path = directory.join(name);
        fs::create_dir_all(&path).expect("the lab's directory can be written");
        path
    };
    let body = super::application::body();
    fs::write(lab.directory().join("grpc-body"), body).expect("the directory was made");
    let mut iperf3 = pod.command("iperf3");
    iperf3.args(["--server", "--port", &TCP.to_string()]);
    let own = std::env::current_exe().expect("a program knows its own path");
    let mut grpc = pod.command(own);
    grpc.args(["application", &GRPC.to_string()]);
    vec![
        Server::start(
            pod,
            HTTP1,
            nginx(pod.command("nginx"), &made("nginx")),
            &made("nginx"),
        ),
        Server::start(pod, TCP, iperf3, &made("iperf3")),
        Server::start(pod, GRPC, grpc, &made("grpc")),
    ]
}

/// nginx, which `command` starts, with a body of 1 KiB and one of 1 MiB, on HTTP/1.1 and on HTTP/2.
#[track_caller]
pub(super) fn nginx(mut command: Command, directory: &Path) -> Command {
    let files = directory.join("files");
    fs::create_dir_all(&files).expect("the lab's directory can be written");
    for (name, length) in [("index.html", SMALL), ("large", LARGE)] {
        fs::write(files.join(name), FILLER.repeat(length)).expect("just made");
    }
    let configuration = format!(
        "daemon off; worker_processes 2; worker_rlimit_nofile 65000; pid {dir}/pid; user root;\n\
         error_log stderr warn;\n\
         events {{ worker_connections 30000; }}\n\
         http {{\n\
           access_log off; tcp_nodelay on; open_file_cache max=16;\n\
           keepalive_timeout 3600s; keepalive_requests 1000000000;\n\
           http2_max_concurrent_streams 1024;\n\
           client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
           fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi;\n\
           scgi_temp_path {dir}/scgi;\n\
           server {{ listen {HTTP1} backlog=8192; root {dir}/files; }}\n\
           server {{ listen {HTTP2} http2 backlog=8192; root {dir}/files; }}\n\
         }}\n",
        dir = directory.display(),
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration).expect("the lab's directory can be written");
    command.arg("-c").arg(&file).args(["-e", "stderr"]);
    command
}
