// SPDX-License-Identifier: Apache-2.0

//! The calls that are answered: certificates for those who may have them, and nodes' reports.
//!
//! Invariants: nothing is signed before the caller is proven and the identity granted; the caller
//! learns that it was refused, the log learns why.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    authorize::{Account, Denial, PodFacts, Proven, Rules},
    keeper::Current,
    lease::Leadership,
    nodes::Nodes,
    pods::Pods,
    syncz::{self, Syncz},
    tokens::{TokenError, Tokens},
};
use crate::{
    grpc::{
        Call, Code, Router, Status,
        discovery::{DISCOVERY, DiscoveryRequest, DiscoveryResponse},
        messages::{
            CREATE_CERTIFICATE, CreateCertificateRequest, CreateCertificateResponse, NOT_LEADER,
            REPORT, ReportRequest, ReportResponse,
        },
    },
    identity::SignError,
    model::SpiffeId,
};

/// What the answers are made of.
pub(super) struct Calls {
    pub(super) tokens: Tokens,
    pub(super) pods: Pods,
    pub(super) rules: Rules,
    pub(super) current: watch::Receiver<Option<Arc<Current>>>,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) nodes: Nodes,
    pub(super) syncz: Syncz,
    pub(super) cert_ttl_max: Duration,
    pub(super) counts: Arc<Counts>,
}

