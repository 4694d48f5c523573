// SPDX-License-Identifier: Apache-2.0

//! Headers of redirects.

use http::HeaderMap;

use super::{
    fixture::{Mesh, client_in},
    http_routes::gateway,
    routes::{WEB, virtual_service, web},
};
use crate::model::Decision;

/// The headers that `GET /` is answered with besides `Location`.
#[track_caller]
fn headers(mesh: &Mesh) -> HeaderMap {
    mesh.check_problems(&[]);
    match mesh.decide("client", WEB, "GET", "/", &HeaderMap::new()) {
        Decision::Redirect { edits, .. } => {
            let mut headers = HeaderMap::new();
            if let Some(edits) = edits {
                edits.apply_response(&mut headers);
            }
            headers
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn redirect_has_the_rules_response_headers() {
    let rule = |headers: &str| {
        let spec = format!("hosts: [web], http: [{{redirect: {{uri: /new}}, {headers}}}]");
        Mesh::new(&(virtual_service("name: web", &spec) + &web()))
    };
    let with = "headers: {request: {set: {x-a: \"1\"}}, response: {set: {x-b: \"2\"}}}";
    let mesh = rule(with);
    assert_eq!(headers(&mesh)["x-b"], "2");
    assert_eq!(headers(&mesh).len(), 1, "the request goes nowhere");
    let port =
        |mesh: &Mesh| mesh.service("default", "web").ports[0].is_plain(&client_in("default"));
    assert!(!port(&mesh));
    let mesh = rule("headers: {request: {set: {x-a: \"1\"}}}");
    assert!(headers(&mesh).is_empty());
    assert!(port(&mesh));
}

#[test]
fn request_redirect_goes_with_response_header_modifier() {
    let filters = "{filters: [{type: RequestRedirect, requestRedirect: {hostname: a}}, \
                   {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-b, value: \"2\"}]}}]}";
    let mesh = Mesh::new(&(gateway("name: r", filters) + &web()));
    assert_eq!(headers(&mesh)["x-b"], "2");
}
