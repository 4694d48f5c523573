// SPDX-License-Identifier: Apache-2.0

//! Filters of a Gateway API rule or backend, checked and compiled.
//!
//! Knows nothing of Services. Invariant: a filter that cannot be honoured is never left out: what
//! it stands on is refused. Reference: Gateway API `HTTPRouteFilter`, `GRPCRouteFilter`.

use std::sync::Arc;

use http::{HeaderValue, uri::Authority};

use super::{
    facts::Findings,
    gaps,
    gateway::{
        BackendRef, CorsFilter, Filter, PathModifier, PathModifierKind, RequestMirror,
        RequestRedirect, UrlRewriteFilter,
    },
    headers,
    problem::{Severity, code},
    route::RouteKind,
};
use crate::model::{
    Cors, HeaderEdits, PathEdit, Redirect, Share, TextMatch, UrlRewrite, cors::Allowed, rewrite,
    text::FullRegex,
};

/// What all filters of a rule, or of a rule and one of its backends, ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Filters {
    pub(super) edits: HeaderEdits,
    pub(super) rewrite: Option<UrlRewrite>,
    pub(super) redirect: Option<RedirectFacts>,
    pub(super) cors: Option<Cors>,
    /// Where copies go, which of them, and where that is written.
    pub(super) mirrors: Vec<(BackendRef, Share, String)>,
    /// Which filter cannot be honoured, if one cannot.
    pub(super) refused: Option<Arc<str>>,
}

/// A redirect before it is known at which port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RedirectFacts {
    redirect: Redirect,
    port: Option<u16>,
}

impl RedirectFacts {
    /// The same with changes in the headers of its answer.
    pub(super) fn with(mut self, edits: &HeaderEdits) -> Self {
        self.redirect = self.redirect.with(edits);
        self
    }

    /// The redirect for clients of port `number` of a Service.
    pub(super) fn at(&self, number: u16) -> Redirect {
        let of_scheme = self
            .redirect
            .scheme
            .as_deref()
            .and_then(rewrite::well_known_port);
        Redirect {
            port: Some(self.port.or(of_scheme).unwrap_or(number)),
            ..self.redirect.clone()
        }
    }
}

/// Reads the filters of one rule and its backends.
pub(super) struct FilterReader<'a> {
    pub(super) kind: RouteKind,
    /// The route, for messages.
    pub(super) route: String,
    /// Whether all matches of the rule are path prefixes.
    pub(super) prefixes: bool,
    /// Whether the filters stand on a backend.
    pub(super) of_backend: bool,
    pub(super) findings: &'a mut Findings,
}

