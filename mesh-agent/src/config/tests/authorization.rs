// SPDX-License-Identifier: Apache-2.0

//! AuthorizationPolicies: which pods they are for, what of them is refused, and what that does.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderMap, Method, Uri};

use super::fixture::{Mesh, pod, pod_in, service};
use crate::model::{
    SpiffeId, Verdict,
    authorization::{Caller, RequestReading},
};

/// An AuthorizationPolicy; `spec` is flow YAML.
fn policy(place: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{{place}}}\nspec: {{{spec}}}\n"
    )
}

fn web() -> String {
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio-injection: enabled}}\n";
    namespace.to_owned() + &outside()
}

/// The same, not in the mesh.
fn outside() -> String {
    service("web", "10.0.0.1") + &pod("web", "10.1.0.1", "app: web")
}

const WEB: &str = "name: web";
const ROOT: &str = "name: root, namespace: istio-system";
const DENY_ALL: &str = "action: DENY, rules: [{}]";

/// Who comes: `namespace/account`, or nobody in particular.
fn identity(who: &str) -> Option<SpiffeId> {
    let (namespace, account) = who.split_once('/')?;
    Some(SpiffeId::new("cluster.local", namespace, account))
}

/// `allowed`, `denied` or `depends`, for a connection of `who` to port 8080 of `pod`.
#[track_caller]
fn verdict(mesh: &Mesh, pod: &str, who: &str) -> &'static str {
    let identity = identity(who);
    let caller = caller(identity.as_ref());
    match mesh.workload(pod).inbound.authorization.connection(&caller) {
        Verdict::Allowed => "allowed",
        Verdict::Denied(_) => "denied",
        Verdict::Depends(_) => "depends",
    }
}

fn caller(identity: Option<&SpiffeId>) -> Caller<'_> {
    Caller {
        identity,
        address: IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)),
        to: SocketAddr::from(([10, 1, 0, 1], 8080)),
    }
}

/// Whether `who` may `GET` a path of `web`.
#[track_caller]
fn may_get(mesh: &Mesh, who: &str, uri: &'static str) -> bool {
    let (identity, uri) = (identity(who), Uri::from_static(uri));
    let headers = HeaderMap::new();
    let reading = RequestReading::new(&Method::GET, &uri, &headers);
    let authorization = &mesh.workload("web").inbound.authorization;
    let caller = caller(identity.as_ref());
    authorization.request(&caller, &reading).is_ok()
}

/// `spec` for the pod `web` makes of a connection of `default/client`: `want`.
#[track_caller]
fn check(spec: &str, want: &str) {
    let mesh = Mesh::new(&(policy(WEB, spec) + &web()));
    let said = mesh.problems();
    assert_eq!(
        verdict(&mesh, "web", "default/client"),
        want,
        "{spec} {said:#?}"
    );
}

#[test]
fn a_policy_without_spec_or_with_an_empty_one_denies_all() {
    check("", "denied");
    let bare = "---\napiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\nmetadata: {name: x}\n";
    let mesh = Mesh::new(&(bare.to_owned() + &web()));
    assert_eq!(verdict(&mesh, "web", "default/client"), "denied");
    mesh.check_problems(&[]);
    check("rules: [{}]", "allowed");
    check("action: ALLOW", "denied");
}

#[test]
fn every_field_of_a_source_is_read() {
    for (source, want) in [
        (
            "principals: [cluster.local/ns/default/sa/client]",
            "allowed",
        ),
        ("principals: [cluster.local/ns/default/sa/other]", "denied"),
        (
            "notPrincipals: [cluster.local/ns/default/sa/client]",
            "denied",
        ),
        ("namespaces: [default]", "allowed"),
        ("notNamespaces: [default]", "denied"),
        ("serviceAccounts: [client]", "allowed"),
        ("serviceAccounts: [default/client]", "allowed"),
        ("serviceAccounts: [other/client]", "denied"),
        ("notServiceAccounts: [client]", "denied"),
        ("trustDomains: [cluster.local]", "allowed"),
        ("trustDomains: [elsewhere]", "denied"),
        ("notTrustDomains: [cluster.local]", "denied"),
        ("ipBlocks: [10.9.0.0/16, 1.2.3.4]", "allowed"),
        ("notIpBlocks: [10.9.0.1]", "denied"),
        ("remoteIpBlocks: [10.9.0.0/16]", "allowed"),
        ("notRemoteIpBlocks: [10.9.0.0/16]", "denied"),
        ("requestPrincipals: [\"*\"]", "denied"),
        ("notRequestPrincipals: [\"*\"]", "denied"),
    ] {
        check(
            &format!("rules: [{{from: [{{source: {{{source}}}}}]}}]"),
            want,
        );
    }
}

