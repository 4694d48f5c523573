// SPDX-License-Identifier: Apache-2.0

//! Which endpoints are near to whom.

use super::*;
use crate::model::{InboundPolicy, SpiffeId, Workload, WorkloadUid};

/// `node@region/zone/subzone`; what is left out is not known.
fn place(text: &str) -> Place {
    let (node, rest) = text.split_once('@').unwrap_or(("", text));
    let mut parts = rest.split('/');
    let mut part = || Arc::from(parts.next().unwrap_or_default());
    Place {
        node: node.into(),
        region: part(),
        zone: part(),
        subzone: part(),
        meant_for: Vec::new(),
    }
}

fn endpoint(last: u8, place: Place, labels: &[(&str, &str)]) -> Endpoint {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let workload = Workload {
        uid: WorkloadUid("uid".into()),
        name: "web".into(),
        namespace: "default".into(),
        identity: SpiffeId::new("cluster.local", "default", "default"),
        node: Arc::clone(&place.node),
        addresses: Vec::new(),
        labels: Arc::new(labels.iter().map(owned).collect()),
        owner: "web".into(),
        canonical_service: "web".into(),
        canonical_revision: "latest".into(),
        enrolled: true,
        netns: None,
        host_network: false,
        ready: true,
        probe_ports: Vec::new(),
        close_existing_after: None,
        inbound: InboundPolicy::default(),
        scope: Arc::default(),
    };
    Endpoint {
        address: ([10, 0, 0, last], 80).into(),
        workload: Some(Arc::new(workload)),
        place: Some(Arc::new(place)),
        tls: None,
        proxy_protocol: None,
        upkeep: None,
        weight: 1,
        load: Arc::default(),
    }
}

/// What the tiers of endpoints at `places` are for a client at `from`, as `0 1 | 2`.
#[track_caller]
fn check(spread: &Spread, from: &str, places: &[&str], want: &str) {
    let numbered = (0..).zip(places);
    let endpoints: Vec<Endpoint> = numbered
        .map(|(last, text)| endpoint(last, place(text), &[]))
        .collect();
    let seeker = Seeker {
        place: &place(from),
        labels: None,
    };
    let shown = shown(spread.tiers(&seeker, &endpoints));
    assert_eq!(shown, want, "{spread:?} from {from} to {places:?}");
}

fn shown(tiers: Option<Vec<Tier>>) -> String {
    let Some(tiers) = tiers else {
        return "all".to_owned();
    };
    let one = |tier: &Tier| {
        let members: Vec<String> = tier.members.iter().map(u32::to_string).collect();
        match tier.weight {
            0 => members.join(" "),
            weight => format!("{}x {weight}", members.join(" ")),
        }
    };
    tiers.iter().map(one).collect::<Vec<_>>().join(" | ")
}

#[test]
fn failover_goes_by_subzone_then_zone_then_region() {
    let nearest = Spread::Nearest(Nearness::by_place());
    let places = ["eu/a/1", "us/a/1", "eu/a/2", "eu/b/1", "eu/a/1"];
    check(&nearest, "eu/a/1", &places, "0 4 | 2 | 3 | 1");
    check(&nearest, "us/c", &places, "1 | 0 2 3 4");
    check(&nearest, "", &places, "all");
    check(&nearest, "eu/a", &["eu/a", "eu/a"], "all");
}

#[test]
fn failover_names_the_region_that_is_next() {
    let beyond = vec![("eu".into(), "us".into())];
    let nearest = Spread::Nearest(Nearness {
        beyond,
        ..Nearness::by_place()
    });
    check(&nearest, "eu/a", &["as/a", "us/a", "eu/b"], "2 | 1 | 0");
    check(&nearest, "us/a", &["as/a", "us/a", "eu/b"], "1 | 0 2");
}

#[test]
fn traffic_distribution_prefers_the_zone_or_the_node() {
    let places = ["n1@eu/a", "n2@eu/a", "n3@eu/b"];
    let zone = Spread::Nearest(Nearness::by_zone());
    check(&zone, "n1@eu/a", &places, "0 1 | 2");
    check(&zone, "n1@", &places, "all");
    let node = Spread::Nearest(Nearness::by_node());
    check(&node, "n1@eu/a", &places, "0 | 1 | 2");
    check(&node, "n2@", &places, "1 | 0 2");
    check(&node, "n2@", &["n1@", "n2@"], "1 | 0");
}

