// SPDX-License-Identifier: Apache-2.0

//! Promise 4, as a table: who reaches whom under which PeerAuthentication and DestinationRule.
//!
//! The rows are those of Istio's own suite (`tests/integration/security/reachability_test.go`), read for a
//! mesh whose tunnel is always mutual TLS: a DestinationRule's `DISABLE` and `ISTIO_MUTUAL` change nothing between
//! pods of the mesh.

use mesh_tests::{App, Pod, client};

use crate::mesh::{Mesh, peer_authentication};

/// Who reaches whom.
#[derive(Debug, PartialEq, Eq)]
struct Reach {
    /// A pod of the mesh a server of the mesh at another node, by its Service.
    mesh_to_mesh: bool,
    /// The same, by the pod's address.
    mesh_to_pod: bool,
    /// A pod of the mesh at the server's own node, by its Service.
    near_to_mesh: bool,
    /// A pod outside of the mesh a server of the mesh.
    outside_to_mesh: bool,
    /// The same, at the second port.
    outside_to_port: bool,
    /// A pod of the mesh a server outside of it, by its Service.
    mesh_to_outside: bool,
    /// Two pods outside of the mesh.
    outside_to_outside: bool,
}

/// What is expected where it differs: plaintext into the mesh at both ports, and out of it.
const fn reach(outside_to_mesh: bool, outside_to_port: bool, mesh_to_outside: bool) -> Reach {
    Reach {
        mesh_to_mesh: true,
        mesh_to_pod: true,
        near_to_mesh: true,
        outside_to_mesh,
        outside_to_port,
        mesh_to_outside,
        outside_to_outside: true,
    }
}

const OPEN: Reach = reach(true, true, true);
const CLOSED: Reach = reach(false, false, true);
/// Servers outside of the mesh are to be spoken to in its own TLS, which they do not speak.
const OPEN_INSIDE: Reach = reach(true, true, false);
const CLOSED_INSIDE: Reach = reach(false, false, false);

struct Row {
    name: &'static str,
    /// Modes of PeerAuthentications, by namespace: all are of the name `default`.
    modes: &'static [(&'static str, &'static str)],
    /// Mode of the second port, in a PeerAuthentication of the servers.
    port: Option<&'static str>,
    /// `tls.mode` of DestinationRules for both Services.
    rule: Option<&'static str>,
    want: Reach,
}

const fn row(
    name: &'static str,
    modes: &'static [(&'static str, &'static str)],
    rule: Option<&'static str>,
    want: Reach,
) -> Row {
    Row {
        name,
        modes,
        port: None,
        rule,
        want,
    }
}

const GLOBAL: &str = "istio-system";
const OWN: &str = "default";

const ROWS: &[Row] = &[
    row("no peer authn", &[], None, OPEN),
    row("global strict", &[(GLOBAL, "STRICT")], None, CLOSED),
    row("global permissive", &[(GLOBAL, "PERMISSIVE")], None, OPEN),
    row("global disabled", &[(GLOBAL, "DISABLE")], None, OPEN),
    row(
        "global strict, rule mutual",
        &[(GLOBAL, "STRICT")],
        Some("ISTIO_MUTUAL"),
        CLOSED_INSIDE,
    ),
    row(
        "global permissive, rule plaintext",
        &[(GLOBAL, "PERMISSIVE")],
        Some("DISABLE"),
        OPEN,
    ),
    row(
        "global strict, rule plaintext",
        &[(GLOBAL, "STRICT")],
        Some("DISABLE"),
        CLOSED,
    ),
    row(
        "global disabled, rule mutual",
        &[(GLOBAL, "DISABLE")],
        Some("ISTIO_MUTUAL"),
        OPEN_INSIDE,
    ),
    row("namespace strict", &[(OWN, "STRICT")], None, CLOSED),
    row("namespace permissive", &[(OWN, "PERMISSIVE")], None, OPEN),
    row("namespace disabled", &[(OWN, "DISABLE")], None, OPEN),
    row(
        "namespace permissive under global strict",
        &[(GLOBAL, "STRICT"), (OWN, "PERMISSIVE")],
        None,
        OPEN,
    ),
    row(
        "namespace strict under global permissive",
        &[(GLOBAL, "PERMISSIVE"), (OWN, "STRICT")],
        None,
        CLOSED,
    ),
    row(
        "namespace unset under global strict",
        &[(GLOBAL, "STRICT"), (OWN, "UNSET")],
        None,
        CLOSED,
    ),
    row(
        "another namespace's strict",
        &[("outside", "STRICT")],
        None,
        OPEN,
    ),
    Row {
        name: "strict but for a port",
        modes: &[(GLOBAL, "STRICT")],
        port: Some("PERMISSIVE"),
        rule: None,
        want: reach(false, true, true),
    },
    Row {
        name: "permissive but for a port",
        modes: &[(OWN, "PERMISSIVE")],
        port: Some("STRICT"),
        rule: None,
        want: reach(true, false, true),
    },
    Row {
        name: "strict but for a port that is disabled",
        modes: &[(OWN, "STRICT")],
        port: Some("DISABLE"),
        rule: None,
        want: reach(false, true, true),
    },
    row("migration: no rule", &[(OWN, "PERMISSIVE")], None, OPEN),
    row(
        "migration: rule plaintext",
        &[(OWN, "PERMISSIVE")],
        Some("DISABLE"),
        OPEN,
    ),
    row(
        "migration: rule mutual",
        &[(OWN, "PERMISSIVE")],
        Some("ISTIO_MUTUAL"),
        OPEN_INSIDE,
    ),
];

