// SPDX-License-Identifier: Apache-2.0

//! What is known of the kinds that are read and has no effect here: which field, why, what happens
//! instead, and what to do about it.
//!
//! Knows nothing of objects. Invariant: each row is reported where it is met (`tests/gaps.rs` walks the
//! table), and `docs/traffic.md` lists the same rows.

use super::problem::Severity;

/// A field, or a value of one, that has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// The kind that has it.
    pub(super) kind: &'static str,
    /// The path below `spec`, without places in lists; empty for the whole kind.
    pub(super) field: &'static str,
    /// Why it has no effect.
    pub(super) reason: &'static str,
    /// What happens instead.
    pub(super) instead: &'static str,
    /// What to do about it.
    pub(super) fix: &'static str,
    /// Whether nothing is lost that was asked for.
    pub(super) harmless: bool,
}

impl Gap {
    const fn new(
        kind: &'static str,
        field: &'static str,
        [reason, instead]: [&'static str; 2],
    ) -> Self {
        Self {
            kind,
            field,
            reason,
            instead,
            fix: "remove the field if you can do without",
            harmless: false,
        }
    }

    /// The same, with something better to do about it.
    const fn fix(self, fix: &'static str) -> Self {
        Self { fix, ..self }
    }

    /// The same, where nothing is lost.
    const fn harmless(self) -> Self {
        Self {
            harmless: true,
            ..self
        }
    }

    /// The last part of its path.
    pub(super) fn name(&self) -> &'static str {
        self.field.rsplit('.').next().unwrap_or_default()
    }

    /// How bad it is to meet it.
    pub(super) fn severity(&self) -> Severity {
        match self.harmless {
            true => Severity::Info,
            false => Severity::Warning,
        }
    }

    /// What is said of it where the consequence is said elsewhere.
    pub(super) fn reason_of(&self, what: &str) -> String {
        format!("{what} is not supported: {}", self.reason)
    }

    /// What is said of it.
    pub(super) fn text(&self) -> String {
        format!("not supported: {}; {}", self.reason, self.instead)
    }

    /// The row about a whole kind.
    pub(super) fn of_kind(kind: &str) -> Option<&'static Self> {
        let mut whole = KINDS.iter().filter(|gap| gap.field.is_empty());
        whole.find(|gap| gap.kind == kind)
    }
}

/// The rows of single fields, and by what code names them.
macro_rules! fields {
    ($($name:ident = $gap:expr;)*) => {
        $(pub(super) const $name: Gap = $gap;)*

        /// All of them.
        #[cfg(test)]
        pub(super) const FIELDS: &[Gap] = &[$($name),*];
    };
}

const VIRTUAL_SERVICE: &str = "VirtualService";
const DESTINATION_RULE: &str = "DestinationRule";
const SERVICE_ENTRY: &str = "ServiceEntry";
const SIDECAR: &str = "Sidecar";
const BACKEND_POLICY: &str = "XBackendTrafficPolicy";

