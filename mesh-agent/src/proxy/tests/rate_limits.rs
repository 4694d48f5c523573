// SPDX-License-Identifier: Apache-2.0

//! Requests beyond a limit, over real sockets.

use std::{sync::Arc, time::Duration};

use super::{
    mesh::{Mesh, cluster, connect, get, rule, to},
    treated::{OK, script},
};
use crate::model::{
    HttpRule, ObjectRef, Protocol, Treatment,
    limit::{Rate, RateLimit},
};

#[tokio::test]
async fn requests_beyond_a_limit_are_429_rl_and_told_when_to_come_again() {
    let mesh = Mesh::start();
    let (app, mut hear) = script(&mesh, &[OK]).await;
    let limit = RateLimit {
        origin: ObjectRef {
            kind: "LocalRateLimit".into(),
            namespace: "proxy-tests".into(),
            name: "beyond".into(),
        },
        rate: Rate::new(1, Duration::from_secs(3_600), 2).expect("a rate"),
        per_client: true,
        reason: "too many requests".into(),
    };
    let treatment = Treatment {
        limits: vec![Arc::new(limit)],
        ..Treatment::default()
    };
    let rules = vec![HttpRule {
        treatment: Some(Arc::new(treatment)),
        ..rule(vec![(1, to(cluster(&[app])))], None)
    }];
    let vip = mesh.service(1, Protocol::Http, cluster(&[]), rules).await;
    let mut client = connect(vip).await;
    for _ in 0..2 {
        let (head, _) = get(&mut client, "/").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        hear.recv().await.expect("it is sent on");
    }
    let (head, body) = get(&mut client, "/").await;
    assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
    assert_eq!(body, "local_rate_limited");
    let lower = head.to_ascii_lowercase();
    let after = lower
        .lines()
        .find_map(|line| line.strip_prefix("retry-after: "));
    let after: u64 = after.and_then(|text| text.parse().ok()).expect("a number");
    assert!((3_590..=3_600).contains(&after), "{after}");
    mesh.metric(&[
        "istio_requests_total",
        "response_code=\"429\"",
        "response_flags=\"RL\"",
    ])
    .await;
    let limited = "mesh_agent_rate_limited_total{namespace=\"proxy-tests\",name=\"beyond\"} 1";
    mesh.metric(&[limited]).await;
    assert!(hear.try_recv().is_err());
}
