// SPDX-License-Identifier: Apache-2.0

//! Promise 2: the manifests people have work, one by one, as they stand in `tests/seeds`.

use mesh_tests::{App, Lab, Pod, client};

use crate::mesh::{Mesh, Pods, counts};

const INVENTORY: &str = include_str!("../seeds/00-inventory.yaml");
const PEER_AUTHENTICATION: &str = include_str!("../seeds/00-peer-authentication.yaml");
const RECOMMENDATIONS: &str = include_str!("../seeds/01-recommendations.yaml");
const MESH_POLICY: &str = include_str!("../seeds/01-mesh-policy.yaml");
const POLICY: &str = include_str!("../seeds/03-policy.yaml");

#[test]
fn recommendations_are_split_ninety_ten() {
    let mesh = Mesh::with("seeds split", &[], RECOMMENDATIONS);
    assert_eq!(mesh.get_many(1000), counts(900, 100));
}

#[test]
fn the_inventory_without_subsets_is_503_and_named_until_a_destination_rule_comes() {
    let pods = Pods::start("seeds inventory");
    let selector = [("app", "recommendations")];
    pods.lab
        .service("inventory-service")
        .selector(&selector)
        .port("http", 80, 8080)
        .create();
    pods.lab.apply(INVENTORY);
    let mesh = pods.enrol(&[]);
    let address = mesh.service("inventory-service", 80);
    let get = || {
        mesh.client
            .run(|| client::get(&address, "inventory-service", "/"))
            .unwrap()
    };
    for _ in 0..10 {
        assert_eq!(get().status, 503);
    }
    let problems = mesh
        .a
        .analyze(mesh.lab.config_directory().to_str().unwrap());
    assert!(!problems.ok());
    let said = format!("{}{}", problems.stdout, problems.stderr);
    assert!(
        said.contains("IST0101") && said.contains("inventory-route"),
        "{said}"
    );
    mesh.apply(
        &RECOMMENDATIONS
            .split("---")
            .next()
            .unwrap()
            .replace("recommendations", "inventory-service"),
    );
    let answers: Vec<_> = (0..100).map(|_| get()).collect();
    assert_eq!(crate::mesh::versions(&answers), counts(90, 10));
}

/// `manifest` closes the pods of `default` to plaintext, and to nothing else.
#[track_caller]
fn check_strict(name: &str, manifest: &str) {
    let mesh = Mesh::start(name);
    let (outsider, legacy) = outside(&mesh.lab);
    let _legacy = App::http(&legacy, 8080);
    mesh.settle();
    let inside = format!("{}:8080", mesh.v1.v4);
    let outside = format!("{}:8080", legacy.v4);
    let get = |pod: &Pod, address: &str| pod.run(|| client::get(address, "x", "/"));
    assert_eq!(get(&outsider, &inside).unwrap().status, 200, "before");
    mesh.apply(manifest);
    let before = mesh.apps[0].connections();
    let refused = get(&outsider, &inside);
    assert!(refused.is_err(), "plaintext: {refused:?}");
    assert_eq!(
        mesh.apps[0].connections(),
        before,
        "the application saw a connection"
    );
    assert_eq!(
        get(&mesh.client, &inside).unwrap().status,
        200,
        "from inside the mesh"
    );
    assert_eq!(
        get(&outsider, &outside).unwrap().status,
        200,
        "outside the mesh"
    );
    assert_eq!(
        get(&mesh.client, &outside).unwrap().status,
        200,
        "from inside to outside"
    );
}

fn outside(lab: &Lab) -> (Pod, Pod) {
    (
        lab.pod("outsider").outside().start(),
        lab.pod("legacy").outside().on_b().start(),
    )
}

#[test]
fn the_peer_authentication_closes_its_namespace() {
    check_strict("seeds authentication", PEER_AUTHENTICATION);
}

#[test]
fn the_mesh_policy_closes_the_mesh() {
    check_strict("seeds mesh policy", MESH_POLICY);
}

#[test]
fn the_policy_closes_its_namespace() {
    check_strict("seeds policy", POLICY);
}
