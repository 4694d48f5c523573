// SPDX-License-Identifier: Apache-2.0

//! What each pod accepts: PeerAuthentication, and the legacy Policy and MeshPolicy, composed; and the
//! AuthorizationPolicies and RequestAuthentications that are for it.
//!
//! From weakest to strongest: permissive, MeshPolicy, PeerAuthentication of the mesh, Policy of the
//! namespace, Policy with targets, PeerAuthentication of the namespace, of the workload, of a port.
//! Of several objects at one place the oldest counts. Reference: Istio
//! `pilot/pkg/security/authn/policy_applier.go`; up to 1.4 `pilot/pkg/model/validation.go`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    authorization_facts::AuthorizationFacts,
    facts::{Findings, Meta, Shelf},
    gaps,
    guards::{Guards, Surroundings},
    object::Resource,
    pod::PodFacts,
    problem::{Origin, Severity, code},
    security::{LegacyMode, Mode, Mtls, Peer, PeerAuthenticationSpec, PolicySpec, TargetPort},
    selection::has_labels,
    service::{ServiceFacts, Target},
    token_rules::RequestAuthenticationFacts,
};
use crate::model::{
    InboundPolicy, MtlsMode, Protocol,
    token::{Speech, Spoken},
};

/// What matters of a PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerAuthenticationFacts {
    pub(super) meta: Meta,
    /// All pods of the namespace (or mesh) if empty.
    pub(super) selector: BTreeMap<String, String>,
    /// Inherited if `None`.
    pub(super) mode: Option<MtlsMode>,
    pub(super) ports: BTreeMap<u16, MtlsMode>,
    /// It stands where it has no effect.
    pub(super) idle: bool,
}

/// What matters of a Policy or MeshPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PolicyFacts {
    pub(super) meta: Meta,
    /// All pods of the namespace (or mesh) if empty.
    pub(super) targets: Vec<TargetFacts>,
    pub(super) mode: MtlsMode,
}

/// A Service whose pods are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TargetFacts {
    pub(super) service: Arc<str>,
    /// All ports if empty.
    pub(super) ports: Vec<TargetPort>,
}

fn mode(mtls: &Mtls) -> Option<MtlsMode> {
    match mtls.mode {
        Mode::Unset => None,
        // Plaintext only is a sidecar's matter: a tunnel is mutual TLS in any mode.
        Mode::Disable | Mode::Permissive => Some(MtlsMode::Permissive),
        Mode::Strict => Some(MtlsMode::Strict),
    }
}

impl PeerAuthenticationFacts {
    pub(super) fn new(
        object: &Resource<PeerAuthenticationSpec>,
        root_namespace: &str,
        findings: &mut Findings,
    ) -> Self {
        let meta = Meta::new(&object.metadata);
        let spec = &object.spec;
        let selector = spec.selector.clone().unwrap_or_default().match_labels;
        if selector.is_empty() && !spec.port_level_mtls.is_empty() {
            findings.reject(
                "spec.portLevelMtls",
                "modes of ports need a selector that is not empty",
                "add spec.selector.matchLabels",
            );
        }
        let idle = !selector.is_empty() && *meta.namespace == *root_namespace;
        if idle {
            findings.add(
                Severity::Warning,
                code::OVERRULED,
                "spec.selector",
                format!(
                    "an object with a selector has no effect in the root namespace {root_namespace}"
                ),
                "move it to the namespace of the pods",
            );
        }
        Self {
            selector,
            mode: spec.mtls.as_ref().and_then(mode),
            ports: spec
                .port_level_mtls
                .iter()
                .filter_map(|(port, mtls)| Some((*port, mode(mtls)?)))
                .collect(),
            idle,
            meta,
        }
    }

    fn selects(&self, pod: &PodFacts) -> bool {
        let labels = &self.selector;
        labels
            .iter()
            .all(|(key, value)| pod.labels.get(key) == Some(value))
    }
}

