// SPDX-License-Identifier: Apache-2.0

//! The mesh most scenarios start from: a client on node a, two versions of a service on node b,
//! an agent on each.
//!
//! Knows nothing of what is tried with it.

use std::collections::BTreeMap;

use mesh_tests::{Agent, App, Http1, Lab, Pod, Response, client};

/// What curl of `pod` gets: the status, and the body.
#[track_caller]
pub(crate) fn ask(pod: &Pod, url: &str, headers: &[&str]) -> (String, String) {
    let headers = headers.iter().flat_map(|header| ["--header", *header]);
    let mut arguments: Vec<&str> = headers.collect();
    arguments.extend(["--write-out", "\n%{http_code}", url]);
    let said = pod.curl(&arguments).stdout;
    let (body, status) = said.rsplit_once('\n').unwrap_or_default();
    (status.to_owned(), body.to_owned())
}

/// The subsets and the route of `recommendations`, with these weights.
pub(crate) fn split(v1: u32, v2: u32) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: recommendations, namespace: default}}
spec:
  host: recommendations
  subsets:
  - name: v1
    labels: {{version: v1}}
  - name: v2
    labels: {{version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: recommendations, namespace: default}}
spec:
  hosts: [recommendations]
  http:
  - route:
    - destination: {{host: recommendations, subset: v1}}
      weight: {v1}
    - destination: {{host: recommendations, subset: v2}}
      weight: {v2}
"
    )
}

/// A PeerAuthentication `default` for a namespace.
pub(crate) fn peer_authentication(namespace: &str, mode: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: {namespace}}}
spec: {{mtls: {{mode: {mode}}}}}
"
    )
}

/// See the module. Fields are dropped from the top: agents first, the lab last.
pub(crate) struct Mesh {
    pub(crate) a: Agent,
    pub(crate) b: Agent,
    pub(crate) apps: Vec<App>,
    pub(crate) client: Pod,
    pub(crate) v1: Pod,
    pub(crate) v2: Pod,
    pub(crate) lab: Lab,
}

/// Pods without agents yet.
pub(crate) struct Pods {
    pub(crate) apps: Vec<App>,
    pub(crate) client: Pod,
    pub(crate) v1: Pod,
    pub(crate) v2: Pod,
    pub(crate) lab: Lab,
}

impl Pods {
    /// The lab, its pods and the HTTP servers, listening on 8080 behind port 80 of the service.
    #[track_caller]
    pub(crate) fn start(name: &str) -> Self {
        let lab = Lab::new(name);
        let client = lab.pod("client").start();
        let server = |version: &str| {
            let pod = lab.pod(&format!("recommendations-{version}")).on_b();
            let pod = pod
                .label("app", "recommendations")
                .label("version", version);
            pod.account("recommendations").start()
        };
        let (v1, v2) = (server("v1"), server("v2"));
        lab.service("recommendations")
            .port("http", 80, 8080)
            .create();
        let apps = vec![App::http(&v1, 8080), App::http(&v2, 8080)];
        Self {
            apps,
            client,
            v1,
            v2,
            lab,
        }
    }

    /// Starts the agents with `flags`.
    #[track_caller]
    pub(crate) fn enrol(self, flags: &[&str]) -> Mesh {
        let Self {
            apps,
            client,
            v1,
            v2,
            lab,
        } = self;
        let (a, b) = (lab.a.launch_agent(flags), lab.b.launch_agent(flags));
        a.wait_ready();
        b.wait_ready();
        lab.settle(&[&a, &b]);
        Mesh {
            a,
            b,
            apps,
            client,
            v1,
            v2,
            lab,
        }
    }
}

impl Mesh {
    /// A mesh without routes.
    #[track_caller]
    pub(crate) fn start(name: &str) -> Self {
        Self::with(name, &[], "")
    }

    /// A mesh with these manifests, its agents started with these flags.
    #[track_caller]
    pub(crate) fn with(name: &str, flags: &[&str], manifests: &str) -> Self {
        let pods = Pods::start(name);
        pods.lab.apply(manifests);
        pods.enrol(flags)
    }

    /// Writes manifests and waits until both agents work with them.
    #[track_caller]
    pub(crate) fn apply(&self, manifests: &str) {
        self.lab.apply(manifests);
        self.settle();
    }

    /// Waits until both agents work with the manifests as they are.
    #[track_caller]
    pub(crate) fn settle(&self) {
        self.lab.settle(&[&self.a, &self.b]);
    }

    /// `ip:port` of a service's port.
    #[track_caller]
    pub(crate) fn service(&self, name: &str, port: u16) -> String {
        format!("{}:{port}", self.lab.address(name))
    }

    /// One `GET` from the client to `recommendations`, on a connection of its own.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        let address = self.service("recommendations", 80);
        let answer = self
            .client
            .run(|| client::get(&address, "recommendations", path));
        answer.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// `count` requests on one keep-alive connection; answers by version.
    #[track_caller]
    pub(crate) fn get_many(&self, count: usize) -> BTreeMap<String, usize> {
        let address = self.service("recommendations", 80);
        let answers = self.client.run(|| {
            let mut http = Http1::connect(&address, "recommendations").unwrap();
            (0..count)
                .map(|_| http.get("/").unwrap())
                .collect::<Vec<_>>()
        });
        versions(&answers)
    }
}

/// Answers by the version that gave them; all must be 200.
#[track_caller]
pub(crate) fn versions(answers: &[Response]) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for answer in answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
        *seen.entry(answer.field("version")).or_default() += 1;
    }
    seen
}

/// `{v1: …, v2: …}` as [`versions`] counts them.
pub(crate) fn counts(v1: usize, v2: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([("v1".to_owned(), v1), ("v2".to_owned(), v2)])
}
