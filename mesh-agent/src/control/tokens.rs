// SPDX-License-Identifier: Apache-2.0

//! Whom a token speaks for, by the API server's word, remembered for a short while.
//!
//! Knows nothing of what the caller wants. Invariant: tokens are never kept, only their hashes,
//! and only of those that were accepted.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::HeaderMap;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};

use super::authorize::{Account, BoundPod, Caller};
use crate::identity::fingerprint;

/// What the token must be made for.
const AUDIENCE: &str = "istio-ca";

/// How long an accepted token is believed.
const REMEMBER: Duration = Duration::from_secs(60);

/// How many tokens are remembered.
const REMEMBERED_MAX: usize = 4096;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Why nobody is known to call.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("the request has no authorization: Bearer")]
    Missing,
    #[error("the API server does not accept the token: {0}")]
    Refused(String),
    #[error("the API server cannot be asked about the token")]
    Review(#[source] Box<kube::Error>),
}

/// Asks about tokens.
pub(super) struct Tokens {
    api: Api<TokenReview>,
    known: Mutex<HashMap<String, (Instant, Caller)>>,
}

impl Tokens {
    pub(super) fn new(client: Client) -> Self {
        Self {
            api: Api::all(client),
            known: Mutex::new(HashMap::new()),
        }
    }

    /// Whom the token in `metadata` speaks for.
    pub(super) async fn caller(&self, metadata: &HeaderMap) -> Result<Caller, TokenError> {
        let token = bearer(metadata).ok_or(TokenError::Missing)?;
        let hash = fingerprint(token.as_bytes());
        if let Some(caller) = self.recall(&hash) {
            return Ok(caller);
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: token.to_owned(),
            },
            ..TokenReview::default()
        };
        let reviewed = self
            .api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| TokenError::Review(Box::new(error)))?;
        let caller =
            reviewed_caller(reviewed.status.unwrap_or_default()).map_err(TokenError::Refused)?;
        self.remember(hash, caller.clone());
        Ok(caller)
    }

    fn recall(&self, hash: &str) -> Option<Caller> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, caller) = known.get(hash)?;
        (since.elapsed() < REMEMBER).then(|| caller.clone())
    }

    fn remember(&self, hash: String, caller: Caller) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, (since, _)| since.elapsed() < REMEMBER);
        }
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(hash, (Instant::now(), caller));
    }
}

fn bearer(metadata: &HeaderMap) -> Option<&str> {
    let text = metadata.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn reviewed_caller(status: TokenReviewStatus) -> Result<Caller, String> {
    if status.authenticated != Some(true) {
        return Err(status.error.unwrap_or_else(|| "it is not valid".to_owned()));
    }
    // An authenticator that knows no audiences leaves this empty.
    let audiences = status.audiences.unwrap_or_default();
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(format!("it is not for audience {AUDIENCE}"));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name
        .strip_prefix(SERVICE_ACCOUNT)
        .and_then(|rest| rest.split_once(':'))
        .ok_or_else(|| format!("it is {name:?}'s, who is no service account"))?;
    let extra = user.extra.unwrap_or_default();
    let one = |key| match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    let pod = one(POD_NAME)
        .zip(one(POD_UID))
        .map(|(name, uid)| BoundPod { name, uid });
    Ok(Caller {
        account: Account {
            namespace: account.0.to_owned(),
            name: account.1.to_owned(),
        },
        pod,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn accepted() -> TokenReviewStatus {
        let extra = [(POD_NAME, "p"), (POD_UID, "u")]
            .map(|(key, value)| (key.to_owned(), vec![value.to_owned()]));
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![AUDIENCE.to_owned()]),
            user: Some(UserInfo {
                username: Some("system:serviceaccount:ns:sa".to_owned()),
                extra: Some(extra.into()),
                ..UserInfo::default()
            }),
            error: None,
        }
    }

    #[test]
    fn a_service_account_and_its_pod_are_read() {
        let caller = reviewed_caller(accepted()).unwrap();
        assert_eq!(caller.account.namespace, "ns");
        assert_eq!(caller.account.name, "sa");
        assert_eq!(caller.pod.unwrap().uid, "u");
    }

    #[test]
    fn a_token_that_is_not_bound_has_no_pod() {
        let mut status = accepted();
        status.user.as_mut().unwrap().extra = None;
        assert_eq!(reviewed_caller(status).unwrap().pod, None);
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut TokenReviewStatus), part: &str) {
        let mut status = accepted();
        change(&mut status);
        let reason = reviewed_caller(status).unwrap_err();
        assert!(reason.contains(part), "{reason}");
    }

    #[test]
    fn other_tokens_are_refused() {
        refused(|status| status.authenticated = None, "not valid");
        refused(|status| status.audiences = None, "audience");
        refused(
            |status| status.audiences = Some(vec!["api".to_owned()]),
            "audience",
        );
        refused(
            |status| status.user.as_mut().unwrap().username = Some("admin".to_owned()),
            "no service account",
        );
    }

    #[test]
    fn a_token_stands_after_bearer() {
        let of = |text: &'static str| {
            let mut metadata = HeaderMap::new();
            metadata.insert("authorization", text.parse().unwrap());
            bearer(&metadata).map(str::to_owned)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("Basic abc"), None);
        assert_eq!(of("Bearer "), None);
    }
}
