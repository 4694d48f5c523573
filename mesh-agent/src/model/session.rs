// SPDX-License-Identifier: Apache-2.0

//! The requests of one session keep going to the same endpoint, by what its client brings along.
//!
//! Nothing is remembered here: what a client brings names the endpoint, so that any thread and any
//! node finds it. Knows nothing of requests but their headers. Invariant: a client can name an
//! endpoint that its rule leads to, and no other; it does not learn its address.
//! Reference: Gateway API GEP-1619.

use std::net::SocketAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};

use super::hashing::hash;

/// How a session is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Session {
    /// By a cookie of this name, for as long as the client keeps it.
    Cookie(String),
    /// By a header that the client repeats.
    Header(HeaderName),
}

/// What stands for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(u64);

impl Token {
    /// The one of the endpoint at `address`; the same on all nodes.
    pub fn of(address: SocketAddr) -> Self {
        Self(hash(address.to_string().as_bytes()))
    }
}

impl Session {
    /// What a request with these headers brings along.
    pub fn token(&self, headers: &HeaderMap) -> Option<Token> {
        let text = match self {
            Self::Header(name) => headers.get(name)?.to_str().ok()?,
            Self::Cookie(name) => cookie(headers, name)?,
        };
        let is_one = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok();
        number.filter(|_| is_one).map(Token)
    }

    /// Has a client bring `token` along from now on.
    pub fn give(&self, token: Token, headers: &mut HeaderMap) {
        let text = format!("{:016x}", token.0);
        let (name, text) = match self {
            Self::Header(name) => (name, text),
            Self::Cookie(name) => {
                let text = format!("{name}={text}; Path=/; HttpOnly; SameSite=Strict");
                (&SET_COOKIE, text)
            }
        };
        let value = HeaderValue::try_from(text);
        let value = value.expect("the name was checked when it was read");
        match self {
            Self::Header(_) => drop(headers.insert(name, value)),
            Self::Cookie(_) => drop(headers.append(name, value)),
        }
    }
}

/// The value of a cookie.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';'));
    let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(known, _)| *known == name)?;
    Some(value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_found_again() {
        let token = Token::of("10.1.0.1:8080".parse().unwrap());
        assert_ne!(token, Token::of("10.1.0.1:8081".parse().unwrap()));
        let header = Session::Header(HeaderName::from_static("x-session"));
        let mut headers = HeaderMap::new();
        header.give(token, &mut headers);
        assert_eq!(header.token(&headers), Some(token));

        let session = Session::Cookie("stay".to_owned());
        let mut answer = HeaderMap::new();
        session.give(token, &mut answer);
        let said = answer[SET_COOKIE].to_str().unwrap();
        assert!(!said.contains("10.1"), "{said}");
        let (pair, rest) = said.split_once("; ").unwrap();
        assert_eq!(rest, "Path=/; HttpOnly; SameSite=Strict");
        let mut headers = HeaderMap::new();
        assert_eq!(session.token(&headers), None);
        let line = format!("a=b; {pair}; c=d").try_into().unwrap();
        headers.insert(COOKIE, line);
        assert_eq!(session.token(&headers), Some(token));
    }

    #[test]
    fn what_is_no_token_is_none() {
        let session = Session::Cookie("stay".to_owned());
        for text in [
            "stay=",
            "stay=+123456789abcdef",
            "stay=10.1.0.1:8080",
            "x=y",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, HeaderValue::from_static(text));
            assert_eq!(session.token(&headers), None, "{text}");
        }
    }
}
