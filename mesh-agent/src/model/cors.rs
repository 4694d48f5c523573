// SPDX-License-Identifier: Apache-2.0

//! Cross-origin requests: which preflights are answered, and what responses say to browsers.
//!
//! Knows nothing of how an answer is written. An origin that is not allowed gets no header at all,
//! so that the browser refuses. Reference: Fetch standard, "CORS protocol"; Envoy
//! `envoy.filters.http.cors`; Gateway API `HTTPCORSFilter`.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
        HeaderName, ORIGIN,
    },
};

use super::{text::TextMatch, treatment::DirectAnswer};

/// What a rule allows to pages of other origins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// Any of these origins.
    pub origins: Vec<TextMatch>,
    /// These methods.
    pub methods: Allowed,
    /// These request headers.
    pub headers: Allowed,
    /// Pages may read these response headers.
    pub exposed: Allowed,
    /// How many seconds a browser may remember the answer to a preflight.
    pub max_age: Option<HeaderValue>,
    /// Whether cookies and the like may be sent along.
    pub credentials: bool,
    /// A preflight of another origin is sent on, not answered.
    pub forwards_other_preflights: bool,
}

/// A list that is told to browsers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    /// Nothing is said.
    #[default]
    Unsaid,
    /// These, comma-separated.
    These(HeaderValue),
    /// Whatever is asked for.
    Anything,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsDecision {
    /// It is no business of CORS, or its origin is not allowed: goes on as it is.
    Pass,
    /// It is a preflight: answered with this.
    Answer(DirectAnswer),
    /// It goes on; its response says this, instead of what the endpoint says there.
    Mark(HeaderMap),
}

impl Cors {
    /// What becomes of a request of this method and these headers.
    pub fn decide(&self, method: &Method, headers: &HeaderMap) -> CorsDecision {
        let Some(origin) = headers.get(ORIGIN).filter(|origin| !origin.is_empty()) else {
            return CorsDecision::Pass;
        };
        let asked = headers.get(ACCESS_CONTROL_REQUEST_METHOD);
        let preflight = *method == Method::OPTIONS && asked.is_some_and(|asked| !asked.is_empty());
        let allowed = self.allows(origin);
        match (preflight, allowed) {
            (false, false) => CorsDecision::Pass,
            (true, false) if self.forwards_other_preflights => CorsDecision::Pass,
            (true, false) => answer(HeaderMap::new()),
            (true, true) => answer(self.preflight(origin, headers)),
            (false, true) => CorsDecision::Mark(self.response(origin)),
        }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let text = origin.to_str().unwrap_or_default();
        self.origins
            .iter()
            .any(|allowed| allowed.matches("*") || allowed.matches(text))
    }

    fn preflight(&self, origin: &HeaderValue, asked: &HeaderMap) -> HeaderMap {
        let mut said = self.response(origin);
        for (list, header, wanted) in [
            (
                &self.methods,
                ACCESS_CONTROL_ALLOW_METHODS,
                ACCESS_CONTROL_REQUEST_METHOD,
            ),
            (
                &self.headers,
                ACCESS_CONTROL_ALLOW_HEADERS,
                ACCESS_CONTROL_REQUEST_HEADERS,
            ),
        ] {
            self.say(&mut said, list, header, asked.get(wanted));
        }
        if let Some(seconds) = &self.max_age {
            said.insert(ACCESS_CONTROL_MAX_AGE, seconds.clone());
        }
        said
    }

    fn response(&self, origin: &HeaderValue) -> HeaderMap {
        let mut said = self.identity(origin);
        self.say(
            &mut said,
            &self.exposed,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            None,
        );
        said
    }

    fn identity(&self, origin: &HeaderValue) -> HeaderMap {
        let mut said = HeaderMap::new();
        said.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            said.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        said
    }

