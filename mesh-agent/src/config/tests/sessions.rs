// SPDX-License-Identifier: Apache-2.0

//! `sessionPersistence` of routes: who is told by what, and that a session keeps its backend.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header::COOKIE};

use super::{
    fixture::Mesh,
    http_routes::{TO_V1, TO_V2, backends, gateway},
    routes::WEB,
};
use crate::model::{Decision, Session, session::Token};

/// A route to both versions with this `sessionPersistence`.
fn with(session: &str) -> Mesh {
    let rule = format!(
        "{{sessionPersistence: {{{session}}}, backendRefs: [{{name: web-v1, port: 80}}, {{name: web-v2, port: 80}}]}}"
    );
    Mesh::new(&(gateway("name: web", &rule) + &backends()))
}

#[track_caller]
fn session(mesh: &Mesh) -> Arc<Session> {
    match mesh.decide("client", WEB, "GET", "/", &HeaderMap::new()) {
        Decision::Forward {
            treatment: Some(treatment),
            ..
        } => treatment.session.clone().expect("a session"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn session_persistence_is_by_cookie_unless_a_header_is_asked_for() {
    for (written, want) in [
        ("", Session::Cookie("mesh-session-default-web-0".to_owned())),
        ("sessionName: stay", Session::Cookie("stay".to_owned())),
        (
            "sessionName: stay, type: Header",
            Session::Header(HeaderName::from_static("stay")),
        ),
        (
            "type: Cookie, cookieConfig: {lifetimeType: Session}",
            Session::Cookie("mesh-session-default-web-0".to_owned()),
        ),
    ] {
        let mesh = with(written);
        mesh.check_problems(&[]);
        assert_eq!(*session(&mesh), want, "{written}");
    }
}

#[test]
fn session_persistence_keeps_the_backend_whatever_the_weights_draw() {
    let mesh = with("sessionName: stay");
    for (address, want) in [("10.1.0.1:8080", TO_V1), ("10.1.0.2:8080", TO_V2)] {
        let mut given = HeaderMap::new();
        let token = Token::of(address.parse().unwrap());
        Session::Cookie("stay".to_owned()).give(token, &mut given);
        let said = given["set-cookie"].to_str().unwrap();
        let pair = said.split(';').next().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_str(pair).unwrap());
        for _ in 0..4 {
            assert_eq!(mesh.get_with("client", WEB, "/", &headers), want);
        }
    }
    let mut headers = HeaderMap::new();
    headers.insert(COOKIE, HeaderValue::from_static("stay=0123456789abcdef"));
    let drawn = [(); 2].map(|()| mesh.get_with("client", WEB, "/", &headers));
    assert_ne!(drawn[0], drawn[1], "nobody's endpoint");
}

#[test]
fn session_persistence_fields_without_effect_are_reported() {
    for (written, want) in [
        ("absoluteTimeout: 1h", "sessionPersistence.absoluteTimeout"),
        ("idleTimeout: 1h", "sessionPersistence.idleTimeout"),
        (
            "cookieConfig: {lifetimeType: Permanent}",
            "sessionPersistence.cookieConfig.lifetimeType",
        ),
        ("sessionName: 'a b'", "is no name of a cookie or header"),
    ] {
        with(written).check_problems(&[want]);
    }
}
