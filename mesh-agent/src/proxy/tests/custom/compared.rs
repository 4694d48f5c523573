// SPDX-License-Identifier: Apache-2.0

//! What a provider sees of bodies, beside an Envoy that asks it as Istio would have it do.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{
    super::{
        envoy::{self, Envoy},
        mesh::{Mesh, connect, read_answer},
    },
    bodies::{Seen, count, guard, judge, keeping, last, partial, seeing, with_length},
};

/// What comes of one request: its answer, what the provider sees and what the application gets.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    answer: (String, String),
    shown: Option<(String, String)>,
    got: Option<String>,
}

/// One way to the same provider and application.
struct Way {
    through: SocketAddr,
    shown: Seen,
    app: Seen,
}

impl Way {
    async fn told(&self, body: &str) -> Told {
        let before = (count(&self.shown), count(&self.app));
        let mut client = connect(self.through).await;
        let lines = with_length(body);
        let head = format!("POST /guarded HTTP/1.1\r\nHost: shop\r\n{lines}\r\n");
        client.write_all(head.as_bytes()).await.expect("room");
        // Who refuses may be done before all was said.
        client.write_all(body.as_bytes()).await.ok();
        let (head, text) = read_answer(&mut client).await;
        let is_new = |seen: &Seen, before: usize| (count(seen) > before).then(|| last(seen));
        Told {
            answer: (head[9..12].to_owned(), text),
            shown: is_new(&self.shown, before.0).map(|(head, body)| {
                let told = partial(&head).to_owned();
                (told, body)
            }),
            got: is_new(&self.app, before.1).map(|(_, body)| body),
        }
    }
}

fn bootstrap(
    listen: SocketAddr,
    app: SocketAddr,
    authz: SocketAddr,
    may_be_partial: bool,
) -> Value {
    let asking = json!({
        "http_service": {
            "server_uri": {"uri": "http://authz", "cluster": "authz", "timeout": "10s"},
            "path_prefix": "/check",
        },
        "allowed_headers": {"patterns": [{"exact": "x-envoy-auth-partial-body"}]},
        "with_request_body": {"max_request_bytes": 10, "allow_partial_message": may_be_partial},
    });
    let kind = "http.ext_authz.v3.ExtAuthz";
    let asking = envoy::filter("envoy.filters.http.ext_authz", kind, asking);
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "app"}});
    let manager = envoy::manager(json!({
        "stat_prefix": "in",
        "http_filters": [asking, envoy::router()],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }));
    let cluster = |name: &str, at: SocketAddr| {
        let endpoint = json!({"endpoint": {"address": envoy::address(at)}});
        let endpoints = json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]});
        json!({"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": endpoints})
    };
    json!({"static_resources": {
        "listeners": [{
            "name": "in", "address": envoy::address(listen),
            "filter_chains": [{"filters": [manager]}],
        }],
        "clusters": [cluster("app", app), cluster("authz", authz)],
    }})
}

#[tokio::test]
async fn a_provider_sees_what_it_sees_of_envoy() {
    for may_be_partial in [false, true] {
        let mesh = Mesh::start();
        let (app_address, app) = keeping(&mesh, |_body| "200 OK").await;
        let (authz, shown) = keeping(&mesh, judge).await;
        let provider = seeing(10, may_be_partial);
        let vip = guard(&mesh, provider, app_address, authz).await;
        let ours = Way {
            through: vip,
            shown,
            app,
        };
        let (app_address, app) = keeping(&mesh, |_body| "200 OK").await;
        let (authz, shown) = keeping(&mesh, judge).await;
        let envoy = Envoy::start(|at| bootstrap(at, app_address, authz, may_be_partial));
        let its = Way {
            through: envoy.address(),
            shown,
            app,
        };
        let longer = "0123456789".repeat(20_000);
        for body in [
            "short",
            "evil",
            "0123456789",
            "0123456789a",
            "0123456789 evil",
            &longer,
        ] {
            let (ours, its) = (ours.told(body).await, its.told(body).await);
            assert_eq!(ours, its, "{may_be_partial}: {} bytes", body.len());
        }
    }
}