impl FilterReader<'_> {
    /// Adds what `filters`, which stand at `path`, ask for.
    pub(super) fn read(&mut self, filters: &[Filter], path: &str, into: &mut Filters) {
        for (index, filter) in filters.iter().enumerate() {
            let field = format!("{path}.filters[{index}]");
            if let Err(text) = self.one(filter, &field, into) {
                self.refuse(&field, &text, into);
            }
        }
        if into.redirect.is_some() && into.rewrite.is_some() {
            let text = "RequestRedirect and URLRewrite exclude each other";
            self.refuse(&format!("{path}.filters"), text, into);
        }
    }

    fn refuse(&mut self, field: &str, text: &str, into: &mut Filters) {
        let what = if self.of_backend {
            "its share of requests is"
        } else {
            "requests that match the rule are"
        };
        self.findings.add(
            Severity::Error,
            code::UNSUPPORTED,
            field,
            format!("{text}: {what} answered with {}", self.kind.broken_status()),
            "correct or remove the filter",
        );
        let reason = || format!("{} {field}: {text}", self.route).into();
        into.refused.get_or_insert_with(reason);
    }

    fn one(&mut self, filter: &Filter, field: &str, into: &mut Filters) -> Result<(), String> {
        let unset = |name: &str| format!("{name} must be set");
        match (filter.kind.as_str(), self.kind) {
            ("RequestHeaderModifier", _) => {
                let name = "requestHeaderModifier";
                let modifier = filter.request_header_modifier.as_ref();
                let modifier = modifier.ok_or_else(|| unset(name))?;
                let path = format!("{field}.{name}");
                headers::gateway(modifier, &path, &mut into.edits.request, self.findings);
            }
            ("ResponseHeaderModifier", _) => {
                let name = "responseHeaderModifier";
                let modifier = filter.response_header_modifier.as_ref();
                let modifier = modifier.ok_or_else(|| unset(name))?;
                let path = format!("{field}.{name}");
                headers::gateway(modifier, &path, &mut into.edits.response, self.findings);
            }
            ("RequestRedirect", RouteKind::Http) if !self.of_backend => {
                let wanted = filter.request_redirect.as_ref();
                let wanted = wanted.ok_or_else(|| unset("requestRedirect"))?;
                into.redirect = Some(self.redirect(wanted)?);
            }
            ("URLRewrite", RouteKind::Http) => {
                let wanted = filter.url_rewrite.as_ref();
                let wanted = wanted.ok_or_else(|| unset("urlRewrite"))?;
                into.rewrite = Some(self.rewrite(wanted)?);
            }
            ("RequestMirror", RouteKind::Http | RouteKind::Grpc) => {
                let wanted = filter.request_mirror.as_ref();
                let wanted = wanted.ok_or_else(|| unset("requestMirror"))?;
                let share = mirrored(wanted)?;
                let field = format!("{field}.requestMirror.backendRef");
                if share > Share::NONE {
                    into.mirrors
                        .push((wanted.backend_ref.clone(), share, field));
                }
            }
            ("CORS", RouteKind::Http) => {
                if into.cors.is_some() {
                    return Err("there is a CORS filter already".to_owned());
                }
                let wanted = filter.cors.as_ref().ok_or_else(|| unset("cors"))?;
                into.cors = Some(cors(wanted)?);
            }
            ("ExternalAuth", _) => return Err(gaps::EXTERNAL_AUTH.reason_of("ExternalAuth")),
            ("ExtensionRef", _) => return Err(gaps::EXTENSION_REF.reason_of("ExtensionRef")),
            (kind, _) => return Err(format!("{kind} is no filter of such a route")),
        }
        Ok(())
    }

    fn redirect(&self, wanted: &RequestRedirect) -> Result<RedirectFacts, String> {
        let status = wanted.status_code.unwrap_or(302);
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            return Err(format!(
                "requestRedirect.statusCode {status} is no redirect"
            ));
        }
        let scheme = wanted.scheme.as_deref().map(str::to_ascii_lowercase);
        if let Some(scheme) = &scheme
            && rewrite::well_known_port(scheme).is_none()
        {
            return Err(format!(
                "requestRedirect.scheme {scheme:?} is neither http nor https"
            ));
        }
        let host = wanted.hostname.as_deref().map(host_name).transpose()?;
        Ok(RedirectFacts {
            redirect: Redirect {
                status,
                scheme: scheme.map(Into::into),
                host: host.map(|host| host.as_str().into()),
                port: None,
                path: self.path(wanted.path.as_ref())?,
                edits: None,
            },
            port: wanted.port,
        })
    }

    fn rewrite(&self, wanted: &UrlRewriteFilter) -> Result<UrlRewrite, String> {
        Ok(UrlRewrite {
            authority: wanted.hostname.as_deref().map(host_name).transpose()?,
            path: self.path(wanted.path.as_ref())?,
        })
    }

    fn path(&self, wanted: Option<&PathModifier>) -> Result<Option<PathEdit>, String> {
        let Some(wanted) = wanted else {
            return Ok(None);
        };
        let edit = match (
            wanted.kind,
            &wanted.replace_full_path,
            &wanted.replace_prefix_match,
        ) {
            (PathModifierKind::ReplaceFullPath, Some(path), None) => PathEdit::full(path),
            (PathModifierKind::ReplacePrefixMatch, None, Some(_)) if !self.prefixes => {
                return Err("ReplacePrefixMatch needs matches of type PathPrefix".to_owned());
            }
            (PathModifierKind::ReplacePrefixMatch, None, Some(prefix)) => PathEdit::prefix(prefix),
            _ => return Err("path must have exactly the field that its type names".to_owned()),
        };
        edit.map(Some).map_err(|error| error.to_string())
    }
}

/// Which requests are copied.
fn mirrored(wanted: &RequestMirror) -> Result<Share, String> {
    let share = match (wanted.percent, wanted.fraction) {
        (None, None) => Some(Share::ALL),
        (Some(percent), None) => Share::fraction(percent, 100),
        (None, Some(one)) => Share::fraction(one.numerator, one.denominator.unwrap_or(100)),
        (Some(_), Some(_)) => {
            return Err("requestMirror.percent and fraction exclude each other".to_owned());
        }
    };
    share.ok_or_else(|| "requestMirror names more than all requests".to_owned())
}

fn cors(wanted: &CorsFilter) -> Result<Cors, String> {
    let list = |names: &[String], field: &str| match names {
        [] => Ok(Allowed::Unsaid),
        [star] if star == "*" => Ok(Allowed::Anything),
        names => HeaderValue::from_str(&names.join(", "))
            .map(Allowed::These)
            .map_err(|error| format!("cors.{field} is not a list of names: {error}")),
    };
    let origins = wanted
        .allow_origins
        .iter()
        .map(|origin| origin_match(origin));
    Ok(Cors {
        origins: origins.collect::<Result<_, _>>()?,
        methods: list(&wanted.allow_methods, "allowMethods")?,
        headers: list(&wanted.allow_headers, "allowHeaders")?,
        exposed: list(&wanted.expose_headers, "exposeHeaders")?,
        max_age: Some(HeaderValue::from(wanted.max_age.unwrap_or(5))),
        credentials: wanted.allow_credentials.unwrap_or_default(),
        forwards_other_preflights: false,
    })
}

/// `*`, an origin, or an origin whose host begins with `*`, which stands for any labels.
fn origin_match(origin: &str) -> Result<TextMatch, String> {
    if origin == "*" || !origin.contains('*') {
        return Ok(TextMatch::Exact(origin.to_owned()));
    }
    let pattern = regex::escape(origin).replace(r"\*", "[^/:]+");
    let regex = FullRegex::new(&pattern).map_err(|error| error.to_string())?;
    Ok(TextMatch::Regex(regex))
}

/// A host without port.
fn host_name(text: &str) -> Result<Authority, String> {
    let parsed = text.parse::<Authority>().ok();
    let whole = parsed.filter(|parsed| parsed.host() == text);
    whole.ok_or_else(|| format!("hostname {text:?} is not a host name"))
}