fields! {
    STAT_PREFIX = Gap::new(
        VIRTUAL_SERVICE,
        "http.match.statPrefix",
        [
            "statistics are those of Istio's standard metrics, which have no such prefix",
            "the rule's requests are counted there",
        ],
    )
    .harmless();
    WEBSOCKET_UPGRADE = Gap::new(
        VIRTUAL_SERVICE,
        "http.websocketUpgrade",
        ["Istio no longer has the field", "upgrades are always passed on"],
    )
    .harmless();
    ENVOY_COMMANDS = Gap::new(
        VIRTUAL_SERVICE,
        "http.headers.request.set",
        [
            "commands (%REQ(x)%) are Envoy's own language",
            "the value is sent as it is written",
        ],
    )
    .fix("write the value itself");
    EXPONENTIAL_DELAY = Gap::new(
        VIRTUAL_SERVICE,
        "http.fault.delay.exponentialDelay",
        ["Istio does not carry it out either", "no such delay is injected"],
    )
    .fix("use fixedDelay");
    SOURCE_SUBNET = Gap::new(
        VIRTUAL_SERVICE,
        "tcp.match.sourceSubnet",
        ["Istio does not look at it either", "clients are not told apart by it"],
    )
    .fix("use sourceLabels or sourceNamespace");
    TUNNEL = Gap::new(
        DESTINATION_RULE,
        "trafficPolicy.tunnel",
        [
            "it is for egress gateways, which an agent on every node is not",
            "the endpoints are connected to without a CONNECT of their own",
        ],
    );
    ZONE_AWARE = Gap::new(
        DESTINATION_RULE,
        "trafficPolicy.loadBalancer.zoneAwareLbSetting",
        [
            "it takes how clients are spread over zones, which no agent knows",
            "endpoints are used wherever they are",
        ],
    )
    .fix("use localityLbSetting, or trafficDistribution of the Service");
    CONCURRENT_STREAMS = Gap::new(
        DESTINATION_RULE,
        "trafficPolicy.connectionPool.http.maxConcurrentStreams",
        [
            "an endpoint is spoken to by one HTTP/2 connection",
            "that has as many streams as the endpoint admits",
        ],
    )
    .fix("use http2MaxRequests to bound the requests under way");
    HTTP2_KEEPALIVE = Gap::new(
        DESTINATION_RULE,
        "trafficPolicy.connectionPool.http.http2KeepAlive",
        [
            "tunnels between nodes are kept alive by the agents",
            "no PINGs are sent to endpoints",
        ],
    );
    BUDGET_INTERVAL = Gap::new(
        DESTINATION_RULE,
        "trafficPolicy.retryBudget.budgetInterval",
        [
            "the budget is a share of the requests under way, which have no interval",
            "requests count for as long as they are under way",
        ],
    );
    CONFIG_MAP = Gap::new(
        DESTINATION_RULE,
        "trafficPolicy.tls.credentialName",
        [
            "the agent reads Secrets of the rule's namespace, not what configmap:// names",
            "what the rule is for is not connected to",
        ],
    )
    .fix("write the name of a Secret with ca.crt");
    ENTRY_NETWORK = Gap::new(
        SERVICE_ENTRY,
        "endpoints.network",
        [
            "there are no gateways between networks for an agent to go through",
            "the endpoint is connected to at its address",
        ],
    );
    DYNAMIC_DNS = Gap::new(
        SERVICE_ENTRY,
        "resolution",
        [
            "DYNAMIC_DNS resolves the name that each request asks for, and the agent resolves only names that are \
             written",
            "the entry is not used",
        ],
    )
    .fix("use NONE for hosts with a wildcard, else DNS");
    ENTRY_UDP = Gap::new(
        SERVICE_ENTRY,
        "ports.protocol",
        ["UDP is not captured", "it goes where it is sent"],
    )
    .fix("nothing need be done")
    .harmless();
    ENTRY_MESH_TLS = Gap::new(
        SERVICE_ENTRY,
        "endpoints.labels",
        [
            "only enrolled pods are reached by the mesh's TLS, as the label asks",
            "unless it is one, the endpoint is left out",
        ],
    )
    .fix("enrol the pod at the address, or remove the label if plaintext will do");
    SIDECAR_INGRESS = Gap::new(
        SIDECAR,
        "ingress",
        [
            "there is no proxy in the pod that could listen elsewhere than the application",
            "pods accept what they accept without it",
        ],
    );
    SIDECAR_INBOUND_POOL = Gap::new(
        SIDECAR,
        "inboundConnectionPool",
        [
            "the application's own limits are the only ones for what a pod accepts",
            "pods accept what they accept without it",
        ],
    )
    .fix("write a LocalRateLimit, or a connectionPool for the clients");
    EGRESS_PORT = Gap::new(
        SIDECAR,
        "egress.port",
        [
            "connections are taken at the address that they are opened to, not at listeners",
            "the hosts are seen at all their ports",
        ],
    );
    EGRESS_BIND = Gap::new(
        SIDECAR,
        "egress.bind",
        [
            "connections are taken at the address that they are opened to, not at listeners",
            "the hosts are seen at all their addresses",
        ],
    );
    CAPTURE_NONE = Gap::new(
        SIDECAR,
        "egress.captureMode",
        [
            "NONE needs a listener in the pod to send traffic to, and there is none",
            "what is sent to the hosts is captured all the same",
        ],
    );
    EGRESS_PROXY = Gap::new(
        SIDECAR,
        "outboundTrafficPolicy.egressProxy",
        [
            "it is for egress gateways, and what nobody has goes on to where it was sent",
            "or is refused, as mode says",
        ],
    );
    DEFAULT_GATEWAYS = Gap::new(
        "HTTPRoute",
        "useDefaultGateways",
        [
            "the mesh has no gateways",
            "the route is attached to the Services of parentRefs only",
        ],
    )
    .harmless();
    HOSTNAMES = Gap::new(
        "HTTPRoute",
        "hostnames",
        [
            "a mesh route follows the Service, not the host name",
            "requests are not told apart by them",
        ],
    )
    .fix("match the header Host")
    .harmless();
    SESSION_ABSOLUTE = Gap::new(
        "HTTPRoute",
        "rules.sessionPersistence.absoluteTimeout",
        [
            "time limits would have to be in what clients bring along, signed by all nodes",
            "a session lasts for as long as its client keeps it",
        ],
    );
    SESSION_IDLE = Gap::new(
        "HTTPRoute",
        "rules.sessionPersistence.idleTimeout",
        [
            "time limits would have to be in what clients bring along, signed by all nodes",
            "a session lasts for as long as its client keeps it",
        ],
    );
    SESSION_LASTING = Gap::new(
        "HTTPRoute",
        "rules.sessionPersistence.cookieConfig.lifetimeType",
        [
            "a lasting cookie needs absoluteTimeout, which is not supported",
            "the cookie is one for the client's session",
        ],
    );
    POLICY_SESSION = Gap::new(
        BACKEND_POLICY,
        "sessionPersistence",
        [
            "sessions are told by the rules of routes, which draw the backend",
            "requests keep to no endpoint by it",
        ],
    )
    .fix("write sessionPersistence into the rule of an HTTPRoute or GRPCRoute");
    CONSTRAINT_INTERVAL = Gap::new(
        BACKEND_POLICY,
        "retryConstraint.budget.interval",
        [
            "the budget is a share of the requests under way, which have no interval",
            "requests count for as long as they are under way",
        ],
    );
    RATE_INTERVAL = Gap::new(
        BACKEND_POLICY,
        "retryConstraint.minRetryRate.interval",
        [
            "the budget is a share of the requests under way, which have no interval",
            "count is how many retries may always be under way",
        ],
    );
    EXTERNAL_AUTH = Gap::new(
        "HTTPRoute",
        "rules.filters.externalAuth",
        [
            "authorization is asked where a request arrives, by an AuthorizationPolicy with action CUSTOM",
            "requests are refused",
        ],
    )
    .fix("write such a policy for the Service's pods, and remove the filter");
    EXTENSION_REF = Gap::new(
        "HTTPRoute",
        "rules.filters.extensionRef",
        ["no kind extends routes here", "requests are refused"],
    )
    .fix("remove the filter");
    OPTIONAL_PEER = Gap::new(
        "Policy",
        "peerIsOptional",
        ["Istio dropped the field", "the mode of mtls decides alone"],
    )
    .fix("use mode PERMISSIVE");
    TARGET_SUBSET = Gap::new(
        "Policy",
        "targets.subset",
        ["Istio dropped the field", "the policy is for all pods of the Service"],
    )
    .fix("write a PeerAuthentication with a selector");
    TARGET_LABELS = Gap::new(
        "Policy",
        "targets.labels",
        ["Istio never carried it out", "the policy is for all pods of the Service"],
    )
    .fix("write a PeerAuthentication with a selector");
}

