// SPDX-License-Identifier: Apache-2.0

//! AuthorizationPolicies: which pods they are for, what of them is refused, and what that does.

mod refused;

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
        address: Some(IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1))),
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
        ("requestPrincipals: [\"*\"]", "depends"),
        ("notRequestPrincipals: [\"*\"]", "depends"),
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
        ("request.auth.principal", "x", "depends"),
        ("request.auth.audiences", "x", "depends"),
        ("request.auth.presenter", "x", "depends"),
        ("request.auth.claims[iss]", "x", "depends"),
        ("request.auth.claims[realm][roles]", "x", "depends"),
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

fn rule(text: &str) -> String {
    format!("rules: [{{{text}}}]")
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

#[track_caller]
fn check_said(spec: &str, parts: &[&str]) {
    Mesh::new(&(policy(WEB, spec) + &web())).check_problems(parts);
}

#[test]
fn what_does_more_than_it_seems_to_is_said() {
    check_said(
        &rule("from: [{source: {notPrincipals: [a]}}]"),
        &[
            "Warning [MESH0006] (AuthorizationPolicy default/web test.yaml:2) spec.rules[0].from[0].source.notPrincipals: peers without an identity",
        ],
    );
    check_said(
        &rule("when: [{key: source.namespace, notValues: [a]}]"),
        &[
            "Warning [MESH0006] (AuthorizationPolicy default/web test.yaml:2) spec.rules[0].when[0].notValues: peers without",
        ],
    );
    check_said(
        &rule("from: [{source: {notPrincipals: [a], principals: [\"*\"]}}]"),
        &[],
    );
    check_said(
        "selector: {matchLabels: {app: none}}, rules: [{}]",
        &[
            "Warning [IST0127] (AuthorizationPolicy default/web test.yaml:2) spec.selector.matchLabels: no pod",
        ],
    );
    check_said(
        &rule("to: [{operation: {paths: [\"/a/*/b\"]}}]"),
        &["spec.rules[0].to[0].operation.paths[0]: \"/a/*/b\" has a star that stands for itself"],
    );
}

#[test]
fn what_cannot_be_judged_is_said() {
    check_said(
        &rule("from: [{source: {notRequestPrincipals: [a/b]}}]"),
        &[
            "Warning [MESH0006] (AuthorizationPolicy default/web test.yaml:2) spec.rules[0].from[0].source.notRequestPrincipals: requests without a token are not excluded",
        ],
    );
    check_said(
        &rule("when: [{key: remote.ip, values: [10.0.0.0/8]}]"),
        &[
            "Warning [MESH0003] (AuthorizationPolicy default/web test.yaml:2) spec.rules[0].when[0].values: no proxy is trusted",
        ],
    );
}

#[test]
fn a_policy_for_pods_outside_the_mesh_is_told() {
    for (spec, told) in [
        ("rules: [{}]", "metadata.namespace: no pod"),
        (
            "selector: {matchLabels: {app: web}}, rules: [{}]",
            "spec.selector.matchLabels: 1 of 1 pods are not in the mesh",
        ),
    ] {
        let mesh = Mesh::new(&(policy(WEB, spec) + &outside()));
        let head = "Warning [IST0102] (AuthorizationPolicy default/web test.yaml:2)";
        mesh.check_problems(&[&format!("{head} {told}")]);
    }
}
