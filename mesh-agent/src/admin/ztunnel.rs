// SPDX-License-Identifier: Apache-2.0

//! `/config_dump`: configuration and certificates in the shape that `istioctl ztunnel-config` reads.
//!
//! Field names and words are those of istioctl 1.31. Knows nothing of single connections: pods are
//! listed without theirs. Invariant: no key and no token is in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use serde_json::{Map, Value, json};

use super::{pods, status::stamp, views::Views};
use crate::{
    identity::{CertificateState, CertificateView, RootView},
    model::{
        Cluster, Endpoint, InboundPolicy, MtlsMode, Service, Snapshot, Workload,
        authorization::{Action, Policy},
    },
};

/// How Istio calls the cluster it runs in if nobody named it.
const CLUSTER: &str = "Kubernetes";

/// `/config_dump`.
pub(super) fn config_dump(views: &Views) -> Value {
    let snapshot = views.snapshot.borrow().clone();
    let roots: Vec<Value> = views.identities.root_list().iter().map(root).collect();
    let certificates = views.identities.list();
    let certificates = certificates.iter().map(|it| certificate(it, &roots));
    json!({
        "workloads": workloads(&snapshot),
        "services": services(&snapshot),
        "policies": policies(&snapshot),
        "certificates": certificates.collect::<Vec<_>>(),
        "workloadState": states(&snapshot),
        "version": { "version": env!("CARGO_PKG_VERSION") },
    })
}

/// All pods of the cluster, and what is behind Services without being a pod.
fn workloads(snapshot: &Snapshot) -> Vec<Value> {
    let pods = pods::all(snapshot);
    let mut rows: Vec<Value> = pods.into_iter().map(|pod| workload(pod)).collect();
    let foreign: BTreeMap<String, Value> = services_in_order(snapshot)
        .into_iter()
        .flat_map(|service| endpoints(service).map(move |it| (service, it)))
        .filter(|(_, endpoint)| endpoint.workload.is_none())
        .map(|(service, endpoint)| {
            let uid = endpoint_uid(service, endpoint);
            let row = foreign(service, endpoint.address.ip(), &uid);
            (uid, row)
        })
        .collect();
    rows.extend(foreign.into_values());
    rows
}

fn workload(pod: &Workload) -> Value {
    let policy = policy_name(&pod.inbound).filter(|_| pod.enrolled);
    let own = pod.inbound.authorization.policies().iter();
    let own = own.map(|attached| attached.policy.name().to_string());
    let policies: Vec<String> = policy
        .map(|policy| format!("{}/{policy}", pod.namespace))
        .into_iter()
        .chain(own.filter(|_| pod.enrolled))
        .collect();
    json!({
        "uid": pod_uid(pod),
        "workloadIps": pod.addresses,
        "protocol": if pod.enrolled { "HBONE" } else { "TCP" },
        "name": pod.name,
        "namespace": pod.namespace,
        "trustDomain": pod.identity.trust_domain(),
        "serviceAccount": pod.identity.service_account(),
        "workloadName": pod.owner,
        "canonicalName": pod.canonical_service,
        "canonicalRevision": pod.canonical_revision,
        "node": pod.node,
        "status": if pod.ready { "Healthy" } else { "Unhealthy" },
        "clusterId": CLUSTER,
        "authorizationPolicies": policies,
    })
}

/// An address behind `service` that is no pod's.
fn foreign(service: &Service, address: IpAddr, uid: &str) -> Value {
    json!({
        "uid": uid,
        "workloadIps": [address],
        "protocol": "TCP",
        "name": service.name.name,
        "namespace": service.name.namespace,
        "status": "Healthy",
        "clusterId": CLUSTER,
    })
}

fn pod_uid(pod: &Workload) -> String {
    format!("{CLUSTER}//Pod/{}/{}", pod.namespace, pod.name)
}

fn endpoint_uid(service: &Service, endpoint: &Endpoint) -> String {
    match &endpoint.workload {
        Some(pod) => pod_uid(pod),
        None => format!(
            "{CLUSTER}/discovery.k8s.io/EndpointSlice/{}/{}/{}",
            service.name.namespace,
            service.name.name,
            endpoint.address.ip()
        ),
    }
}

fn services_in_order(snapshot: &Snapshot) -> Vec<&Service> {
    let mut services: Vec<&Service> = snapshot.services.values().map(AsRef::as_ref).collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    services
}

fn clusters(service: &Service) -> impl Iterator<Item = &Cluster> {
    service.ports.iter().map(|port| port.cluster.as_ref())
}

fn endpoints(service: &Service) -> impl Iterator<Item = &Endpoint> {
    clusters(service).flat_map(|cluster| &cluster.endpoints)
}

fn services(snapshot: &Snapshot) -> Vec<Value> {
    let services = services_in_order(snapshot);
    services.into_iter().map(service).collect()
}