#[test]
fn every_field_of_an_operation_is_read() {
    for (operation, want) in [
        ("ports: [\"8080\"]", "allowed"),
        ("ports: [\"80\"]", "denied"),
        ("notPorts: [\"8080\"]", "denied"),
        ("methods: [GET]", "depends"),
        ("notMethods: [GET]", "depends"),
        ("hosts: [web]", "depends"),
        ("notHosts: [web]", "depends"),
        ("paths: [/a]", "depends"),
        ("notPaths: [/a]", "depends"),
    ] {
        check(
            &format!("rules: [{{to: [{{operation: {{{operation}}}}}]}}]"),
            want,
        );
    }
}

#[test]
fn every_condition_is_read() {
    for (key, value, want) in [
        ("source.ip", "10.9.0.0/16", "allowed"),
        ("remote.ip", "10.9.0.0/16", "allowed"),
        ("source.namespace", "default", "allowed"),
        ("source.serviceAccount", "default/client", "allowed"),
        ("source.trustDomain", "cluster.local", "allowed"),
        (
            "source.principal",
            "cluster.local/ns/default/sa/client",
            "allowed",
        ),
        ("destination.ip", "10.1.0.1", "allowed"),
        ("destination.port", "8080", "allowed"),
        ("request.headers[x-a]", "1", "depends"),
        ("request.auth.principal", "x", "denied"),
        ("request.auth.audiences", "x", "denied"),
        ("request.auth.presenter", "x", "denied"),
        ("request.auth.claims[iss]", "x", "denied"),
        ("connection.sni", "x", "denied"),
        ("experimental.envoy.filters.a[b]", "x", "denied"),
    ] {
        let when = |field: &str| {
            format!("rules: [{{when: [{{key: \"{key}\", {field}: [\"{value}\"]}}]}}]")
        };
        check(&when("values"), want);
        let opposite = match want {
            "allowed" => "denied",
            other => other,
        };
        check(&when("notValues"), opposite);
    }
}

