// SPDX-License-Identifier: Apache-2.0

//! `tls` of a VirtualService against a slow, obvious reading of the same words, on random rules and
//! connections.
//!
//! The rules go all the way from YAML to the decision; the reference reads what is written, for every
//! connection anew, and shares nothing with it.

use super::{
    fixture::Mesh,
    http_routes::backends,
    routes::{WEB, virtual_service},
};
use crate::model::{Client, OpaqueDecision, Opening, Workload};

/// One random choice after the other, the same in every run.
struct Chance(fastrand::Rng);

/// Names that rules are for; each is one of the VirtualService's hosts, or below one.
const HOSTS: [&str; 5] = [
    "a.svc.cluster.local",
    "B.svc.cluster.local",
    "*.svc.cluster.local",
    "*.a.svc.cluster.local",
    "web",
];

/// Names that clients ask for.
const ASKED: [&str; 7] = [
    "a.svc.cluster.local",
    "b.svc.cluster.local",
    "x.a.svc.cluster.local",
    "xa.svc.cluster.local",
    "svc.cluster.local",
    "web",
    "other",
];

/// Subnets, and whether the Service's address is in them.
const SUBNETS: [(&str, bool); 3] = [
    ("10.0.0.0/8", true),
    ("10.0.0.1", true),
    ("10.9.0.0/16", false),
];

/// Where rules lead to: a subset, and its endpoint.
const TARGETS: [(&str, &str); 2] = [("v1", "v1@10.1.0.1:8080"), ("v2", "v2@10.1.0.2:8080")];

/// Where a connection goes that no rule is for.
const WHOLE: &str = "*@10.1.0.1:8080";

/// One entry of `match`, in plain words.
#[derive(Debug)]
struct Written {
    hosts: Vec<&'static str>,
    subnets: Vec<(&'static str, bool)>,
    port: Option<u16>,
    app: Option<&'static str>,
    namespace: Option<&'static str>,
    gateways: Vec<&'static str>,
}

/// One entry of `tls`.
#[derive(Debug)]
struct Rule {
    matches: Vec<Written>,
    target: (&'static str, &'static str),
}

impl Chance {
    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.0.usize(..all.len())].clone()
    }

    fn yes(&mut self, of_ten: usize) -> bool {
        self.0.usize(..10) < of_ten
    }

    fn some<T: Clone>(&mut self, all: &[T], most: usize) -> Vec<T> {
        (0..self.0.usize(..=most)).map(|_| self.of(all)).collect()
    }

    fn written(&mut self) -> Written {
        let mut hosts = self.some(&HOSTS, 2);
        hosts.push(self.of(&HOSTS));
        Written {
            hosts,
            subnets: match self.yes(3) {
                true => self.some(&SUBNETS, 2),
                false => Vec::new(),
            },
            port: self.yes(3).then(|| self.of(&[80, 80, 81])),
            app: self.yes(2).then(|| self.of(&["client", "web"])),
            namespace: self.yes(2).then(|| self.of(&["default", "shop"])),
            gateways: match self.yes(2) {
                true => self.some(&["mesh", "other"], 2),
                false => Vec::new(),
            },
        }
    }

    fn rules(&mut self) -> Vec<Rule> {
        let count = self.0.usize(1..5);
        let rule = |_| Rule {
            matches: (0..self.0.usize(1..3)).map(|_| self.written()).collect(),
            target: self.of(&TARGETS),
        };
        (0..count).map(rule).collect()
    }
}

impl Written {
    fn yaml(&self) -> String {
        let subnets: Vec<&str> = self.subnets.iter().map(|(subnet, _)| *subnet).collect();
        let mut fields = vec![
            format!("sniHosts: {:?}", self.hosts),
            format!("destinationSubnets: {subnets:?}"),
            format!("gateways: {:?}", self.gateways),
        ];
        fields.extend(self.port.map(|port| format!("port: {port}")));
        fields.extend(self.app.map(|app| format!("sourceLabels: {{app: {app}}}")));
        fields.extend(
            self.namespace
                .map(|name| format!("sourceNamespace: {name}")),
        );
        format!("{{{}}}", fields.join(", "))
    }

