// SPDX-License-Identifier: Apache-2.0

//! PASSTHROUGH: on to where the connection was opened to, but never around the mesh.

use std::sync::Arc;

use super::mesh::{Mesh, cluster_of, connect, get, workload};
use crate::model::{
    Balancer, Cluster, Endpoint, Position, Protocol, UpstreamPolicy, UpstreamUse, Workload,
};

/// The endpoints, used as PASSTHROUGH says.
fn passing(plain: &Cluster) -> Arc<Cluster> {
    let policy = UpstreamPolicy {
        balancer: Balancer::Original,
        ..UpstreamPolicy::default()
    };
    let endpoints: Vec<Endpoint> = plain.endpoints.clone();
    let upstream = UpstreamUse::new(policy, Position::default(), &endpoints, None);
    let cluster = Cluster::new(
        plain.service.clone(),
        Arc::clone(&plain.hostname),
        plain.port,
        None,
        None,
        endpoints,
    );
    Arc::new(cluster.used(Some(Arc::new(upstream))))
}

#[tokio::test]
async fn a_service_with_an_endpoint_in_the_mesh_is_reached_there_not_at_its_address() {
    let mesh = Mesh::start();
    let app = mesh.http_app("here").await;
    let server = Arc::new(Workload {
        addresses: vec![app.ip()],
        enrolled: true,
        ..workload("server")
    });
    mesh.add(&server).await;
    mesh.capture(&server);
    let cluster = passing(&cluster_of(vec![(app, Some(server))]));
    let vip = mesh.service(1, Protocol::Http, cluster, vec![]).await;
    // At its address the proxy itself would answer, again and again.
    assert_eq!(get(&mut connect(vip).await, "/").await.1, "here");
    mesh.metric(&[
        "istio_requests_total",
        "connection_security_policy=\"mutual_tls\"",
        "response_code=\"200\"",
    ])
    .await;
}