#[test]
fn what_cannot_be_a_policy_is_refused_by_object_field_and_fix() {
    let rule = |text: &str| format!("rules: [{{{text}}}]");
    let source = |text: &str| rule(&format!("from: [{{source: {{{text}}}}}]"));
    let operation = |text: &str| rule(&format!("to: [{{operation: {{{text}}}}}]"));
    for (spec, part) in [
        (
            "action: DENY".to_owned(),
            "spec.rules: a DENY policy without rules",
        ),
        (
            "action: CUSTOM, provider: {name: x}".to_owned(),
            "spec.rules: a CUSTOM policy without",
        ),
        (
            "action: CUSTOM, rules: [{}]".to_owned(),
            "spec.provider.name: a CUSTOM policy must",
        ),
        (
            "provider: {name: x}".to_owned(),
            "spec.provider: only a CUSTOM policy",
        ),
        (
            "action: CUSTOM, provider: {name: x}, ".to_owned() + &source("namespaces: [a]"),
            "spec.rules[0].from[0].source: a CUSTOM policy cannot ask",
        ),
        (
            "action: DENIE, rules: [{}]".to_owned(),
            "spec.action: unknown variant `DENIE`",
        ),
        (
            "rules: [{form: []}]".to_owned(),
            "spec.rules[0].form: unknown field",
        ),
        (
            rule("from: [{}]"),
            "spec.rules[0].from[0].source: must not be empty",
        ),
        (
            source(""),
            "spec.rules[0].from[0].source: must not be empty",
        ),
        (
            operation(""),
            "spec.rules[0].to[0].operation: must not be empty",
        ),
        (
            source("serviceAccounts: [a], namespaces: [b]"),
            "source.serviceAccounts: cannot stand beside principals or namespaces",
        ),
        (
            source("serviceAccounts: [a/b/c]"),
            "source.serviceAccounts[0]: \"a/b/c\" is no service",
        ),
        (
            source("serviceAccounts: [\"a*\"]"),
            "source.serviceAccounts[0]: \"a*\" has a star",
        ),
        (
            source("principals: [\"\"]"),
            "source.principals[0]: must not be empty",
        ),
        (
            source("principals: [\"spiffe://a\"]"),
            "must begin with the trust domain",
        ),
        (
            source("ipBlocks: [10.0.0.0/33]"),
            "source.ipBlocks[0]: \"10.0.0.0/33\" is neither",
        ),
        (
            source("notIpBlocks: [x]"),
            "source.notIpBlocks[0]: \"x\" is neither an address",
        ),
        (
            operation("ports: [http]"),
            "operation.ports[0]: \"http\" is no port",
        ),
        (
            operation("notPorts: [\"0\"]"),
            "operation.notPorts[0]: \"0\" is no port",
        ),
        (
            operation("paths: [\"/{a}\"]"),
            "operation.paths[0]: \"/{a}\" is no path template",
        ),
        (
            rule("when: [{key: source.ip}]"),
            "spec.rules[0].when[0]: must not be without values",
        ),
        (
            rule("when: [{key: source.port, values: [\"1\"]}]"),
            "spec.rules[0].when[0].key: \"source.port\" is no condition",
        ),
        (
            rule("when: [{key: \"request.headers[a b]\", values: [x]}]"),
            "spec.rules[0].when[0].key: \"a b\" is no name of a header",
        ),
        (
            "selector: {matchLabels: {app: web}}, targetRefs: [{kind: Service, name: web}]"
                .to_owned(),
            "spec: only one of selector, targetRef and targetRefs",
        ),
    ] {
        let mesh = Mesh::new(&(policy(WEB, &spec) + &web()));
        let said = mesh.problems().join("\n");
        let head = "Error [IST0106] (AuthorizationPolicy default/web test.yaml:2) ";
        assert!(
            said.contains(head) && said.contains(part),
            "no {part:?} in {said}"
        );
        assert!(said.contains("; fix: "), "{said}");
        assert_eq!(verdict(&mesh, "web", "default/client"), "denied", "{spec}");
    }
}

#[test]
fn a_policy_that_was_never_good_denies_what_it_selects_and_nothing_else() {
    let broken = "selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {ports: [x]}}]}]";
    let other = pod("other", "10.1.0.2", "app: other");
    let mut mesh = Mesh::new(&(policy(WEB, broken) + &web() + &other));
    assert_eq!(verdict(&mesh, "web", "default/client"), "denied");
    assert_eq!(verdict(&mesh, "other", "default/client"), "allowed");
    mesh.check_problems(&["\"x\" is no port; all that it selects is denied; fix: "]);
    mesh.apply(&policy(
        WEB,
        "selector: {matchLabels: {app: other}}, rules: 7",
    ));
    assert_eq!(verdict(&mesh, "web", "default/client"), "allowed");
    assert_eq!(verdict(&mesh, "other", "default/client"), "denied");
    mesh.apply(&policy(WEB, "rules: [{}]"));
    assert_eq!(verdict(&mesh, "other", "default/client"), "allowed");
}

#[test]
fn a_policy_that_becomes_broken_stays_as_it_was() {
    let good = "rules: [{from: [{source: {namespaces: [default]}}]}]";
    let mut mesh = Mesh::new(&(policy(WEB, good) + &web()));
    mesh.apply(&policy(WEB, "action: DENY"));
    assert_eq!(verdict(&mesh, "web", "default/client"), "allowed");
    assert_eq!(verdict(&mesh, "web", "other/client"), "denied");
    mesh.check_problems(&["without rules means nothing; the last good state of the object stays"]);
}