const fn kind(kind: &'static str, reason: &'static str, fix: &'static str) -> Gap {
    Gap::new(kind, "", [reason, "it has no effect"]).fix(fix)
}

const NO_GATEWAY: &str = "the mesh carries traffic between pods and has no gateways";
const NO_ENVOY: &str = "the proxy is not Envoy, whose configuration it changes";
const IF_NOT_NEEDED: &str = "remove it if you can do without";

/// The rows of whole kinds.
pub(super) const KINDS: &[Gap] = &[
    kind(
        "Gateway",
        NO_GATEWAY,
        "leave it to the controller of your gateways",
    ),
    kind(
        "GatewayClass",
        NO_GATEWAY,
        "leave it to the controller of your gateways",
    ),
    kind(
        "ListenerSet",
        NO_GATEWAY,
        "leave it to the controller of your gateways",
    ),
    kind(
        "WorkloadGroup",
        "what is no pod does not register itself",
        "write a WorkloadEntry for each machine",
    ),
    kind("EnvoyFilter", NO_ENVOY, IF_NOT_NEEDED),
    kind("ProxyConfig", NO_ENVOY, IF_NOT_NEEDED),
    kind("WasmPlugin", NO_ENVOY, IF_NOT_NEEDED),
    kind(
        "Telemetry",
        "what is counted and logged is set for the whole node",
        "use the agent's settings",
    ),
    kind("UDPRoute", "UDP is not captured", IF_NOT_NEEDED),
    kind(
        "BackendTLSPolicy",
        "TLS towards applications is asked for by DestinationRules",
        "write tls into the trafficPolicy of a DestinationRule",
    ),
];
