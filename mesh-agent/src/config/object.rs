// SPDX-License-Identifier: Apache-2.0

//! The objects that configure the mesh, typed.
//!
//! Knows nothing of files or of the API server: both front ends make these. Reference: the kinds
//! and versions that Kubernetes, Istio and the Gateway API serve.

use std::{borrow::Cow, fmt};

use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::{
    backend_policy::BackendTrafficPolicySpec,
    gateway::{GrpcRouteSpec, HttpRouteSpec, TcpRouteSpec, TlsRouteSpec},
    istio::{
        DestinationRuleSpec, ServiceEntrySpec, SidecarSpec, VirtualServiceSpec, WorkloadEntrySpec,
    },
    rate_limit::LocalRateLimitSpec,
    security::{PeerAuthenticationSpec, PolicySpec},
};
use crate::model::ObjectRef;

/// A kind that the mesh knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1 Namespace`.
    Namespace,
    /// `v1 Node`.
    Node,
    /// `v1 ConfigMap`: Istio's mesh-wide configuration.
    ConfigMap,
    /// `v1 ServiceAccount`.
    ServiceAccount,
    /// `v1 Pod`.
    Pod,
    /// `v1 Service`.
    Service,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `networking.istio.io VirtualService`.
    VirtualService,
    /// `networking.istio.io DestinationRule`.
    DestinationRule,
    /// `networking.istio.io ServiceEntry`.
    ServiceEntry,
    /// `networking.istio.io WorkloadEntry`.
    WorkloadEntry,
    /// `networking.istio.io Sidecar`.
    Sidecar,
    /// `security.istio.io PeerAuthentication`.
    PeerAuthentication,
    /// `security.istio.io AuthorizationPolicy`.
    AuthorizationPolicy,
    /// `security.istio.io RequestAuthentication`.
    RequestAuthentication,
    /// `authentication.istio.io/v1alpha1 Policy`.
    Policy,
    /// `authentication.istio.io/v1alpha1 MeshPolicy`.
    MeshPolicy,
    /// `gateway.networking.k8s.io HTTPRoute`.
    HttpRoute,
    /// `gateway.networking.k8s.io GRPCRoute`.
    GrpcRoute,
    /// `mesh-agent.io LocalRateLimit`.
    LocalRateLimit,
    /// `gateway.networking.k8s.io TCPRoute`.
    TcpRoute,
    /// `gateway.networking.k8s.io TLSRoute`.
    TlsRoute,
    /// `gateway.networking.x-k8s.io XBackendTrafficPolicy`.
    BackendTrafficPolicy,
    /// A security policy that is not enforced yet: an error as long as it exists.
    Unenforced(&'static str),
    /// A mesh kind that has no effect yet.
    Unsupported(&'static str),
}

/// Security kinds that must not be taken for enforced.
const UNENFORCED: [(&str, &str); 4] = [
    ("rbac.istio.io", "ServiceRole"),
    ("rbac.istio.io", "ServiceRoleBinding"),
    ("rbac.istio.io", "ClusterRbacConfig"),
    ("rbac.istio.io", "RbacConfig"),
];

/// Mesh kinds without effect.
const UNSUPPORTED: [(&str, &str); 11] = [
    ("networking.istio.io", "Gateway"),
    ("networking.istio.io", "WorkloadGroup"),
    ("networking.istio.io", "EnvoyFilter"),
    ("networking.istio.io", "ProxyConfig"),
    ("telemetry.istio.io", "Telemetry"),
    ("extensions.istio.io", "WasmPlugin"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
    ("gateway.networking.k8s.io", "UDPRoute"),
    ("gateway.networking.k8s.io", "BackendTLSPolicy"),
    ("gateway.networking.k8s.io", "ListenerSet"),
];

const SUPPORTED: [(&str, &[&str], Kind); 23] = [
    ("", &["v1"], Kind::Namespace),
    ("", &["v1"], Kind::Node),
    ("", &["v1"], Kind::ConfigMap),
    ("", &["v1"], Kind::ServiceAccount),
    ("", &["v1"], Kind::Pod),
    ("", &["v1"], Kind::Service),
    ("discovery.k8s.io", &["v1"], Kind::EndpointSlice),
    ("networking.istio.io", ISTIO_VERSIONS, Kind::VirtualService),
    ("networking.istio.io", ISTIO_VERSIONS, Kind::DestinationRule),
    ("networking.istio.io", ISTIO_VERSIONS, Kind::ServiceEntry),
    ("networking.istio.io", ISTIO_VERSIONS, Kind::WorkloadEntry),
    ("networking.istio.io", ISTIO_VERSIONS, Kind::Sidecar),
    (
        "security.istio.io",
        &["v1", "v1beta1"],
        Kind::PeerAuthentication,
    ),
    (
        "security.istio.io",
        &["v1", "v1beta1"],
        Kind::AuthorizationPolicy,
    ),
    (
        "security.istio.io",
        &["v1", "v1beta1"],
        Kind::RequestAuthentication,
    ),
    ("authentication.istio.io", &["v1alpha1"], Kind::Policy),
    ("authentication.istio.io", &["v1alpha1"], Kind::MeshPolicy),
    (
        "gateway.networking.k8s.io",
        &["v1", "v1beta1"],
        Kind::HttpRoute,
    ),
    ("gateway.networking.k8s.io", &["v1"], Kind::GrpcRoute),
    ("mesh-agent.io", &["v1alpha1"], Kind::LocalRateLimit),
    (
        "gateway.networking.k8s.io",
        &["v1", "v1alpha2"],
        Kind::TcpRoute,
    ),
    (
        "gateway.networking.k8s.io",
        &["v1", "v1alpha3", "v1alpha2"],
        Kind::TlsRoute,
    ),
    (
        "gateway.networking.x-k8s.io",
        &["v1alpha1"],
        Kind::BackendTrafficPolicy,
    ),
];

const ISTIO_VERSIONS: &[&str] = &["v1", "v1beta1", "v1alpha3"];

/// What an `apiVersion` and `kind` are to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Read it.
    Known(Kind),
    /// A known kind in a version that is not served; these are.
    WrongVersion(Kind, &'static [&'static str]),
    /// No business of the mesh.
    Foreign,
}

