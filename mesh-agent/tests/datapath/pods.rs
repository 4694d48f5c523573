// SPDX-License-Identifier: Apache-2.0

//! Pods for these tests: network namespaces joined by routed veth pairs, as a ptp CNI makes them.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mesh_agent::{
    datapath::{Netns, Observation},
    model::{InboundPolicy, SharedMap, Snapshot, SpiffeId, Workload, WorkloadUid},
};
use socket2::{Domain, Protocol, Socket, Type};

/// Tests run side by side: each pod has a number of its own.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A pod's namespace, removed when dropped.
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
    pub(crate) netns: Netns,
    host: String,
}

#[track_caller]
pub(crate) fn run(command: &str) {
    let mut words = command.split_whitespace();
    let program = words.next().expect("commands are not empty");
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
}

/// What `command` prints in the pod.
pub(crate) fn output(command: &str) -> String {
    let mut words = command.split_whitespace();
    let program = words.next().expect("commands are not empty");
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{command}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Pod {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = std::process::id() % 10_000;
        let name = format!("kernel-{id}-{number}");
        let host = format!("kv{id}-{number}");
        let [high, low] = u16::try_from(id).expect("less than 10000").to_be_bytes();
        let octet = u8::try_from(number).expect("few pods");
        let v4: IpAddr = IpAddr::from([10, 64 + high, low, octet]);
        let v6: IpAddr = format!("fd00:6b:{id}::{number:x}")
            .parse()
            .expect("an address");
        let pod = Self {
            netns: Netns::current().expect("proc is mounted"),
            name,
            host,
            v4,
            v6,
        };
        pod.make()
    }

    /// Makes the namespace and what is in it.
    fn make(mut self) -> Self {
        run(&format!("ip netns add {}", self.name));
        self.add_interface();
        self.ip("link set lo up");
        self.netns = Netns::open(&self.path()).expect("the namespace was just made");
        self
    }

    /// Takes the interface away and gives the pod a new one.
    pub(crate) fn replace_interface(&self) {
        run(&format!("ip link del {}", self.host));
        self.add_interface();
    }

    fn add_interface(&self) {
        let Self {
            name, host, v4, v6, ..
        } = self;
        let host_v4 = "169.254.77.1";
        // A node that has no address but a link's own cannot be a peer of pods.
        let host_v6 = format!("{v6}0");
        run(&format!(
            "ip link add {host} type veth peer name eth0 netns {name}"
        ));
        run(&format!("ip link set {host} up"));
        run(&format!("ip addr add {host_v4}/32 dev {host}"));
        run(&format!("ip -6 addr add fe80::1/64 dev {host} nodad"));
        run(&format!("ip -6 addr add {host_v6}/128 dev {host} nodad"));
        run(&format!("ip route replace {v4}/32 dev {host}"));
        run(&format!("ip -6 route replace {v6}/128 dev {host}"));
        run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        for command in [
            "link set eth0 up".to_owned(),
            format!("addr add {v4}/32 dev eth0"),
            format!("-6 addr add {v6}/128 dev eth0 nodad"),
            format!("route add default via {host_v4} dev eth0 onlink"),
            "-6 route add default via fe80::1 dev eth0".to_owned(),
        ] {
            run(&format!("ip -n {name} {command}"));
        }
    }

    /// Replaces the namespace by a new one under the same path.
    pub(crate) fn renew(&mut self) {
        self.delete();
        let pod = Self {
            name: self.name.clone(),
            host: self.host.clone(),
            v4: self.v4,
            v6: self.v6,
            netns: self.netns.clone(),
        };
        let made = pod.make();
        self.netns = made.netns.clone();
        // One of the two deletes it in the end.
        std::mem::forget(made);
    }

    fn delete(&self) {
        // The agent may keep the namespace alive for a while; its link must go at once.
        let link = Command::new("ip")
            .args(["link", "del", &self.host])
            .status();
        let netns = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
        assert!(
            link.is_ok() && netns.is_ok(),
            "a test leaves a namespace behind"
        );
    }

    fn path_of(name: &str) -> PathBuf {
        PathBuf::from(format!("/run/netns/{name}"))
    }

    pub(crate) fn path(&self) -> PathBuf {
        Self::path_of(&self.name)
    }

    pub(crate) fn uid(&self) -> WorkloadUid {
        WorkloadUid(Arc::from(format!("uid.{}", self.name)))
    }

    /// Runs `ip` in the pod.
    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.name));
    }

    /// Runs `work` in the pod, on a thread of its own.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = self.netns.clone();
        thread::scope(|scope| {
            scope
                .spawn(move || {
                    let _inside = netns.enter().expect("tests run as root");
                    work()
                })
                .join()
                .expect("the work does not panic")
        })
    }

    /// An application that answers every connection with its peer's address, and then closes it,
    /// or echoes if the first byte was an `e`.
    pub(crate) fn app(&self, port: u16) {
        serve(self.listen(port));
    }

    /// Listens in the pod, on all of its addresses.
    pub(crate) fn listen(&self, port: u16) -> TcpListener {
        self.within(|| {
            TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port)).expect("the port is free")
        })
    }

    /// Connects from the pod.
    pub(crate) fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        self.within(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))
    }

    /// Sends an IPv4 packet out of the node to the pod, whatever it says its source is.
    pub(crate) fn inject(&self, packet: &[u8]) {
        let socket = Socket::new(
            Domain::IPV4,
            Type::RAW,
            Some(Protocol::from(libc::IPPROTO_RAW)),
        )
        .expect("tests run as root");
        let to = SocketAddr::new(self.v4, 0);
        socket.send_to(packet, &to.into()).expect("it is routed");
    }

    /// Whether a connection of the pod waits for an answer to its SYN.
    pub(crate) fn has_syn_sent(&self) -> bool {
        const SYN_SENT: &str = " 02 ";
        self.within(|| std::fs::read_to_string("/proc/thread-self/net/tcp"))
            .is_ok_and(|sockets| sockets.contains(SYN_SENT))
    }

    /// Packets that left through the pod's interface.
    pub(crate) fn sent_packets(&self) -> u64 {
        let text = output(&format!("ip -n {} -s -j link show eth0", self.name));
        let start = text.find("\"tx\"").expect("statistics are shown");
        let packets = &text[start..];
        let digits: String = packets[packets.find("\"packets\":").expect("packets are counted")..]
            .chars()
            .skip_while(|character| !character.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().expect("it is a number")
    }

    /// Connects from the pod and a port of it.
    /// Connects from `port`, as soon as the last connection from there is over: its last packets may
    /// still be on their way.
    pub(crate) fn connect_from(&self, port: u16, to: SocketAddr) -> std::io::Result<TcpStream> {
        let own = if to.is_ipv6() { self.v6 } else { self.v4 };
        let start = Instant::now();
        self.within(|| {
            loop {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                socket.bind(&SocketAddr::new(own, port).into())?;
                match socket.connect_timeout(&to.into(), Duration::from_secs(3)) {
                    Ok(()) => return Ok(socket.into()),
                    Err(error)
                        if error.kind() == std::io::ErrorKind::AddrNotAvailable
                            && start.elapsed() < Duration::from_millis(500) =>
                    {
                        std::thread::yield_now();
                    }
                    Err(error) => return Err(error),
                }
            }
        })
    }

    pub(crate) fn workload(&self) -> Workload {
        Workload {
            uid: self.uid(),
            name: self.name.as_str().into(),
            namespace: "default".into(),
            identity: SpiffeId::new("cluster.local", "default", "default"),
            node: "node".into(),
            addresses: vec![self.v4, self.v6],
            labels: Default::default(),
            owner: self.name.as_str().into(),
            canonical_service: self.name.as_str().into(),
            canonical_revision: "latest".into(),
            enrolled: true,
            netns: Some(self.path()),
            host_network: false,
            ready: true,
            probe_ports: Vec::new(),
            close_existing_after: None,
            inbound: InboundPolicy::default(),
            scope: Arc::default(),
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.delete();
    }
}

/// See [`Pod::app`].
pub(crate) fn serve(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo_peer(stream));
        }
    });
}

