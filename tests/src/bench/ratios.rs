// SPDX-License-Identifier: Apache-2.0

//! What a plane needs or gives, divided by what two Envoys do.
//!
//! The keys are compared from release to release, and with the promises: they are stable. Knows
//! nothing of how figures were taken. Invariant: a ratio that cannot be computed is absent.

use super::{
    plane::SAME,
    sample::{PER_10K, PER_GIB},
    statistics::Samples,
};

const DIRECT: &str = "direct";
const ENVOY: &str = "envoy-http";
const ENVOY_TCP: &str = "envoy-tcp";
/// The plane that is ours.
pub(super) const OURS: &str = "agent";

/// What is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    Higher,
    Lower,
}

/// One ratio.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ratio {
    pub(super) key: &'static str,
    pub(super) value: f64,
    pub(super) better: Better,
}

/// How a ratio is made.
struct Recipe {
    key: &'static str,
    measure: &'static str,
    figure: &'static str,
    how: How,
}

enum How {
    /// Of the figures themselves.
    Plain,
    /// Of what is added to the figure without a mesh.
    Added,
    /// The same two on one node.
    SameNode,
    SameNodeAdded,
    /// Against Envoys that do not read HTTP.
    Tcp,
    /// Against nobody: the figure is a ratio itself.
    Own,
}

use How::{Added, Own, Plain, SameNode, SameNodeAdded, Tcp};

const CPU: &str = PER_10K.proxies;
const CPU_GIB: &str = PER_GIB.proxies;

const MOVED: &str = "p99_moved";

const RECIPES: &[Recipe] = &[
    recipe("h1_c1_rps", "h1_c1", "rps", Plain),
    recipe("h1_c1_cpu", "h1_c1", CPU, Plain),
    recipe("h1_c16_rps", "h1_c16", "rps", Plain),
    recipe("h1_c16_cpu", "h1_c16", CPU, Plain),
    recipe("h1_c64_rps", "h1_c64", "rps", Plain),
    recipe("h1_c64_cpu", "h1_c64", CPU, Plain),
    recipe("h1_c256_rps", "h1_c256", "rps", Plain),
    recipe("h1_c256_cpu", "h1_c256", CPU, Plain),
    recipe("h1_1mib_c16_gbps", "h1_1mib_c16", "gbps", Plain),
    recipe("h1_1mib_c16_cpu", "h1_1mib_c16", CPU_GIB, Plain),
    recipe("h2_c16_rps", "h2_c16", "rps", Plain),
    recipe("h2_c16_cpu", "h2_c16", CPU, Plain),
    recipe("grpc_c16_rps", "grpc_c16", "rps", Plain),
    recipe("grpc_c16_cpu", "grpc_c16", CPU, Plain),
    recipe("fixed_1000_added_p50", "fixed_1000", "p50_us", Added),
    recipe("fixed_1000_added_p90", "fixed_1000", "p90_us", Added),
    recipe("fixed_1000_added_p99", "fixed_1000", "p99_us", Added),
    recipe("fixed_1000_cpu", "fixed_1000", CPU, Plain),
    recipe("newconn_rps", "newconn", "rps", Plain),
    recipe("newconn_cpu", "newconn", CPU, Plain),
    recipe("bulk_gbps", "bulk", "gbps", Tcp),
    recipe("bulk_cpu", "bulk", CPU_GIB, Tcp),
    recipe("neighbour_requests_p99", "neighbour_requests", MOVED, Own),
    recipe(
        "neighbour_connections_p99",
        "neighbour_connections",
        MOVED,
        Own,
    ),
    recipe("neighbour_bytes_p99", "neighbour_bytes", MOVED, Own),
    recipe("rss_idle", "idle", "rss_mib", Plain),
    recipe("rss_loaded", "h1_c64", "rss_mib", Plain),
    recipe("rss_1000_idle", "hold_1000", "rss_mib", Plain),
    recipe("rss_5000_idle", "hold_5000", "rss_mib", Plain),
    recipe(
        "kib_per_idle_connection",
        "hold_5000",
        "anon_kib_per_connection",
        Plain,
    ),
    recipe("same_node_h1_c16_rps", "h1_c16", "rps", SameNode),
    recipe("same_node_h1_c16_cpu", "h1_c16", CPU, SameNode),
    recipe("same_node_h1_c64_rps", "h1_c64", "rps", SameNode),
    recipe("same_node_h1_c64_cpu", "h1_c64", CPU, SameNode),
    recipe("same_node_h2_c16_rps", "h2_c16", "rps", SameNode),
    recipe("same_node_added_p50", "fixed_1000", "p50_us", SameNodeAdded),
    recipe("same_node_added_p99", "fixed_1000", "p99_us", SameNodeAdded),
    recipe("same_node_newconn_rps", "newconn", "rps", SameNode),
    recipe("same_node_bulk_gbps", "bulk", "gbps", SameNode),
    recipe("same_node_bulk_cpu", "bulk", CPU_GIB, SameNode),
];

