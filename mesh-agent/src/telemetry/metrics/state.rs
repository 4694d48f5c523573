// SPDX-License-Identifier: Apache-2.0

//! What the agent's own metrics show, as plain values that a scrape fills.
//!
//! Knows nothing of names of metrics or of text formats.

/// What the agent's own metrics show, as read at one moment.
#[derive(Clone, Debug, Default)]
pub struct AgentState {
    /// The newest snapshot's generation.
    pub generation: u64,
    /// The oldest generation that the kernel or a data thread works with.
    pub applied_generation: u64,
    /// Time since the configuration was loaded.
    pub config_age_seconds: Option<f64>,
    /// Where configuration comes from.
    pub source: SourceState,
    /// Number of problems by severity.
    pub problems: Vec<(String, usize)>,
    /// Expiry of the live certificates, in seconds since 1970, by identity.
    pub certificates: Vec<(String, u64)>,
    /// The enrolled pods of this node.
    pub pods: Vec<PodState>,
    /// Kernel counters that belong to no pod, by name.
    pub kernel: Vec<(String, u64)>,
    /// Connections that should have been captured and were not, by direction and reason.
    pub missed: Vec<([String; 2], u64)>,
    /// Round-trip times in seconds, by quantile (`0.5`).
    pub round_trips: Vec<(String, f64)>,
    /// Segments sent again, of the captured connections that closed last.
    pub recent_retransmits: u64,
    /// Live tasks by name.
    pub tasks: Vec<(&'static str, usize)>,
    /// Tasks that panicked.
    pub task_panics: u64,
    /// Dropped lines of the agent's log.
    pub log_dropped: u64,
}

/// What the agent's own metrics show about the source of configuration.
#[derive(Clone, Debug, Default)]
pub struct SourceState {
    /// Its name.
    pub kind: &'static str,
    /// Whether every change of it arrives now.
    pub synced: bool,
    /// How old the configuration is, if it was only read from disk.
    pub from_disk_age_seconds: Option<f64>,
    /// Time since it was last heard of.
    pub last_event_age_seconds: Option<f64>,
    /// How often the configuration could not be written to disk.
    pub disk_errors: u64,
    /// What is read from it.
    pub kinds: Vec<KindState>,
}

/// What the agent's own metrics show about one kind of objects.
#[derive(Clone, Debug, Default)]
pub struct KindState {
    /// The kind.
    pub kind: &'static str,
    /// Whether changes arrive now.
    pub watching: bool,
    /// Number of objects in force.
    pub objects: usize,
    /// How often following it began again.
    pub restarts: u64,
    /// How often that was because something went wrong.
    pub errors: u64,
}

/// What the agent's own metrics show about one pod.
#[derive(Clone, Debug, Default)]
pub struct PodState {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether the kernel captures its traffic.
    pub captured: bool,
    /// Its live connections, if they are known.
    pub connections: Option<usize>,
    /// Its budgets.
    pub budgets: Vec<BudgetState>,
    /// Kernel counters by name.
    pub kernel: Vec<(String, u64)>,
}

/// What the agent's own metrics show about one budget of a pod.
#[derive(Clone, Debug, Default)]
pub struct BudgetState {
    /// What of.
    pub budget: &'static str,
    /// Which side of the pod.
    pub side: &'static str,
    /// What is held.
    pub used: u64,
    /// What could be held now.
    pub limit: u64,
    /// How often somebody had to wait.
    pub held_back: u64,
    /// How often somebody was refused.
    pub refused: u64,
}

impl PodState {
    pub(super) fn labels(&self) -> [String; 2] {
        [self.namespace.clone(), self.name.clone()]
    }
}