impl Kind {
    /// Tells what `api_version` and `kind` name.
    pub fn classify(api_version: &str, kind: &str) -> Class {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let same = |known: &(&str, &str)| known.0 == group && known.1 == kind;
        if let Some((_, versions, known)) = SUPPORTED
            .iter()
            .find(|(known_group, _, known)| *known_group == group && known.as_str() == kind)
        {
            return if versions.contains(&version) {
                Class::Known(*known)
            } else {
                Class::WrongVersion(*known, versions)
            };
        }
        if let Some((_, name)) = UNENFORCED.iter().find(|known| same(known)) {
            return Class::Known(Self::Unenforced(name));
        }
        match UNSUPPORTED.iter().find(|known| same(known)) {
            Some((_, name)) => Class::Known(Self::Unsupported(name)),
            None => Class::Foreign,
        }
    }

    /// All of them with their group and the versions that are read, best first; of kinds without
    /// effect any version will do.
    pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static [&'static str], Self)> {
        let unenforced = UNENFORCED.iter();
        let unsupported = UNSUPPORTED.iter();
        let inert = unenforced
            .map(|(group, name)| (*group, Self::Unenforced(name)))
            .chain(unsupported.map(|(group, name)| (*group, Self::Unsupported(name))));
        let none: &'static [&'static str] = &[];
        SUPPORTED
            .iter()
            .copied()
            .chain(inert.map(move |(group, kind)| (group, none, kind)))
    }

    /// Whether it is one of Kubernetes' own.
    pub(super) fn is_built_in(self) -> bool {
        matches!(
            self,
            Self::Namespace
                | Self::Node
                | Self::ConfigMap
                | Self::ServiceAccount
                | Self::Pod
                | Self::Service
                | Self::EndpointSlice
        )
    }

    /// As manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ConfigMap => "ConfigMap",
            Self::ServiceAccount => "ServiceAccount",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::Sidecar => "Sidecar",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::Policy => "Policy",
            Self::MeshPolicy => "MeshPolicy",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::LocalRateLimit => "LocalRateLimit",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::BackendTrafficPolicy => "XBackendTrafficPolicy",
            Self::Unenforced(name) | Self::Unsupported(name) => name,
        }
    }

    /// Whether its objects are in no namespace.
    pub fn is_cluster_scoped(self) -> bool {
        matches!(
            self,
            Self::Namespace
                | Self::Node
                | Self::MeshPolicy
                | Self::Unenforced("ClusterRbacConfig")
                | Self::Unsupported("GatewayClass")
        )
    }
}

