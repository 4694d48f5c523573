// SPDX-License-Identifier: Apache-2.0

//! Objects by chance, of so few names, addresses and labels that they get in each other's way.

mod entries;
mod security;

use std::fmt::Write as _;

use crate::config::{Kind, ObjectKey};

const NAMESPACES: [&str; 3] = ["a", "b", "istio-system"];

/// Chance that is the same for one seed.
pub(super) struct Chance(fastrand::Rng);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    pub(super) fn below(&mut self, count: usize) -> usize {
        self.0.usize(..count)
    }

    /// True once in `count` times.
    pub(super) fn is_one_of(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }

    /// An object in some state.
    pub(super) fn object(&mut self) -> (ObjectKey, String) {
        match self.below(43) {
            0..6 => self.pod(),
            6..9 => self.service(),
            9..12 => self.slice(),
            12..15 => self.virtual_service(),
            15..17 => self.destination_rule(),
            17..19 => self.peer_authentication(),
            19 => self.policy(),
            20 | 21 => self.route(),
            22 => self.mesh_policy(),
            23..26 => self.authorization(),
            26..29 => self.service_entry(),
            29 | 30 => self.workload_entry(),
            31 | 32 => self.node(),
            33 | 34 => self.rate_limit(),
            35 | 36 => self.authentication(),
            37 | 38 => self.sidecar(),
            39 => self.mesh_config(),
            40 | 41 => self.backend_policy(),
            _ => self.namespace(),
        }
    }

    fn name(&mut self, kind: Kind, prefix: &str, count: usize) -> (ObjectKey, String) {
        let key = ObjectKey {
            kind,
            namespace: self.of(&NAMESPACES).to_owned(),
            name: format!("{prefix}{}", self.below(count)),
        };
        let head = self.head(&key);
        (key, head)
    }

    fn head(&mut self, key: &ObjectKey) -> String {
        let version = match key.kind {
            Kind::Pod | Kind::ConfigMap | Kind::Service | Kind::Namespace | Kind::Node => "v1",
            Kind::EndpointSlice => "discovery.k8s.io/v1",
            Kind::VirtualService
            | Kind::DestinationRule
            | Kind::ServiceEntry
            | Kind::WorkloadEntry
            | Kind::Sidecar => "networking.istio.io/v1",
            Kind::PeerAuthentication | Kind::AuthorizationPolicy | Kind::RequestAuthentication => {
                "security.istio.io/v1"
            }
            Kind::LocalRateLimit => "mesh-agent.io/v1alpha1",
            Kind::BackendTrafficPolicy => "gateway.networking.x-k8s.io/v1alpha1",
            Kind::Policy | Kind::MeshPolicy => "authentication.istio.io/v1alpha1",
            _ => "gateway.networking.k8s.io/v1",
        };
        // Where an object stands is part of what is said about it.
        let lines = "#\n".repeat(usize::from(self.is_one_of(4)));
        let kind = key.kind.as_str();
        let created = format!("2026-01-0{}T00:00:00Z", 1 + self.below(3));
        let place = match key.namespace.as_str() {
            "" => String::new(),
            namespace => format!(", namespace: {namespace}"),
        };
        format!(
            "{lines}apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {}{place}, creationTimestamp: '{created}'",
            key.name
        )
    }

    fn labels(&mut self) -> String {
        let (app, version) = (self.of(&["x", "y"]), self.of(&["v1", "v2"]));
        format!("app: {app}, version: {version}")
    }

    fn pod(&mut self) -> (ObjectKey, String) {
        let (key, mut text) = self.name(Kind::Pod, "p", 4);
        let labels = self.labels();
        if self.is_one_of(6) {
            write!(text, ", uid: same").unwrap();
        }
        let node = self.of(&["node-a", "node-b"]);
        let port = 8080 + self.below(2);
        let host = self.is_one_of(8);
        let phase = if self.is_one_of(8) {
            "Succeeded"
        } else {
            "Running"
        };
        let address = self.below(6);
        let ready = if self.is_one_of(3) { "False" } else { "True" };
        let status = match self.below(8) {
            0 => String::new(),
            1 => format!("podIPs: [{{ip: 10.1.0.{address}}}, {{ip: 'fd00::{address}'}}], "),
            _ => format!("podIP: 10.1.0.{address}, "),
        };
        write!(
            text,
            ", labels: {{{labels}}}}}\nspec: {{nodeName: {node}, hostNetwork: {host}, containers: [{{name: app, image: app, \
             ports: [{{name: web, containerPort: {port}}}]}}]}}\nstatus: {{{status}phase: {phase}, \
             conditions: [{{type: Ready, status: '{ready}'}}]}}\n"
        )
        .unwrap();
        (key, text)
    }

    fn service(&mut self) -> (ObjectKey, String) {
        let (key, text) = self.name(Kind::Service, "s", 3);
        let app = self.of(&["{app: x}", "{app: y}", "{app: x, version: v1}", "{}"]);
        let address = self.below(4);
        let vips = match self.below(8) {
            0 => "clusterIP: None".to_owned(),
            2 => format!(
                "type: ExternalName, externalName: e{}.example",
                self.below(3)
            ),
            3 => format!(
                "type: ExternalName, externalName: s{}.a.svc.cluster.local",
                self.below(3)
            ),
            1 => format!("clusterIPs: [10.0.0.{address}, 'fd01::{address}']"),
            _ => format!("clusterIP: 10.0.0.{address}"),
        };
        let target = self.of(&["8080", "8081", "web"]);
        let name = self.of(&["http", "tcp", "tls", "web"]);
        let second = match self.below(3) {
            0 => ", {name: http-two, port: 81, targetPort: 8080}",
            _ => "",
        };
        let not_ready = self.is_one_of(6);
        let annotation = self.of(&[
            "",
            "",
            "service.kubernetes.io/topology-mode: Auto",
            "networking.istio.io/traffic-distribution: any",
        ]);
        let distribution = self.of(&[
            "",
            "",
            "trafficDistribution: PreferClose, ",
            "trafficDistribution: PreferSameNode, ",
        ]);
        let text = format!(
            "{text}, annotations: {{{annotation}}}}}\nspec: {{{distribution}{vips}, selector: {app}, publishNotReadyAddresses: {not_ready}, \
             ports: [{{name: {name}, port: 80, targetPort: {target}}}{second}]}}\n"
        );
        (key, text)
    }

    fn slice(&mut self) -> (ObjectKey, String) {
        let (key, text) = self.name(Kind::EndpointSlice, "e", 3);
        let service = self.below(3);
        let label = match self.below(6) {
            0 => String::new(),
            _ => format!(", labels: {{kubernetes.io/service-name: s{service}}}"),
        };
        let mut endpoints = Vec::new();
        for _ in 0..self.below(4) {
            let (address, ready) = (self.below(6), !self.is_one_of(4));
            let place = self.of(&[
                "",
                ", nodeName: node-b",
                ", zone: a",
                ", zone: b, hints: {forZones: [{name: a}]}",
            ]);
            endpoints.push(format!(
                "{{addresses: [10.1.0.{address}], conditions: {{ready: {ready}}}{place}}}"
            ));
        }
        let endpoints = endpoints.join(", ");
        let name = self.of(&["http", "tcp", "web"]);
        let text = format!(
            "{text}{label}}}\naddressType: IPv4\nendpoints: [{endpoints}]\nports: [{{name: {name}, port: 8080}}]\n"
        );
        (key, text)
    }

    fn host(&mut self) -> String {
        let namespace = self.of(&["a", "b"]);
        match self.below(10) {
            0 => "'*'".to_owned(),
            8 => format!("e{}.example", self.below(3)),
            9 => "'*.example'".to_owned(),
            1 => format!("'*.{namespace}.svc.cluster.local'"),
            2 | 3 => format!("s{}.{namespace}.svc.cluster.local", self.below(4)),
            _ => format!("s{}", self.below(4)),
        }
    }

    fn export(&mut self) -> &'static str {
        self.of(&[
            "",
            "",
            "exportTo: ['.'], ",
            "exportTo: [b], ",
            "exportTo: [a, b], ",
        ])
    }

    fn virtual_service(&mut self) -> (ObjectKey, String) {
        let (key, text) = self.name(Kind::VirtualService, "v", 3);
        let mut rules = Vec::new();
        for _ in 0..1 + self.below(2) {
            let mut route = Vec::new();
            for _ in 0..1 + self.below(2) {
                let host = match self.below(4) {
                    0 => format!("e{}.example", self.below(3)),
                    _ => format!("s{}", self.below(4)),
                };
                let subset = self.of(&["", ", subset: v1", ", subset: v2"]);
                let port = self.of(&["", "", ", port: {number: 81}"]);
                let weight = 10 * (1 + self.below(3));
                route.push(format!(
                    "{{destination: {{host: {host}{subset}{port}}}, weight: {weight}}}"
                ));
            }
            let condition = self.of(&[
                "",
                "match: [{uri: {prefix: /x}}], ",
                "match: [{port: 81}], ",
            ]);
            let action = if self.is_one_of(4) {
                let place = self.of(&["", ", namespace: a", ", namespace: b"]);
                format!("delegate: {{name: v{}{place}}}", self.below(3))
            } else {
                format!("route: [{}]", route.join(", "))
            };
            rules.push(format!("{{{condition}{action}}}"));
        }
        let export = self.export();
        // Without hosts it is for others to delegate to.
        let hosts = if self.is_one_of(3) {
            String::new()
        } else {
            format!("hosts: [{}], ", self.host())
        };
        let bytes = match hosts.as_str() {
            "" => String::new(),
            _ => self.rules_for_bytes(),
        };
        let text = format!(
            "{text}}}\nspec: {{{export}{hosts}{bytes}http: [{}]}}\n",
            rules.join(", ")
        );
        (key, text)
    }

    fn rules_for_bytes(&mut self) -> String {
        let (one, other) = (self.below(4), self.below(4));
        let subset = self.of(&["", ", subset: v1"]);
        let condition = self.of(&[
            "",
            "match: [{port: 81}], ",
            "match: [{sourceNamespace: b}], ",
        ]);
        match self.below(3) {
            0 => format!(
                "tcp: [{{{condition}route: [{{destination: {{host: s{one}{subset}}}, weight: 1}}, \
                 {{destination: {{host: s{other}}}, weight: 2}}]}}], "
            ),
            _ => String::new(),
        }
    }

    fn destination_rule(&mut self) -> (ObjectKey, String) {
        let (key, text) = self.name(Kind::DestinationRule, "d", 3);
        let mut subsets = Vec::new();
        for name in ["v1", "v2"] {
            if !self.is_one_of(3) {
                let version = self.of(&["v1", "v2"]);
                subsets.push(format!("{{name: {name}, labels: {{version: {version}}}}}"));
            }
        }
        let (host, export) = (self.host(), self.export());
        let policy = self.of(&[
            "",
            "",
            "trafficPolicy: {loadBalancer: {simple: RANDOM}}, ",
            "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}, ",
            "trafficPolicy: {tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 81}, tls: {mode: DISABLE}}]}, ",
            "trafficPolicy: {connectionPool: {http: {http2MaxRequests: 5}}}, ",
            "trafficPolicy: {tls: {mode: MUTUAL, credentialName: bank}, loadBalancer: {simple: PASSTHROUGH}}, ",
            "trafficPolicy: {proxyProtocol: {version: V2}}, ",
            "trafficPolicy: {outlierDetection: {}}, ",
            "trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: r, to: {r/a: 60, r/b: 40}}]}}}, ",
            "trafficPolicy: {outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: [version]}}}, ",
        ]);
        let labels = self.labels();
        let selector = match self.below(3) {
            0 => format!("workloadSelector: {{matchLabels: {{{labels}}}}}, "),
            _ => String::new(),
        };
        let text = format!(
            "{text}}}\nspec: {{{export}{selector}host: {host}, {policy}subsets: [{}]}}\n",
            subsets.join(", ")
        );
        (key, text)
    }

    fn peer_authentication(&mut self) -> (ObjectKey, String) {
        let (key, text) = self.name(Kind::PeerAuthentication, "q", 2);
        let mode = self.of(&["STRICT", "PERMISSIVE", "UNSET"]);
        let selector = match self.below(3) {
            0 => String::new(),
            _ => format!(
                "selector: {{matchLabels: {{{}}}}}, portLevelMtls: {{8080: {{mode: STRICT}}}}, ",
                self.labels()
            ),
        };
        let text = format!("{text}}}\nspec: {{{selector}mtls: {{mode: {mode}}}}}\n");
        (key, text)
    }

    fn policy(&mut self) -> (ObjectKey, String) {
        let (mut key, _) = self.name(Kind::Policy, "o", 2);
        let targets = match self.below(2) {
            0 => {
                key.name = "default".to_owned();
                String::new()
            }
            _ => format!(
                "targets: [{{name: s{}, ports: [{{number: 80}}]}}], ",
                self.below(4)
            ),
        };
        let text = self.head(&key);
        let text = format!("{text}}}\nspec: {{{targets}peers: [{{mtls: {{mode: STRICT}}}}]}}\n");
        (key, text)
    }

    fn mesh_policy(&mut self) -> (ObjectKey, String) {
        let key = ObjectKey {
            kind: Kind::MeshPolicy,
            namespace: String::new(),
            name: "default".to_owned(),
        };
        let (text, mode) = (self.head(&key), self.of(&["STRICT", "PERMISSIVE"]));
        let text = format!("{text}}}\nspec: {{peers: [{{mtls: {{mode: {mode}}}}}]}}\n");
        (key, text)
    }

    fn route(&mut self) -> (ObjectKey, String) {
        let kind = match self.below(5) {
            0 => Kind::TcpRoute,
            1 => Kind::TlsRoute,
            2 => Kind::GrpcRoute,
            _ => Kind::HttpRoute,
        };
        let (key, text) = self.name(kind, "r", 2);
        let parent = format!(
            "{{group: '', kind: Service, name: s{}, namespace: {}{}}}",
            self.below(3),
            self.of(&["a", "b"]),
            self.of(&["", "", ", port: 80"])
        );
        let (first, second) = (self.below(4), self.below(3));
        let own = match kind {
            Kind::HttpRoute | Kind::GrpcRoute if self.is_one_of(3) => format!(
                ", filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: s{}, port: 80}}}}}}]",
                self.below(4)
            ),
            _ => String::new(),
        };
        let text = format!(
            "{text}}}\nspec: {{parentRefs: [{parent}], rules: [{{backendRefs: [{{name: s{first}, port: 80, weight: 3}}, \
             {{name: s{second}, port: 81, weight: {}{own}}}]}}]}}\n",
            self.below(3)
        );
        (key, text)
    }

    fn namespace(&mut self) -> (ObjectKey, String) {
        let key = ObjectKey {
            kind: Kind::Namespace,
            namespace: String::new(),
            name: self.of(&NAMESPACES).to_owned(),
        };
        let text = self.head(&key);
        let label = self.of(&["", "istio-injection: enabled", "istio-injection: disabled"]);
        let annotation = self.of(&[
            "",
            "networking.istio.io/traffic-distribution: PreferSameZone",
        ]);
        let text = format!("{text}, labels: {{{label}}}, annotations: {{{annotation}}}}}\n");
        (key, text)
    }

    fn rate_limit(&mut self) -> (ObjectKey, String) {
        let (key, text) = self.name(Kind::LocalRateLimit, "l", 3);
        let target = match self.below(3) {
            0 => format!("kind: Service, name: s{}", self.below(3)),
            1 => format!(
                "group: gateway.networking.k8s.io, kind: HTTPRoute, name: r{}",
                self.below(2)
            ),
            _ => format!(
                "group: gateway.networking.k8s.io, kind: GRPCRoute, name: r{}",
                self.below(2)
            ),
        };
        let requests = self.below(3);
        let text = format!("{text}}}\nspec: {{targetRef: {{{target}}}, requests: {requests}}}\n");
        (key, text)
    }

    fn node(&mut self) -> (ObjectKey, String) {
        let key = ObjectKey {
            kind: Kind::Node,
            namespace: String::new(),
            name: self.of(&["node-a", "node-b"]).to_owned(),
        };
        let text = self.head(&key);
        let zone = self.of(&[
            "",
            ", topology.kubernetes.io/zone: a",
            ", topology.kubernetes.io/zone: b",
        ]);
        let text = format!("{text}, labels: {{topology.kubernetes.io/region: r{zone}}}}}\n");
        (key, text)
    }
}
