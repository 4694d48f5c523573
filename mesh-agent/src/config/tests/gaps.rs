// SPDX-License-Identifier: Apache-2.0

//! Each row of what has no effect is reported where it is met, and documented.

use super::fixture::Mesh;
use crate::config::gaps::{FIELDS, Gap, KINDS};

/// An object that has what the row is about.
#[expect(clippy::too_many_lines, reason = "a line or two for each row")]
fn object(gap: &Gap) -> String {
    let route = "route: [{destination: {host: web}}]";
    let policy = |text: &str| format!("host: web, trafficPolicy: {{{text}}}");
    let pool = |text: &str| policy(&format!("connectionPool: {{{text}}}"));
    let entry = |text: &str, endpoint: &str| {
        format!(
            "hosts: [api.example.com], ports: [{{number: 80, name: http}}], {text}, \
             endpoints: [{{address: 10.9.9.9, {endpoint}}}]"
        )
    };
    let target =
        |text: &str| format!("targetRefs: [{{group: '', kind: Service, name: web}}], {text}");
    let session = |text: &str| format!("sessionPersistence: {{sessionName: s, {text}}}");
    let routed =
        |text: &str| format!("parentRefs: [{{group: '', kind: Service, name: web}}], {text}");
    let rule = |text: &str| routed(&format!("rules: [{{{text}}}]"));
    let spec = match (gap.kind, gap.field) {
        (_, "") => String::new(),
        (_, "http.match.statPrefix") => {
            format!("hosts: [web], http: [{{match: [{{uri: {{prefix: /}}, statPrefix: x}}], {route}}}]")
        }
        (_, "http.websocketUpgrade") => {
            format!("hosts: [web], http: [{{websocketUpgrade: true, {route}}}]")
        }
        (_, "http.headers.request.set") => format!(
            "hosts: [web], http: [{{headers: {{request: {{set: {{x: '%REQ(y)%'}}}}}}, {route}}}]"
        ),
        (_, "http.fault.delay.exponentialDelay") => format!(
            "hosts: [web], http: [{{fault: {{delay: {{exponentialDelay: 1s}}}}, {route}}}]"
        ),
        (_, "tcp.match.sourceSubnet") => {
            format!("hosts: [web], tcp: [{{match: [{{sourceSubnet: 10.0.0.0/8}}], {route}}}]")
        }
        (_, "trafficPolicy.tunnel") => policy("tunnel: {}"),
        (_, "trafficPolicy.loadBalancer.zoneAwareLbSetting") => {
            policy("loadBalancer: {zoneAwareLbSetting: {}}")
        }
        (_, "trafficPolicy.connectionPool.http.maxConcurrentStreams") => {
            pool("http: {maxConcurrentStreams: 5}")
        }
        (_, "trafficPolicy.connectionPool.http.http2KeepAlive") => {
            pool("http: {http2KeepAlive: {}}")
        }
        (_, "trafficPolicy.retryBudget.budgetInterval") => {
            policy("retryBudget: {budgetInterval: 10s}")
        }
        (_, "trafficPolicy.tls.credentialName") => {
            policy("tls: {mode: SIMPLE, credentialName: 'configmap://roots'}")
        }
        (_, "endpoints.network") => entry("resolution: STATIC", "network: far"),
        (_, "endpoints.labels") => entry(
            "resolution: STATIC",
            "labels: {security.istio.io/tlsMode: istio}",
        ),
        ("ServiceEntry", "resolution") => {
            "hosts: [api.example.com], resolution: DYNAMIC_DNS, ports: [{number: 80, name: http}]"
                .to_owned()
        }
        (_, "ports.protocol") => {
            "hosts: [api.example.com], ports: [{number: 53, name: dns, protocol: UDP}, {number: 80, name: http}]"
                .to_owned()
        }
        ("Sidecar", "ingress") => "ingress: [{port: {number: 80}}]".to_owned(),
        (_, "inboundConnectionPool") => "inboundConnectionPool: {}".to_owned(),
        (_, "egress.port") => "egress: [{port: {number: 80}, hosts: [./*]}]".to_owned(),
        (_, "egress.bind") => "egress: [{bind: 127.0.0.1, hosts: [./*]}]".to_owned(),
        (_, "egress.captureMode") => "egress: [{captureMode: NONE, hosts: [./*]}]".to_owned(),
        (_, "outboundTrafficPolicy.egressProxy") => {
            "outboundTrafficPolicy: {egressProxy: {host: x}}".to_owned()
        }
        (_, "useDefaultGateways") => routed("useDefaultGateways: All"),
        (_, "hostnames") => routed("hostnames: [a.example]"),
        (_, "rules.sessionPersistence.absoluteTimeout") => rule(&session("absoluteTimeout: 1h")),
        (_, "rules.sessionPersistence.idleTimeout") => rule(&session("idleTimeout: 1h")),
        (_, "rules.sessionPersistence.cookieConfig.lifetimeType") => {
            rule(&session("cookieConfig: {lifetimeType: Permanent}"))
        }
        (_, "rules.filters.externalAuth") => {
            rule("filters: [{type: ExternalAuth, externalAuth: {}}]")
        }
        (_, "rules.filters.extensionRef") => {
            rule("filters: [{type: ExtensionRef, extensionRef: {}}]")
        }
        (_, "sessionPersistence") => target("sessionPersistence: {}"),
        (_, "retryConstraint.budget.interval") => {
            target("retryConstraint: {budget: {interval: 10s}}")
        }
        (_, "retryConstraint.minRetryRate.interval") => {
            target("retryConstraint: {minRetryRate: {interval: 1s}}")
        }
        (_, "peerIsOptional") => "targets: [{name: web}], peerIsOptional: true".to_owned(),
        (_, "targets.subset") => "targets: [{name: web, subset: v1}]".to_owned(),
        (_, "targets.labels") => "targets: [{name: web, labels: {a: b}}]".to_owned(),
        other => panic!("no object has {other:?}"),
    };
    let version = match gap.kind {
        "VirtualService" | "DestinationRule" | "ServiceEntry" | "Sidecar" | "WorkloadGroup"
        | "EnvoyFilter" | "ProxyConfig" => "networking.istio.io/v1",
        "Telemetry" => "telemetry.istio.io/v1",
        "WasmPlugin" => "extensions.istio.io/v1alpha1",
        "Policy" => "authentication.istio.io/v1alpha1",
        "XBackendTrafficPolicy" => "gateway.networking.x-k8s.io/v1alpha1",
        _ => "gateway.networking.k8s.io/v1",
    };
    format!(
        "apiVersion: {version}\nkind: {}\nmetadata: {{name: it}}\nspec: {{{spec}}}\n",
        gap.kind
    )
}