impl Row {
    fn manifests(&self) -> String {
        let modes = self.modes.iter();
        let mut text: Vec<String> = modes
            .map(|(namespace, mode)| peer_authentication(namespace, mode))
            .collect();
        text.extend(self.port.map(|mode| {
            format!(
                "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: port, namespace: {OWN}}}
spec:
  selector: {{matchLabels: {{app: recommendations}}}}
  portLevelMtls: {{8081: {{mode: {mode}}}}}
"
            )
        }));
        for (name, namespace) in SERVICES {
            text.extend(self.rule.map(|mode| {
                format!(
                    "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: {OWN}}}
spec:
  host: {name}.{namespace}.svc.cluster.local
  trafficPolicy: {{tls: {{mode: {mode}}}}}
"
                )
            }));
        }
        text.join("---")
    }

    fn withdraw(&self, mesh: &Mesh) {
        for (namespace, _) in self.modes {
            mesh.lab.delete("PeerAuthentication", namespace, "default");
        }
        if self.port.is_some() {
            mesh.lab.delete("PeerAuthentication", OWN, "port");
        }
        if self.rule.is_some() {
            for (name, _) in SERVICES {
                mesh.lab.delete("DestinationRule", OWN, name);
            }
        }
    }
}

const SERVICES: [(&str, &str); 2] = [("recommendations", "default"), ("legacy", "outside")];

/// The Service of a pod that is not in the mesh; with a rule, so that it is the agent who leads to it.
fn legacy(server: &Pod) -> String {
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: legacy, namespace: outside, labels: {{kubernetes.io/service-name: legacy}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints: [{{addresses: [{}], conditions: {{ready: true}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: legacy, namespace: outside}}
spec: {{hosts: [legacy], http: [{{route: [{{destination: {{host: legacy}}}}]}}]}}
",
        server.v4
    )
}

fn reaches(pod: &Pod, address: &str) -> bool {
    let answer = pod.run(|| client::get(address, "reach", "/"));
    answer.is_ok_and(|answer| answer.status == 200)
}

#[test]
fn pods_reach_each_other_as_peer_authentications_and_destination_rules_say() {
    let mesh = Mesh::start("reachability");
    let second = App::http(&mesh.v1, 8081);
    let near = mesh.lab.pod("near").on_b().start();
    let outsider = mesh.lab.pod("outsider").outside().start();
    let server = mesh.lab.pod("legacy").outside().on_b().start();
    let _legacy = App::http(&server, 8080);
    let service = mesh.lab.service("legacy").namespace("outside");
    service.selector(&[]).port("http", 80, 8080).create();
    mesh.apply(&legacy(&server));
    let (to_mesh, to_outside) = (
        mesh.service("recommendations", 80),
        mesh.service("legacy.outside", 80),
    );
    let (pod, port) = (
        format!("{}:8080", mesh.v1.v4),
        format!("{}:8081", mesh.v1.v4),
    );
    let naked = format!("{}:8080", server.v4);
    for row in ROWS {
        mesh.apply(&row.manifests());
        let before = mesh.apps[0].connections() + second.connections();
        let outside = [reaches(&outsider, &pod), reaches(&outsider, &port)];
        let seen = mesh.apps[0].connections() + second.connections() - before;
        let let_in = outside.iter().filter(|passed| **passed).count();
        assert_eq!(seen, u64::try_from(let_in).unwrap(), "{}", row.name);
        let reach = Reach {
            mesh_to_mesh: reaches(&mesh.client, &to_mesh),
            mesh_to_pod: reaches(&mesh.client, &pod) && reaches(&mesh.client, &port),
            near_to_mesh: reaches(&near, &to_mesh),
            outside_to_mesh: outside[0],
            outside_to_port: outside[1],
            mesh_to_outside: reaches(&mesh.client, &to_outside),
            outside_to_outside: reaches(&outsider, &naked),
        };
        assert_eq!(reach, row.want, "{}", row.name);
        row.withdraw(&mesh);
    }
}