impl PolicyFacts {
    /// Reads a Policy, or a MeshPolicy if `mesh`.
    pub(super) fn new(object: &Resource<PolicySpec>, mesh: bool, findings: &mut Findings) -> Self {
        let meta = Meta::new(&object.metadata);
        let spec = &object.spec;
        match (mesh, &*meta.name == "default", spec.targets.is_empty()) {
            (true, true, true) | (false, true, true) | (false, false, false) => {}
            (true, false, _) => {
                findings.reject(
                    "metadata.name",
                    "a MeshPolicy must be named default",
                    "rename it",
                );
            }
            (_, true, false) => {
                findings.reject(
                    "spec.targets",
                    "an object named default must have none",
                    "remove them, or rename it",
                );
            }
            (false, false, true) => {
                findings.reject(
                    "spec.targets",
                    "a Policy not named default must have some",
                    "name a Service",
                );
            }
        }
        findings.add(
            Severity::Info,
            code::DEPRECATED,
            "apiVersion",
            "authentication.istio.io/v1alpha1 is honoured, but Istio itself dropped it in 1.6",
            "write a PeerAuthentication",
        );
        not_evaluated(spec, findings);
        let target = |target: &super::security::Target| TargetFacts {
            service: target.name.as_str().into(),
            ports: target.ports.clone(),
        };
        Self {
            targets: spec.targets.iter().map(target).collect(),
            mode: legacy_mode(&spec.peers),
            meta,
        }
    }
}

/// The first peer with `mtls` decides; without any, plaintext is accepted. A peer that says nothing
/// asks for mutual TLS: `kubectl apply` drops what is null, so that is what `- mtls:` becomes.
fn legacy_mode(peers: &[Peer]) -> MtlsMode {
    let mode = |peer: &Peer| match &peer.mtls {
        Some(mtls) => Some(mtls.mode),
        None if peer.jwt.0 => None,
        None => Some(LegacyMode::default()),
    };
    match peers.iter().find_map(mode) {
        Some(LegacyMode::Strict) => MtlsMode::Strict,
        Some(LegacyMode::Permissive | LegacyMode::TlsPermissive) | None => MtlsMode::Permissive,
    }
}

fn not_evaluated(spec: &PolicySpec, findings: &mut Findings) {
    let jwt = spec.peers.iter().any(|peer| peer.jwt.0);
    if spec.origins.0 || jwt {
        findings.add(
            Severity::Error,
            code::UNSUPPORTED,
            if jwt { "spec.peers" } else { "spec.origins" },
            "JSON web tokens are not checked yet: requests pass without one",
            "do not rely on it",
        );
    }
    let optional = super::object::Present(spec.peer_is_optional);
    findings.gaps("spec", &[(gaps::OPTIONAL_PEER, optional)]);
    for (index, target) in spec.targets.iter().enumerate() {
        let fields = [
            (gaps::TARGET_SUBSET, target.subset),
            (gaps::TARGET_LABELS, target.labels),
        ];
        findings.gaps(&format!("spec.targets[{index}]"), &fields);
    }
}

/// What applies in one namespace.
#[derive(Default)]
struct Level<'a> {
    peer: Option<&'a PeerAuthenticationFacts>,
    workload: Vec<&'a PeerAuthenticationFacts>,
    policy: Option<&'a PolicyFacts>,
    /// Oldest first.
    targets: Vec<(&'a PolicyFacts, &'a TargetFacts, &'a ServiceFacts)>,
}

/// Composes what pods accept.
pub(super) struct Composer<'a> {
    /// MeshPolicy, then PeerAuthentication of the root namespace.
    mesh: MtlsMode,
    levels: HashMap<Arc<str>, Level<'a>>,
    guards: Guards<'a, AuthorizationFacts>,
    tokens: Guards<'a, RequestAuthenticationFacts>,
    services: &'a Shelf<ServiceFacts>,
    /// What is wrong with the objects taken together.
    pub(super) findings: Vec<Findings>,
}