#[test]
fn the_root_namespace_is_for_all_and_others_for_their_own() {
    let elsewhere = pod_in("shop", "cart", "10.1.0.3", "app: web");
    let all = [policy(ROOT, DENY_ALL), web(), elsewhere.clone()].concat();
    let mesh = Mesh::new(&all);
    assert_eq!(verdict(&mesh, "web", "default/client"), "denied");
    assert_eq!(verdict(&mesh, "cart", "default/client"), "denied");
    let outside = pod_in("istio-system", "istiod", "10.1.0.4", "app: istiod");
    Mesh::new(&[policy(ROOT, DENY_ALL), web(), outside].concat()).check_problems(&[]);
    let some = format!("selector: {{matchLabels: {{app: web}}}}, {DENY_ALL}");
    let mesh = Mesh::new(&[policy(ROOT, &some), web(), elsewhere.clone()].concat());
    assert_eq!(verdict(&mesh, "cart", "default/client"), "denied");
    let mesh = Mesh::new(&[policy(WEB, DENY_ALL), web(), elsewhere].concat());
    assert_eq!(verdict(&mesh, "web", "default/client"), "denied");
    assert_eq!(verdict(&mesh, "cart", "default/client"), "allowed");
}

#[test]
fn a_target_is_a_service_and_the_ports_that_it_leads_to() {
    for field in [
        "targetRef: {kind: Service, name: web}",
        "targetRefs: [{group: core, kind: Service, name: web}]",
    ] {
        let mesh = Mesh::new(&(policy(WEB, &format!("{field}, {DENY_ALL}")) + &web()));
        assert_eq!(verdict(&mesh, "web", "default/client"), "denied");
        let workload = mesh.workload("web");
        let other = Caller {
            to: SocketAddr::from(([10, 1, 0, 1], 9)),
            ..caller(None)
        };
        assert_eq!(
            workload.inbound.authorization.connection(&other),
            Verdict::Allowed
        );
    }
    let text = policy(
        WEB,
        &format!(
            "targetRefs: [{{kind: Service, name: nobody}}, {{kind: Gateway, group: gateway.networking.k8s.io, name: g}}], {DENY_ALL}"
        ),
    );
    Mesh::new(&(text + &web())).check_problems(&[
        "Error [IST0101] (AuthorizationPolicy default/web test.yaml:2) spec.targetRefs[0]: there is no Service default/nobody",
        "Warning [MESH0003] (AuthorizationPolicy default/web test.yaml:2) spec.targetRefs[1]: a Gateway is not",
    ]);
}

#[test]
fn a_dry_run_is_not_enforced() {
    let dry = |value: &str| format!("{WEB}, annotations: {{istio.io/dry-run: \"{value}\"}}");
    for (value, want) in [("true", "allowed"), ("false", "denied"), ("yes", "denied")] {
        let mesh = Mesh::new(&(policy(&dry(value), DENY_ALL) + &web()));
        assert_eq!(verdict(&mesh, "web", "default/client"), want, "{value}");
    }
    Mesh::new(&(policy(&dry("yes"), DENY_ALL) + &web()))
        .check_problems(&["metadata.annotations[istio.io/dry-run]: \"yes\" is neither"]);
}

#[test]
fn cluster_local_is_the_meshs_own_trust_domain_whatever_its_name() {
    use crate::config::{
        Index, IndexSettings,
        read::{self, Entry, Format},
    };
    let mut index = Index::new(IndexSettings {
        trust_domain: "corp.example".to_owned(),
        ..IndexSettings::default()
    });
    let spec = "rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]}]";
    for entry in read::read("x", &(policy(WEB, spec) + &web()), Format::Yaml) {
        if let Entry::Good(object, origin) = entry {
            index.apply(object, origin);
        }
    }
    index.publish();
    let snapshot = index.subscribe().borrow().clone();
    let web = snapshot.workloads.values().next().unwrap();
    let client = SpiffeId::new("corp.example", "default", "client");
    let verdict = web.inbound.authorization.connection(&caller(Some(&client)));
    assert_eq!(verdict, Verdict::Allowed);
}

