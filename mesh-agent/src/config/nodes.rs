// SPDX-License-Identifier: Apache-2.0

//! What matters of a Node: where it is; and where that puts an endpoint.
//!
//! Reference: Kubernetes, "Well-Known Labels, Annotations and Taints"; Istio
//! `pilot/pkg/serviceregistry/kube/controller` (`getPodLocality`).

use std::{collections::HashSet, sync::Arc};

use k8s_openapi::api::{core::v1::Node, discovery::v1::Endpoint};

use super::{
    facts::{Meta, Name, Shelf},
    service::SliceFacts,
};
use crate::model::{Place, Workload};

/// The labels that say where a node is, each with the one that said so before.
pub(super) const REGION: [&str; 2] = [
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/region",
];
pub(super) const ZONE: [&str; 2] = [
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/zone",
];
pub(super) const SUBZONE: &str = "topology.istio.io/subzone";

/// What matters of a Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeFacts {
    pub(super) place: Arc<Place>,
}

impl NodeFacts {
    pub(super) fn new(node: &Node) -> Self {
        let meta = Meta::new(&node.metadata);
        let labels = node.metadata.labels.as_ref();
        let label = |keys: &[&str]| -> Arc<str> {
            let found = keys.iter().find_map(|key| labels?.get(*key));
            found.map(String::as_str).unwrap_or_default().into()
        };
        Self {
            place: Arc::new(Place {
                region: label(&REGION),
                zone: label(&ZONE),
                subzone: label(&[SUBZONE]),
                node: meta.name,
                meant_for: Vec::new(),
            }),
        }
    }
}

/// What an EndpointSlice says of where an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SlicePlace {
    pub(super) node: Arc<str>,
    zone: Arc<str>,
    /// The zones whose clients it is meant for.
    hints: Vec<Arc<str>>,
}

impl SlicePlace {
    pub(super) fn new(endpoint: &Endpoint) -> Self {
        let hints = endpoint.hints.as_ref();
        let zones = hints.and_then(|hints| hints.for_zones.as_ref());
        let zones = zones.into_iter().flatten();
        Self {
            node: endpoint.node_name.as_deref().unwrap_or_default().into(),
            zone: endpoint.zone.as_deref().unwrap_or_default().into(),
            hints: zones.map(|zone| zone.name.as_str().into()).collect(),
        }
    }
}

/// Where the node called `name` is.
pub(super) fn place(nodes: &Shelf<NodeFacts>, name: &Arc<str>) -> Option<Arc<Place>> {
    if name.is_empty() {
        return None;
    }
    let known = nodes.get(&Arc::default(), name);
    Some(known.map_or_else(
        || {
            Arc::new(Place {
                node: Arc::clone(name),
                ..Place::default()
            })
        },
        |facts| Arc::clone(&facts.place),
    ))
}

/// Where an endpoint is: on the node of its pod, else where its slice says. `hinted`: it matters whom
/// it is meant for.
pub(super) fn of_endpoint(
    nodes: &Shelf<NodeFacts>,
    workload: Option<&Arc<Workload>>,
    slice: &SlicePlace,
    hinted: bool,
) -> Option<Arc<Place>> {
    let node = workload.map_or(&slice.node, |workload| &workload.node);
    let place = place(nodes, node);
    let own = place.as_ref().filter(|place| !place.zone.is_empty());
    if own.is_some() && !hinted || *slice == SlicePlace::default() {
        return place;
    }
    let mut place = place.as_deref().cloned().unwrap_or_default();
    if place.zone.is_empty() {
        place.zone = Arc::clone(&slice.zone);
    }
    if hinted {
        place.meant_for.clone_from(&slice.hints);
    }
    Some(Arc::new(place))
}

/// Adds the Services with an endpoint of which a slice says that it is on one of `nodes`.
pub(super) fn with_nodes(
    shelf: &Shelf<SliceFacts>,
    nodes: &HashSet<Arc<str>>,
    services: &mut HashSet<Name>,
) {
    if nodes.is_empty() {
        return;
    }
    for (slice, _) in shelf.iter() {
        let Some(service) = &slice.service else {
            continue;
        };
        if slice.places.iter().any(|place| nodes.contains(&place.node)) {
            services.insert((Arc::clone(&slice.meta.namespace), Arc::clone(service)));
        }
    }
}
