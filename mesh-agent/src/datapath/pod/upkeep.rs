// SPDX-License-Identifier: Apache-2.0

//! A captured pod is looked after: what its processes broke is put back, what cannot be is told, and
//! what the kernel counted is compared with what was accepted.
//!
//! Invariant: whatever a pod does to its namespace ends what it opens, or leaves it captured; and as
//! long as something is not as it should be, [`PodObservation`] says so.

use std::{collections::HashSet, io, net::SocketAddr};

use mesh_common::PodState;

use super::{Node, Pod, PodError};
use crate::{
    datapath::{
        PodSockets,
        ledger::{Counters, Missed},
        listeners::Listeners,
        observe::PodObservation,
        route,
        sandbox::Sandboxes,
    },
    telemetry::chain,
};

/// Listener choice, guard and capture.
const PROGRAMS_PER_POD: usize = 3;

/// What a look after a pod brought.
#[derive(Default)]
pub(in super::super) struct Upkeep {
    /// How much had to be put back.
    pub(in super::super) repairs: u64,
    /// New listeners, in place of those that were ended.
    pub(in super::super) sockets: Option<PodSockets>,
    /// What was missed that was not told yet.
    pub(in super::super) missed: Missed,
}

impl Pod {
    /// Whether every program is still attached: an interface that was replaced took its own along.
    pub(in super::super) fn is_whole(&self) -> bool {
        self.attachment.attached().len() == PROGRAMS_PER_POD
    }

    /// Puts back what the pod removed. Keeps what cannot be for [`Pod::observe`].
    pub(in super::super) fn reconcile(&mut self, node: &Node<'_>) -> Upkeep {
        let mut upkeep = Upkeep::default();
        let is_in_place = self.netns.within(|| self.attachment.is_in_place());
        self.broken = match is_in_place.and_then(|inner| inner) {
            Ok(true) => None,
            Ok(false) => Some(self.moved_away()),
            Err(error) => Some(format!("its interface cannot be asked after: {error}")),
        };
        let repaired = self.netns.within(|| {
            let routes = route::ensure()?;
            let filters = match self.broken {
                None => self.attachment.reconcile()?,
                Some(_) => 0,
            };
            Ok::<_, io::Error>(routes + filters)
        });
        match repaired.and_then(|inner| inner) {
            Ok(repairs) => {
                self.error = None;
                upkeep.repairs = repairs;
            }
            Err(error) => {
                self.error = Some(format!("cannot put back rules and routes: {error}"));
            }
        }
        if self.is_active() {
            self.listen_again(node, &mut upkeep);
        }
        let (counters, accepted) = (self.maps.counters(), self.accepted());
        let (netns, watch) = (&self.netns, &self.watch);
        let waiting = || {
            let waiting = netns.within(|| watch.waiting());
            // What cannot be known counts as waiting: what was told is never taken back.
            waiting.and_then(|inner| inner).unwrap_or(u64::MAX)
        };
        upkeep.missed = self.ledger.settle(&counters, accepted, waiting);
        upkeep
    }

    fn moved_away(&self) -> String {
        let interface = &self.attachment.interface.name;
        if self.broken.is_none() {
            let pod = self.workload.dotted_name();
            tracing::warn!(
                pod,
                interface,
                "an interface was moved out of its pod's namespace"
            );
        }
        format!(
            "its interface {interface} is not in its network namespace any more: what passes it is \
             captured, and served by nobody"
        )
    }

    /// Opens listeners again that something in the namespace ended.
    fn listen_again(&mut self, node: &Node<'_>, upkeep: &mut Upkeep) {
        let refused = self.ledger.refusals(&self.maps.counters());
        if !self.watch.accepts.has_ended() && refused == self.refused {
            return;
        }
        self.refused = refused;
        match self.open_ended(node) {
            Ok(None) => {}
            Ok(Some(sockets)) => {
                let pod = self.workload.dotted_name();
                tracing::warn!(
                    pod,
                    "opened listeners again that were ended in a pod's namespace"
                );
                upkeep.repairs += 1;
                upkeep.sockets = Some(sockets);
            }
            Err(error) => {
                let error = chain(&error);
                self.error = Some(format!("cannot open its listeners again: {error}"));
            }
        }
    }

