// SPDX-License-Identifier: Apache-2.0

//! Which endpoints a Service or its namespace wants to be used first, and how that goes with what a
//! DestinationRule wants.
//!
//! Reference: Kubernetes `Service.spec.trafficDistribution`, `service.kubernetes.io/topology-mode`;
//! Istio `pilot/pkg/model` (`GetTrafficDistribution`).

use std::{collections::BTreeMap, sync::Arc};

use super::{
    facts::Findings,
    problem::{Severity, code},
};
use crate::model::{
    Cluster, Endpoint, Place, Spread, UpstreamPolicy,
    locality::{Nearness, Seeker},
};

/// Istio's, of Services and of namespaces.
pub(super) const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// Kubernetes' hints, and what they were called before.
pub(super) const TOPOLOGY_MODE: [&str; 2] = [
    "service.kubernetes.io/topology-mode",
    "service.kubernetes.io/topology-aware-hints",
];

/// Which endpoints are used first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distribution {
    /// All alike.
    Any,
    SameZone,
    SameNode,
    /// Those that EndpointSlices mean for the client's zone.
    Hinted,
}

type Annotations = BTreeMap<String, String>;

impl Distribution {
    pub(super) fn spread(self) -> Spread {
        match self {
            Self::Any => Spread::Anywhere,
            Self::SameZone => Spread::Nearest(Nearness::by_zone()),
            Self::SameNode => Spread::Nearest(Nearness::by_node()),
            Self::Hinted => Spread::Hinted,
        }
    }

    /// What a Service says: its field, else Istio's annotation, else Kubernetes'.
    pub(super) fn of_service(
        field: Option<&str>,
        annotations: Option<&Annotations>,
        findings: &mut Findings,
    ) -> Option<Self> {
        if let Some(text) = field {
            let read = Self::read(text, false);
            if read.is_none() {
                refuse("spec.trafficDistribution", text, findings);
            }
            return read;
        }
        Self::of_annotation(annotations, findings).or_else(|| {
            let mut keys = TOPOLOGY_MODE.iter();
            let mode = keys.find_map(|key| annotations?.get(*key))?;
            mode.eq_ignore_ascii_case("auto").then_some(Self::Hinted)
        })
    }

    /// What Istio's annotation says.
    pub(super) fn of_annotation(
        annotations: Option<&Annotations>,
        findings: &mut Findings,
    ) -> Option<Self> {
        let text = annotations?.get(DISTRIBUTION)?;
        let read = Self::read(text, true);
        if read.is_none() {
            let field = format!("metadata.annotations[{DISTRIBUTION}]");
            refuse(&field, text, findings);
        }
        read
    }

    fn read(text: &str, any_case: bool) -> Option<Self> {
        let all = [
            ("PreferClose", Self::SameZone),
            ("PreferSameZone", Self::SameZone),
            ("PreferSameNode", Self::SameNode),
            ("Any", Self::Any),
        ];
        let same = |known: &str| match any_case {
            true => known.eq_ignore_ascii_case(text),
            false => known == text && known != "Any",
        };
        let found = all.into_iter().find(|(known, _)| same(known));
        found.map(|(_, distribution)| distribution)
    }
}

fn refuse(field: &str, text: &str, findings: &mut Findings) {
    findings.add(
        Severity::Warning,
        code::UNSUPPORTED,
        field,
        format!("{text:?} is not known: endpoints near and far are used alike"),
        "write PreferSameZone, PreferClose or PreferSameNode",
    );
}

/// Whether a cluster's endpoints are used by this policy, by clients that are `here`.
pub(super) fn same_use(
    cluster: &Cluster,
    policy: Option<&UpstreamPolicy>,
    here: Option<&Arc<Place>>,
) -> bool {
    let used = cluster.upstream.as_ref();
    used.map(|used| &used.policy) == policy && used.is_none_or(|used| used.plans.here() == here)
}

/// Whether a policy is for more than to spread traffic over one place.
pub(super) fn matters(
    policy: &UpstreamPolicy,
    endpoints: &[Endpoint],
    here: Option<&Place>,
) -> bool {
    let (Some(spread), Some(place)) = (&policy.spread, here) else {
        return true;
    };
    let bare = UpstreamPolicy {
        spread: policy.spread.clone(),
        ..UpstreamPolicy::default()
    };
    let seeker = Seeker {
        place,
        labels: None,
    };
    let tiers = |spread: &Spread| spread.tiers(&seeker, endpoints);
    *policy != bare || spread.of_client().next().is_some() || tiers(spread).is_some()
}

/// The policy with how traffic is spread over places: as a DestinationRule says, else as the Service
/// does, else by place where it is found out which endpoints are fit.
pub(super) fn spread(
    policy: Option<UpstreamPolicy>,
    distribution: Option<Distribution>,
) -> Option<UpstreamPolicy> {
    let of_service = distribution.map(Distribution::spread);
    let Some(mut policy) = policy else {
        // Without either nothing is to be followed.
        let of_service = of_service.filter(|spread| *spread != Spread::Anywhere)?;
        return Some(UpstreamPolicy {
            spread: Some(of_service),
            ..UpstreamPolicy::default()
        });
    };
    let by_place = || Spread::Nearest(Nearness::by_place());
    policy.spread = policy
        .spread
        .or(of_service)
        .or_else(|| policy.outlier.is_some().then(by_place));
    Some(policy)
}
