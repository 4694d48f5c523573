// SPDX-License-Identifier: Apache-2.0

//! Whether the agent does what it was told, as observed.

use std::collections::HashMap;

use super::{pods, views::Views};
use crate::{
    config::Severity,
    datapath::PodObservation,
    identity::{CertificateState, CertificateView},
    model::{SpiffeId, WorkloadUid},
};

/// What keeps the agent from being ready, in words; nothing if it is.
///
/// Reads the kernel, so it may block for milliseconds.
pub fn missing(views: &Views) -> Vec<String> {
    let observation = (views.datapath)();
    if let Some(reason) = observation.unfit {
        return vec![format!("this node cannot be part of the mesh: {reason}")];
    }
    let snapshot = views.snapshot.borrow().clone();
    if snapshot.generation == 0 {
        let report = views.report.borrow();
        let errors = report.problems.iter();
        let errors = errors.filter(|problem| problem.severity == Severity::Error);
        return std::iter::once("the configuration is not loaded".to_owned())
            .chain(errors.map(ToString::to_string))
            .collect();
    }
    let mut missing = Vec::new();
    let proxy = (views.proxy)();
    if proxy.threads.is_empty() {
        missing.push("no data thread runs".to_owned());
    }
    for (number, _) in proxy.threads.iter().enumerate().filter(|(_, it)| !it.alive) {
        missing.push(format!("data thread {number} has ended"));
    }
    for (part, applied) in [
        ("the kernel works", observation.generation),
        ("data threads work", proxy.applied_generation),
    ] {
        if applied < snapshot.generation {
            missing.push(format!(
                "{part} with generation {applied} of the configuration, not yet with {}",
                snapshot.generation
            ));
        }
    }
    let pods = pods::enrolled(&snapshot);
    let observed: HashMap<&WorkloadUid, &PodObservation> =
        observation.pods.iter().map(|pod| (&pod.uid, pod)).collect();
    let certificates = views.identities.list();
    let certificates: HashMap<&SpiffeId, &CertificateView> = certificates
        .iter()
        .map(|certificate| (&certificate.identity, certificate))
        .collect();
    for pod in pods {
        let name = pod.dotted_name();
        let observed = observed.get(&pod.uid).copied();
        match uncaptured(observed) {
            // There is nothing to capture yet, and all is in place for when there is.
            Some(_) if observed.is_some_and(|it| it.waits) => {}
            // What a pod does to itself is no fault of the agent's.
            Some(_) if observed.is_some_and(|it| it.error.is_none() && it.broken.is_some()) => {}
            Some(reason) => missing.push(format!("{name} is not captured: {reason}")),
            None if !certificates
                .get(&pod.identity)
                .is_some_and(|it| is_live(it)) =>
            {
                missing.push(format!("{name} has no certificate for {}", pod.identity));
            }
            None => {}
        }
    }
    missing
}

/// Why the kernel does not capture a pod; nothing if it does.
pub(super) fn uncaptured(pod: Option<&PodObservation>) -> Option<String> {
    let Some(pod) = pod else {
        return Some("the kernel knows nothing of it yet".to_owned());
    };
    match (
        pod.error.as_ref().or(pod.broken.as_ref()),
        pod.captured_since,
    ) {
        (Some(error), _) => Some(error.clone()),
        (None, None) => Some("its programs are being attached".to_owned()),
        (None, Some(_)) => None,
    }
}

/// Whether connections can be made with it.
pub(super) fn is_live(certificate: &CertificateView) -> bool {
    match certificate.state {
        CertificateState::Live | CertificateState::RenewalFailing => true,
        CertificateState::Waiting | CertificateState::Expired => false,
    }
}