#[test]
fn rules_on_requests_are_compiled_as_they_are_written() {
    let spec = "rules: [{from: [{source: {namespaces: [default]}}], to: [{operation: {methods: [GET], paths: [\"/a/{*}\", /b]}}]}]";
    let mesh = Mesh::new(&(policy(WEB, spec) + &web()));
    assert!(may_get(&mesh, "default/client", "/a/x"));
    assert!(may_get(&mesh, "default/client", "/b?c"));
    assert!(!may_get(&mesh, "default/client", "/a/x/y"));
    assert!(!may_get(&mesh, "other/client", "/b"));
    mesh.check_problems(&[]);
}

#[test]
fn what_does_less_or_more_than_it_seems_to_is_said() {
    let rule = |text: &str| format!("rules: [{{{text}}}]");
    for (place, spec, parts) in [
        (
            WEB,
            rule("from: [{source: {notPrincipals: [a]}}]"),
            vec![
                "Warning [MESH0006] (AuthorizationPolicy default/web test.yaml:2) spec.rules[0].from[0].source.notPrincipals: peers without an identity",
            ],
        ),
        (
            WEB,
            rule("when: [{key: source.namespace, notValues: [a]}]"),
            vec![
                "Warning [MESH0006] (AuthorizationPolicy default/web test.yaml:2) spec.rules[0].when[0].notValues: peers without",
            ],
        ),
        (
            WEB,
            rule("from: [{source: {notPrincipals: [a], principals: [\"*\"]}}]"),
            vec![],
        ),
        (
            WEB,
            rule("from: [{source: {requestPrincipals: [\"*\"]}}]"),
            vec![
                "Error [MESH0003] (AuthorizationPolicy default/web test.yaml:2) spec.rules[0].from[0].source.requestPrincipals: JSON web tokens are not checked yet: rules that ask for it never match",
            ],
        ),
        (
            WEB,
            "action: DENY, ".to_owned()
                + &rule("from: [{source: {notRequestPrincipals: [\"*\"]}}]"),
            vec![
                "source.notRequestPrincipals: JSON web tokens are not checked yet: it counts as matched",
            ],
        ),
        (
            WEB,
            rule("when: [{key: remote.ip, values: [10.0.0.0/8]}]"),
            vec![
                "Warning [MESH0003] (AuthorizationPolicy default/web test.yaml:2) spec.rules[0].when[0].values: no proxy is trusted",
            ],
        ),
        (
            WEB,
            "action: CUSTOM, provider: {name: x}, rules: [{}]".to_owned(),
            vec![
                "Error [MESH0003] (AuthorizationPolicy default/web test.yaml:2) spec.action: CUSTOM is not supported yet",
            ],
        ),
        (
            WEB,
            "selector: {matchLabels: {app: none}}, rules: [{}]".to_owned(),
            vec![
                "Warning [IST0127] (AuthorizationPolicy default/web test.yaml:2) spec.selector.matchLabels: no pod",
            ],
        ),
        (
            WEB,
            rule("to: [{operation: {paths: [\"/a/*/b\"]}}]"),
            vec![
                "spec.rules[0].to[0].operation.paths[0]: \"/a/*/b\" has a star that stands for itself",
            ],
        ),
    ] {
        Mesh::new(&(policy(place, &spec) + &web())).check_problems(&parts);
    }
    let selected = policy(WEB, "selector: {matchLabels: {app: web}}, rules: [{}]");
    Mesh::new(&(policy(WEB, "rules: [{}]") + &outside())).check_problems(&[
        "Warning [IST0102] (AuthorizationPolicy default/web test.yaml:2) metadata.namespace: no pod",
    ]);
    Mesh::new(&(selected + &outside())).check_problems(&[
        "Warning [IST0102] (AuthorizationPolicy default/web test.yaml:2) spec.selector.matchLabels: 1 of 1 pods are not in the mesh",
    ]);
}
