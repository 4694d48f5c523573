// SPDX-License-Identifier: Apache-2.0

//! What matters of Istio's mesh-wide configuration: the providers of CUSTOM policies, and the other names
//! of the trust domain. How paths are read is the agents' flag: where it is written here, that is said.
//!
//! It is a YAML text in the ConfigMap `istio` of the root namespace, most of which is about Istio's own
//! proxies and does not concern the mesh. Reference: istio/api `mesh/v1alpha1/config.proto`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue, StatusCode};
use k8s_openapi::api::core::v1::ConfigMap;
use serde::Deserialize;
use serde_json::Value;

use super::{
    facts::{Findings, Meta},
    object::null_default,
    problem::{Severity, code},
    resolve,
};
use crate::model::{
    ServiceName, SpiffeId,
    authorization::Pattern,
    provider::{Check, HttpCheck, Provider, ShownBody},
};

/// The name of the ConfigMap.
pub(super) const NAME: &str = "istio";

/// The key of its text.
const KEY: &str = "mesh";

/// How long an answer may take, if nothing is written.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The most of a body that a provider may see: what gRPC takes for a message, if nobody says otherwise.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// Whether an object is the one that matters.
pub(super) fn is(object: &ConfigMap, root_namespace: &str) -> bool {
    let metadata = &object.metadata;
    metadata.name.as_deref() == Some(NAME) && metadata.namespace.as_deref() == Some(root_namespace)
}

/// What matters of the ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MeshConfigFacts {
    pub(super) meta: Meta,
    pub(super) providers: Providers,
    /// Other names of the trust domain.
    pub(super) aliases: BTreeSet<Arc<str>>,
}

/// Providers by name.
pub(super) type Providers = BTreeMap<Arc<str>, Arc<Provider>>;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MeshConfig {
    #[serde(deserialize_with = "null_default")]
    extension_providers: Vec<ExtensionProvider>,
    #[serde(deserialize_with = "null_default")]
    trust_domain_aliases: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    path_normalization: PathNormalization,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PathNormalization {
    normalization: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ExtensionProvider {
    name: String,
    envoy_ext_authz_http: Option<ExtAuthz>,
    envoy_ext_authz_grpc: Option<ExtAuthz>,
}

/// Of both kinds; what only one of them has is empty in the other.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ExtAuthz {
    service: String,
    port: u16,
    timeout: Option<String>,
    fail_open: bool,
    status_on_error: Option<String>,
    path_prefix: String,
    #[serde(alias = "includeHeadersInCheck", deserialize_with = "null_default")]
    include_request_headers_in_check: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    include_additional_headers_in_check: BTreeMap<String, String>,
    include_request_body_in_check: Option<RequestBody>,
    #[serde(deserialize_with = "null_default")]
    headers_to_upstream_on_allow: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    headers_to_downstream_on_allow: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    headers_to_downstream_on_deny: Vec<String>,
}

/// How much of a request's body is shown.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RequestBody {
    max_request_bytes: Value,
    #[serde(deserialize_with = "null_default")]
    allow_partial_message: bool,
    #[serde(deserialize_with = "null_default")]
    pack_as_bytes: bool,
}

impl MeshConfigFacts {
    pub(super) fn new(object: &ConfigMap, findings: &mut Findings) -> Self {
        let text = object.data.iter().find_map(|data| data.get(KEY));
        let config = match serde_yaml_ng::from_str(text.map_or("{}", String::as_str)) {
            Ok(config) => config,
            Err(error) => {
                let text = format!("cannot be read: {error}");
                let fix = "write it as istiod's mesh configuration";
                findings.reject(format!("data.{KEY}"), text, fix);
                MeshConfig::default()
            }
        };
        config.path_normalization.say(findings);
        let mut providers = Providers::new();
        for (index, written) in config.extension_providers.iter().enumerate() {
            let kinds = [
                (&written.envoy_ext_authz_http, "envoyExtAuthzHttp", true),
                (&written.envoy_ext_authz_grpc, "envoyExtAuthzGrpc", false),
            ];
            for (spec, kind, is_http) in kinds {
                let Some(spec) = spec else { continue };
                let field = format!("data.{KEY}.extensionProviders[{index}].{kind}");
                let name: Arc<str> = written.name.as_str().into();
                let provider = Reader { findings, field }.provider(&name, spec, is_http);
                providers.extend(provider.map(|provider| (name, Arc::new(provider))));
            }
        }
        Self {
            meta: Meta::new(&object.metadata),
            providers,
            aliases: aliases(&config.trust_domain_aliases, findings),
        }
    }
}

/// One that is no trust domain is nobody's, and that is said.
fn aliases(written: &[String], findings: &mut Findings) -> BTreeSet<Arc<str>> {
    let mut aliases = BTreeSet::new();
    for (index, text) in written.iter().enumerate() {
        if SpiffeId::is_trust_domain(text) {
            aliases.insert(text.as_str().into());
            continue;
        }
        findings.add(
            Severity::Error,
            code::SCHEMA,
            format!("data.{KEY}.trustDomainAliases[{index}]"),
            format!("{text:?} is no trust domain: it is no alias"),
            "write it as old.example, without spiffe:// and without stars",
        );
    }
    aliases
}

