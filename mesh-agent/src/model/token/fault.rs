// SPDX-License-Identifier: Apache-2.0

//! What can be wrong with a token, in the words in which Envoy answers.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Uri, header::HOST};

/// How long the path may be that an answer repeats.
const PATH_MAX: usize = 256;

/// What is wrong with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum TokenFault {
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    BadForm,
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderNotBase64,
    #[error("Jwt header is an invalid JSON")]
    HeaderNotJson,
    #[error("Jwt header [alg] field is required and must be a string")]
    NoAlgorithm,
    #[error("Jwt header [alg] is not supported")]
    UnknownAlgorithm,
    #[error("Jwt header [crit] is not supported")]
    Critical,
    #[error("Jwt header [kid] field is not a string")]
    KeyIdNotString,
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadNotBase64,
    #[error("Jwt payload is an invalid JSON")]
    PayloadNotJson,
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureNotBase64,
    #[error("Jwt payload [{0}] field is not a string")]
    NotString(&'static str),
    #[error("Jwt payload [{0}] field is not a positive 64 bit integer")]
    NotInteger(&'static str),
    #[error("Jwt payload [aud] field is not a string or string list")]
    BadAudience,
    #[error("Jwt issuer is not configured")]
    UnknownIssuer,
    #[error("Jwt not yet valid")]
    NotYetValid,
    #[error("Jwt is expired")]
    Expired,
    #[error("Audiences in Jwt are not allowed")]
    WrongAudience,
    #[error("Jwks remote fetch is failed")]
    NoKeys,
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoKey,
    #[error("Jwt verification fails")]
    BadSignature,
}

impl TokenFault {
    /// The status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::WrongAudience => 403,
            _ => 401,
        }
    }
}

/// The answer to a request with a token that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRefusal {
    /// What is wrong.
    pub fault: TokenFault,
    /// In the words of Envoy's response code details.
    pub details: String,
    /// `WWW-Authenticate`.
    pub challenge: HeaderValue,
}

impl TokenRefusal {
    /// The answer to the request with this head.
    pub fn new(fault: TokenFault, uri: &Uri, headers: &HeaderMap) -> Arc<Self> {
        let host = match uri.authority() {
            Some(authority) => authority.as_str(),
            None => {
                let host = headers.get(HOST).and_then(|host| host.to_str().ok());
                host.unwrap_or_default()
            }
        };
        // The query may hold a token.
        let path: String = uri.path().chars().take(PATH_MAX).collect();
        let quoted = format!("{host}{path}").replace(['"', '\\'], "_");
        let challenge = format!("Bearer realm=\"http://{quoted}\", error=\"invalid_token\"");
        let plain = HeaderValue::from_static("Bearer error=\"invalid_token\"");
        let details = fault.to_string().replace(' ', "_");
        Arc::new(Self {
            fault,
            details: format!("jwt_authn_access_denied{{{details}}}"),
            challenge: HeaderValue::try_from(challenge).unwrap_or(plain),
        })
    }
}
