// SPDX-License-Identifier: Apache-2.0

//! System calls that neither the standard library, socket2 nor aya offer safely.
//!
//! Owns every `unsafe` block of the datapath but `setns`. Each function is one call with its
//! arguments checked by types; policy is elsewhere.
//!
//! Why not aya for links and hot map writes: its link types differ per program (no in-place
//! update for sk_lookup), and its `SkStorage` wants `&mut`, which every connection would have to
//! queue for.
//!
//! Reference: bpf(2), `include/uapi/linux/bpf.h` (layouts of `union bpf_attr`, 5.15 on; unknown
//! trailing fields are zero, which older kernels accept).
#![allow(unsafe_code, reason = "raw system calls, see above")]

pub(super) mod confine;
mod events;
mod pages;
mod query;

use std::{
    ffi::{CStr, CString},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::Pod;

pub use self::pages::give_back;
pub(super) use self::{
    events::{Event, Inotify, Watch, monotonic_time, open_process, time_since_boot, wait_readable},
    query::{is_on_egress, socket_cookie},
};

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;

/// `BPF_NOEXIST`: the map must not have the key.
pub(super) const NOEXIST: u64 = 1;

/// Where a program is attached by a link.
#[derive(Clone, Copy, Debug)]
pub(super) enum LinkTarget<'a> {
    /// First on the egress of an interface of the calling thread's namespace.
    TcxEgress(u32),
    /// First on the ingress of such an interface.
    TcxIngress(u32),
    /// Socket lookups of a network namespace.
    SkLookup(BorrowedFd<'a>),
    /// Sockets of a cgroup.
    SockOps(BorrowedFd<'a>),
    /// What the sockets of a cgroup send.
    CgroupEgress(BorrowedFd<'a>),
}

#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct PinnedObject {
    path: u64,
    object: u32,
    flags: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    expected_revision: u64,
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
struct ObjectInformation {
    object: u32,
    length: u32,
    pointer: u64,
}

/// The head of `struct bpf_link_info`, up to what a link is attached to.
#[repr(C)]
#[derive(Default)]
struct LinkInformation {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    /// Interface index, namespace inode or cgroup, by kind; zero when that is gone.
    target: u64,
}

/// Implemented only by the layouts above.
trait Attribute {}
impl Attribute for MapElement {}
impl Attribute for PinnedObject {}
impl Attribute for LinkCreate {}
impl Attribute for LinkUpdate {}
impl Attribute for ObjectInformation {}

fn bpf<A: Attribute>(command: libc::c_int, attribute: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: `attribute` is a live, initialised `repr(C)` prefix of `union bpf_attr` of the
    // given size; pointers inside it were made from references that outlive this call by the
    // functions below. Safe code cannot call bpf(2).
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attribute),
            size_of::<A>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn number(fd: impl AsFd) -> u32 {
    fd.as_fd()
        .as_raw_fd()
        .try_into()
        .expect("an open descriptor is not negative")
}

fn pointer<T>(value: &T) -> u64 {
    std::ptr::from_ref(value).expose_provenance() as u64
}

fn owned(result: libc::c_long) -> OwnedFd {
    let fd = result
        .try_into()
        .expect("the kernel returns descriptors that fit an int");
    // SAFETY: the kernel just returned this descriptor for us to own; nothing else knows it.
    // Safe code cannot take ownership of a raw number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Sets `key` to `value` in `map`. `K` and `V` must have the map's sizes.
pub(super) fn map_update<K: Pod, V: Pod>(
    map: impl AsFd,
    key: &K,
    value: &V,
    flags: u64,
) -> io::Result<()> {
    let mut element = MapElement {
        map: number(map),
        padding: 0,
        key: pointer(key),
        value: pointer(value),
        flags,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut element).map(drop)
}

/// Whether `map` has `key`. `K` must have the size of its keys, and its values four bytes.
pub(super) fn map_has<K: Pod>(map: impl AsFd, key: &K) -> io::Result<bool> {
    let mut value = 0_u32;
    let mut element = MapElement {
        map: number(map),
        padding: 0,
        key: pointer(key),
        value: std::ptr::from_mut(&mut value).expose_provenance() as u64,
        flags: 0,
    };
    match bpf(BPF_MAP_LOOKUP_ELEM, &mut element) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes `key` from `map`.
pub(super) fn map_delete<K: Pod>(map: impl AsFd, key: &K) -> io::Result<()> {
    let mut element = MapElement {
        map: number(map),
        padding: 0,
        key: pointer(key),
        value: 0,
        flags: 0,
    };
    bpf(BPF_MAP_DELETE_ELEM, &mut element).map(drop)
}

/// Pins a map, program or link at `path`, which must be on bpffs and not exist.
pub(super) fn object_pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut pinned = PinnedObject {
        path: path.as_ptr().expose_provenance() as u64,
        object: number(object),
        flags: 0,
    };
    bpf(BPF_OBJ_PIN, &mut pinned).map(drop)
}

/// Opens what is pinned at `path`.
pub(super) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut pinned = PinnedObject {
        path: path.as_ptr().expose_provenance() as u64,
        object: 0,
        flags: 0,
    };
    bpf(BPF_OBJ_GET, &mut pinned).map(owned)
}

/// Attaches `program`; it stays attached while the link is open or pinned.
pub(super) fn link_create(program: impl AsFd, target: LinkTarget<'_>) -> io::Result<OwnedFd> {
    const BPF_CGROUP_INET_EGRESS: u32 = 1;
    const BPF_CGROUP_SOCK_OPS: u32 = 3;
    const BPF_SK_LOOKUP: u32 = 36;
    const BPF_TCX_INGRESS: u32 = 46;
    const BPF_TCX_EGRESS: u32 = 47;
    /// With no relative program: before all others.
    const BPF_F_BEFORE: u32 = 1 << 3;
    let (target, attach_type, flags) = match target {
        LinkTarget::TcxEgress(interface) => (interface, BPF_TCX_EGRESS, BPF_F_BEFORE),
        LinkTarget::TcxIngress(interface) => (interface, BPF_TCX_INGRESS, BPF_F_BEFORE),
        LinkTarget::SkLookup(netns) => (number(netns), BPF_SK_LOOKUP, 0),
        LinkTarget::SockOps(cgroup) => (number(cgroup), BPF_CGROUP_SOCK_OPS, 0),
        LinkTarget::CgroupEgress(cgroup) => (number(cgroup), BPF_CGROUP_INET_EGRESS, 0),
    };
    let mut create = LinkCreate {
        program: number(program),
        target,
        attach_type,
        flags,
        relative: 0,
        padding: 0,
        expected_revision: 0,
    };
    bpf(BPF_LINK_CREATE, &mut create).map(owned)
}

/// Replaces the program of `link` in place: no packet meets neither or both.
pub(super) fn link_update(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut update = LinkUpdate {
        link: number(link),
        program: number(program),
        flags: 0,
        old_program: 0,
    };
    bpf(BPF_LINK_UPDATE, &mut update).map(drop)
}

/// Whether what `link` is attached to still exists.
pub(super) fn link_is_attached(link: impl AsFd) -> io::Result<bool> {
    let information = link_information(&link)?;
    Ok(information.program != 0 && low_half(information.target) != 0)
}

/// The inode of the namespace that a link of sk_lookup is attached to; zero if it is gone.
pub(super) fn link_netns(link: &OwnedFd) -> io::Result<u64> {
    link_information(link).map(|information| low_half(information.target))
}

/// Interface index or namespace inode; the upper half is the attach type.
fn low_half(target: u64) -> u64 {
    target & u64::from(u32::MAX)
}

fn link_information(link: &impl AsFd) -> io::Result<LinkInformation> {
    let mut information = LinkInformation::default();
    let mut request = ObjectInformation {
        object: number(link),
        length: size_of::<LinkInformation>()
            .try_into()
            .expect("it is a few bytes long"),
        pointer: std::ptr::from_mut(&mut information).expose_provenance() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut request)?;
    Ok(information)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// The cookie of the network namespace that `socket` is in (5.14).
pub(super) fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    query::number_option(socket, SO_NETNS_COOKIE)
}

/// Lets `socket` use addresses that the host does not have (`CAP_NET_ADMIN`).
pub(super) fn set_transparent(socket: impl AsFd, v6: bool) -> io::Result<()> {
    let (level, option) = if v6 {
        (libc::SOL_IPV6, libc::IPV6_TRANSPARENT)
    } else {
        (libc::SOL_IP, libc::IP_TRANSPARENT)
    };
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open; `on` is live and of the size that is given. socket2 has the
    // option for one family only.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&on).cast(),
            4,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// An address of an interface of the calling thread's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InterfaceAddress {
    /// The interface's name.
    pub(super) interface: String,
    /// The address.
    pub(super) address: IpAddr,
}

/// The addresses of all interfaces of the calling thread's namespace.
pub(super) fn interface_addresses() -> io::Result<Vec<InterfaceAddress>> {
    let mut first = std::ptr::null_mut();
    // SAFETY: `first` is writable; getifaddrs sets it to a list that is freed below.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut addresses = Vec::new();
    let mut next = first;
    // SAFETY: the list is valid until freeifaddrs, and ends in null.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        if let Some(address) = ip_of(entry.ifa_addr) {
            // SAFETY: ifa_name is a valid C string of the list.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) };
            addresses.push(InterfaceAddress {
                interface: name.to_string_lossy().into_owned(),
                address,
            });
        }
    }
    // SAFETY: `first` came from getifaddrs and nothing borrowed from the list is left.
    unsafe { libc::freeifaddrs(first) };
    Ok(addresses)
}

fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller passes null or a sockaddr of the list it walks.
    let family = unsafe { address.as_ref() }?.sa_family;
    match libc::c_int::from(family) {
        libc::AF_INET => {
            // SAFETY: a sockaddr of this family is a sockaddr_in, which libc aligns as such.
            let v4 = unsafe { &*address.cast::<libc::sockaddr_in>() };
            Some(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: a sockaddr of this family is a sockaddr_in6, which libc aligns as such.
            let v6 = unsafe { &*address.cast::<libc::sockaddr_in6>() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// The index of the interface called `name` in the calling thread's namespace.
pub(super) fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: `name` is a valid C string for the duration of the call. std has no such call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Mounts a bpf file system at `path`.
pub(super) fn mount_bpffs(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: all strings are valid and NUL-terminated for the duration of the call; bpffs takes
    // no data. std has no mount.
    let result = unsafe {
        libc::mount(
            c"bpffs".as_ptr(),
            path.as_ptr(),
            c"bpf".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            std::ptr::null(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Raises the soft limit of open files to the hard one; returns it.
pub(super) fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is live and writable. std has no such call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is live and initialised. std has no such call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}