impl PathNormalization {
    /// Says that the agents do not read it, if they were to do something else.
    fn say(&self, findings: &mut Findings) {
        let Some(written) = self.normalization.as_deref() else {
            return;
        };
        if matches!(written, "DEFAULT" | "BASE") {
            return;
        }
        let flag = written.to_ascii_lowercase().replace('_', "-");
        findings.add(
            Severity::Warning,
            code::WITHOUT_EFFECT,
            format!("data.{KEY}.pathNormalization.normalization"),
            format!("{written:?} has no effect: agents are told by a flag how to read paths"),
            format!("start the agents with --path-normalization {flag}"),
        );
    }
}

/// Reads one provider. One that cannot be read is none, so that its policies deny.
struct Reader<'a> {
    findings: &'a mut Findings,
    field: String,
}

impl Reader<'_> {
    fn fault(&mut self, name: &str, text: impl Into<String>, fix: &str) {
        let field = format!("{}.{name}", self.field);
        let text = format!("{}: CUSTOM policies that name it deny", text.into());
        self.findings
            .add(Severity::Error, code::SCHEMA, field, text, fix);
    }

    fn provider(&mut self, name: &Arc<str>, spec: &ExtAuthz, is_http: bool) -> Option<Provider> {
        let service = service(&spec.service);
        if service.is_none() {
            let text = format!("{:?} is no Service", spec.service);
            self.fault("service", text, "write NAME.NAMESPACE.svc.cluster.local");
        }
        if spec.port == 0 {
            self.fault("port", "must be set", "write the Service's port");
        }
        let timeout = match &spec.timeout {
            None => Some(TIMEOUT),
            Some(text) => resolve::duration(text).filter(|timeout| !timeout.is_zero()),
        };
        if timeout.is_none() {
            self.fault("timeout", "is no duration", "write it as 1s");
        }
        let status = match &spec.status_on_error {
            None => Some(StatusCode::FORBIDDEN),
            Some(text) => text.parse().ok().filter(|status: &StatusCode| {
                status.is_client_error() || status.is_server_error() || status.is_redirection()
            }),
        };
        if status.is_none() {
            self.fault(
                "statusOnError",
                "is no status of an error",
                "write 403 or 503",
            );
        }
        let body = match &spec.include_request_body_in_check {
            None => Some(None),
            Some(written) => self.body(written, is_http).map(Some),
        };
        let check = if is_http {
            self.http(spec).map(Check::Http)
        } else {
            Some(Check::Grpc)
        };
        Some(Provider {
            name: Arc::clone(name),
            service: service?,
            port: Some(spec.port).filter(|port| *port > 0)?,
            timeout: timeout?,
            fail_open: spec.fail_open,
            status_on_error: status?,
            check: check?,
            body: body?,
        })
    }

    fn body(&mut self, written: &RequestBody, is_http: bool) -> Option<ShownBody> {
        let most = match &written.max_request_bytes {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        let most = most.and_then(|most| usize::try_from(most).ok());
        let most = most.filter(|most| (1..=MAX_BODY).contains(most));
        if most.is_none() {
            let text = match &written.max_request_bytes {
                Value::Null => "must be set".to_owned(),
                other => format!("{other} is no number of bytes from 1 to {MAX_BODY}"),
            };
            self.fault(
                "includeRequestBodyInCheck.maxRequestBytes",
                text,
                "write how much the provider needs to see, as 8192",
            );
        }
        if written.pack_as_bytes && is_http {
            self.findings.add(
                Severity::Warning,
                code::WITHOUT_EFFECT,
                format!("{}.includeRequestBodyInCheck.packAsBytes", self.field),
                "has no effect: over HTTP a body is shown as it is",
                "remove it",
            );
        }
        Some(ShownBody {
            most: most?,
            partial: written.allow_partial_message,
            as_bytes: written.pack_as_bytes,
        })
    }

    fn http(&mut self, spec: &ExtAuthz) -> Option<HttpCheck> {
        let patterns = |texts: &[String]| {
            let lower = texts.iter().map(|text| text.to_ascii_lowercase());
            lower.map(|text| Pattern::new(&text)).collect()
        };
        let mut add = Vec::new();
        for (name, value) in &spec.include_additional_headers_in_check {
            let pair = (name.parse::<HeaderName>(), HeaderValue::from_str(value));
            let (Ok(name), Ok(value)) = pair else {
                let text = format!("{name:?} and its value are no header");
                self.fault("includeAdditionalHeadersInCheck", text, "write NAME: VALUE");
                return None;
            };
            add.push((name, value));
        }
        Some(HttpCheck {
            path_prefix: spec.path_prefix.trim_end_matches('/').to_owned(),
            include: patterns(&spec.include_request_headers_in_check),
            add,
            upstream_on_allow: patterns(&spec.headers_to_upstream_on_allow),
            downstream_on_allow: patterns(&spec.headers_to_downstream_on_allow),
            downstream_on_deny: patterns(&spec.headers_to_downstream_on_deny),
        })
    }
}

/// `NAME.NAMESPACE[.svc...]`, perhaps behind `NAMESPACE/`.
fn service(text: &str) -> Option<ServiceName> {
    let host = text.rsplit('/').next()?;
    let mut labels = host.split('.');
    let (name, namespace) = (labels.next()?, labels.next()?);
    let is_service = labels.next().is_none_or(|label| label == "svc");
    let is_whole = !name.is_empty() && !namespace.is_empty();
    (is_service && is_whole).then(|| ServiceName::new(namespace, name))
}
