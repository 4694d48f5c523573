// SPDX-License-Identifier: Apache-2.0

//! The certificate authority is away: who has a certificate goes on, and who needs one gets it
//! when the authority is back.

use mesh_tests::{
    kube::{Cluster, Mesh, Namespace, PATIENCE, PodLoad, Workload},
    wait,
};

use crate::strict::closed;

/// The control plane without pods; it has them again when this is dropped.
struct Away<'a>(&'a Mesh);

impl<'a> Away<'a> {
    #[track_caller]
    fn new(mesh: &'a Mesh) -> Self {
        let away = Self(mesh);
        away.scale("0");
        wait::until("the control plane to end", PATIENCE, || {
            let selector = "--selector=app.kubernetes.io/name=mesh-agent-control";
            let ran = mesh.run(&["get", "pods", selector, "--output=name"]);
            if ran.ok() && ran.stdout.is_empty() {
                return Ok(());
            }
            Err(ran)
        });
        away
    }

    fn scale(&self, replicas: &str) {
        let replicas = format!("--replicas={replicas}");
        let ran = self
            .0
            .run(&["scale", "deployment/mesh-agent-control", &replicas]);
        assert!(ran.ok(), "{ran:?}");
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.scale("2");
    }
}

/// A namespace with a server on the second node and a client on the first, and an account that nobody has used.
#[track_caller]
pub(crate) fn apart(cluster: &Cluster, name: &str) -> Namespace {
    let namespace = closed(cluster, name);
    namespace.account("fresh");
    let nodes = cluster.nodes();
    namespace.start(&[
        &Workload::new("server").on(&nodes[1]),
        &Workload::new("client").on(&nodes[0]),
    ]);
    wait::until("the first answer", PATIENCE, || asks(&namespace, "client"));
    namespace
}

/// Whether a pod of `app` is answered by the server.
#[track_caller]
pub(crate) fn asks(namespace: &Namespace, app: &str) -> Result<(), String> {
    let ran = namespace.get(&format!("deployment/{app}"), "http://server/", 1);
    if ran.stdout.contains(" 200 server-v1 ") {
        return Ok(());
    }
    Err(format!("{ran:?}"))
}

#[test]
fn traffic_goes_on_without_the_authority_and_new_identities_wait_for_it() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = apart(&cluster, "unissued");
    let nodes = cluster.nodes();
    let load = PodLoad::start(&namespace, "deployment/client", "http://server/", 4);
    {
        let _away = Away::new(&mesh);
        let known = Workload::new("known").on(&nodes[0]);
        let fresh = Workload::new("fresh").on(&nodes[0]).account("fresh");
        namespace.start(&[&known, &fresh]);
        wait::until("an answer by a certificate that lives", PATIENCE, || {
            asks(&namespace, "known")
        });
        // It has nothing to show, and plaintext is no way around that.
        let refused = asks(&namespace, "fresh");
        assert!(refused.is_err(), "answered without a certificate");
    }
    mesh.wait();
    wait::until("an answer by a new certificate", PATIENCE, || {
        asks(&namespace, "fresh")
    });
    load.stop().assert_all_answered(500);
}
