// SPDX-License-Identifier: Apache-2.0

//! Sidecars: what the clients of some pods see, and what becomes of the rest.

use mesh_tests::{App, client};

use crate::mesh::Pods;

/// A Sidecar for all pods of `default`: flow YAML.
fn sidecar(spec: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: default, namespace: default}}
spec: {{{spec}}}
"
    )
}

#[test]
fn what_a_sidecar_does_not_show_is_nobodys() {
    let pods = Pods::start("sidecars");
    let stranger = pods.lab.pod("stranger").on_b().outside().start();
    let _app = App::http(&stranger, 8080);
    pods.lab.delete("Pod", "outside", "stranger");
    let mesh = pods.enrol(&["--access-log", "json"]);
    let abroad = format!("{}:8080", stranger.v4);
    let home = mesh.service("recommendations", 80);
    let status = |to: &str| {
        let answer = mesh.client.run(|| client::get(to, "recommendations", "/"));
        answer.expect("an answer").status
    };
    let both = || (status(&home), status(&abroad));
    assert_eq!(both(), (200, 200));
    let policy = |mode: &str, hosts: &str| {
        sidecar(&format!(
            "outboundTrafficPolicy: {{mode: {mode}}}, egress: [{{hosts: [{hosts}]}}]"
        ))
    };
    mesh.apply(&policy("REGISTRY_ONLY", "./*"));
    assert_eq!(both(), (200, 502));
    mesh.a.wait_log("block_all");
    mesh.apply(&policy("REGISTRY_ONLY", "shop/*"));
    assert_eq!(both(), (502, 502));
    mesh.apply(&policy("ALLOW_ANY", "./*"));
    assert_eq!(both(), (200, 200));
    mesh.lab.delete("Sidecar", "default", "default");
    mesh.settle();
    assert_eq!(both(), (200, 200));
}
