// SPDX-License-Identifier: Apache-2.0

//! What each workload may hold of what the node has, so that one workload's flood leaves its neighbours what
//! they need; and who holds how much.
//!
//! A captured pod has two sides, each with budgets of its own: what its applications ask for, and what others
//! ask of it. Of what others ask, one address may have eight times what it leaves to the rest.
//!
//! Knows nothing of sockets or protocols. Invariants: a workload that is within its share never waits
//! because of another; a budget ends nothing that lives; whoever is held back or refused is counted where it was
//! the cause, and one warning for each episode names it. How shares are found: `account`.

mod account;
mod ledger;
mod limits;
mod loan;
mod peers;
mod pieces;

use std::{net::IpAddr, sync::Arc};

use self::account::Pool;
pub use self::limits::BudgetLimits;
pub(crate) use self::{
    account::Permit,
    ledger::Ledger,
    loan::Loan,
    peers::{Guest, Peers},
    pieces::Pieces,
};
use super::listen::Way;
use crate::model::Workload;

/// What there are budgets of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Budget {
    /// Accepted sockets, and streams of tunnels that lead to an application.
    Connections,
    /// TLS handshakes of tunnels that are under way.
    Handshakes,
    /// Requests of HTTP that are under way.
    Requests,
    /// What may be held for readers that stop, beyond what each connection and request may.
    Bytes,
}

impl Budget {
    /// Its name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Handshakes => "handshakes",
            Self::Requests => "requests",
            Self::Bytes => "bytes",
        }
    }
}

/// What the node has.
#[derive(Debug)]
pub(crate) struct Budgets {
    connections: Arc<Pool>,
    handshakes: Arc<Pool>,
    requests: Arc<Pool>,
    bytes: Arc<Pool>,
    limits: BudgetLimits,
    threads: usize,
}

/// What one pod holds of it.
#[derive(Debug)]
pub(crate) struct PodBudgets {
    /// What its applications ask for.
    pub(crate) outbound: Side,
    /// What others ask of it.
    pub(crate) inbound: Side,
    /// Handshakes with its agent.
    pub(crate) handshakes: Ledger,
    /// What its tunnels to others take.
    pub(crate) tunnels: OfTunnels,
    /// Those others.
    pub(crate) peers: Peers,
}

/// What tunnels take of the budgets of the pod that they are for.
#[derive(Clone, Debug)]
pub(crate) struct OfTunnels {
    /// Handshakes with others' agents: they outlive the connection that wanted them.
    pub(crate) handshakes: Arc<Ledger>,
    /// What their streams may hold.
    pub(crate) bytes: Arc<Ledger>,
}

/// The budgets of one side of a pod.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) connections: Ledger,
    pub(crate) requests: Pieces,
    pub(crate) bytes: Arc<Ledger>,
}

/// One budget of one side of a pod as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetView {
    /// What of.
    pub budget: Budget,
    /// `outbound` for what the pod asks for, `inbound` for what is asked of it.
    pub side: &'static str,
    /// What it holds.
    pub used: usize,
    /// What it could hold now.
    pub limit: usize,
    /// How often somebody had to wait for it.
    pub held_back: u64,
    /// How often somebody was refused for it.
    pub refused: u64,
    /// Who holds most of what is asked of the pod, with how much.
    pub peers: Vec<(IpAddr, usize)>,
}

impl Budgets {
    /// What a node with so many data threads has by `limits`.
    pub(crate) fn new(limits: &BudgetLimits, threads: usize) -> Self {
        let most = limits.workload_connections;
        Self {
            connections: Pool::new(limits.connections, limits::OWN_CONNECTIONS, most),
            handshakes: Pool::new(limits.handshakes, limits::OWN_HANDSHAKES, usize::MAX),
            requests: Pool::new(limits.requests, limits::OWN_REQUESTS, usize::MAX),
            bytes: Pool::new(limits.bytes, limits::OWN_BYTES, usize::MAX),
            limits: *limits,
            threads,
        }
    }

    /// Budgets for a pod that is captured.
    pub(crate) fn open(&self, workload: &Arc<Workload>) -> PodBudgets {
        let ledger = |pool: &Arc<Pool>, way, budget| {
            Ledger::new(pool.open(), Arc::clone(workload), way, budget)
        };
        let side = |way| Side {
            connections: ledger(&self.connections, way, Budget::Connections),
            requests: {
                let ledger = ledger(&self.requests, way, Budget::Requests);
                Pieces::new(ledger, self.threads)
            },
            bytes: Arc::new(ledger(&self.bytes, way, Budget::Bytes)),
        };
        let outbound = side(Way::Outbound);
        let handshakes = |way| ledger(&self.handshakes, way, Budget::Handshakes);
        PodBudgets {
            tunnels: OfTunnels {
                handshakes: Arc::new(handshakes(Way::Outbound)),
                bytes: Arc::clone(&outbound.bytes),
            },
            outbound,
            inbound: side(Way::Inbound),
            handshakes: handshakes(Way::Inbound),
            peers: Peers::new(self.limits.peer_handshakes()),
        }
    }
}

impl PodBudgets {
    /// The budgets of connections that go `way`.
    pub(crate) fn side(&self, way: Way) -> &Side {
        match way {
            Way::Outbound => &self.outbound,
            Way::Inbound => &self.inbound,
        }
    }

    /// All of them as they are now.
    pub(crate) fn observe(&self) -> Vec<BudgetView> {
        let (outbound, inbound) = (&self.outbound, &self.inbound);
        let mut views = vec![
            outbound.connections.observe(),
            outbound.requests.observe(),
            outbound.bytes.observe(),
            self.tunnels.handshakes.observe(),
            inbound.connections.observe(),
            inbound.requests.observe(),
            inbound.bytes.observe(),
            self.handshakes.observe(),
        ];
        for view in &mut views {
            if (view.side, view.budget) == ("inbound", Budget::Connections) {
                view.peers = self.peers.foremost();
            }
        }
        views
    }
}
