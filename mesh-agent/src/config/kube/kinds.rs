// SPDX-License-Identifier: Apache-2.0

//! Which kinds are read from the API server.
//!
//! Follows the lists of kinds in `object.rs`: whatever is supported there is watched, but for
//! ServiceAccounts, which nothing reads (a pod names its account). Security
//! policies that are not enforced are watched by their metadata, as are kinds without effect that
//! people attach to Services and expect something of; the rest is `analyze`'s business.

use super::super::object::Kind;

/// Kinds without effect that are reported all the same.
const EXPECTED: [&str; 2] = ["UDPRoute", "BackendTLSPolicy"];

/// One kind that is read if the server has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) kind: Kind,
    pub(super) group: &'static str,
    /// Best first; empty if any will do.
    pub(super) versions: &'static [&'static str],
}

impl Wanted {
    /// Kubernetes' own kinds are always there.
    pub(super) fn is_built_in(&self) -> bool {
        self.kind.is_built_in()
    }

    /// Only whether its objects exist counts.
    pub(super) fn metadata_only(&self) -> bool {
        matches!(self.kind, Kind::Unenforced(_) | Kind::Unsupported(_))
    }

    /// Which of the `served` versions is read.
    pub(super) fn version<'a>(&self, served: &[&'a str]) -> Option<&'a str> {
        if self.versions.is_empty() {
            return served.first().copied();
        }
        let mut best = self.versions.iter();
        best.find_map(|version| served.iter().find(|known| *known == version))
            .copied()
    }
}

/// All of them.
pub(super) fn wanted() -> impl Iterator<Item = Wanted> {
    Kind::all().filter_map(|(group, versions, kind)| {
        let wanted = match kind {
            Kind::ServiceAccount => false,
            Kind::Unsupported(name) => EXPECTED.contains(&name),
            _ => true,
        };
        wanted.then_some(Wanted {
            kind,
            group,
            versions,
        })
    })
}

/// The kind with this name among those that are read.
pub(super) fn named(name: &str) -> Option<Kind> {
    wanted()
        .map(|wanted| wanted.kind)
        .find(|kind| kind.as_str() == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_supported_is_read() {
        let kinds: BTreeSet<Kind> = wanted().map(|wanted| wanted.kind).collect();
        for kind in [
            Kind::Pod,
            Kind::EndpointSlice,
            Kind::Node,
            Kind::HttpRoute,
            Kind::MeshPolicy,
            Kind::AuthorizationPolicy,
        ] {
            assert!(kinds.contains(&kind), "{kind:?}");
        }
        assert!(kinds.contains(&Kind::RequestAuthentication));
        assert!(kinds.contains(&Kind::Unenforced("ServiceRole")));
        assert!(!kinds.contains(&Kind::ServiceAccount));
        assert!(!kinds.contains(&Kind::Unsupported("EnvoyFilter")));
    }

    #[test]
    fn names_are_unique_among_what_is_read() {
        let names: BTreeSet<&str> = wanted().map(|wanted| wanted.kind.as_str()).collect();
        assert_eq!(names.len(), wanted().count());
        assert_eq!(named("HTTPRoute"), Some(Kind::HttpRoute));
        assert_eq!(named("ServiceAccount"), None);
    }

    #[test]
    fn the_best_version_that_is_served_is_read() {
        let all = || wanted().find(|wanted| wanted.kind == Kind::VirtualService);
        let wanted = all().unwrap();
        assert_eq!(wanted.version(&["v1alpha3", "v1beta1"]), Some("v1beta1"));
        assert_eq!(wanted.version(&["v1alpha3", "v1"]), Some("v1"));
        assert_eq!(wanted.version(&["v2"]), None);
    }

    #[test]
    fn the_manifests_permit_to_read_what_is_read() {
        use serde::Deserialize;
        use serde_json::Value;

        let text = include_str!("../../../../deploy/agent-rbac.yaml");
        let roles: Vec<Value> = serde_yaml_ng::Deserializer::from_str(text)
            .map(|document| Value::deserialize(document).unwrap())
            .collect();
        let role = roles.iter().find(|it| {
            it["kind"] == "ClusterRole" && it["metadata"]["name"] == "mesh-agent-config"
        });
        let rules = role.unwrap()["rules"].as_array().unwrap();
        let lists = |rule: &Value, field: &str, word: &str| {
            let words = rule[field].as_array().unwrap();
            words.iter().any(|it| it == word)
        };
        for wanted in wanted() {
            let name = wanted.kind.as_str().to_lowercase();
            let plural = match name.strip_suffix('y') {
                Some(stem) => format!("{stem}ies"),
                None => format!("{name}s"),
            };
            let permits = |rule: &&Value| {
                lists(rule, "apiGroups", wanted.group)
                    && lists(rule, "resources", &plural)
                    && ["list", "watch"]
                        .iter()
                        .all(|verb| lists(rule, "verbs", verb))
            };
            assert!(rules.iter().any(|rule| permits(&rule)), "{plural}");
        }
    }
}