/// What tells an object from all others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty if cluster-scoped.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// The same for messages.
    pub fn to_ref(&self) -> ObjectRef {
        ObjectRef {
            kind: self.kind.as_str().into(),
            namespace: self.namespace.as_str().into(),
            name: self.name.as_str().into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ref().fmt(f)
    }
}

/// Which state of which incarnation of an object it is; empty where an object was not read from the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revision {
    /// Of this incarnation.
    pub uid: std::sync::Arc<str>,
    /// Of what is wanted.
    pub generation: Option<i64>,
    /// Of all that is said.
    pub resource_version: std::sync::Arc<str>,
}

/// An object of a custom kind.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource<Spec> {
    /// Which version of its schema it is written in.
    #[serde(default)]
    pub api_version: String,
    /// Its kind.
    #[serde(default)]
    pub kind: String,
    /// Name, namespace, labels and so on.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: Spec,
    /// What others observed; of no interest here.
    #[serde(default)]
    pub status: Present,
}

/// An object that configures the mesh.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is the kind of its name")]
pub enum Object {
    Namespace(Box<Namespace>),
    Node(Box<Node>),
    ConfigMap(Box<ConfigMap>),
    ServiceAccount(Box<ServiceAccount>),
    Pod(Box<Pod>),
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    VirtualService(Box<Resource<VirtualServiceSpec>>),
    DestinationRule(Box<Resource<DestinationRuleSpec>>),
    ServiceEntry(Box<Resource<ServiceEntrySpec>>),
    WorkloadEntry(Box<Resource<WorkloadEntrySpec>>),
    Sidecar(Box<Resource<SidecarSpec>>),
    PeerAuthentication(Box<Resource<PeerAuthenticationSpec>>),
    /// Its `spec` is read where it is judged, so that one that cannot be read is judged, too.
    AuthorizationPolicy(Box<Resource<serde_json::Value>>),
    /// As an AuthorizationPolicy's.
    RequestAuthentication(Box<Resource<serde_json::Value>>),
    Policy(Box<Resource<PolicySpec>>),
    MeshPolicy(Box<Resource<PolicySpec>>),
    HttpRoute(Box<Resource<HttpRouteSpec>>),
    GrpcRoute(Box<Resource<GrpcRouteSpec>>),
    LocalRateLimit(Box<Resource<LocalRateLimitSpec>>),
    TcpRoute(Box<Resource<TcpRouteSpec>>),
    TlsRoute(Box<Resource<TlsRouteSpec>>),
    BackendTrafficPolicy(Box<Resource<BackendTrafficPolicySpec>>),
    /// A kind that is known but has no effect; only its name and metadata count.
    Inert(ObjectKey, Box<ObjectMeta>),
}

impl Object {
    /// What tells this object from all others.
    pub fn key(&self) -> ObjectKey {
        let (kind, metadata) = self.parts();
        ObjectKey {
            kind,
            namespace: if kind.is_cluster_scoped() {
                String::new()
            } else {
                metadata.namespace.clone().unwrap_or_default()
            },
            name: metadata.name.clone().unwrap_or_default(),
        }
    }