fn service(service: &Service) -> Value {
    let ports: Map<String, Value> = clusters(service)
        .map(|cluster| {
            let target = cluster.endpoints.first().map(|it| it.address.port());
            (cluster.port.to_string(), target.unwrap_or(0).into())
        })
        .collect();
    // A network, which there is none of, and the address.
    let vips: Vec<String> = service.vips.iter().map(|vip| format!("/{vip}")).collect();
    let mut behind: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for cluster in clusters(service) {
        for endpoint in &cluster.endpoints {
            behind
                .entry(endpoint_uid(service, endpoint))
                .or_default()
                .insert(cluster.port.to_string(), endpoint.address.port().into());
        }
    }
    let behind: Map<String, Value> = behind
        .into_iter()
        .map(|(uid, ports)| {
            let row = json!({ "workloadUid": uid, "service": "", "port": ports });
            (uid, row)
        })
        .collect();
    json!({
        "name": service.name.name,
        "namespace": service.name.namespace,
        "hostname": service.hostname,
        "vips": vips,
        "ports": ports,
        "endpoints": behind,
        "ipFamilies": families(&service.vips),
    })
}

fn families(vips: &[IpAddr]) -> Option<&'static str> {
    let (four, six) = (
        vips.iter().any(IpAddr::is_ipv4),
        vips.iter().any(IpAddr::is_ipv6),
    );
    match (four, six) {
        (true, true) => Some("Dual"),
        (true, false) => Some("IPv4"),
        (false, true) => Some("IPv6"),
        (false, false) => None,
    }
}

/// What pods demand of their peers: in the words of an AuthorizationPolicy, peers without an identity
/// are denied; then the AuthorizationPolicies that there are, without their rules.
fn policies(snapshot: &Snapshot) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let enrolled: Vec<&Arc<Workload>> = pods::all(snapshot)
        .into_iter()
        .filter(|pod| pod.enrolled)
        .collect();
    let written: BTreeMap<&str, Value> = enrolled
        .iter()
        .flat_map(|pod| pod.inbound.authorization.policies())
        .map(|attached| (&**attached.policy.name(), written(&attached.policy)))
        .collect();
    let modes = enrolled.into_iter().filter_map(|pod| {
        let name = policy_name(&pod.inbound)?;
        let is_new = seen.insert((pod.namespace.clone(), name.clone()));
        is_new.then(|| policy(&pod.namespace, &name, &pod.inbound))
    });
    modes.chain(written.into_values()).collect()
}

fn written(policy: &Policy) -> Value {
    let name = policy.name();
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let action = match policy.action() {
        Action::Allow => "Allow",
        Action::Deny | Action::Custom => "Deny",
        Action::Audit => "Audit",
    };
    json!({
        "name": name,
        "namespace": namespace,
        "scope": "WorkloadSelector",
        "action": action,
        "dryRun": policy.is_dry_run(),
        "rules": [],
    })
}

fn policy(namespace: &str, name: &str, inbound: &InboundPolicy) -> Value {
    let nobody = json!([{ "notPrincipals": [{ "Presence": {} }] }]);
    let mut clauses = vec![nobody];
    let ports = exceptions(inbound);
    if !ports.is_empty() {
        clauses.push(match inbound.default {
            MtlsMode::Strict => json!([{ "notDestinationPorts": ports }]),
            MtlsMode::Permissive => json!([{ "destinationPorts": ports }]),
        });
    }
    json!({
        "name": name,
        "namespace": namespace,
        "scope": "WorkloadSelector",
        "action": "Deny",
        "rules": [clauses],
    })
}

/// A name that says what it demands; `None` if that is nothing.
fn policy_name(inbound: &InboundPolicy) -> Option<String> {
    let ports = exceptions(inbound);
    let listed: String = ports.iter().map(|port| format!("-{port}")).collect();
    match (inbound.default, ports.is_empty()) {
        (MtlsMode::Strict, true) => Some("mtls-strict".to_owned()),
        (MtlsMode::Strict, false) => Some(format!("mtls-strict-except{listed}")),
        (MtlsMode::Permissive, false) => Some(format!("mtls-strict-on{listed}")),
        (MtlsMode::Permissive, true) => None,
    }
}

/// Ports that differ from the rest.
fn exceptions(inbound: &InboundPolicy) -> Vec<u16> {
    let ports = inbound.ports.iter();
    let differ = ports.filter(|(_, mode)| **mode != inbound.default);
    differ.map(|(port, _)| *port).collect()
}

fn certificate(view: &CertificateView, roots: &[Value]) -> Value {
    let state = match view.state {
        CertificateState::Waiting => match &view.error {
            Some(error) => format!("Unavailable: {error}"),
            None => "Initializing".to_owned(),
        },
        CertificateState::Live | CertificateState::RenewalFailing => "Available".to_owned(),
        CertificateState::Expired => "Unavailable: expired".to_owned(),
    };
    let chain: Vec<Value> = view
        .not_before
        .zip(view.not_after)
        .map(|(from, until)| certificate_row(&view.serial, from, until))
        .into_iter()
        .collect();
    json!({
        "identity": view.identity.as_str(),
        "state": state,
        "rootCerts": if chain.is_empty() { &[] } else { roots },
        "certChain": chain,
    })
}

fn root(root: &RootView) -> Value {
    certificate_row(&root.serial, root.not_before, root.not_after)
}

