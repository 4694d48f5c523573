// SPDX-License-Identifier: Apache-2.0

//! What matters of a Sidecar: whose clients it is about, and what they see.
//!
//! Knows nothing of pods, or of which of several Sidecars counts. Reference: istio/api
//! `networking/v1alpha3/sidecar.proto`; Istio `pilot/pkg/model/sidecar.go`.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    facts::{Findings, Meta},
    gaps,
    istio::{CaptureMode, Egress, OutboundMode, SidecarSpec},
    object::{Present, Resource},
};
use crate::model::{OutboundPolicy, Scope, Seen, SeenHosts, SeenIn};

/// What matters of a Sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SidecarFacts {
    pub(super) meta: Meta,
    /// All pods of the namespace if empty.
    pub(super) selector: BTreeMap<String, String>,
    pub(super) scope: Arc<Scope>,
}

impl SidecarFacts {
    /// `mesh` is what becomes of what nobody has where the object does not say.
    pub(super) fn new(
        object: &Resource<SidecarSpec>,
        mesh: OutboundPolicy,
        findings: &mut Findings,
    ) -> Self {
        let meta = Meta::new(&object.metadata);
        let spec = &object.spec;
        let ignored = [
            (gaps::SIDECAR_INGRESS, spec.ingress),
            (gaps::SIDECAR_INBOUND_POOL, spec.inbound_connection_pool),
        ];
        findings.gaps("spec", &ignored);
        let written = spec.outbound_traffic_policy.as_ref();
        if let Some(written) = written {
            let ignored = [(gaps::EGRESS_PROXY, written.egress_proxy)];
            findings.gaps("spec.outboundTrafficPolicy", &ignored);
        }
        let policy = written.map_or(mesh, |written| match written.mode {
            OutboundMode::RegistryOnly => OutboundPolicy::RegistryOnly,
            OutboundMode::AllowAny => OutboundPolicy::AllowAny,
        });
        let mut shown = Shown::default();
        for (index, egress) in spec.egress.iter().enumerate() {
            listener(
                egress,
                &format!("spec.egress[{index}]"),
                &mut shown,
                findings,
            );
        }
        let hosts = (!spec.egress.is_empty()).then_some(shown.seen);
        let selector = spec.workload_selector.clone().unwrap_or_default().labels;
        Self {
            meta,
            selector,
            scope: Arc::new(Scope {
                policy,
                hosts,
                hidden: shown.hidden,
                view: None,
            }),
        }
    }
}

/// What all entries of `egress` show and hide.
#[derive(Default)]
struct Shown {
    seen: Vec<Seen>,
    hidden: Vec<Seen>,
}

/// Adds what one entry of `egress` shows and hides.
fn listener(egress: &Egress, path: &str, shown: &mut Shown, findings: &mut Findings) {
    let elsewhere = Present(egress.capture_mode == CaptureMode::None);
    let ignored = [
        (gaps::EGRESS_PORT, egress.port),
        (gaps::EGRESS_BIND, egress.bind),
        (gaps::CAPTURE_NONE, elsewhere),
    ];
    findings.gaps(path, &ignored);
    if egress.hosts.is_empty() {
        let text = "names no host";
        findings.reject(format!("{path}.hosts"), text, "write ./* or */* or ~/*");
    }
    for (index, text) in egress.hosts.iter().enumerate() {
        let field = format!("{path}.hosts[{index}]");
        match host(text, &field, findings) {
            Some((seen, false)) => shown.seen.push(seen),
            Some((seen, true)) => shown.hidden.push(seen),
            None => {}
        }
    }
}

/// What `namespace/host` is about, and whether it hides that.
fn host(text: &str, field: &str, findings: &mut Findings) -> Option<(Seen, bool)> {
    let lower = text.to_ascii_lowercase();
    let Some((namespace, name)) = lower.split_once('/') else {
        let text = format!("{text:?} does not say of which namespace");
        findings.reject(field, text, "write it as ./*, bank/* or */api.example.com");
        return None;
    };
    let hosts = match name.strip_prefix('*') {
        Some("") => SeenHosts::All,
        Some(suffix) if suffix.starts_with('.') && !suffix.contains('*') => {
            SeenHosts::Suffix(suffix.into())
        }
        None if name.contains('.') && !name.starts_with('.') => SeenHosts::Exact(name.into()),
        Some(_) | None => {
            let text = format!("{name:?} is neither a full host name nor a wildcard");
            let fix = "write it as cart.shop.svc.cluster.local, *.example.com or *";
            findings.reject(field, text, fix);
            return None;
        }
    };
    let (namespace, hides) = match namespace.strip_prefix('~') {
        // Nothing is shown.
        Some("") => return None,
        Some(rest) => (rest, true),
        None => (namespace, false),
    };
    let namespace = match namespace {
        "*" => SeenIn::Any,
        "." => SeenIn::Own,
        "" => {
            let text = format!("{text:?} does not say of which namespace");
            findings.reject(field, text, "begin it with a namespace, . or *");
            return None;
        }
        other => SeenIn::Named(other.into()),
    };
    Some((Seen { namespace, hosts }, hides))
}
