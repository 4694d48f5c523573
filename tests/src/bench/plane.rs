// SPDX-License-Identifier: Apache-2.0

//! A data plane under test: its nodes, pods and applications, and the processes that are it.
//!
//! Each plane has a lab of its own, so that all can be up at once and be measured in turn. Knows
//! nothing of what is measured. Invariant: what [`Plane::pids`] names is all that works for the
//! plane outside the kernel.

use std::{path::PathBuf, time::Instant};

use super::{
    Options,
    account::with_descendants,
    envoy, peer,
    stage::{self, Stage},
};
use crate::Agent;

/// What stands between the pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Direct,
    /// Two Envoys as Istio's sidecars, with HTTP connection managers.
    EnvoyHttp,
    /// The same with TCP proxies.
    EnvoyTcp,
    /// Our agent, one per node.
    Agent,
    /// Whatever an adapter brings up.
    Peer { name: String, adapter: PathBuf },
}

/// A plane that is to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) kind: Kind,
    /// Both pods on one node.
    pub(super) one_node: bool,
}

/// What the names of planes on one node begin with.
pub(super) const SAME: &str = "same-";

/// What every run has, in the order of the columns.
const USUAL: &[(Kind, bool)] = &[
    (Kind::Direct, false),
    (Kind::EnvoyHttp, false),
    (Kind::EnvoyTcp, false),
    (Kind::Agent, false),
    (Kind::Direct, true),
    (Kind::EnvoyHttp, true),
    (Kind::Agent, true),
];

/// The usual planes and `peers` (`NAME=PATH`), or of those only the `named`.
pub(super) fn choose(named: &[String], peers: &[String]) -> Result<Vec<Wanted>, String> {
    let usual = USUAL.iter().map(|(kind, one_node)| Wanted {
        kind: kind.clone(),
        one_node: *one_node,
    });
    let mut all: Vec<Wanted> = usual.collect();
    for text in peers {
        let (name, path) = text
            .split_once('=')
            .ok_or(format!("--peer {text:?}: it is NAME=PATH"))?;
        let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
        if name.is_empty() || name.starts_with(SAME) || !name.chars().all(plain) {
            return Err(format!(
                "--peer {text:?}: a name has letters, digits and hyphens, and does not begin \
                 with {SAME:?}"
            ));
        }
        if all.iter().any(|wanted| wanted.name() == name) {
            return Err(format!("--peer {text:?}: the name {name:?} is taken"));
        }
        let (name, adapter) = (name.to_owned(), PathBuf::from(path));
        all.push(Wanted {
            kind: Kind::Peer { name, adapter },
            one_node: false,
        });
    }
    for name in named {
        if !all.iter().any(|wanted| wanted.name() == *name) {
            let known: Vec<String> = all.iter().map(Wanted::name).collect();
            let known = known.join(", ");
            return Err(format!("no plane {name:?}; there are {known}"));
        }
    }
    all.retain(|wanted| named.is_empty() || named.contains(&wanted.name()));
    Ok(all)
}

impl Wanted {
    /// Its name in tables and files.
    pub(super) fn name(&self) -> String {
        let name = match &self.kind {
            Kind::Direct => "direct",
            Kind::EnvoyHttp => "envoy-http",
            Kind::EnvoyTcp => "envoy-tcp",
            Kind::Agent => "agent",
            Kind::Peer { name, .. } => name,
        };
        format!("{}{name}", if self.one_node { SAME } else { "" })
    }

    /// Whether a neighbour that floods may be measured: a sidecar has none, and an adapter knows of no second client.
    pub(super) fn may_have_rival(&self) -> bool {
        matches!(self.kind, Kind::Direct | Kind::Agent)
    }

    /// What it is, in a few words.
    pub(super) fn about(&self) -> String {
        let place = if self.one_node {
            "both pods on one node"
        } else {
            "two nodes"
        };
        let what = match &self.kind {
            Kind::Direct => "no mesh".to_owned(),
            Kind::EnvoyHttp => "two Envoys as Istio's sidecars, HTTP routing, mTLS".to_owned(),
            Kind::EnvoyTcp => "two Envoys as Istio's sidecars, TCP proxies, mTLS".to_owned(),
            Kind::Agent => "mesh-agent, HTTP routing, mTLS STRICT, metrics".to_owned(),
            Kind::Peer { adapter, .. } => format!("by {}", adapter.display()),
        };
        format!("{what}; {place}")
    }
}

/// What runs between the pods.
enum Proxies {
    Nothing,
    Envoys(envoy::Pair),
    Agents(Vec<Agent>),
    Peer(peer::Peer),
}

/// A plane that is up.
pub(super) struct Plane {
    pub(super) name: String,
    pub(super) wanted: Wanted,
    proxies: Proxies,
    /// When it was up.
    pub(super) since: Instant,
    /// Dropped last: its nodes go with it.
    pub(super) stage: Stage,
}

impl Plane {
    /// Brings a plane up as the benchmark was asked to.
    ///
    /// # Panics
    /// When something does not start.
    #[track_caller]
    pub(super) fn up(wanted: &Wanted, options: &Options) -> Self {
        let with_service = matches!(wanted.kind, Kind::EnvoyHttp | Kind::EnvoyTcp | Kind::Agent);
        let mut stage = Stage::set(wanted, with_service, options);
        let proxies = match &wanted.kind {
            Kind::Direct => Proxies::Nothing,
            Kind::EnvoyHttp => Proxies::Envoys(envoy::Pair::start(&stage, true)),
            Kind::EnvoyTcp => Proxies::Envoys(envoy::Pair::start(&stage, false)),
            Kind::Agent => Proxies::Agents(stage::start_agents(&stage, &options.agent_flags)),
            Kind::Peer { adapter, .. } => Proxies::Peer(peer::Peer::up(&mut stage, adapter)),
        };
        Self {
            name: wanted.name(),
            wanted: wanted.clone(),
            proxies,
            since: Instant::now(),
            stage,
        }
    }

    /// The processes that are the data plane.
    pub(super) fn pids(&self) -> Vec<u32> {
        let roots = match &self.proxies {
            Proxies::Nothing => Vec::new(),
            Proxies::Envoys(pair) => pair.pids(),
            Proxies::Agents(agents) => agents.iter().map(Agent::pid).collect(),
            Proxies::Peer(peer) => peer.pids(),
        };
        with_descendants(&roots)
    }

    /// What its processes wrote last, for a failure's sake.
    pub(super) fn last_words(&self) -> String {
        match &self.proxies {
            Proxies::Nothing | Proxies::Peer(_) => String::new(),
            Proxies::Envoys(pair) => pair.last_words(),
            Proxies::Agents(agents) => agents.iter().map(Agent::log_tail).collect(),
        }
    }

    /// Takes it down.
    pub(super) fn down(self) {
        drop(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_plane_has_a_name_of_its_own() {
        let mut names: Vec<String> = choose(&[], &[])
            .expect("nothing is named")
            .iter()
            .map(Wanted::name)
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), USUAL.len());
        assert!(names.contains(&"same-agent".to_owned()));
    }
}
