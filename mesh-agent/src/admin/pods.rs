// SPDX-License-Identifier: Apache-2.0

//! Which pods of this node there are to look at, and which one a name means.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::answer::Refusal;
use crate::model::{MtlsMode, Snapshot, Workload, authorization::Attached};

/// Where a name without a namespace is looked for.
const DEFAULT_NAMESPACE: &str = "default";

/// All pods of the cluster, sorted by namespace and name.
pub(super) fn all(snapshot: &Snapshot) -> Vec<&Arc<Workload>> {
    sorted(snapshot.workloads.values())
}

/// The pods of this node, sorted by namespace and name.
pub(super) fn local(snapshot: &Snapshot) -> Vec<&Arc<Workload>> {
    let workloads = snapshot.workloads.values();
    sorted(workloads.filter(|pod| pod.node == snapshot.node))
}

/// Those of them that are to be captured, sorted likewise.
pub(super) fn enrolled(snapshot: &Snapshot) -> Vec<&Arc<Workload>> {
    sorted(snapshot.local_enrolled())
}

fn sorted<'a>(pods: impl Iterator<Item = &'a Arc<Workload>>) -> Vec<&'a Arc<Workload>> {
    let mut pods: Vec<_> = pods.collect();
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    pods
}

/// The enrolled pod of this node that `name` means: `POD.NAMESPACE`, or `POD` in namespace
/// `default`, or else the only one called `POD`.
pub(super) fn find<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Arc<Workload>, Refusal> {
    let pods = enrolled(snapshot);
    let dotted = |pod: &&&Arc<Workload>| pod.dotted_name() == name;
    let in_default =
        |pod: &&&Arc<Workload>| *pod.name == *name && *pod.namespace == *DEFAULT_NAMESPACE;
    if let Some(pod) = pods
        .iter()
        .find(dotted)
        .or_else(|| pods.iter().find(in_default))
    {
        return Ok(pod);
    }
    let called: Vec<_> = pods.iter().filter(|pod| *pod.name == *name).collect();
    match called.as_slice() {
        [only] => Ok(only),
        [] => Err(Refusal::not_found(absent(snapshot, name, &pods))),
        several => Err(Refusal::bad_request(format!(
            "several pods are called {name}: {}",
            list(several.iter().map(|pod| pod.dotted_name()))
        ))),
    }
}

/// Why there is nothing to see of `name`.
fn absent(snapshot: &Snapshot, name: &str, enrolled: &[&Arc<Workload>]) -> String {
    let known = snapshot
        .workloads
        .values()
        .find(|pod| pod.dotted_name() == name || *pod.name == *name);
    let dotted = known.map(|pod| pod.dotted_name()).unwrap_or_default();
    match known {
        Some(pod) if pod.node != snapshot.node && pod.node.is_empty() => {
            format!("{dotted} is not scheduled to a node yet")
        }
        Some(pod) if pod.node != snapshot.node => {
            format!("{dotted} runs on node {}: ask the agent there", pod.node)
        }
        Some(pod) => format!(
            "{dotted} is not captured: {}",
            obstacle(pod).unwrap_or("it is new")
        ),
        None if enrolled.is_empty() => {
            format!(
                "there is no pod {name}: no pod of node {} is enrolled",
                snapshot.node
            )
        }
        None => format!(
            "there is no pod {name} on node {}, but {}",
            snapshot.node,
            list(enrolled.iter().map(|pod| pod.dotted_name()))
        ),
    }
}

/// Why configuration keeps `pod` from being captured, if it does.
pub(super) fn obstacle(pod: &Workload) -> Option<&'static str> {
    if pod.host_network {
        Some("it shares the node's network")
    } else if !pod.enrolled {
        Some("it is not enrolled")
    } else {
        None
    }
}

/// At most ten names.
fn list(names: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 10;
    let names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(SHOWN);
    let shown = names[..names.len() - more].join(", ");
    if more == 0 {
        shown
    } else {
        format!("{shown} and {more} more")
    }
}

/// A mode as PeerAuthentication spells it.
pub(super) fn mode(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Strict => "STRICT",
    }
}

/// The AuthorizationPolicies that are for `pod`, in the order of evaluation.
pub(super) fn policies(pod: &Workload) -> Vec<Value> {
    let policies = pod.inbound.authorization.policies().iter();
    let row = |attached: &Attached| {
        let policy = &attached.policy;
        json!({
            "name": **policy.name(),
            "action": policy.action().as_str(),
            "dryRun": policy.is_dry_run(),
            "ports": attached.ports.as_deref(),
        })
    };
    policies.map(row).collect()
}

/// The RequestAuthentications that are for `pod`, in the order in which they are asked.
pub(super) fn authentications(pod: &Workload) -> Vec<&str> {
    let names = pod.inbound.authentication.names();
    names.map(|name| &**name).collect()
}

/// What `pod` accepts: its mode, and those ports that differ.
pub(super) fn modes(pod: &Workload) -> (&'static str, BTreeMap<u16, &'static str>) {
    let ports = pod.inbound.ports.iter();
    (
        mode(pod.inbound.default),
        ports.map(|(port, own)| (*port, mode(*own))).collect(),
    )
}
