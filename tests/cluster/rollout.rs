// SPDX-License-Identifier: Apache-2.0

//! Rolling updates of applications lose no request.

use mesh_tests::kube::{Cluster, Mesh, Namespace, PodLoad, Workload};

#[test]
fn a_rolling_update_of_a_server_under_load_fails_no_request() {
    let cluster = Cluster::here();
    Mesh::on(&cluster);
    let namespace = Namespace::create(&cluster, "rolling");
    namespace.label("istio-injection=enabled");
    let server = Workload::new("server").replicas(4);
    let client = Workload::new("client");
    namespace.start(&[&server, &client]);
    let load = PodLoad::start(&namespace, "deployment/client", "http://server/", 4);
    for round in ["1", "2"] {
        namespace.start(&[&server.clone().annotation("round", round)]);
    }
    load.stop().assert_all_answered(500);
}