const fn recipe(
    key: &'static str,
    measure: &'static str,
    figure: &'static str,
    how: How,
) -> Recipe {
    Recipe {
        key,
        measure,
        figure,
        how,
    }
}

/// All ratios of our agent that the samples give.
pub(super) fn all(samples: &Samples) -> Vec<Ratio> {
    of(samples, OURS)
}

/// All ratios of `plane`.
pub(super) fn of(samples: &Samples, plane: &str) -> Vec<Ratio> {
    let ratio = |recipe: &Recipe| {
        Some(Ratio {
            key: recipe.key,
            value: recipe.value(samples, plane)?,
            better: recipe.better(),
        })
    };
    RECIPES.iter().filter_map(ratio).collect()
}

impl Recipe {
    fn value(&self, samples: &Samples, plane: &str) -> Option<f64> {
        let same = |name: &str| format!("{SAME}{name}");
        let plain = |own: &str, other: &str| samples.ratio(self.measure, self.figure, own, other);
        match self.how {
            Plain => plain(plane, ENVOY),
            Tcp => plain(plane, ENVOY_TCP),
            Own => samples.median(self.measure, plane, self.figure),
            SameNode => plain(&same(plane), &same(ENVOY)),
            Added => self.added(samples, plane, ENVOY, DIRECT),
            SameNodeAdded => self.added(samples, &same(plane), &same(ENVOY), &same(DIRECT)),
        }
    }

    fn added(&self, samples: &Samples, own: &str, other: &str, base: &str) -> Option<f64> {
        let added = |plane: &str| samples.added(self.measure, self.figure, plane, base);
        let (own, other) = (added(own)?, added(other)?);
        // An Envoy that adds nothing is a disturbed measurement.
        (other > 0.0).then(|| own / other)
    }

    fn better(&self) -> Better {
        match self.figure {
            "rps" | "gbps" => Better::Higher,
            _ => Better::Lower,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        plan,
        statistics::{Figures, Sample},
    };

    fn push(samples: &mut Samples, measure: &'static str, plane: &str, figures: Figures) {
        samples.push(Sample {
            measure,
            plane: plane.to_owned(),
            round: 0,
            foreign: 0.0,
            figures,
        });
    }

    #[track_caller]
    fn check(samples: &Samples, key: &str, want: Option<f64>) {
        let ratios = all(samples);
        let found = ratios.iter().find(|ratio| ratio.key == key);
        assert_eq!(found.map(|ratio| ratio.value), want, "{key}");
    }

    #[test]
    fn keys_are_unique_and_their_measures_exist() {
        for (index, recipe) in RECIPES.iter().enumerate() {
            let first = RECIPES.iter().position(|other| other.key == recipe.key);
            assert_eq!(first, Some(index));
            assert!(plan::find(recipe.measure).is_some(), "{}", recipe.measure);
        }
    }

    #[test]
    fn the_keys_that_others_read_are_there() {
        for key in [
            "h1_c16_rps",
            "h1_c16_cpu",
            "h1_c64_rps",
            "h1_c64_cpu",
            "h2_c16_rps",
            "h2_c16_cpu",
            "fixed_1000_added_p50",
            "fixed_1000_added_p99",
            "newconn_rps",
            "bulk_gbps",
            "bulk_cpu",
            "rss_idle",
            "rss_5000_idle",
            "same_node_h1_c16_rps",
            "same_node_added_p50",
        ] {
            assert!(RECIPES.iter().any(|recipe| recipe.key == key), "{key}");
        }
    }

    #[test]
    fn latency_is_compared_by_what_is_added() {
        let mut samples = Samples::new(0.1);
        for (plane, latency) in [("direct", 60.0), ("envoy-http", 560.0), ("agent", 260.0)] {
            let figures = Figures::from([("p50_us", latency)]);
            push(&mut samples, "fixed_1000", plane, figures);
        }
        check(&samples, "fixed_1000_added_p50", Some(0.4));
        check(&samples, "same_node_added_p50", None);
    }

    #[test]
    fn bulk_is_compared_with_envoys_that_read_no_http() {
        let mut samples = Samples::new(0.1);
        for (plane, rate) in [("envoy-tcp", 6.0), ("agent", 9.0), ("envoy-http", 1.0)] {
            push(&mut samples, "bulk", plane, Figures::from([("gbps", rate)]));
        }
        check(&samples, "bulk_gbps", Some(1.5));
    }

    #[test]
    fn one_node_is_compared_with_one_node() {
        let mut samples = Samples::new(0.1);
        for (plane, rate) in [
            ("same-envoy-http", 10.0),
            ("same-agent", 65.0),
            ("envoy-http", 1.0),
        ] {
            push(
                &mut samples,
                "h1_c16",
                plane,
                Figures::from([("rps", rate)]),
            );
        }
        check(&samples, "same_node_h1_c16_rps", Some(6.5));
        check(&samples, "h1_c16_rps", None);
    }
}
