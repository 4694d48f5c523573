// SPDX-License-Identifier: Apache-2.0

//! One pod under capture: from nothing, or from what an earlier agent pinned, to captured; and
//! back.
//!
//! Capture goes: rules and routes, maps, listeners in the map, programs from the inside out
//! (listener choice, egress, guard), every link pinned as soon as it exists. Fresh capture that
//! fails is undone; adoption that fails leaves things as the earlier agent left them.
//!
//! Release keeps captured connections alive: the egress program stays, told to capture nothing
//! new, until no socket of ours has another's address in the namespace (each captured connection
//! has exactly one such socket on our side), or until a deadline. Then everything goes.

mod upkeep;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use aya::maps::MapError;
use mesh_common::{OutboundReach, PodConfig, PodState, names};

use super::{
    Directions, PodSockets,
    attach::{self, AttachError, Attachment},
    connect::ConnectorMaps,
    existing::{Ends, Existing},
    ledger::Ledger,
    listeners::{Listeners, Watch},
    load::{self, LoadError},
    maps::{self, PodMaps},
    netlink,
    netns::Netns,
    pins::{self, Pins},
    route::{self, Addresses},
    sandbox::Sandboxes,
    spare::Spares,
};
use crate::model::{OutboundPolicy, Workload};

/// How long connections that were captured before the pod left the mesh may live on.
const DRAIN_DEADLINE: Duration = Duration::from_secs(600);

/// What capturing a pod needs of the node.
pub(super) struct Node<'a> {
    pub(super) pins: &'a Pins,
    pub(super) connector: &'a ConnectorMaps,
    pub(super) sandboxes: &'a Sandboxes,
    pub(super) spares: &'a Spares,
    pub(super) on_death: mesh_common::OnDeath,
    pub(super) close_existing_after: Option<Duration>,
    pub(super) debug_log: bool,
}

/// A pod under capture.
pub(super) struct Pod {
    pub(super) workload: Arc<Workload>,
    pub(super) netns: Netns,
    /// Those that its interface had when it was captured.
    pub(super) addresses: Vec<IpAddr>,
    directory: PathBuf,
    maps: PodMaps,
    attachment: Attachment,
    captured_since: SystemTime,
    pub(super) held_since: Option<SystemTime>,
    existing: Existing,
    close_existing_after: Option<Duration>,
    drain_until: Option<Instant>,
    error: Option<String>,
    /// What something in the pod did to its capture, and cannot be put back.
    broken: Option<String>,
    watch: Watch,
    /// What listeners took that were ended.
    accepted_before: Directions,
    ledger: Ledger,
    /// How often the kernel had found no listener at the last look.
    refused: u64,
}