#[test]
fn failover_priority_counts_the_labels_in_common_from_the_first() {
    let label = |text: &str| NearLabel {
        key: text.split('=').next().unwrap().into(),
        value: text.split_once('=').map(|(_, value)| value.into()),
    };
    let spread = Spread::Nearest(Nearness {
        labels: ["version", "tier=gold", ZONE].map(label).into(),
        ..Nearness::default()
    });
    let gold = ("tier", "gold");
    let endpoints = [
        endpoint(0, place("eu/a"), &[("version", "v2"), gold]),
        endpoint(1, place("eu/b"), &[("version", "v1"), gold]),
        endpoint(2, place("eu/a"), &[("version", "v1")]),
        endpoint(3, place("eu/a"), &[("version", "v1"), gold]),
    ];
    let labels = BTreeMap::from([("version".to_owned(), "v1".to_owned())]);
    let seeker = |labels| Seeker {
        place: Box::leak(Box::new(place("eu/a"))),
        labels,
    };
    let known = spread.tiers(&seeker(Some(&labels)), &endpoints);
    assert_eq!(shown(known), "3 | 1 | 2 | 0");
    assert_eq!(shown(spread.tiers(&seeker(None), &endpoints)), "all");
    let keys: Vec<&str> = spread.of_client().map(|key| &**key).collect();
    assert_eq!(keys, ["version"]);
}

#[test]
fn distribute_shares_among_places_and_leaves_out_the_others() {
    let pattern = |text: &str| PlacePattern::parse(text).unwrap();
    let shares = Spread::Shares(Arc::new([Sharing {
        from: pattern("eu/a/*"),
        to: vec![(pattern("eu/a/*"), 80), (pattern("eu/b/*"), 20)],
    }]));
    let places = ["eu/b/1", "eu/a/1", "us/a/1", "eu/a/2"];
    check(&shares, "eu/a/7", &places, "1 3x 80 | 0x 20");
    check(&shares, "eu/b/1", &places, "all");
    check(&shares, "eu/a", &["us/a"], "");
}

#[test]
fn hints_count_if_all_endpoints_have_some_and_one_is_for_the_client() {
    let hinted = |last, zones: &[&str]| {
        let mut place = place("eu/x");
        place.meant_for = zones.iter().map(|zone| Arc::from(*zone)).collect();
        endpoint(last, place, &[])
    };
    #[track_caller]
    fn check(endpoints: &[Endpoint], want: &str) {
        let place = place("eu/a");
        let seeker = Seeker {
            place: &place,
            labels: None,
        };
        assert_eq!(shown(Spread::Hinted.tiers(&seeker, endpoints)), want);
    }
    check(
        &[hinted(0, &["b"]), hinted(1, &["a", "b"]), hinted(2, &["a"])],
        "1 2 | 0",
    );
    check(&[hinted(0, &["b"]), hinted(1, &["c"])], "all");
    check(&[hinted(0, &["a"]), hinted(1, &[])], "all");
}

#[test]
fn a_place_is_written_from_the_region_down() {
    let parse = |text: &str| PlacePattern::parse(text).is_some();
    for good in ["*", "eu", "eu/*", "eu/a", "eu/a/1", "eu/a/*", "eu/*/*"] {
        assert!(parse(good), "{good}");
    }
    for bad in ["", "/", "eu/", "*/a", "eu/*/1", "eu/a/1/x", "e*"] {
        assert!(!parse(bad), "{bad}");
    }
    let pattern = |text| PlacePattern::parse(text).unwrap();
    assert!(pattern("eu/*").overlaps(&pattern("eu/a/1")));
    assert!(!pattern("eu/a").overlaps(&pattern("eu/b")));
    assert!(pattern("eu").includes(&place("eu/a/1")));
    assert!(!pattern("eu/b").includes(&place("eu/a/1")));
}