impl<'a> Composer<'a> {
    pub(super) fn new(
        peers: &'a Shelf<PeerAuthenticationFacts>,
        policies: &'a Shelf<PolicyFacts>,
        mesh_policies: &'a Shelf<PolicyFacts>,
        authorization: &'a Shelf<AuthorizationFacts>,
        authentication: &'a Shelf<RequestAuthenticationFacts>,
        services: &'a Shelf<ServiceFacts>,
        (root_namespace, with): (&str, Surroundings),
    ) -> Self {
        let guards = Guards::new(authorization, services, root_namespace, with);
        let tokens = Guards::new(authentication, services, root_namespace, ());
        let mut findings = guards.check_services();
        findings.extend(guards.check_providers());
        findings.extend(tokens.check_services());
        let mut composer = Self {
            mesh: MtlsMode::Permissive,
            levels: HashMap::new(),
            findings,
            guards,
            tokens,
            services,
        };
        if let Some((policy, _)) = mesh_policies.iter().next() {
            composer.mesh = policy.mode;
        }
        composer.add_peers(peers);
        if let Some(root) = composer
            .levels
            .get(root_namespace)
            .and_then(|level| level.peer)
        {
            composer.mesh = root.mode.unwrap_or(composer.mesh);
        }
        composer.add_policies(policies, services);
        composer
    }

    fn add_peers(&mut self, peers: &'a Shelf<PeerAuthenticationFacts>) {
        let mut sorted: Vec<_> = peers.iter().filter(|(peer, _)| !peer.idle).collect();
        sorted.sort_by_key(|(peer, _)| peer.meta.seniority());
        for (peer, origin) in sorted {
            let level = self
                .levels
                .entry(Arc::clone(&peer.meta.namespace))
                .or_default();
            if !peer.selector.is_empty() {
                level.workload.push(peer);
            } else if let Some(first) = level.peer {
                let winner = first.meta.to_ref("PeerAuthentication");
                let text = format!("{winner} is older and decides: this object has no effect");
                self.overruled(peer.meta.to_ref("PeerAuthentication"), origin, text);
            } else {
                level.peer = Some(peer);
            }
        }
    }

    fn add_policies(
        &mut self,
        policies: &'a Shelf<PolicyFacts>,
        services: &'a Shelf<ServiceFacts>,
    ) {
        let mut sorted: Vec<_> = policies.iter().collect();
        sorted.sort_by_key(|(policy, _)| policy.meta.seniority());
        for (policy, origin) in sorted {
            let namespace = &policy.meta.namespace;
            let level = self.levels.entry(Arc::clone(namespace)).or_default();
            let newer = level.peer.or(level.workload.first().copied());
            if policy.targets.is_empty() {
                level.policy = level.policy.or(Some(policy));
            }
            let mut findings = Findings::new(policy.meta.to_ref("Policy"), origin.clone());
            for (index, target) in policy.targets.iter().enumerate() {
                let field = format!("spec.targets[{index}]");
                match services.get(namespace, &target.service) {
                    Some(service) => {
                        unknown_ports(target, service, &field, &mut findings);
                        level.targets.push((policy, target, service));
                    }
                    None => findings.add(
                        Severity::Error,
                        code::REFERENCE,
                        format!("{field}.name"),
                        format!(
                            "there is no Service {namespace}/{}: the target has no effect",
                            target.service
                        ),
                        "name a Service of this namespace",
                    ),
                }
            }
            self.findings.push(findings);
            if let Some(newer) = newer {
                let text = format!(
                    "{} wins where both select a pod",
                    newer.meta.to_ref("PeerAuthentication")
                );
                self.overruled(policy.meta.to_ref("Policy"), origin, text);
            }
        }
    }

    fn overruled(&mut self, object: crate::model::ObjectRef, origin: &Origin, text: String) {
        let mut findings = Findings::new(object, origin.clone());
        findings.add(
            Severity::Warning,
            code::OVERRULED,
            "",
            text,
            "keep one of them",
        );
        self.findings.push(findings);
    }