    /// With credentials `*` means a name, so that what is asked for is said instead.
    fn say(
        &self,
        said: &mut HeaderMap,
        list: &Allowed,
        header: HeaderName,
        asked: Option<&HeaderValue>,
    ) {
        let value = match list {
            Allowed::Unsaid => None,
            Allowed::These(names) => Some(names.clone()),
            Allowed::Anything if self.credentials => asked.cloned(),
            Allowed::Anything => Some(HeaderValue::from_static("*")),
        };
        if let Some(value) = value {
            said.insert(header, value);
        }
    }
}

fn answer(headers: HeaderMap) -> CorsDecision {
    CorsDecision::Answer(DirectAnswer {
        status: StatusCode::OK,
        headers,
        body: Arc::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Cors {
        Cors {
            origins: vec![TextMatch::Exact("https://shop.example".into())],
            methods: Allowed::These(HeaderValue::from_static("GET,PUT")),
            headers: Allowed::Anything,
            exposed: Allowed::These(HeaderValue::from_static("x-total")),
            max_age: Some(HeaderValue::from_static("60")),
            credentials: false,
            forwards_other_preflights: true,
        }
    }

    fn request(origin: &'static str, preflight: bool) -> (Method, HeaderMap) {
        let mut headers = HeaderMap::new();
        if !origin.is_empty() {
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
        }
        if !preflight {
            return (Method::GET, headers);
        }
        let put = HeaderValue::from_static("PUT");
        headers.insert(ACCESS_CONTROL_REQUEST_METHOD, put);
        let odd = HeaderValue::from_static("x-odd");
        headers.insert(ACCESS_CONTROL_REQUEST_HEADERS, odd);
        (Method::OPTIONS, headers)
    }

    /// What is said, as `name: value` lines in order of name.
    #[track_caller]
    fn check(policy: &Cors, (method, headers): (Method, HeaderMap), want: &str) {
        let (word, said) = match policy.decide(&method, &headers) {
            CorsDecision::Pass => ("pass", HeaderMap::new()),
            CorsDecision::Answer(answer) => ("answer", answer.headers),
            CorsDecision::Mark(headers) => ("mark", headers),
        };
        let mut lines: Vec<String> = said
            .iter()
            .map(|(name, value)| {
                let short = name.as_str().trim_start_matches("access-control-");
                format!(" {short}={}", value.to_str().unwrap())
            })
            .collect();
        lines.sort();
        assert_eq!(format!("{word}{}", lines.concat()), want);
    }

    #[test]
    fn a_preflight_of_an_allowed_origin_is_answered() {
        check(
            &policy(),
            request("https://shop.example", true),
            "answer allow-headers=* allow-methods=GET,PUT allow-origin=https://shop.example \
             expose-headers=x-total max-age=60",
        );
    }

    #[test]
    fn a_response_to_an_allowed_origin_is_marked() {
        check(
            &policy(),
            request("https://shop.example", false),
            "mark allow-origin=https://shop.example expose-headers=x-total",
        );
    }

    #[test]
    fn another_origin_gets_no_header() {
        check(&policy(), request("https://evil.example", false), "pass");
        check(&policy(), request("https://evil.example", true), "pass");
        check(&policy(), request("", false), "pass");
        let ignoring = Cors {
            forwards_other_preflights: false,
            ..policy()
        };
        check(&ignoring, request("https://evil.example", true), "answer");
    }

    #[test]
    fn with_credentials_what_is_asked_for_is_said_instead_of_a_star() {
        let trusting = Cors {
            origins: vec![TextMatch::Exact("*".into())],
            methods: Allowed::Anything,
            credentials: true,
            max_age: None,
            ..policy()
        };
        check(
            &trusting,
            request("https://any.example", true),
            "answer allow-credentials=true allow-headers=x-odd allow-methods=PUT \
             allow-origin=https://any.example expose-headers=x-total",
        );
    }

    #[test]
    fn options_without_a_method_asked_for_is_no_preflight() {
        let (_, headers) = request("https://shop.example", false);
        check(
            &policy(),
            (Method::OPTIONS, headers),
            "mark allow-origin=https://shop.example expose-headers=x-total",
        );
    }
}