    /// Which state of which incarnation this is.
    pub fn revision(&self) -> Revision {
        let (_, metadata) = self.parts();
        Revision {
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            generation: metadata.generation,
            resource_version: metadata
                .resource_version
                .as_deref()
                .unwrap_or_default()
                .into(),
        }
    }

    fn parts(&self) -> (Kind, &ObjectMeta) {
        match self {
            Self::Namespace(object) => (Kind::Namespace, &object.metadata),
            Self::Node(object) => (Kind::Node, &object.metadata),
            Self::ConfigMap(object) => (Kind::ConfigMap, &object.metadata),
            Self::ServiceAccount(object) => (Kind::ServiceAccount, &object.metadata),
            Self::Pod(object) => (Kind::Pod, &object.metadata),
            Self::Service(object) => (Kind::Service, &object.metadata),
            Self::EndpointSlice(object) => (Kind::EndpointSlice, &object.metadata),
            Self::VirtualService(object) => (Kind::VirtualService, &object.metadata),
            Self::DestinationRule(object) => (Kind::DestinationRule, &object.metadata),
            Self::ServiceEntry(object) => (Kind::ServiceEntry, &object.metadata),
            Self::WorkloadEntry(object) => (Kind::WorkloadEntry, &object.metadata),
            Self::Sidecar(object) => (Kind::Sidecar, &object.metadata),
            Self::PeerAuthentication(object) => (Kind::PeerAuthentication, &object.metadata),
            Self::AuthorizationPolicy(object) => (Kind::AuthorizationPolicy, &object.metadata),
            Self::RequestAuthentication(object) => (Kind::RequestAuthentication, &object.metadata),
            Self::Policy(object) => (Kind::Policy, &object.metadata),
            Self::MeshPolicy(object) => (Kind::MeshPolicy, &object.metadata),
            Self::HttpRoute(object) => (Kind::HttpRoute, &object.metadata),
            Self::GrpcRoute(object) => (Kind::GrpcRoute, &object.metadata),
            Self::LocalRateLimit(object) => (Kind::LocalRateLimit, &object.metadata),
            Self::TcpRoute(object) => (Kind::TcpRoute, &object.metadata),
            Self::TlsRoute(object) => (Kind::TlsRoute, &object.metadata),
            Self::BackendTrafficPolicy(object) => (Kind::BackendTrafficPolicy, &object.metadata),
            Self::Inert(key, metadata) => (key.kind, metadata),
        }
    }
}

/// Whether a field is written (and not null): for fields whose content has no effect yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(pub bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(Self(!value.is_null()))
    }
}

/// Anything at all: what it says has no effect, and must not be lost.
impl JsonSchema for Present {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Present".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-preserve-unknown-fields": true, "nullable": true })
    }
}

/// Reads `null` as if the field were not written.
pub(super) fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(api_version: &str, kind: &str, want: Class) {
        assert_eq!(Kind::classify(api_version, kind), want);
    }

    #[test]
    fn kinds_are_told_by_group_and_version() {
        check("v1", "Pod", Class::Known(Kind::Pod));
        check("serving.knative.dev/v1", "Service", Class::Foreign);
        check(
            "networking.istio.io/v1alpha3",
            "VirtualService",
            Class::Known(Kind::VirtualService),
        );
        check(
            "networking.istio.io/v2",
            "VirtualService",
            Class::WrongVersion(Kind::VirtualService, ISTIO_VERSIONS),
        );
        check("apps/v1", "Deployment", Class::Foreign);
        check(
            "security.istio.io/v1",
            "AuthorizationPolicy",
            Class::Known(Kind::AuthorizationPolicy),
        );
        check(
            "gateway.networking.k8s.io/v1",
            "GRPCRoute",
            Class::Known(Kind::GrpcRoute),
        );
    }
}
