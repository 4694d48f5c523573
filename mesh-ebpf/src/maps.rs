// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

//! The maps. Their names and sizes are in `mesh_common::names`; who pins which, in the agent.
//!
//! Every instance of the object shares the node's maps through their pins; a pod's instance has
//! the pod's maps to itself.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SockMap},
    helpers::generated::{bpf_map_lookup_elem, bpf_sk_storage_get},
    macros::btf_map,
};
use mesh_common::{
    Address, Counter, Endpoint, FlowRecord, NodeConfig, PodConfig, Tag, Tuple, counter, names,
};

/// Tuples of the agent's connections to applications.
#[btf_map]
pub(crate) static EXPECT: HashMap<Tuple, u32, { names::EXPECT_ENTRIES }> = HashMap::new();

/// Tuples of the node's probes under way.
#[btf_map]
pub(crate) static HOST_FLOWS: LruHashMap<Tuple, u32, { names::HOST_FLOW_ENTRIES }> =
    LruHashMap::new();

/// Pod endpoints that probes use.
#[btf_map]
pub(crate) static PROBES: HashMap<
    Endpoint,
    u32,
    { names::PROBE_ENTRIES },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Destinations that are captured; values are `MeshEntry`.
#[btf_map]
pub(crate) static MESH: HashMap<
    Endpoint,
    u32,
    { names::MESH_ENTRIES },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Namespaces, by cookie, whose new connections are held, until a time of `bpf_ktime_get_ns`.
#[btf_map]
pub(crate) static HELD: HashMap<u64, u64, { names::HELD_ENTRIES }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Namespaces, by cookie, whose new connections are not held.
#[btf_map]
pub(crate) static DECIDED: LruHashMap<u64, u32, { names::DECIDED_ENTRIES }> = LruHashMap::new();

/// The node's configuration.
#[btf_map]
pub(crate) static NODE: Array<NodeConfig, 1> = Array::new();

/// The node's counters.
#[btf_map]
static COUNTERS: PerCpuArray<u64, { counter::COUNTERS }> = PerCpuArray::new();

/// Records of closed flows.
#[btf_map]
pub(crate) static FLOWS: RingBuf<FlowRecord, { names::FLOW_BYTES }> = RingBuf::new();

/// The agent's listeners in the pod.
#[btf_map]
static LISTENERS: SockMap<{ names::LISTENER_ENTRIES }> = SockMap::new();

/// The pod's configuration.
#[btf_map]
pub(crate) static POD: Array<PodConfig, 1> = Array::new();

/// The local addresses of the pod's namespace; values are `AddressKind`.
#[btf_map]
pub(crate) static ADDRESSES: HashMap<
    Address,
    u32,
    { names::ADDRESS_ENTRIES },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Modes of the pod's inbound ports; values are `InboundMode`.
#[btf_map]
pub(crate) static PORT_MODES: HashMap<
    u32,
    u32,
    { names::PORT_MODE_ENTRIES },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// The pod's counters.
#[btf_map]
static POD_COUNTERS: PerCpuArray<u64, { counter::COUNTERS }> = PerCpuArray::new();

/// Socket storage that accepted sockets inherit from their listener. Declared by hand: aya's has
/// neither the flag nor a way in for programs that hold a plain socket pointer.
#[repr(C)]
struct ClonedStorage<T> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the pointers are never followed; their types tell the loader what to make.
unsafe impl<T> Sync for ClonedStorage<T> {}

/// What a socket is, decided once.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "TAGS")]
static TAGS: ClonedStorage<Tag> = ClonedStorage {
    r#type: ptr::null(),
    key: ptr::null(),
    value: ptr::null(),
    max_entries: ptr::null(),
    map_flags: ptr::null(),
};

/// Counts for the node.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    add(COUNTERS.get_ptr_mut(counter.index()));
}

/// Counts for the pod.
#[inline(always)]
pub(crate) fn count_pod(counter: Counter) {
    add(POD_COUNTERS.get_ptr_mut(counter.index()));
}

#[inline(always)]
fn add(slot: Option<*mut u64>) {
    use core::intrinsics::{AtomicOrdering, atomic_xadd};
    if let Some(slot) = slot {
        // SAFETY: the map gave a valid pointer to a u64. Atomic, because a program in process
        // context can be interrupted by one in softirq on the same CPU.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(slot, 1) };
    }
}

/// The tag of a socket.
///
/// # Safety
/// `socket` must be a full socket that the context or a helper gave.
#[inline(always)]
pub(crate) unsafe fn tag_of<'a>(socket: *mut c_void) -> Option<&'a mut Tag> {
    let map = ptr::from_ref(&TAGS).cast_mut().cast();
    // SAFETY: by contract; a null initial value without the create flag only reads. The storage
    // lives as long as the socket, which outlives the run.
    unsafe {
        bpf_sk_storage_get(map, socket, ptr::null_mut(), 0)
            .cast::<Tag>()
            .as_mut()
    }
}

/// Tags a socket that has no tag; `None` if there is no memory for it.
///
/// # Safety
/// As for [`tag_of`].
#[inline(always)]
pub(crate) unsafe fn set_tag<'a>(socket: *mut c_void, mut tag: Tag) -> Option<&'a mut Tag> {
    let map = ptr::from_ref(&TAGS).cast_mut().cast();
    // SAFETY: as for `tag_of`; the initial value is live.
    unsafe {
        bpf_sk_storage_get(
            map,
            socket,
            (&raw mut tag).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
        .cast::<Tag>()
        .as_mut()
    }
}

/// The agent's listener at `index`, or null. Must be given back with `bpf_sk_release`.
#[inline(always)]
pub(crate) fn listener(index: u32) -> *mut c_void {
    let map = ptr::from_ref(&LISTENERS).cast_mut().cast();
    // SAFETY: the map and the key are live and of the sizes declared above.
    unsafe { bpf_map_lookup_elem(map, ptr::from_ref(&index).cast()) }
}
