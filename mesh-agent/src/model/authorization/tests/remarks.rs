// SPDX-License-Identifier: Apache-2.0

//! What is told and not enforced, and what is for some ports only.

use super::*;

#[test]
fn a_dry_run_is_told_of_and_not_enforced() {
    let deny = Policy::new("shop/try", Action::Deny, true, anything());
    let audit = policy(Action::Audit, anything());
    check(vec![deny.clone(), audit.clone()], &Ask::get("/"), YES);
    let authorization = all(vec![deny, audit]);
    let ask = Ask::get("/");
    let mut told = Vec::new();
    let tell = |remark, denial: &Denial| told.push((remark, denial.to_string()));
    authorization.remarks(&ask.caller(), Some(&ask.reading()), tell);
    let name = |name| format!("rbac_access_denied_matched_policy[shop/{name}]");
    assert_eq!(
        told,
        [
            (Remark::WouldDeny, name("try")),
            (Remark::Audited, name("AUDIT"))
        ]
    );
}

#[test]
fn a_policy_for_some_ports_says_nothing_about_others() {
    let attached = Attached {
        policy: Arc::new(policy(Action::Allow, vec![])),
        ports: Some([8080].into()),
        provider: None,
    };
    let authorization = Authorization::new(vec![attached]);
    let at = |port| Ask {
        port,
        ..Ask::get("/")
    };
    assert_eq!(authorization.connection(&at(80).caller()), Verdict::Allowed);
    assert!(matches!(
        authorization.connection(&at(8080).caller()),
        Verdict::Denied(_)
    ));
}
