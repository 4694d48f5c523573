// SPDX-License-Identifier: Apache-2.0

//! Which backend a request goes to, or with what it is refused.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Uri};

use super::{
    balance::Schedule,
    condition::HttpMatch,
    cors::CorsDecision,
    edits::HeaderEdits,
    rewrite::{Redirect, Rewritten, UrlRewrite},
    rules::Rules,
    service::{Cluster, ObjectRef, ServicePort},
    treatment::{DirectAnswer, Treatment},
    workload::Workload,
};

/// Why a request or connection ended as it did: Envoy's response flags, so that existing dashboards and
/// habits work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseFlag {
    /// `-`: answered as the configuration says.
    None,
    /// `NC`: the route names a cluster that does not exist.
    NoCluster,
    /// `NR`: no route matched.
    NoRoute,
    /// `UH`: no ready endpoint.
    NoHealthyUpstream,
    /// `UF`: connecting to the endpoint failed.
    UpstreamFailure,
}

impl ResponseFlag {
    /// The flag as logs and metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::NoCluster => "NC",
            Self::NoRoute => "NR",
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamFailure => "UF",
        }
    }
}

/// The part of a request that routing looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// Request target: origin form, or absolute form if the client sent that.
    pub uri: &'a Uri,
    /// `Host` or `:authority`.
    pub authority: &'a str,
    /// `http`; TLS from the application is opaque to us.
    pub scheme: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The source workload.
    pub workload: &'a Workload,
}

/// The rules that decide about requests to one Service port.
#[derive(Clone, Debug)]
pub struct HttpRoutes {
    /// In the order in which they are tried: the first that matches decides.
    pub rules: Rules,
    /// The object the rules come from (the first, if several).
    pub origin: ObjectRef,
}

/// One rule: conditions and what to do.
#[derive(Clone, Debug)]
pub struct HttpRule {
    /// `name`, else `<object>#<index>`; logged as route name.
    pub name: Arc<str>,
    /// The object that the rule is written in.
    pub origin: ObjectRef,
    /// Any of these suffices; none at all matches every request.
    pub matches: Vec<HttpMatch>,
    /// Weighted backends.
    pub backends: Vec<Backend>,
    /// What each of `backends` weighs, for `proxy-config`.
    pub weights: Vec<u32>,
    /// Draws one of `backends`.
    pub schedule: Schedule,
    /// For the whole exchange, if it is limited.
    pub timeout: Option<Duration>,
    /// What else is done with requests that are sent on, if anything.
    pub treatment: Option<Arc<Treatment>>,
}

/// Where a share of a rule's requests goes.
#[derive(Clone, Debug)]
pub enum Backend {
    /// To the endpoints of this cluster, which may have none.
    Cluster {
        /// Where to.
        cluster: Arc<Cluster>,
        /// What the rule, then the backend, changes in headers.
        edits: Option<Arc<HeaderEdits>>,
        /// What the endpoint sees instead of the request's URL, if that changes.
        rewrite: Option<Arc<UrlRewrite>>,
        /// What else is done with its requests, if that is not what the rule says.
        treatment: Option<Arc<Treatment>>,
    },
    /// Elsewhere: the client is told where.
    Redirect(Arc<Redirect>),
    /// Nowhere: the rule has the answer.
    Answer(Arc<DirectAnswer>),
    /// Nowhere: answered with this.
    Refused(Refusal),
}

/// An answer that the mesh gives itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status code.
    pub status: u16,
    /// Why, in one flag.
    pub flag: ResponseFlag,
    /// Why, in words, for the access log: names the object and field.
    pub reason: Arc<str>,
    /// The rule's name; `-` if none matched.
    pub route: Arc<str>,
}

