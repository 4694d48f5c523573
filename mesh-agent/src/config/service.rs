// SPDX-License-Identifier: Apache-2.0

//! What matters of a Service and of an EndpointSlice.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use k8s_openapi::{
    api::{core::v1 as core, discovery::v1::EndpointSlice},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    distribution::Distribution,
    facts::{Findings, Meta},
    nodes::SlicePlace,
    problem::{Severity, code},
    resolve::Visibility,
};
use crate::model::{Balancer, Protocol, UpstreamPolicy};

/// The label that says which Service a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The annotation that says which namespaces see a Service.
pub(super) const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// What matters of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceFacts {
    pub(super) meta: Meta,
    /// Empty if headless.
    pub(super) vips: Vec<IpAddr>,
    /// Whether clients connect to its endpoints by themselves.
    pub(super) headless: bool,
    /// TCP ports only.
    pub(super) ports: Vec<PortFacts>,
    /// Empty if its endpoints are made by others.
    pub(super) selector: BTreeMap<String, String>,
    pub(super) publish_not_ready: bool,
    /// The host that it stands for, if it is an ExternalName Service.
    pub(super) alias: Option<Arc<str>>,
    /// Which endpoints are used first, if it says so itself.
    pub(super) distribution: Option<Distribution>,
    /// Whose clients see it.
    pub(super) visibility: Visibility,
    /// What only hosts of ServiceEntries have.
    pub(super) reach: Option<Reach>,
}

/// How traffic is known to be for a host of a ServiceEntry, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// On to where it was sent: there are no endpoints.
    pub(super) original: bool,
    /// Besides single addresses.
    pub(super) ranges: Vec<IpNet>,
    /// For whom certificates may be where a rule asks for TLS and names nobody.
    pub(super) names: Vec<Arc<str>>,
}

/// What matters of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortFacts {
    pub(super) number: u16,
    pub(super) name: Arc<str>,
    pub(super) target: Target,
    pub(super) protocol: Protocol,
}

/// The port of a pod that a Service's port stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Number(u16),
    Name(String),
}

impl ServiceFacts {
    pub(super) fn new(service: &core::Service, findings: &mut Findings) -> Self {
        let empty = core::ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&empty);
        let meta = Meta::new(&service.metadata);
        let annotations = service.metadata.annotations.as_ref();
        let export_to = annotations.and_then(|all| all.get(EXPORT_TO));
        let export_to: Vec<String> = export_to
            .into_iter()
            .flat_map(|list| list.split(','))
            .map(|one| one.trim().to_owned())
            .filter(|one| !one.is_empty())
            .collect();
        let field = spec.traffic_distribution.as_deref();
        Self {
            distribution: Distribution::of_service(field, annotations, findings),
            visibility: Visibility::new(&export_to, &meta.namespace),
            reach: None,
            meta,
            vips: vips(spec, findings),
            headless: is_headless(spec),
            ports: spec
                .ports
                .iter()
                .flatten()
                .filter_map(|port| port_facts(port, findings))
                .collect(),
            selector: spec.selector.clone().unwrap_or_default(),
            alias: alias(spec, findings),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
        }
    }

    /// How its endpoints are used, where DestinationRules say `policy`; `direct` is whether by those who
    /// connected to one of them.
    pub(super) fn policy(
        &self,
        policy: Option<UpstreamPolicy>,
        direct: bool,
    ) -> Option<UpstreamPolicy> {
        let reach = self.reach.as_ref();
        let original = reach.is_some_and(|reach| reach.original);
        let policy = policy.map(|policy| match reach {
            Some(reach) if !reach.names.is_empty() => UpstreamPolicy {
                tls: policy.tls.map(|tls| tls.naming(&reach.names)),
                ..policy
            },
            Some(_) | None => policy,
        });
        match original || direct {
            true => Some(UpstreamPolicy {
                balancer: Balancer::Original,
                ..policy.unwrap_or_default()
            }),
            false => policy,
        }
    }

    /// The port with this number.
    pub(super) fn port(&self, number: u16) -> Option<&PortFacts> {
        self.ports.iter().find(|port| port.number == number)
    }
}

/// The host that an ExternalName Service stands for.
fn alias(spec: &core::ServiceSpec, findings: &mut Findings) -> Option<Arc<str>> {
    if spec.type_.as_deref() != Some("ExternalName") {
        return None;
    }
    let name = spec.external_name.as_deref().unwrap_or_default();
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name.is_empty() || name.parse::<IpAddr>().is_ok() {
        findings.add(
            Severity::Warning,
            code::WITHOUT_EFFECT,
            "spec.externalName",
            format!("{name:?} is no host name: routes to the Service find no endpoint"),
            "write a host name; for an address, a Service without selector and an EndpointSlice",
        );
    } else {
        findings.add(
            Severity::Info,
            code::WITHOUT_EFFECT,
            "spec.type",
            format!("clients connect to what {name} resolves to, and what counts for them is what that is"),
            "",
        );
    }
    Some(name.into())
}

/// Whether it says that it has no address; one that is to be given an address has none either.
fn is_headless(spec: &core::ServiceSpec) -> bool {
    let listed = spec.cluster_ips.iter().flatten();
    listed.chain(&spec.cluster_ip).any(|text| text == "None")
}

fn vips(spec: &core::ServiceSpec, findings: &mut Findings) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.iter().flatten();
    let mut vips = Vec::new();
    for text in listed.chain(&spec.cluster_ip) {
        match text.parse::<IpAddr>() {
            Ok(address) if !vips.contains(&address) => vips.push(address),
            Ok(_) => {}
            Err(_) if matches!(text.as_str(), "" | "None") => {}
            Err(_) => findings.reject(
                "spec.clusterIPs",
                format!("{text:?} is not an IP address"),
                "correct it",
            ),
        }
    }
    vips
}