/// A pod could not be captured.
#[derive(Debug, thiserror::Error)]
pub(super) enum PodError {
    #[error("it has no sandbox yet")]
    NoSandbox,
    #[error("{0}")]
    Sandbox(String),
    #[error("its address is {known:?}, but its network namespace has {found:?}")]
    Address {
        known: Vec<IpAddr>,
        found: Vec<IpAddr>,
    },
    #[error("cannot open the network namespace {path}")]
    Netns {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot enter the network namespace")]
    Enter(#[source] io::Error),
    #[error("it has no interface")]
    NoInterface,
    #[error("no interface to capture")]
    Interface(#[source] io::Error),
    #[error("cannot set rules and routes")]
    Route(#[source] io::Error),
    #[error("cannot load the programs")]
    Load(#[from] LoadError),
    #[error("cannot write the pod's maps")]
    Maps(#[from] MapError),
    #[error("cannot listen in the pod")]
    Listen(#[source] io::Error),
    #[error(transparent)]
    Attach(#[from] AttachError),
}

impl Pod {
    /// Captures a pod, or adopts it.
    pub(super) fn capture(
        node: &Node<'_>,
        workload: &Arc<Workload>,
    ) -> Result<(Self, PodSockets), PodError> {
        Self::capture_as(node, workload, PodState::ACTIVE)
    }

    /// Adopts a pod that an earlier agent captured and that is not in the mesh any more: nothing
    /// new is captured, its captured connections live on as after [`Pod::begin_release`].
    pub(super) fn adopt_leaving(
        node: &Node<'_>,
        workload: &Arc<Workload>,
    ) -> Result<Self, PodError> {
        let (mut pod, _unused) = Self::capture_as(node, workload, PodState::DRAINING)?;
        pod.drain_until = Some(Instant::now() + DRAIN_DEADLINE);
        Ok(pod)
    }

    fn capture_as(
        node: &Node<'_>,
        workload: &Arc<Workload>,
        state: PodState,
    ) -> Result<(Self, PodSockets), PodError> {
        let netns = locate(node, workload)?;
        let directory = node.pins.pod(&workload.uid);
        let is_new = !directory.exists();
        let inside = netns.enter().map_err(PodError::Enter)?;
        let accept_local_was_off = !route::is_accept_local_on().map_err(PodError::Route)?;
        let fresh = PodConfig {
            accept_local_was_off: u8::from(accept_local_was_off),
            ..PodConfig::default()
        };
        let result = Self::capture_inside(node, workload, &netns, (fresh, state));
        if result.is_err() && is_new {
            pins::remove_tree(&directory);
            if let Err(error) = undo(accept_local_was_off) {
                tracing::debug!(pod = %workload.uid, %error, "cannot undo a capture");
            }
        }
        drop(inside);
        result
    }

    fn capture_inside(
        node: &Node<'_>,
        workload: &Arc<Workload>,
        netns: &Netns,
        (fresh, state): (PodConfig, PodState),
    ) -> Result<(Self, PodSockets), PodError> {
        let directory = node.pins.pod(&workload.uid);
        let addresses = Addresses::read().map_err(PodError::Interface)?;
        let interface = addresses.interface_of(&workload.addresses);
        let interface = interface.map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV) => PodError::NoInterface,
            _ => PodError::Interface(error),
        })?;
        let found = addresses.global_of(&interface.name);
        verify(workload, &addresses, &found)?;
        route::ensure().map_err(PodError::Route)?;
        let mut instance = match node.spares.claim(&directory)? {
            Some(spare) => spare,
            None => load::load_pod(node.pins, &directory, node.debug_log)?,
        };
        let mut maps = PodMaps::take(&mut instance.ebpf)?;
        write_entries(&mut maps, workload, &found, &addresses)?;
        let mut earlier = maps.config()?;
        let comes_back = earlier.state == PodState::DRAINING.0;
        if earlier.state == 0 {
            earlier = fresh;
        }
        let config = config_of(node, workload, state, &earlier);
        let listeners = Listeners::open(node.connector, &mut maps)?;
        // What was counted up to here was an earlier agent's, or nobody's.
        let counted = maps.counters();
        maps.set_config(config)?;
        let attachment = Attachment::attach(node.pins, &directory, netns, interface, instance)?;
        // Before, what is opened meanwhile would be neither listed nor captured.
        let existing = list_existing(node, workload, state, (&found, &addresses));
        let ledger = Ledger::begin(counted, existing.count());
        let captured_since = match comes_back {
            true => SystemTime::now(),
            false => pinned_at(&directory),
        };
        let pod = Self {
            workload: Arc::clone(workload),
            netns: netns.clone(),
            addresses: found,
            directory,
            maps,
            attachment,
            captured_since,
            held_since: None,
            existing,
            close_existing_after: close_existing_after(node, workload),
            drain_until: None,
            error: None,
            broken: None,
            watch: listeners.watch.clone(),
            accepted_before: Directions::default(),
            ledger,
            refused: 0,
        };
        let sockets = listeners.of(&pod);
        Ok((pod, sockets))
    }

    /// Whether it is captured, rather than on its way out.
    pub(super) fn is_active(&self) -> bool {
        self.drain_until.is_none()
    }

    /// Whether something of it could not be put back.
    pub(super) fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    /// Whether the workload's namespace is still the one that is captured.
    pub(super) fn is_in(&self, node: &Node<'_>, workload: &Workload) -> bool {
        locate(node, workload).is_ok_and(|netns| netns.id() == self.netns.id())
    }

    /// Whether the namespace is still where it was; if not, the pod is gone.
    pub(super) fn exists(&self, node: &Node<'_>) -> bool {
        self.is_in(node, &self.workload)
    }

    /// Writes what changed about the workload.
    pub(super) fn update(
        &mut self,
        node: &Node<'_>,
        workload: &Arc<Workload>,
    ) -> Result<(), PodError> {
        let is_known = self.workload.addresses == workload.addresses;
        self.workload = Arc::clone(workload);
        self.close_existing_after = close_existing_after(node, workload);
        let addresses = self
            .netns
            .within(Addresses::read)
            .map_err(PodError::Enter)?
            .map_err(PodError::Interface)?;
        let found = addresses.global_of(&self.attachment.interface.name);
        // Once found there, what the pod does with its addresses does not set it free.
        if !is_known {
            verify(workload, &addresses, &found)?;
        }
        write_entries(&mut self.maps, workload, &found, &addresses)?;
        let earlier = self.maps.config()?;
        let config = config_of(node, workload, PodState(earlier.state), &earlier);
        if config != earlier {
            self.maps.set_config(config)?;
        }
        Ok(())
    }

    /// Stops capturing new connections; [`Pod::is_drained`] says when to [`Pod::remove`] it.
    pub(super) fn begin_release(&mut self) -> Result<(), PodError> {
        let mut config = self.maps.config()?;
        config.state = PodState::DRAINING.0;
        self.maps.set_config(config)?;
        self.drain_until = Some(Instant::now() + DRAIN_DEADLINE);
        Ok(())
    }

    /// Whether it is on its way out and nothing holds it any more.
    pub(super) fn is_drained(&self, node: &Node<'_>) -> bool {
        let Some(deadline) = self.drain_until else {
            return false;
        };
        if Instant::now() >= deadline || !self.exists(node) {
            return true;
        }
        let ours = self.netns.within(|| {
            let own = Addresses::read()?.others(&[]);
            let ends = route::local_ends()?;
            let foreign = |end: &SocketAddr| !end.ip().is_loopback() && !own.contains(&end.ip());
            Ok::<_, io::Error>(ends.iter().any(foreign))
        });
        matches!(ours, Ok(Ok(false)))
    }

    /// Detaches and removes everything of the pod. What fails is logged: a namespace that is gone
    /// took most of it along.
    pub(super) fn remove(self) {
        let accept_local_was_off = self
            .maps
            .config()
            .is_ok_and(|config| config.accept_local_was_off == 1);
        let removed = self.netns.within(|| {
            self.attachment.detach()?;
            // Links go with their last pin and descriptor, before the routes that they need.
            pins::remove_tree(&self.directory);
            drop(self.attachment);
            route::remove(accept_local_was_off)
        });
        if let Err(error) = removed.and_then(|inner| inner) {
            tracing::debug!(pod = %self.workload.uid, %error, "some of a pod's capture was gone");
        }
    }
}

/// A workload's namespace: where its manifest says, or where its sandbox is.
fn locate(node: &Node<'_>, workload: &Workload) -> Result<Netns, PodError> {
    if let Some(path) = &workload.netns {
        return Netns::open(path).map_err(|source| PodError::Netns {
            path: path.clone(),
            source,
        });
    }
    if let Some(sandbox) = node.sandboxes.find(&workload.uid) {
        return Ok(sandbox.netns);
    }
    match node.sandboxes.refusal(&workload.uid) {
        Some(reason) => Err(PodError::Sandbox(reason)),
        None => Err(PodError::NoSandbox),
    }
}

/// A namespace that was found by its cgroup must have the pod's address, as soon as that is known.
fn verify(workload: &Workload, addresses: &Addresses, found: &[IpAddr]) -> Result<(), PodError> {
    let known = &workload.addresses;
    if workload.netns.is_some() || known.is_empty() || addresses.has_any(known) {
        return Ok(());
    }
    Err(PodError::Address {
        known: known.clone(),
        found: found.to_vec(),
    })
}

fn close_existing_after(node: &Node<'_>, workload: &Workload) -> Option<Duration> {
    workload.close_existing_after.or(node.close_existing_after)
}

/// When the pod was captured, by whichever agent: a link is pinned when it is in force, and only
/// updated from then on. Without tcx only the choice of listeners has one.
fn pinned_at(directory: &Path) -> SystemTime {
    [names::CAPTURE_OUTBOUND, names::PICK_LISTENER]
        .iter()
        .find_map(|program| {
            let link = fs::metadata(directory.join(attach::link_name(program))).ok()?;
            link.modified().ok()
        })
        .unwrap_or_else(SystemTime::now)
}

/// The connections that the pod has already, and that nobody captured. A kernel that does not tell (no
/// inet_diag) is no reason to leave the pod out of the mesh.
fn list_existing(
    node: &Node<'_>,
    workload: &Workload,
    state: PodState,
    (found, addresses): (&[IpAddr], &Addresses),
) -> Existing {
    if state != PodState::ACTIVE {
        return Existing::default();
    }
    let ends = Ends {
        pod: own_addresses(workload, found),
        interface: found,
        own: &addresses.all(),
    };
    Existing::list(node.pins, &ends).unwrap_or_else(|error| {
        let pod = workload.dotted_name();
        tracing::warn!(pod, %error, "cannot list the connections that are older than the capture");
        Existing::default()
    })
}

/// Before the pod's status says its addresses they are what its interface has.
fn own_addresses<'a>(workload: &'a Workload, found: &'a [IpAddr]) -> &'a [IpAddr] {
    match workload.addresses.as_slice() {
        [] => found,
        known => known,
    }
}

/// Removes what is pinned for a pod that is not to be captured, found at start.
pub(super) fn sweep(node: &Node<'_>, directory: &Path, workload: Option<&Arc<Workload>>) {
    // With no namespace to enter, unpinning detaches all but clsact filters, which go with it.
    pins::remove_tree(directory);
    let Some(netns) = workload.and_then(|workload| locate(node, workload).ok()) else {
        return;
    };
    let removed = netns.within(|| undo(false));
    if let Err(error) = removed.and_then(|inner| inner) {
        tracing::debug!(path = %directory.display(), %error, "cannot sweep a namespace");
    }
}

/// Removes filters, rules and routes, whoever added them. In the pod's namespace.
pub(super) fn undo(accept_local_was_off: bool) -> io::Result<()> {
    for interface in Addresses::read()?.interfaces() {
        netlink::remove_filters(interface)?;
    }
    route::remove(accept_local_was_off)
}

fn write_entries(
    maps: &mut PodMaps,
    workload: &Workload,
    found: &[IpAddr],
    addresses: &Addresses,
) -> Result<(), MapError> {
    let own = own_addresses(workload, found);
    let others = addresses.others(own);
    maps.addresses.set(&maps::address_entries(own, &others))?;
    maps.port_modes
        .set(&maps::port_mode_entries(&workload.inbound))
}

fn config_of(
    node: &Node<'_>,
    workload: &Workload,
    state: PodState,
    earlier: &PodConfig,
) -> PodConfig {
    PodConfig {
        state: state.0,
        on_death: node.on_death.0,
        default_mode: maps::inbound_mode(workload.inbound.default).0,
        accept_local_was_off: earlier.accept_local_was_off,
        outbound: match workload.scope.policy {
            OutboundPolicy::AllowAny => OutboundReach::MESH.0,
            OutboundPolicy::RegistryOnly => OutboundReach::EVERYTHING.0,
        },
        reserved: [0; 3],
    }
}