    /// Whether it is about connections of this client to the Service's port.
    fn is_for(&self, client: &Workload) -> bool {
        let app = client.labels.get("app").map(String::as_str);
        (self.gateways.is_empty() || self.gateways.contains(&"mesh"))
            && self.port.is_none_or(|port| port == 80)
            && self.app.is_none_or(|want| app == Some(want))
            && self.namespace.is_none_or(|want| want == &*client.namespace)
    }

    fn names(&self, asked: &str) -> bool {
        self.hosts.iter().any(|host| match host.strip_prefix('*') {
            Some(suffix) => asked.len() > suffix.len() && asked.ends_with(suffix),
            None => host.eq_ignore_ascii_case(asked),
        })
    }

    fn has_address(&self) -> bool {
        self.subnets.is_empty() || self.subnets.iter().any(|(_, is_in)| *is_in)
    }
}

/// The obvious reading.
fn read(rules: &[Rule], client: &Workload, asked: Opening<'_>, declared: bool) -> &'static str {
    if let Opening::Tls(Some(name)) = asked {
        let met = |one: &Written| one.is_for(client) && one.names(name) && one.has_address();
        let first = rules.iter().find(|rule| rule.matches.iter().any(met));
        if let Some(rule) = first {
            return rule.target.1;
        }
    }
    let mut all = rules.iter().flat_map(|rule| &rule.matches);
    let concerns = declared || asked != Opening::Other;
    match concerns && all.any(|one| one.is_for(client)) {
        true => "NR",
        false => WHOLE,
    }
}

/// The mesh of these rules, the Service `web` with a port of this name.
fn mesh(rules: &[Rule], port: &str) -> Mesh {
    let rules: Vec<String> = rules
        .iter()
        .map(|rule| {
            let matches: Vec<String> = rule.matches.iter().map(Written::yaml).collect();
            let subset = rule.target.0;
            format!(
                "{{match: [{}], route: [{{destination: {{host: web, subset: {subset}}}}}]}}",
                matches.join(", ")
            )
        })
        .collect();
    let spec = format!(
        "hosts: [web, '*.svc.cluster.local'], tls: [{}]",
        rules.join(", ")
    );
    let all = backends().replace("ports: [{name: http,", &format!("ports: [{{name: {port},"));
    Mesh::new(&(virtual_service("name: web", &spec) + &all))
}

fn decided(mesh: &Mesh, client: &Workload, opening: Opening<'_>) -> String {
    let service = mesh.service(WEB.0, WEB.1);
    let port = service.ports.iter().find(|port| port.number == WEB.2);
    let client = Client { workload: client };
    let port = port.expect("the port exists");
    match port.decide_bytes(&client, service.vips[0], opening) {
        OpaqueDecision::Forward(cluster) => {
            let endpoint = cluster.endpoints.first().expect("it has endpoints");
            let subset = cluster.subset.as_deref().unwrap_or("*");
            format!("{subset}@{}", endpoint.address)
        }
        OpaqueDecision::Refuse(refusal) => refusal.flag.as_str().to_owned(),
    }
}

#[test]
fn compiled_tls_rules_decide_as_the_obvious_reading_does() {
    let mut chance = Chance(fastrand::Rng::with_seed(20_261_126));
    let mut outcomes = std::collections::BTreeMap::<&str, usize>::new();
    for turn in 0..120 {
        let rules = chance.rules();
        let (port, declared) = chance.of(&[("tls", true), ("web", false)]);
        let mesh = mesh(&rules, port);
        let problems = mesh.problems();
        let refused = problems.iter().any(|text| text.contains("last good state"));
        assert!(!refused, "{problems:#?}");
        for client in ["client", "shopper", "web-v1"] {
            let client = mesh.workload(client);
            let named = ASKED.map(|name| Opening::Tls(Some(name)));
            let all = named.into_iter();
            for asked in all.chain([Opening::Tls(None), Opening::Other]) {
                let want = read(&rules, &client, asked, declared);
                let got = decided(&mesh, &client, asked);
                let name = &client.name;
                assert_eq!(got, want, "{turn} {port} {name} {asked:?}\n{rules:#?}");
                *outcomes.entry(want).or_default() += 1;
            }
        }
    }
    assert!(outcomes.len() == 4, "{outcomes:?}");
    assert!(outcomes.values().all(|count| *count > 100), "{outcomes:?}");
}