/// What to do with one request.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Send it to an endpoint of `cluster`; 503 `UH` if that has none.
    Forward {
        /// Where to.
        cluster: Arc<Cluster>,
        /// The rule's name; `default` when no route is attached.
        route: Arc<str>,
        /// For the whole exchange, if it is limited: 504 after that.
        timeout: Option<Duration>,
        /// What to change in the headers of request and response.
        edits: Option<Arc<HeaderEdits>>,
        /// What to change in the request's URL.
        rewritten: Option<Box<Rewritten>>,
        /// What else to do with it; nothing if `None`.
        treatment: Option<Arc<Treatment>>,
    },
    /// Answer it as the configuration says.
    Answer {
        /// The whole answer.
        answer: Arc<DirectAnswer>,
        /// The rule's name.
        route: Arc<str>,
    },
    /// Tell the client to go elsewhere.
    Redirect {
        /// HTTP status code.
        status: u16,
        /// Where to.
        location: HeaderValue,
        /// What to change in the headers of that answer.
        edits: Option<Arc<HeaderEdits>>,
        /// The rule's name.
        route: Arc<str>,
    },
    /// Answer it.
    Refuse(Refusal),
}

impl Decision {
    /// Whether the request is sent on with nothing but its head changed, and is not kept to be sent
    /// again: its body may be passed on as it comes, to one endpoint (any that
    /// [`Cluster::pick`] gives, with no limit to mind), and the answer likewise.
    pub fn is_plain(&self) -> bool {
        match self {
            Self::Forward {
                treatment, cluster, ..
            } => treatment.is_none() && cluster.upstream.is_none(),
            Self::Answer { .. } | Self::Redirect { .. } | Self::Refuse(_) => false,
        }
    }
}

impl ServicePort {
    /// Whether no request of `client` can be decided about otherwise than plainly: see
    /// [`Decision::is_plain`]. Whoever only passes requests on asks before anything is drawn.
    pub fn is_plain(&self, client: &Workload) -> bool {
        match self.routes_for(client) {
            Some(routes) => routes.rules.are_plain(),
            None => self.cluster.upstream.is_none(),
        }
    }

    /// The rules that decide about requests of `client`; none if no route is attached.
    pub fn routes_for(&self, client: &Workload) -> Option<&Arc<HttpRoutes>> {
        client.own(&self.consumer_routes).or(self.routes.as_ref())
    }

    /// Decides about one request of `client`; draws from the weight schedule, so call it once.
    pub fn decide(&self, client: &Client<'_>, head: &RequestHead<'_>) -> Decision {
        match self.routes_for(client.workload) {
            Some(routes) => routes.decide(client, head),
            None => Decision::Forward {
                cluster: Arc::clone(&self.cluster),
                route: default_route(),
                timeout: None,
                edits: None,
                rewritten: None,
                treatment: None,
            },
        }
    }
}

/// The route name when no route is attached; one allocation per thread.
fn default_route() -> Arc<str> {
    thread_local!(static NAME: Arc<str> = Arc::from("default"));
    NAME.with(Arc::clone)
}

impl HttpRoutes {
    fn decide(&self, client: &Client<'_>, head: &RequestHead<'_>) -> Decision {
        let mut tried = self.rules.candidates(head.uri.path(), head.headers);
        match tried.find_map(|rule| Some((rule, rule.applies(client, head)?))) {
            Some((rule, met)) => rule.decide(head, met),
            None => Decision::Refuse(Refusal {
                status: 404,
                flag: ResponseFlag::NoRoute,
                reason: format!("no rule of {} matches the request", self.origin).into(),
                route: "-".into(),
            }),
        }
    }
}

impl HttpRule {
    /// Whether requests are only sent on, redirected without more ado, or refused.
    pub(super) fn is_plain(&self) -> bool {
        let plain = |backend: &Backend| match backend {
            Backend::Cluster {
                cluster, treatment, ..
            } => cluster.upstream.is_none() && treatment.is_none(),
            Backend::Redirect(redirect) => redirect.edits.is_none(),
            Backend::Answer(_) => false,
            Backend::Refused(_) => true,
        };
        self.treatment.is_none() && self.backends.iter().all(plain)
    }

    /// Whether the rule decides, and which of its matches the request met, if it has any.
    fn applies(&self, client: &Client<'_>, head: &RequestHead<'_>) -> Option<Option<&HttpMatch>> {
        if self.matches.is_empty() {
            return Some(None);
        }
        let met = self.matches.iter().find(|one| one.matches(client, head))?;
        Some(Some(met))
    }