/// How calls ended.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) issued: AtomicU64,
    pub(super) denied: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) reports: AtomicU64,
}

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Denied(#[from] Denial),
    #[error("the API server cannot be asked about pods")]
    Pods(#[source] Box<kube::Error>),
    #[error("there is no root yet")]
    NoRoot,
    #[error("signing for {identity}")]
    Sign {
        identity: SpiffeId,
        #[source]
        source: SignError,
    },
    #[error("a report from {0}, which is no node's account")]
    NotANode(String),
    #[error("a question about nodes from namespace {0}")]
    Outsider(String),
}

/// What to answer under which path.
pub(super) fn router(calls: Calls) -> Router {
    let calls = Arc::new(calls);
    let (reports, discovery) = (Arc::clone(&calls), Arc::clone(&calls));
    Router::default()
        .unary(CREATE_CERTIFICATE, move |call, request| {
            let calls = Arc::clone(&calls);
            async move { calls.certificate(call, request).await }
        })
        .unary(REPORT, move |call, report| {
            let calls = Arc::clone(&reports);
            async move { calls.report(call, report).await }
        })
        .first_of_stream(DISCOVERY, move |call, request| {
            let calls = Arc::clone(&discovery);
            async move { calls.discover(call, request).await }
        })
}

impl Calls {
    async fn certificate(
        &self,
        call: Call,
        request: CreateCertificateRequest,
    ) -> Result<CreateCertificateResponse, Status> {
        let outcome = self.issue(&call, &request).await;
        outcome.map_err(|error| self.refuse(&call, &error))
    }

    async fn issue(
        &self,
        call: &Call,
        request: &CreateCertificateRequest,
    ) -> Result<CreateCertificateResponse, CallError> {
        let caller = self.proven(call).await?;
        let (identity, node) = self.rules.wanted(&caller, request.impersonated())?;
        if let Some(node) = node {
            let account = Account {
                namespace: identity.namespace().to_owned(),
                name: identity.service_account().to_owned(),
            };
            let runs = self.pods.runs_on(&account, node).await;
            if !runs.map_err(|error| CallError::Pods(Box::new(error)))? {
                let node = node.to_owned();
                return Err(Denial::NotOnNode {
                    asked: identity,
                    node,
                }
                .into());
            }
        }
        let current = self.current.borrow().clone().ok_or(CallError::NoRoot)?;
        let ttl = self.lifetime(request.validity_duration);
        let cert_chain = current
            .signer
            .issue(&identity, &request.csr, ttl)
            .map_err(|source| CallError::Sign {
                identity: identity.clone(),
                source,
            })?;
        self.counts.issued.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%identity, pod = caller.pod, node = caller.node, "certificate issued");
        Ok(CreateCertificateResponse { cert_chain })
    }

    async fn report(&self, call: Call, report: ReportRequest) -> Result<ReportResponse, Status> {
        let leadership = self.leadership.borrow().clone();
        if !leadership.leading {
            let holder = leadership.holder.unwrap_or_default();
            return Err(Status::new(
                Code::FailedPrecondition,
                format!("{NOT_LEADER}{holder}"),
            ));
        }
        let caller = match self.proven(&call).await {
            Ok(caller) => caller,
            Err(error) => return Err(self.refuse(&call, &error)),
        };
        let Some(node) = caller.node else {
            let account = format!("{}/{}", caller.account.namespace, caller.account.name);
            return Err(self.refuse(&call, &CallError::NotANode(account)));
        };
        self.counts.reports.fetch_add(1, Ordering::Relaxed);
        self.nodes.note(&node, report, Instant::now());
        Ok(ReportResponse {})
    }

    /// For istioctl, which asks with a token that it made for an account of our namespace.
    async fn discover(
        &self,
        call: Call,
        request: DiscoveryRequest,
    ) -> Result<DiscoveryResponse, Status> {
        let refuse = |error| self.refuse(&call, &error);
        let caller = self.tokens.caller(&call.metadata).await;
        let namespace = caller
            .map_err(|error| refuse(error.into()))?
            .account
            .namespace;
        if namespace != self.syncz.namespace() {
            return Err(refuse(CallError::Outsider(namespace)));
        }
        if request.type_url != syncz::TYPE {
            let known = format!("there is {} alone, for istioctl proxy-status", syncz::TYPE);
            return Err(Status::new(Code::Unimplemented, known));
        }
        Ok(self.syncz.answer(request))
    }

    /// Who calls, by its token and the pod that this is bound to.
    async fn proven(&self, call: &Call) -> Result<Proven, CallError> {
        let caller = self.tokens.caller(&call.metadata).await?;
        let pod: Option<PodFacts> = match &caller.pod {
            Some(bound) => {
                let namespace = &caller.account.namespace;
                let found = self.pods.find(namespace, &bound.name, &bound.uid).await;
                found.map_err(|error| CallError::Pods(Box::new(error)))?
            }
            None => None,
        };
        Ok(self.rules.prove(&caller, pod.as_ref())?)
    }

    /// As long as asked for, or the longest there is.
    fn lifetime(&self, seconds: i64) -> Duration {
        match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds).min(self.cert_ttl_max),
            _ => self.cert_ttl_max,
        }
    }

    fn refuse(&self, call: &Call, error: &CallError) -> Status {
        let reason = crate::telemetry::chain(error);
        tracing::warn!(client = %call.client, reason, "refused");
        let (count, status) = match error {
            CallError::Token(TokenError::Missing | TokenError::Refused(_)) => (
                &self.counts.denied,
                Status::new(Code::Unauthenticated, "request authenticate failure"),
            ),
            CallError::Denied(denial) => (
                &self.counts.denied,
                Status::new(Code::Unauthenticated, denial.told()),
            ),
            CallError::NotANode(_) => (
                &self.counts.denied,
                Status::new(Code::PermissionDenied, "reports come from nodes"),
            ),
            CallError::Outsider(_) => (
                &self.counts.denied,
                Status::new(Code::PermissionDenied, "only for accounts of our namespace"),
            ),
            CallError::Sign {
                source: SignError::Request(problem),
                ..
            } => (
                &self.counts.denied,
                Status::invalid(format!("the signing request {problem}")),
            ),
            CallError::Token(TokenError::Review(_)) | CallError::Pods(_) => (
                &self.counts.failed,
                Status::unavailable("the Kubernetes API does not answer"),
            ),
            CallError::NoRoot => (
                &self.counts.failed,
                Status::unavailable("there is no root yet"),
            ),
            CallError::Sign { .. } => (
                &self.counts.failed,
                Status::new(Code::Internal, "signing did not work"),
            ),
        };
        count.fetch_add(1, Ordering::Relaxed);
        status
    }
}
