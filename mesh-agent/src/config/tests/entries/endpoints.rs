// SPDX-License-Identifier: Apache-2.0

//! How the endpoints of ServiceEntries are used.

use std::sync::Arc;

use super::{entry, workload_entry};
use crate::{config::tests::fixture::Mesh, model::ClientTls};

#[test]
fn endpoints_get_what_they_weigh() {
    let weights = |text: &str| {
        let mesh = Mesh::new(text);
        mesh.check_problems(&[]);
        let service = mesh.service("default", "api.example.com");
        let cluster = Arc::clone(&service.ports[0].cluster);
        let weights = cluster.endpoints.iter().map(|one| one.weight);
        (weights.collect::<Vec<_>>(), cluster.upstream.is_some())
    };
    let listed = |second: &str| {
        entry(&format!(
            "resolution: STATIC, endpoints: [{{address: 10.2.0.1, weight: 3}}, {{address: 10.2.0.2, {second}}}]"
        ))
    };
    assert_eq!(weights(&listed("weight: 1")), (vec![3, 1], true));
    assert_eq!(weights(&listed("weight: 0")), (vec![3, 1], true));
    assert_eq!(weights(&listed("")), (vec![3, 1], true));
    // Where all weigh the same, nothing is to be minded.
    assert_eq!(weights(&listed("weight: 3")), (vec![3, 3], false));
    let selecting = entry("resolution: STATIC, workloadSelector: {labels: {app: vm}}")
        + &workload_entry("one", "10.2.0.1", "labels: {app: vm}, weight: 5")
        + &workload_entry("two", "10.2.0.2", "labels: {app: vm}");
    assert_eq!(weights(&selecting), (vec![5, 1], true));
}

#[test]
fn subject_alt_names_are_whom_a_certificate_may_be_for_unless_a_rule_says() {
    let names = |rule: &str| {
        let rule = format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: api}}\n\
             spec: {{host: api.example.com, trafficPolicy: {{tls: {{{rule}}}}}}}\n"
        );
        let text = entry(
            "resolution: STATIC, subjectAltNames: [one.example, 'spiffe://x/y'], endpoints: [{address: 10.2.0.1}]",
        );
        let mesh = Mesh::new(&(text + &rule));
        mesh.check_problems(&[]);
        let service = mesh.service("default", "api.example.com");
        let tls = service.ports[0].cluster.endpoints[0].tls.clone();
        match tls.as_deref() {
            Some(ClientTls::Originate(wanted)) => {
                let names: Vec<&str> = wanted.names.iter().map(|name| &**name).collect();
                names.join(" ")
            }
            other => format!("{other:?}"),
        }
    };
    assert_eq!(names("mode: SIMPLE"), "one.example spiffe://x/y");
    let of_rule = "mode: SIMPLE, subjectAltNames: [two.example]";
    assert_eq!(names(of_rule), "two.example");
    assert_eq!(names("mode: DISABLE"), "None");
}