    fn decide(&self, head: &RequestHead<'_>, met: Option<&HttpMatch>) -> Decision {
        // A fault hits preflights, too: then what is said to pages waits for it.
        let treatment = self.treatment.as_ref().filter(|one| one.fault.is_none());
        let Some(cors) = treatment.and_then(|treatment| treatment.cors.as_ref()) else {
            return self.drawn(head, met);
        };
        match cors.decide(head.method, head.headers) {
            CorsDecision::Pass => self.draw(head, met),
            // Nothing is drawn, so that preflights leave the ratio of requests as it is.
            CorsDecision::Answer(answer) => self.answer(answer),
            CorsDecision::Mark(said) => match self.draw(head, met) {
                Decision::Answer { answer, .. } => {
                    let mut answer = DirectAnswer::clone(&answer);
                    answer.headers.extend(said);
                    self.answer(answer)
                }
                other => other,
            },
        }
    }

    /// As [`draw`](Self::draw); preflights are answered if the backend that is drawn says how.
    fn drawn(&self, head: &RequestHead<'_>, met: Option<&HttpMatch>) -> Decision {
        let decision = self.draw(head, met);
        let Decision::Forward { treatment, .. } = &decision else {
            return decision;
        };
        let own = treatment.as_ref().filter(|one| one.fault.is_none());
        let cors = own.and_then(|own| own.cors.as_ref());
        match cors.map(|cors| cors.decide(head.method, head.headers)) {
            Some(CorsDecision::Answer(answer)) => self.answer(answer),
            Some(CorsDecision::Pass | CorsDecision::Mark(_)) | None => decision,
        }
    }

    fn answer(&self, answer: DirectAnswer) -> Decision {
        Decision::Answer {
            answer: Arc::new(answer),
            route: Arc::clone(&self.name),
        }
    }

    /// The backend with the endpoint that the request's session keeps to; requests of a session are
    /// not drawn, so that those who begin one have the ratio.
    fn kept(&self, head: &RequestHead<'_>) -> Option<usize> {
        let session = self.treatment.as_ref()?.session.as_ref()?;
        let token = session.token(head.headers)?;
        let has_it = |(backend, weight): (&Backend, &u32)| match backend {
            Backend::Cluster { cluster, .. } => *weight > 0 && cluster.keeping(token).is_some(),
            Backend::Redirect(_) | Backend::Answer(_) | Backend::Refused(_) => false,
        };
        self.backends.iter().zip(&self.weights).position(has_it)
    }

    fn draw(&self, head: &RequestHead<'_>, met: Option<&HttpMatch>) -> Decision {
        let kept = self.kept(head);
        let Some(index) = kept.or_else(|| self.schedule.next()) else {
            let reason = format!(
                "{}: no backend of the rule has a weight above 0",
                self.origin
            );
            return self.refuse(500, reason);
        };
        match &self.backends[index] {
            Backend::Cluster {
                cluster,
                edits,
                rewrite,
                treatment,
            } => match rewrite.as_ref().map(|one| one.apply(head.uri, met)) {
                Some(Err(error)) => {
                    self.refuse(500, format!("{}: rewritten: {error}", self.origin))
                }
                rewritten => Decision::Forward {
                    cluster: Arc::clone(cluster),
                    route: Arc::clone(&self.name),
                    timeout: self.timeout,
                    edits: edits.clone(),
                    rewritten: rewritten.and_then(Result::ok).map(Box::new),
                    treatment: treatment.as_ref().or(self.treatment.as_ref()).cloned(),
                },
            },
            Backend::Answer(answer) => Decision::Answer {
                answer: Arc::clone(answer),
                route: Arc::clone(&self.name),
            },
            Backend::Redirect(redirect) => match redirect.location(head, met) {
                Ok(location) => Decision::Redirect {
                    status: redirect.status,
                    location,
                    edits: redirect.edits.clone(),
                    route: Arc::clone(&self.name),
                },
                Err(error) => self.refuse(400, format!("{}: {error}", self.origin)),
            },
            Backend::Refused(refusal) => Decision::Refuse(refusal.clone()),
        }
    }

    fn refuse(&self, status: u16, reason: String) -> Decision {
        Decision::Refuse(Refusal {
            status,
            flag: ResponseFlag::None,
            reason: reason.into(),
            route: Arc::clone(&self.name),
        })
    }
}

#[cfg(test)]
mod tests;