    /// What the Services say that the ports of `pod` speak.
    fn spoken(&self, pod: &PodFacts) -> Spoken {
        let mut spoken = Spoken::new();
        let near = self.services.in_namespace(&pod.meta.namespace);
        let behind = |service: &&ServiceFacts| {
            !service.selector.is_empty() && has_labels(&pod.labels, &service.selector)
        };
        for service in near.map(|(_, service)| service).filter(behind) {
            for port in &service.ports {
                let number = match &port.target {
                    Target::Number(number) => Some(*number),
                    Target::Name(name) => pod.port(name),
                };
                let (Some(number), Some(speech)) = (number, speech(port.protocol)) else {
                    continue;
                };
                // Where one Service says HTTP, there are requests to be looked at.
                match spoken.get(&number) {
                    Some(Speech::Http) => {}
                    Some(Speech::Opaque) | None => drop(spoken.insert(number, speech)),
                }
            }
        }
        spoken
    }

    /// What `pod` accepts.
    pub(super) fn compose(&self, pod: &PodFacts) -> InboundPolicy {
        let authentication = self.tokens.of(pod);
        let spoken = match authentication.is_empty() {
            true => Spoken::new(),
            false => self.spoken(pod),
        };
        let mut policy = InboundPolicy {
            default: self.mesh,
            ports: BTreeMap::new(),
            authorization: self.guards.of(pod),
            authentication,
            spoken,
        };
        let Some(level) = self.levels.get(&pod.meta.namespace) else {
            return policy;
        };
        if let Some(legacy) = level.policy {
            policy.default = legacy.mode;
        }
        // The oldest last, so that it overrides.
        for (legacy, target, service) in level.targets.iter().rev() {
            apply_target(legacy.mode, target, service, pod, &mut policy);
        }
        let workload = level.workload.iter().find(|peer| peer.selects(pod));
        for peer in level.peer.iter().chain(workload) {
            if let Some(mode) = peer.mode {
                policy.default = mode;
                policy.ports.clear();
            }
            policy.ports.extend(&peer.ports);
        }
        policy
    }
}

/// What `protocol` means for those who look for requests; `None` if only the bytes tell.
fn speech(protocol: Protocol) -> Option<Speech> {
    match protocol {
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => Some(Speech::Http),
        Protocol::Tcp | Protocol::Tls => Some(Speech::Opaque),
        Protocol::Sniff => None,
    }
}

fn is_port(wanted: &TargetPort, port: &super::service::PortFacts) -> bool {
    match (wanted.number, &wanted.name) {
        (Some(number), _) => port.number == number,
        (None, Some(name)) => *port.name == **name,
        (None, None) => false,
    }
}

fn unknown_ports(
    target: &TargetFacts,
    service: &ServiceFacts,
    field: &str,
    findings: &mut Findings,
) {
    for (index, wanted) in target.ports.iter().enumerate() {
        if !service.ports.iter().any(|port| is_port(wanted, port)) {
            findings.add(
                Severity::Error,
                code::REFERENCE,
                format!("{field}.ports[{index}]"),
                format!(
                    "the Service {} has no such port: it has no effect",
                    target.service
                ),
                "use the number or name of a port of the Service, not of the pod",
            );
        }
    }
}

fn apply_target(
    mode: MtlsMode,
    target: &TargetFacts,
    service: &ServiceFacts,
    pod: &PodFacts,
    policy: &mut InboundPolicy,
) {
    let selector = &service.selector;
    let selected = !selector.is_empty()
        && selector
            .iter()
            .all(|(key, value)| pod.labels.get(key) == Some(value));
    if !selected {
        return;
    }
    if target.ports.is_empty() {
        policy.default = mode;
        policy.ports.clear();
    }
    for port in &service.ports {
        if target.ports.iter().any(|wanted| is_port(wanted, port)) {
            let number = match &port.target {
                Target::Number(number) => Some(*number),
                Target::Name(name) => pod.port(name),
            };
            policy.ports.extend(number.map(|number| (number, mode)));
        }
    }
}