fn echo_peer(mut stream: TcpStream) {
    use std::io::{Read, Write};
    let Ok(peer) = stream.peer_addr() else { return };
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut byte = [0];
    // Closed without a word: nothing to answer.
    if !matches!(stream.read(&mut byte), Ok(1)) {
        return;
    }
    if writeln!(stream, "{peer}").is_err() {
        return;
    }
    // Byte for byte until the other end has enough.
    if byte == *b"e" {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..read]).is_err() {
                return;
            }
        }
    }
}

/// A snapshot of these workloads.
pub(crate) fn snapshot(workloads: impl IntoIterator<Item = Workload>) -> Snapshot {
    let workloads: SharedMap<_, _> = workloads
        .into_iter()
        .map(|workload| (workload.uid.clone(), Arc::new(workload)))
        .collect();
    let by_address = workloads
        .values()
        .flat_map(|workload| {
            workload
                .addresses
                .iter()
                .map(|ip| (*ip, Arc::clone(workload)))
        })
        .collect();
    Snapshot {
        generation: 1,
        node: "node".into(),
        workloads,
        by_address,
        ..Snapshot::default()
    }
}

/// A counter of a pod.
#[track_caller]
pub(crate) fn counter(observation: &Observation, pod: &Pod, name: &str) -> u64 {
    let uid = pod.uid();
    let pod = observation.pods.iter().find(|pod| pod.uid == uid);
    let pod = pod.expect("the pod is observed");
    *pod.counters.get(name).expect("the counter exists")
}

/// Waits until `done`, which another thread or the kernel brings about.
#[track_caller]
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        thread::yield_now();
        thread::park_timeout(Duration::from_millis(20));
    }
}
