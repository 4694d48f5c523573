// SPDX-License-Identifier: Apache-2.0

//! Names of maps and programs, their sizes, and how they are laid out under the pin directory.
//!
//! ```text
//! <pin directory>/v<ABI>/<map>               maps of the node, and the sock_ops link
//! <pin directory>/v<ABI>/pods/<uid>/<map>    maps and links of one pod
//! ```

/// Socket storage: what a socket is. Never replaced while the node runs.
pub const TAGS: &str = "TAGS";
/// Tuples of the agent's connections to applications.
pub const EXPECT: &str = "EXPECT";
/// Tuples of the node's probes under way.
pub const HOST_FLOWS: &str = "HOST_FLOWS";
/// Pod endpoints that probes use.
pub const PROBES: &str = "PROBES";
/// Destinations that are captured.
pub const MESH: &str = "MESH";
/// Namespaces whose new connections are held, and until when.
pub const HELD: &str = "HELD";
/// Namespaces that new connections are not held of.
pub const DECIDED: &str = "DECIDED";
/// The node's configuration.
pub const NODE: &str = "NODE";
/// The node's counters, per CPU.
pub const COUNTERS: &str = "COUNTERS";
/// Records of closed flows.
pub const FLOWS: &str = "FLOWS";
/// What the programs have to say, at debug level (aya-log's name).
pub const LOGS: &str = "AYA_LOGS";
/// The level of the above, fixed when a program is loaded (aya-log's name).
pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";

/// The agent's listeners in a pod.
pub const LISTENERS: &str = "LISTENERS";
/// A pod's configuration.
pub const POD: &str = "POD";
/// The local addresses of a pod's namespace.
pub const ADDRESSES: &str = "ADDRESSES";
/// Modes of a pod's inbound ports.
pub const PORT_MODES: &str = "PORT_MODES";
/// A pod's counters, per CPU.
pub const POD_COUNTERS: &str = "POD_COUNTERS";

/// The maps of which a node has one.
pub const NODE_MAPS: [&str; 11] = [
    TAGS, EXPECT, HOST_FLOWS, PROBES, MESH, HELD, DECIDED, NODE, COUNTERS, FLOWS, LOGS,
];
/// The maps of which each pod has its own.
pub const POD_MAPS: [&str; 5] = [LISTENERS, POD, ADDRESSES, PORT_MODES, POD_COUNTERS];

/// The program on the pod interface's egress.
pub const CAPTURE_OUTBOUND: &str = "capture_outbound";
/// The program on the pod interface's ingress.
pub const GUARD_INBOUND: &str = "guard_inbound";
/// The program that chooses a listener in the pod.
pub const PICK_LISTENER: &str = "pick_listener";
/// The program on the cgroup.
pub const NOTE_SOCKETS: &str = "note_sockets";

/// The program that holds back what is opened before its pod is captured.
pub const HOLD_EARLY: &str = "hold_early";

/// Namespaces that are not captured yet.
pub const HELD_ENTRIES: usize = 1024;
/// Namespaces that were decided about; the least recently used one is forgotten first, and decided
/// about again.
pub const DECIDED_ENTRIES: usize = 16_384;
/// How long a namespace is held that the agent has not decided about, in nanoseconds.
pub const UNKNOWN_HOLD_NS: u64 = 10_000_000_000;
/// Live inbound connections of a node.
pub const EXPECT_ENTRIES: usize = 65_536;
/// Probes under way; the least recently used one is forgotten first.
pub const HOST_FLOW_ENTRIES: usize = 8_192;
/// Declared probe ports of a node's pods.
pub const PROBE_ENTRIES: usize = 4_096;
/// Service endpoints and workloads of the mesh.
pub const MESH_ENTRIES: usize = 131_072;
/// Local addresses of one pod's namespace.
pub const ADDRESS_ENTRIES: usize = 256;
/// Ports of one pod with a mode of their own.
pub const PORT_MODE_ENTRIES: usize = 256;
/// Bytes of flow records that the agent may be behind.
pub const FLOW_BYTES: usize = 256 * 1024;

/// Index of the IPv4 outbound listener in [`LISTENERS`].
pub const LISTENER_OUTBOUND_V4: u32 = 0;
/// Index of the IPv6 outbound listener.
pub const LISTENER_OUTBOUND_V6: u32 = 1;
/// Index of the IPv4 inbound listener.
pub const LISTENER_INBOUND_V4: u32 = 2;
/// Index of the IPv6 inbound listener.
pub const LISTENER_INBOUND_V6: u32 = 3;
/// The number of listeners of a pod.
pub const LISTENER_ENTRIES: usize = 4;
