// SPDX-License-Identifier: Apache-2.0

//! Who may talk to a workload: the AuthorizationPolicies that select it, compiled, and the judgement.
//!
//! A connection is judged before its first byte, a request when its head is there. What a policy
//! asks for and nobody knows yet counts against the caller: an ALLOW rule that asks for it does
//! not match, a DENY rule matches if the rest of it does. Hence a connection that is allowed
//! without a look at its requests would have each of them allowed, and one that is denied each
//! of them denied; only in between requests must be looked at ([`Verdict::Depends`]).
//!
//! Knows nothing of sockets or Kubernetes. Invariants: evaluation cannot fail; it allocates nothing.
//! Reference: istio/api `security/v1beta1/authorization_policy.proto`; ADR 15.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{provider::Provider, spiffe::SpiffeId};

mod aliases;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod pattern;
mod reading;
mod rule;
#[cfg(test)]
mod tests;

pub use self::{
    pattern::{Clause, HostPattern, NotTemplate, PathPattern, Pattern},
    reading::RequestReading,
    rule::{Condition, Operation, Rule, Source},
};

/// What a policy does with what its rules match. In the order of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Asks a provider, a service of the user's; without one, denies.
    Custom,
    /// Denies.
    Deny,
    /// Allows; what no such policy matches is denied where there is one.
    Allow,
    /// Marks, and decides nothing.
    Audit,
}

impl Action {
    /// As manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Custom => "CUSTOM",
            Self::Deny => "DENY",
            Self::Allow => "ALLOW",
            Self::Audit => "AUDIT",
        }
    }

    /// Whether a match speaks against the caller.
    fn is_against(self) -> bool {
        match self {
            Self::Custom | Self::Deny => true,
            Self::Allow | Self::Audit => false,
        }
    }
}

/// One AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    name: Arc<str>,
    action: Action,
    dry_run: bool,
    rules: Vec<Rule>,
    provider: Option<Arc<str>>,
    denial: String,
}

impl Policy {
    /// The policy `name` (`<namespace>/<name>`). Without rules it matches nothing.
    pub fn new(name: &str, action: Action, dry_run: bool, rules: Vec<Rule>) -> Self {
        Self {
            name: name.into(),
            action,
            dry_run,
            rules,
            provider: None,
            denial: format!("rbac_access_denied_matched_policy[{name}]"),
        }
    }

    /// The same with a provider of that name to be asked.
    pub fn asking(self, provider: Option<Arc<str>>) -> Self {
        Self { provider, ..self }
    }

    /// The name of the provider that it asks.
    pub fn provider(&self) -> Option<&Arc<str>> {
        self.provider.as_ref()
    }

    /// `<namespace>/<name>`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What it does.
    pub fn action(&self) -> Action {
        self.action
    }

    /// Whether it is evaluated and told of, but never enforced.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Its rules; one of them must match.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    fn matches(&self, caller: &Caller<'_>, known: Known<'_>) -> bool {
        let against = self.action.is_against();
        let mut rules = self.rules.iter();
        rules.any(|rule| rule.matches(caller, known, against))
    }
}

/// A policy as it applies to one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The workload's ports that it is about, if not all.
    pub ports: Option<Arc<[u16]>>,
    /// What a CUSTOM policy asks.
    pub provider: Option<Arc<Provider>>,
}

impl Attached {
    fn covers(&self, port: u16) -> bool {
        let ports = self.ports.as_deref();
        ports.is_none_or(|ports| ports.contains(&port))
    }
}

/// All policies of one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorization {
    /// In the order of evaluation.
    attached: Vec<Attached>,
    has_remarks: bool,
}

/// Who wants in, and where.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Whom the caller proved to be; plaintext proves nothing.
    pub identity: Option<&'a SpiffeId>,
    /// The caller's address; `None` if what the connection says of it is not to be believed.
    pub address: Option<IpAddr>,
    /// The workload's address and port.
    pub to: SocketAddr,
}

/// What is known of the request.
#[derive(Clone, Copy, Debug)]
enum Known<'a> {
    /// Its head.
    Request(&'a RequestReading<'a>),
    /// Nothing: what rules ask of it counts against the caller.
    Nothing,
    /// Nothing, and it may turn out to be whatever is best for the caller.
    Anything,
}

/// Why a caller is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial(Option<Arc<Policy>>);

impl Denial {
    /// The policy that matched; `None` if no policy that would have allowed it did.
    pub fn policy(&self) -> Option<&Arc<Policy>> {
        self.0.as_ref()
    }