/// A path without places in lists and what is below a name that users choose.
fn plain(path: &str) -> String {
    let mut parts = path.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |path, part| {
        path + part.split_once(']').map_or("", |(_, rest)| rest)
    })
}

#[test]
fn each_row_is_reported_by_object_field_reason_and_fix() {
    for gap in FIELDS.iter().chain(KINDS) {
        let mesh = Mesh::new(&object(gap));
        let report = mesh.index.report();
        let report = report.borrow();
        let about = |field: &str| match gap.field {
            "" => field.is_empty(),
            // Filters and whole endpoints stand for what is in them.
            wanted => format!("spec.{wanted}").starts_with(&plain(field)) && field.contains('.'),
        };
        let mut problems = report.problems.iter().filter(|problem| {
            let object = problem.object.as_ref();
            object.is_some_and(|object| *object.kind == *gap.kind && *object.name == *"it")
                && about(&problem.field)
                && problem.text.contains("not supported: ")
                && problem.text.contains(gap.reason)
        });
        let found = problems.next().unwrap_or_else(|| {
            panic!(
                "{} {} is not reported: {:#?}",
                gap.kind, gap.field, report.problems
            )
        });
        assert!(!found.fix.is_empty(), "{found}");
    }
}

/// The table as `docs/traffic.md` has it.
fn table() -> String {
    let row = |gap: &Gap| {
        let field = match gap.field {
            "" => String::new(),
            field => format!("`{field}`"),
        };
        format!(
            "| {} | {field} | {}; {} | {} |\n",
            gap.kind, gap.reason, gap.instead, gap.fix
        )
    };
    let rows = FIELDS.iter().chain(KINDS).map(row);
    "| kind | field | why, and what happens instead | what to do |\n| --- | --- | --- | --- |\n"
        .to_owned()
        + &rows.collect::<String>()
}

#[test]
fn the_documents_list_every_row() {
    let documents = include_str!("../../../docs/traffic.md");
    let table = table();
    assert!(
        documents.contains(&table),
        "docs/traffic.md must have this table:\n\n{table}"
    );
}
