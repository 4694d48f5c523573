// SPDX-License-Identifier: Apache-2.0

//! The providers of CUSTOM policies, as Istio's mesh-wide configuration says them.

use std::time::Duration;

use super::fixture::{Mesh, pod, service};
use crate::model::{
    ServiceName, Verdict,
    authorization::{Attached, Caller},
    provider::{Check, ShownBody},
};

/// The ConfigMap with these providers, in flow YAML.
fn config(providers: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    accessLogFile: /dev/stdout\n    extensionProviders: [{providers}]\n"
    )
}

const HTTP: &str = "{name: p, envoyExtAuthzHttp: {service: web.default.svc.cluster.local, port: 80, timeout: 1s, pathPrefix: /check, failOpen: true, statusOnError: '503', includeRequestHeadersInCheck: [X-Ext, x-b*], headersToUpstreamOnAllow: [x-user]}}";

fn custom() -> String {
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio-injection: enabled}}\n";
    let policy = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: custom}\nspec: {action: CUSTOM, provider: {name: p}, rules: [{to: [{operation: {paths: [/a]}}]}]}\n";
    namespace.to_owned()
        + policy
        + &service("web", "10.0.0.1")
        + &pod("web", "10.1.0.1", "app: web")
}

fn attached(mesh: &Mesh) -> Attached {
    let workload = mesh.workload("web");
    let [one] = workload.inbound.authorization.policies() else {
        panic!("one policy");
    };
    one.clone()
}

#[test]
fn a_provider_is_found_by_its_name() {
    let mesh = Mesh::new(&(config(HTTP) + &custom()));
    mesh.check_problems(&[]);
    let provider = attached(&mesh).provider.expect("it is there");
    assert_eq!(provider.service, ServiceName::new("default", "web"));
    assert_eq!(
        (provider.port, provider.timeout),
        (80, Duration::from_secs(1))
    );
    assert!(provider.fail_open);
    assert_eq!(provider.status_on_error.as_u16(), 503);
    let Check::Http(check) = &provider.check else {
        panic!("{provider:?}");
    };
    assert_eq!(
        (check.path_prefix.as_str(), check.include.len()),
        ("/check", 2)
    );
    let grpc =
        "{name: p, envoyExtAuthzGrpc: {service: default/web.default.svc.cluster.local, port: 80}}";
    let mesh = Mesh::new(&(config(grpc) + &custom()));
    mesh.check_problems(&[]);
    let provider = attached(&mesh).provider.expect("it is there");
    assert_eq!(provider.check, Check::Grpc);
    assert_eq!(provider.timeout, Duration::from_secs(600));
}

/// Without its provider the policy denies, and that is said.
#[track_caller]
fn check_without(text: &str, want: &[&str]) {
    let mesh = Mesh::new(&(text.to_owned() + &custom()));
    mesh.check_problems(want);
    assert_eq!(attached(&mesh).provider, None);
}

#[test]
fn without_a_provider_that_can_be_asked_a_policy_denies_and_says_so() {
    let denies = "Error [IST0101] (AuthorizationPolicy default/custom test.yaml:";
    check_without("", &[denies]);
    check_without(&config("{name: other}"), &[denies]);
    let with = |fields: &str| config(&format!("{{name: p, envoyExtAuthzHttp: {{{fields}}}}}"));
    let at = |field: &str| {
        format!(
            "Error [IST0106] (ConfigMap istio-system/istio test.yaml:2) data.mesh.extensionProviders[0].envoyExtAuthzHttp.{field}"
        )
    };
    for (fields, field) in [
        ("service: web.default, port: 0", "port: must be set"),
        ("service: web, port: 80", "service: \"web\" is no Service"),
        (
            "service: web.default, port: 80, timeout: x",
            "timeout: is no duration",
        ),
        (
            "service: web.default, port: 80, statusOnError: '200'",
            "statusOnError: is no status",
        ),
        (
            "service: web.default, port: 80, includeRequestBodyInCheck: {}",
            "includeRequestBodyInCheck.maxRequestBytes: must be set",
        ),
        (
            "service: web.default, port: 80, includeRequestBodyInCheck: {maxRequestBytes: 0}",
            "includeRequestBodyInCheck.maxRequestBytes: 0 is no number of bytes from 1 to 4194304",
        ),
        (
            "service: web.default, port: 80, includeRequestBodyInCheck: {maxRequestBytes: 4194305}",
            "includeRequestBodyInCheck.maxRequestBytes: 4194305 is no number",
        ),
        (
            "service: web.default, port: 80, includeRequestBodyInCheck: {maxRequestBytes: -1}",
            "includeRequestBodyInCheck.maxRequestBytes: -1 is no number",
        ),
    ] {
        check_without(&with(fields), &[&at(field), denies]);
    }
}

/// What a provider of `kind` sees of bodies that says so.
#[track_caller]
fn check_body(kind: &str, written: &str, want: Option<ShownBody>, problems: &[&str]) {
    let fields = format!("service: web.default, port: 80, includeRequestBodyInCheck: {written}");
    let text = config(&format!("{{name: p, {kind}: {{{fields}}}}}"));
    let mesh = Mesh::new(&(text + &custom()));
    mesh.check_problems(problems);
    let provider = attached(&mesh).provider.expect("it is there");
    assert_eq!(provider.body, want);
}

#[test]
fn a_provider_sees_as_much_of_bodies_as_is_written() {
    let shown = |most, partial, as_bytes| {
        Some(ShownBody {
            most,
            partial,
            as_bytes,
        })
    };
    let (http, grpc) = ("envoyExtAuthzHttp", "envoyExtAuthzGrpc");
    check_body(http, "null", None, &[]);
    check_body(http, "{maxRequestBytes: 1}", shown(1, false, false), &[]);
    check_body(
        grpc,
        "{maxRequestBytes: '4194304', allowPartialMessage: true, packAsBytes: true}",
        shown(4_194_304, true, true),
        &[],
    );
    let warned = ["envoyExtAuthzHttp.includeRequestBodyInCheck.packAsBytes: has no effect"];
    let written = "{maxRequestBytes: 8192, packAsBytes: true}";
    check_body(http, written, shown(8192, false, true), &warned);
}

#[test]
fn a_provider_that_comes_later_is_asked_then() {
    let mut mesh = Mesh::new(&custom());
    assert_eq!(attached(&mesh).provider, None);
    mesh.apply(&config(HTTP));
    assert!(attached(&mesh).provider.is_some());
    let caller = Caller {
        identity: None,
        address: Some(std::net::IpAddr::from([10, 9, 0, 1])),
        to: std::net::SocketAddr::from(([10, 1, 0, 1], 8080)),
    };
    let workload = mesh.workload("web");
    let verdict = workload.inbound.authorization.connection(&caller);
    assert!(matches!(verdict, Verdict::Depends(_)), "{verdict:?}");
}

#[test]
fn other_config_maps_are_no_business_of_the_mesh() {
    let other =
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\ndata: {mesh: '['}\n";
    Mesh::new(other).check_problems(&[]);
    let text = config("[").replace("[[]", "[");
    let mesh = Mesh::new(&text);
    mesh.check_problems(&[
        "Error [IST0106] (ConfigMap istio-system/istio test.yaml:2) data.mesh: cannot be read",
    ]);
}

#[test]
fn how_paths_are_read_is_the_agents_flag() {
    let with = |kind: &str| {
        let path = format!("    pathNormalization: {{normalization: {kind}}}\n");
        Mesh::new(&(config("") + &path))
    };
    with("BASE").check_problems(&[]);
    with("MERGE_SLASHES").check_problems(&["--path-normalization merge-slashes"]);
}
