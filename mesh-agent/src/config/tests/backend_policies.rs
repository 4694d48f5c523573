// SPDX-License-Identifier: Apache-2.0

//! XBackendTrafficPolicy: budgets of retries for Services.

use super::{
    fixture::{Mesh, canary},
    routes::destination_rule,
};
use crate::{
    config::{Kind, ObjectKey},
    model::upstream::RetryBudget,
};

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\n\
         metadata: {{name: {name}}}\nspec: {{targetRefs: [{{group: '', kind: Service, name: web}}], {spec}}}\n"
    )
}

fn budget(mesh: &Mesh) -> Option<RetryBudget> {
    let service = mesh.service("default", "web");
    service.ports[0].cluster.limits().retry_budget
}

fn of(percent: u32, at_least: u32) -> Option<RetryBudget> {
    Some(RetryBudget {
        per_million: percent * 10_000,
        at_least,
    })
}

#[test]
fn a_constraint_is_a_budget_with_the_apis_defaults() {
    let mut mesh = Mesh::new(&(canary("web") + &policy("one", "retryConstraint: {}")));
    mesh.check_problems(&[]);
    assert_eq!(budget(&mesh), of(20, 10));
    let own = "retryConstraint: {budget: {percent: 50}, minRetryRate: {count: 3}}";
    mesh.apply(&policy("one", own));
    assert_eq!(budget(&mesh), of(50, 3));
    mesh.delete(&ObjectKey {
        kind: Kind::BackendTrafficPolicy,
        namespace: "default".to_owned(),
        name: "one".to_owned(),
    });
    assert_eq!(budget(&mesh), None);
}

#[test]
fn a_destination_rule_that_bounds_retries_wins() {
    let rule = |policy: &str| {
        let spec = format!("host: web, trafficPolicy: {{{policy}}}");
        canary("web") + &destination_rule("name: web", &spec) + &policy_of_twenty()
    };
    fn policy_of_twenty() -> String {
        policy("one", "retryConstraint: {}")
    }
    let own = Mesh::new(&rule("retryBudget: {percent: 5}"));
    assert_eq!(budget(&own), of(5, 3));
    let counted = Mesh::new(&rule("connectionPool: {http: {maxRetries: 7}}"));
    let service = counted.service("default", "web");
    let limits = service.ports[0].cluster.limits();
    assert_eq!((limits.retries, limits.retry_budget), (Some(7), None));
    let other = Mesh::new(&rule("loadBalancer: {simple: RANDOM}"));
    assert_eq!(budget(&other), of(20, 10));
}

#[test]
fn of_two_for_one_service_the_older_decides() {
    let two = policy("b", "retryConstraint: {budget: {percent: 1}}")
        + &policy("a", "retryConstraint: {budget: {percent: 2}}");
    let mesh = Mesh::new(&(canary("web") + &two));
    mesh.check_problems(&["(XBackendTrafficPolicy default/b"]);
    assert_eq!(budget(&mesh), of(2, 10));
}

#[test]
fn what_means_nothing_is_said() {
    let gone = policy("one", "retryConstraint: {}").replace("name: web", "name: nobody");
    let mesh = Mesh::new(&(canary("web") + &gone));
    mesh.check_problems(&["spec.targetRefs[0]: there is no Service default/nobody"]);
    let route = policy("one", "").replace("kind: Service", "kind: HTTPRoute");
    let mesh = Mesh::new(&(canary("web") + &route));
    mesh.check_problems(&["spec.targetRefs[0]: \"HTTPRoute\" of group \"\" is no Service"]);
    let much = policy("one", "retryConstraint: {budget: {percent: 101}}");
    let mesh = Mesh::new(&(canary("web") + &much));
    mesh.check_problems(&["spec.retryConstraint.budget.percent: 101 is not a percentage"]);
}
