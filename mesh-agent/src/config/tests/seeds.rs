// SPDX-License-Identifier: Apache-2.0

//! The objects that people have, one file each, in the mesh.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::fixture::{Mesh, canary, pod};
use crate::model::MtlsMode;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/seeds")
}

fn seed(name: &str) -> String {
    let path = directory().join(name);
    let text = std::fs::read_to_string(&path);
    format!(
        "---\n{}",
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    )
}

#[test]
fn every_seed_is_read_without_an_error() {
    let mut files = 0;
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let mesh = Mesh::new(&std::fs::read_to_string(&path).unwrap());
            let errors: Vec<_> = mesh
                .problems()
                .into_iter()
                .filter(|text| !text.contains("IST0101"))
                .collect();
            assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
            files += 1;
        }
    }
    assert!(files >= 5, "only {files} seeds");
}

#[test]
fn without_a_destination_rule_the_subsets_do_not_exist() {
    let mesh = Mesh::new(&(seed("00-inventory.yaml") + &canary("inventory-service")));
    mesh.check_problems(&[
        "Error [IST0101] (VirtualService default/inventory-route test.yaml:4) \
         spec.http[0].route[0].destination.subset: no DestinationRule defines subset v1",
        "spec.http[0].route[1].destination.subset: no DestinationRule defines subset v2",
    ]);
    let outcome = mesh.get("client", ("default", "inventory-service", 80), "/");
    assert_eq!(outcome, "503 NC");
}

#[test]
fn ninety_to_ten_is_exact() {
    let mesh = Mesh::new(&(seed("01-recommendations.yaml") + &canary("recommendations")));
    mesh.check_problems(&[]);
    let shares = mesh.shares("client", ("default", "recommendations", 80), 1_000);
    let want = [("v1@10.1.0.1:8080", 900), ("v2@10.1.0.2:8080", 100)];
    assert_eq!(
        shares,
        BTreeMap::from(want.map(|(key, count)| (key.to_owned(), count)))
    );
}

#[test]
fn strict_holds_for_the_namespace_and_for_the_mesh() {
    for (name, elsewhere) in [
        ("00-peer-authentication.yaml", MtlsMode::Permissive),
        ("03-policy.yaml", MtlsMode::Permissive),
        ("01-mesh-policy.yaml", MtlsMode::Strict),
    ] {
        let other = super::fixture::pod_in("other", "other", "10.1.0.2", "app: x");
        let mesh = Mesh::new(&(seed(name) + &pod("web", "10.1.0.1", "app: web") + &other));
        assert_eq!(mesh.mode("web", 80), MtlsMode::Strict, "{name}");
        assert_eq!(mesh.mode("other", 80), elsewhere, "{name}");
    }
}