    fn open_ended(&mut self, node: &Node<'_>) -> Result<Option<PodSockets>, PodError> {
        let Self {
            netns, watch, maps, ..
        } = self;
        let opened = netns.within(|| {
            if watch.is_whole().map_err(PodError::Listen)? {
                return Ok(None);
            }
            Listeners::open(node.connector, maps).map(Some)
        });
        let Some(listeners) = opened.map_err(PodError::Enter)?? else {
            return Ok(None);
        };
        self.accepted_before = self.accepted();
        self.watch = listeners.watch.clone();
        Ok(Some(listeners.of(self)))
    }

    /// Notes which connections that are older than the capture have ended, ends those to ports that
    /// take no plaintext, and all at the deadline, if there is one.
    pub(in super::super) fn follow_existing(&mut self) {
        if !self.is_active() {
            return;
        }
        let age = self.captured_since.elapsed().unwrap_or_default();
        let (ended, why) = if self.close_existing_after.is_some_and(|limit| age >= limit) {
            (self.existing.close(&self.netns), "their time is over")
        } else {
            let policy = &self.workload.inbound;
            let ended = self.existing.close_refused(&self.netns, policy);
            (ended, "their port takes no plaintext")
        };
        self.ledger.note_older(self.existing.count());
        let pod = self.workload.dotted_name();
        match ended {
            Ok(0) => {}
            Ok(count) => {
                tracing::info!(pod, count, why, "ended connections older than the capture")
            }
            Err(error) => {
                self.error = Some(format!(
                    "cannot end connections older than the capture: {error}"
                ));
            }
        }
    }

    /// The sockets' local ends in the namespace.
    pub(in super::super) fn local_ends(&self) -> io::Result<HashSet<SocketAddr>> {
        self.netns.within(route::local_ends)?
    }

    /// Connections that the data threads took, since this agent serves the pod.
    fn accepted(&self) -> crate::datapath::Directions {
        self.accepted_before + self.watch.accepts.taken()
    }

    /// What something in the pod broke and is not put back yet.
    fn damage(&self, counters: &Counters) -> Option<String> {
        let is_refusing = || self.ledger.refusals(counters) != self.refused;
        match &self.broken {
            Some(broken) => Some(broken.clone()),
            None if !self.is_active() => None,
            None if self.watch.accepts.has_ended() => Some(
                "the agent's listeners in it were ended: new connections are refused until they \
                 are opened again"
                    .to_owned(),
            ),
            None => is_refusing().then(|| {
                "the kernel refuses new connections, as it finds no listener of the agent"
                    .to_owned()
            }),
        }
    }

    /// Its state, from the kernel.
    pub(in super::super) fn observe(&self, sandboxes: &Sandboxes) -> PodObservation {
        let sandbox = sandboxes.find(&self.workload.uid);
        let state = self
            .maps
            .config()
            .map_or("", |config| PodState(config.state).name());
        let counters = self.maps.counters();
        PodObservation {
            uid: self.workload.uid.clone(),
            netns: Some(self.netns.id()),
            interface: self.attachment.interface.name.clone(),
            hook: self.attachment.hook,
            programs: self.attachment.attached(),
            state,
            captured_since: Some(self.captured_since),
            held_since: self.held_since,
            error: self.error.clone(),
            broken: self.damage(&counters),
            books: self.ledger.read(&counters, self.accepted()),
            counters,
            waits: false,
            first_container: sandbox.and_then(|sandbox| sandbox.first_container),
            existing: self.existing.observe(&self.netns),
            close_existing_after: self.close_existing_after,
        }
    }
}