fn certificate_row(serial: &str, from: SystemTime, until: SystemTime) -> Value {
    json!({
        "serialNumber": decimal(serial),
        "validFrom": stamp(from),
        "expirationTime": stamp(until),
    })
}

/// A number of any length, from hexadecimal to decimal digits.
fn decimal(hex: &str) -> String {
    let mut digits = vec![0_u32];
    for nibble in hex.chars().filter_map(|it| it.to_digit(16)) {
        let mut carry = nibble;
        for digit in &mut digits {
            let value = *digit * 16 + carry;
            (*digit, carry) = (value % 10, value / 10);
        }
        while carry > 0 {
            digits.push(carry % 10);
            carry /= 10;
        }
    }
    let digits = digits.into_iter().rev();
    digits.filter_map(|it| char::from_digit(it, 10)).collect()
}

/// This node's captured pods; of their connections only the number is known, which has no place
/// here.
fn states(snapshot: &Snapshot) -> Map<String, Value> {
    let pods = pods::enrolled(snapshot).into_iter();
    pods.map(|pod| {
        let state = json!({
            "state": "Up",
            "connections": { "inbound": [], "outbound": [] },
            "info": {
                "name": pod.name,
                "namespace": pod.namespace,
                "trustDomain": pod.identity.trust_domain(),
                "serviceAccount": pod.identity.service_account(),
            },
        });
        (pod.uid.to_string(), state)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::samples::Sample;

    #[track_caller]
    fn check_policy(default: MtlsMode, ports: &[(u16, MtlsMode)], want: Option<&str>) {
        let ports = ports.iter().copied().collect();
        assert_eq!(
            policy_name(&InboundPolicy {
                default,
                ports,
                ..InboundPolicy::default()
            })
            .as_deref(),
            want
        );
    }

    #[test]
    fn a_policy_is_named_for_what_it_demands() {
        use MtlsMode::{Permissive, Strict};
        check_policy(Strict, &[], Some("mtls-strict"));
        check_policy(Strict, &[(80, Strict)], Some("mtls-strict"));
        check_policy(
            Strict,
            &[(8080, Permissive)],
            Some("mtls-strict-except-8080"),
        );
        let two = [(80, Strict), (81, Strict)];
        check_policy(Permissive, &two, Some("mtls-strict-on-80-81"));
        check_policy(Permissive, &[], None);
    }

    #[test]
    fn serial_numbers_become_decimal() {
        assert_eq!(decimal(""), "0");
        assert_eq!(decimal("00ff"), "255");
        assert_eq!(
            decimal("ffffffffffffffffffffffffffffffffffffffff"),
            "1461501637330902918203684832716283019655932542975"
        );
    }

    #[tokio::test]
    async fn the_dump_has_what_istioctl_looks_for() {
        let sample = Sample::ready().await;
        let dump = config_dump(&sample.views);
        let names: Vec<&Value> = dump["workloads"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["name"])
            .collect();
        assert_eq!(names, ["batch", "recommendations-v2", "web"]);
        let far = &dump["workloads"][1];
        assert_eq!(far["workloadIps"], json!(["10.1.2.4"]));
        assert_eq!(
            (&far["protocol"], &far["node"]),
            (&json!("HBONE"), &json!("n2"))
        );
        assert_eq!(dump["workloads"][0]["protocol"], "TCP");
        assert_eq!(
            dump["services"],
            json!([{
                "name": "recommendations",
                "namespace": "default",
                "hostname": "recommendations.default.svc.cluster.local",
                "vips": ["/10.96.0.7"],
                "ports": { "80": 8080, "3306": 8080 },
                "endpoints": {
                    (far["uid"].as_str().unwrap()): {
                        "workloadUid": far["uid"],
                        "service": "",
                        "port": { "80": 8080, "3306": 8080 },
                    },
                },
                "ipFamilies": "IPv4",
            }])
        );
        assert_eq!(
            dump["policies"],
            json!([{
                "name": "mtls-strict-except-8080",
                "namespace": "default",
                "scope": "WorkloadSelector",
                "action": "Deny",
                "rules": [[
                    [{ "notPrincipals": [{ "Presence": {} }] }],
                    [{ "notDestinationPorts": [8080] }],
                ]],
            }])
        );
        assert_eq!(dump["workloadState"]["uid-web"]["info"]["name"], "web");
    }

    #[tokio::test]
    async fn certificates_come_with_their_roots_and_without_keys() {
        let sample = Sample::ready().await;
        let dump = config_dump(&sample.views);
        let web = &dump["certificates"][0];
        assert_eq!(web["identity"], "spiffe://cluster.local/ns/default/sa/web");
        assert_eq!(web["state"], "Available");
        for row in [&web["certChain"][0], &web["rootCerts"][0]] {
            let serial = row["serialNumber"].as_str().unwrap();
            assert!(serial.len() > 8 && serial.bytes().all(|it| it.is_ascii_digit()));
            assert!(row["expirationTime"].as_str() > row["validFrom"].as_str());
        }
        assert!(!dump.to_string().contains("PRIVATE"));
    }
}