fn port_facts(port: &core::ServicePort, findings: &mut Findings) -> Option<PortFacts> {
    if port
        .protocol
        .as_deref()
        .is_some_and(|protocol| protocol != "TCP")
    {
        return None;
    }
    let target = match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(_)) => None,
    };
    let as_port = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
    let (Some(number), Some(target)) = (
        as_port(port.port),
        match (target, &port.target_port) {
            (Some(target), _) => as_port(target).map(Target::Number),
            (None, Some(IntOrString::String(name))) => Some(
                name.parse::<u16>()
                    .map_or_else(|_| Target::Name(name.clone()), Target::Number),
            ),
            (None, _) => None,
        },
    ) else {
        findings.reject(
            "spec.ports",
            format!("{} is not a port", port.port),
            "use 1 to 65535",
        );
        return None;
    };
    let name = port.name.as_deref().unwrap_or_default();
    Some(PortFacts {
        number,
        name: name.into(),
        target,
        protocol: protocol(port.app_protocol.as_deref(), name),
    })
}

/// What is spoken: `appProtocol` decides, else the port's name up to the first dash.
pub(super) fn protocol(app_protocol: Option<&str>, name: &str) -> Protocol {
    let declared = app_protocol.unwrap_or(name).to_ascii_lowercase();
    let short = match declared.strip_prefix("kubernetes.io/") {
        Some(standard) => standard,
        None if declared.starts_with("grpc-web") => "grpc-web",
        None => declared.split('-').next().unwrap_or_default(),
    };
    match short {
        "http" | "grpc-web" | "ws" => Protocol::Http,
        "http2" | "h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "tcp" | "mysql" | "mongo" | "redis" => Protocol::Tcp,
        "tls" | "https" | "wss" => Protocol::Tls,
        _ => Protocol::Sniff,
    }
}

/// What matters of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SliceFacts {
    pub(super) meta: Meta,
    /// The Service's name; slices of none are of no interest.
    pub(super) service: Option<Arc<str>>,
    pub(super) ports: Vec<SlicePort>,
    /// Where each address is, in the order of every port's sockets.
    pub(super) places: Vec<SlicePlace>,
}

/// One port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlicePort {
    /// That of the Service's port.
    pub(super) name: Arc<str>,
    /// All addresses with this port, and whether each is ready.
    pub(super) sockets: Vec<(SocketAddr, bool)>,
}

impl SliceFacts {
    pub(super) fn new(slice: &EndpointSlice, findings: &mut Findings) -> Self {
        let labels = slice.metadata.labels.as_ref();
        let (places, addresses): (Vec<_>, Vec<_>) =
            slice_addresses(slice, findings).into_iter().unzip();
        let ports = slice.ports.iter().flatten();
        let tcp = ports.filter(|port| {
            port.protocol
                .as_deref()
                .is_none_or(|protocol| protocol == "TCP")
        });
        Self {
            meta: Meta::new(&slice.metadata),
            service: labels
                .and_then(|labels| labels.get(SERVICE_NAME))
                .map(|name| name.as_str().into()),
            ports: tcp
                .filter_map(|port| {
                    let number = u16::try_from(port.port?).ok()?;
                    let with_port = |(address, ready): &(IpAddr, bool)| {
                        (SocketAddr::new(*address, number), *ready)
                    };
                    let name = port.name.as_deref().unwrap_or_default().into();
                    let sockets = addresses.iter().map(with_port).collect();
                    Some(SlicePort { name, sockets })
                })
                .collect(),
            places,
        }
    }
}

/// All addresses, whether each is ready, and where it is.
fn slice_addresses(
    slice: &EndpointSlice,
    findings: &mut Findings,
) -> Vec<(SlicePlace, (IpAddr, bool))> {
    if slice.address_type == "FQDN" {
        findings.add(
            Severity::Warning,
            code::UNSUPPORTED,
            "addressType",
            "host names are not supported as endpoints: they are left out",
            "list addresses",
        );
        return Vec::new();
    }
    let mut addresses = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let ready = endpoint
            .conditions
            .as_ref()
            .and_then(|conditions| conditions.ready);
        for text in &endpoint.addresses {
            match text.parse() {
                Ok(address) => {
                    let place = SlicePlace::new(endpoint);
                    addresses.push((place, (address, ready.unwrap_or(true))));
                }
                Err(_) => findings.reject(
                    "endpoints",
                    format!("{text:?} is not an IP address"),
                    "correct it",
                ),
            }
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(app_protocol: Option<&str>, name: &str, want: Protocol) {
        assert_eq!(
            protocol(app_protocol, name),
            want,
            "{app_protocol:?} {name:?}"
        );
    }

    #[test]
    fn the_protocol_is_declared_by_app_protocol_then_by_name() {
        check(None, "http", Protocol::Http);
        check(None, "http-web", Protocol::Http);
        check(None, "HTTP-web", Protocol::Http);
        check(None, "httpx", Protocol::Sniff);
        check(None, "http2-api", Protocol::Http2);
        check(None, "grpc", Protocol::Grpc);
        check(None, "grpc-web-x", Protocol::Http);
        check(None, "https", Protocol::Tls);
        check(None, "mysql", Protocol::Tcp);
        check(None, "", Protocol::Sniff);
        check(None, "web", Protocol::Sniff);
        check(Some("http"), "tcp", Protocol::Http);
        check(Some("kubernetes.io/h2c"), "http", Protocol::Http2);
        check(Some("kubernetes.io/ws"), "", Protocol::Http);
        check(Some("kubernetes.io/wss"), "", Protocol::Tls);
        check(Some("example.com/own"), "http", Protocol::Sniff);
    }
}