    /// In the words of Envoy's response code details.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Some(policy) => &policy.denial,
            None => "rbac_access_denied_matched_policy[none]",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What becomes of a connection before its first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Whatever is asked for on it is allowed.
    Allowed,
    /// Whatever is asked for on it is denied.
    Denied(Denial),
    /// It depends on the requests; denied if there are none to be judged.
    Depends(Denial),
}

/// What is to be told of policies that are not enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Remark {
    /// An AUDIT policy matches.
    Audited,
    /// With dry-run policies in force it would have been denied.
    WouldDeny,
}

impl Authorization {
    /// Puts policies in the order of evaluation.
    pub fn new(mut attached: Vec<Attached>) -> Self {
        attached.sort_by(|a, b| {
            let key = |one: &Attached| (one.policy.action, Arc::clone(&one.policy.name));
            key(a).cmp(&key(b))
        });
        let remarkable = |one: &Attached| one.policy.dry_run || one.policy.action == Action::Audit;
        Self {
            has_remarks: attached.iter().any(remarkable),
            attached,
        }
    }

    /// The policies, in the order of evaluation.
    pub fn policies(&self) -> &[Attached] {
        &self.attached
    }

    /// Judges a connection.
    pub fn connection(&self, caller: &Caller<'_>) -> Verdict {
        let Err(denial) = self.judge(caller, Known::Nothing, false) else {
            return Verdict::Allowed;
        };
        match self.judge(caller, Known::Anything, false) {
            Ok(()) => Verdict::Depends(denial),
            Err(denial) => Verdict::Denied(denial),
        }
    }

    /// The providers that a request is to be asked about, each once, before it is judged.
    pub fn providers(
        &self,
        caller: &Caller<'_>,
        request: &RequestReading<'_>,
    ) -> Vec<Arc<Provider>> {
        let mut providers: Vec<Arc<Provider>> = Vec::new();
        for one in self.attached_at(caller.to.port(), false) {
            let Some(provider) = &one.provider else {
                continue;
            };
            let known = providers.contains(provider);
            if !known && one.policy.matches(caller, Known::Request(request)) {
                providers.push(Arc::clone(provider));
            }
        }
        providers
    }

    /// Judges a request, which the [`providers`](Self::providers) that there are allow.
    ///
    /// # Errors
    /// If it is denied.
    pub fn request(&self, caller: &Caller<'_>, request: &RequestReading<'_>) -> Result<(), Denial> {
        self.judge(caller, Known::Request(request), false)
    }

    /// What policies that are not enforced have to say: about a request, or about a connection
    /// whose requests nobody looks at, as far as that is known.
    pub fn remarks(
        &self,
        caller: &Caller<'_>,
        request: Option<&RequestReading<'_>>,
        mut tell: impl FnMut(Remark, &Denial),
    ) {
        if !self.has_remarks {
            return;
        }
        let known = request.map_or(Known::Anything, Known::Request);
        if let Err(denial) = self.judge(caller, known, true)
            && self.judge(caller, known, false).is_ok()
        {
            tell(Remark::WouldDeny, &denial);
        }
        let known = request.map_or(Known::Nothing, Known::Request);
        for policy in self.at(caller.to.port(), true) {
            if policy.action == Action::Audit && policy.matches(caller, known) {
                tell(Remark::Audited, &Denial(Some(Arc::clone(policy))));
            }
        }
    }

    fn attached_at(&self, port: u16, dry_run: bool) -> impl Iterator<Item = &Attached> {
        let attached = self.attached.iter();
        attached.filter(move |one| (dry_run || !one.policy.dry_run) && one.covers(port))
    }

    fn at(&self, port: u16, dry_run: bool) -> impl Iterator<Item = &Arc<Policy>> {
        self.attached_at(port, dry_run).map(|one| &one.policy)
    }

    /// Judges; dry-run policies count if `dry_run`. What a provider would say of a request counts
    /// as a yes: it was asked; of a connection, nobody knows.
    fn judge(&self, caller: &Caller<'_>, known: Known<'_>, dry_run: bool) -> Result<(), Denial> {
        let mut closed = false;
        for one in self.attached_at(caller.to.port(), dry_run) {
            let policy = &one.policy;
            if one.provider.is_some() && !matches!(known, Known::Nothing) {
                continue;
            }
            let matches = policy.action != Action::Audit && policy.matches(caller, known);
            match policy.action {
                Action::Custom | Action::Deny if matches => {
                    return Err(Denial(Some(Arc::clone(policy))));
                }
                // The order of evaluation: no policy that denies comes behind.
                Action::Allow if matches => return Ok(()),
                Action::Allow => closed = true,
                Action::Custom | Action::Deny | Action::Audit => {}
            }
        }
        if closed { Err(Denial(None)) } else { Ok(()) }
    }
}
