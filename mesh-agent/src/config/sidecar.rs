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
use crate::model::{OutboundPolicy, Scope, Seen, SeenHosts};

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
        let hosts = (!spec.egress.is_empty()).then(|| {
            let each = spec.egress.iter().enumerate();
            let seen = each.flat_map(|(index, egress)| {
                let path = format!("spec.egress[{index}]");
                listener(egress, &path, &meta.namespace, findings)
            });
            seen.collect()
        });
        let selector = spec.workload_selector.clone().unwrap_or_default().labels;
        Self {
            meta,
            selector,
            scope: Arc::new(Scope { policy, hosts }),
        }
    }
}

/// What one entry of `egress` shows.
fn listener(egress: &Egress, path: &str, own: &Arc<str>, findings: &mut Findings) -> Vec<Seen> {
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
    let mut seen = Vec::new();
    for (index, text) in egress.hosts.iter().enumerate() {
        let field = format!("{path}.hosts[{index}]");
        seen.extend(host(text, &field, own, findings));
    }
    seen
}

/// What `namespace/host` shows.
fn host(text: &str, field: &str, own: &Arc<str>, findings: &mut Findings) -> Option<Seen> {
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
    let namespace = match namespace {
        "~" => return None,
        "*" => None,
        "." => Some(Arc::clone(own)),
        "" => {
            let text = format!("{text:?} does not say of which namespace");
            findings.reject(field, text, "begin it with a namespace, . or *");
            return None;
        }
        other => Some(other.into()),
    };
    Some(Seen { namespace, hosts })
}
