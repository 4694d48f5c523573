// SPDX-License-Identifier: Apache-2.0

//! Which pods are in the mesh.
//!
//! A pod's own choice beats its namespace's, but for one thing: nothing in a namespace that is kept
//! out is let in. Keeping out beats letting in on the same object.
//! Invariant: pods of the host's network and pods that have ended are never in.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Namespace;

use super::{
    distribution::Distribution,
    facts::{Findings, Meta},
    pod,
    problem::{Severity, code},
};

/// What an object's labels and annotations say about enrolment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) keep_in: bool,
    pub(super) keep_out: bool,
}

/// What matters of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamespaceFacts {
    pub(super) meta: Meta,
    pub(super) choice: Choice,
    /// For those of its pods that do not say otherwise.
    pub(super) close_existing_after: Option<Duration>,
    /// For those of its Services that do not say otherwise.
    pub(super) distribution: Option<Distribution>,
}

/// A label or annotation and what its value means.
pub(super) const INJECTION: &str = "istio-injection";
const REVISION: &str = "istio.io/rev";
pub(super) const SIDECAR: &str = "sidecar.istio.io/inject";
pub(super) const DATAPLANE: &str = "istio.io/dataplane-mode";
pub(super) const OWN: &str = "mesh-agent.io/enrolled";

type Texts = BTreeMap<String, String>;

impl Choice {
    /// Reads a namespace's or a pod's labels and annotations.
    pub(super) fn read(labels: Option<&Texts>, annotations: Option<&Texts>) -> Self {
        let all = [labels, annotations];
        let says = |key: &str, value: &str| {
            all.iter().flatten().any(|texts| {
                texts
                    .get(key)
                    .is_some_and(|is| is.eq_ignore_ascii_case(value))
            })
        };
        let has_revision = labels.is_some_and(|labels| labels.contains_key(REVISION));
        Self {
            keep_in: says(INJECTION, "enabled")
                || says(SIDECAR, "true")
                || says(DATAPLANE, "ambient")
                || says(OWN, "true")
                || has_revision,
            keep_out: says(INJECTION, "disabled")
                || says(SIDECAR, "false")
                || says(DATAPLANE, "none")
                || says(OWN, "false"),
        }
    }

    /// Whether a pod that chose `self` is in the mesh, in a namespace that chose `namespace`.
    pub(super) fn enrols(self, namespace: Self) -> bool {
        if self.keep_out || namespace.keep_out {
            return false;
        }
        self.keep_in || namespace.keep_in
    }
}

impl NamespaceFacts {
    pub(super) fn new(namespace: &Namespace, findings: &mut Findings) -> Self {
        let metadata = &namespace.metadata;
        let choice = Choice::read(metadata.labels.as_ref(), metadata.annotations.as_ref());
        if choice.keep_in && choice.keep_out {
            findings.add(
                Severity::Warning,
                code::OVERRULED,
                "metadata.labels",
                "some labels enrol the namespace and others keep it out: it is kept out",
                "remove one of them",
            );
        }
        Self {
            meta: Meta::new(metadata),
            choice,
            close_existing_after: pod::close_existing_after(metadata, findings),
            distribution: Distribution::of_annotation(metadata.annotations.as_ref(), findings),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(text: &str) -> Choice {
        let labels = text
            .split_whitespace()
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap();
                (key.to_owned(), value.to_owned())
            })
            .collect();
        Choice::read(Some(&labels), None)
    }

    #[track_caller]
    fn check(namespace: &str, pod: &str, want: bool) {
        assert_eq!(
            choice(pod).enrols(choice(namespace)),
            want,
            "{namespace} / {pod}"
        );
    }

    #[test]
    fn labels_of_the_namespace_enrol_its_pods() {
        check("", "", false);
        check("istio-injection=enabled", "", true);
        check("istio.io/dataplane-mode=ambient", "", true);
        check("istio.io/rev=canary", "", true);
        check("mesh-agent.io/enrolled=true", "", true);
        check("app=x", "app=y", false);
    }

    #[test]
    fn a_pod_may_stay_out_and_may_come_in() {
        for out in [
            "sidecar.istio.io/inject=false",
            "istio.io/dataplane-mode=none",
            "mesh-agent.io/enrolled=false",
            "istio-injection=disabled",
        ] {
            check("istio-injection=enabled", out, false);
            check("", out, false);
            check(out, "", false);
            check(out, "mesh-agent.io/enrolled=true", false);
        }
        check("", "mesh-agent.io/enrolled=true", true);
        check("", "sidecar.istio.io/inject=true", true);
    }

    #[test]
    fn annotations_count_as_labels_do() {
        let annotations = BTreeMap::from([(SIDECAR.to_owned(), "False".to_owned())]);
        let pod = Choice::read(None, Some(&annotations));
        assert!(!pod.enrols(choice("istio-injection=enabled")));
    }
}
