// SPDX-License-Identifier: Apache-2.0

//! Conditions of a VirtualService's rules that an earlier rule has taken.
//!
//! Only equal ones are found. Reference: Istio `pkg/config/analysis/analyzers/virtualservice`
//! (`analyzeUnreachable`).

use std::collections::HashMap;

use super::{
    facts::Findings,
    problem::{Severity, code},
    virtual_service::RuleFacts,
};

/// Reports rules all or some of whose matches are those of rules before.
pub(super) fn report(rules: &[RuleFacts], findings: &mut Findings) {
    let mut known: HashMap<String, usize> = HashMap::new();
    for rule in rules {
        if rule.matches.is_empty() {
            // What is behind it is reported already.
            return;
        }
        let conditions = rule.matches.iter().map(|one| format!("{one:?}"));
        let conditions: Vec<String> = conditions.collect();
        let taken = conditions.iter().filter_map(|text| known.get(text));
        let taken: Vec<usize> = taken.copied().collect();
        let field = format!("spec.http[{}].match", rule.index);
        match taken.first() {
            Some(first) if taken.len() == conditions.len() => findings.add(
                Severity::Warning,
                code::UNREACHABLE,
                field,
                format!("never reached: spec.http[{first}] has the same conditions"),
                "remove the rule, or tell them apart",
            ),
            Some(first) => findings.add(
                Severity::Info,
                code::INEFFECTIVE,
                field,
                format!(
                    "{} of {} conditions have no effect: spec.http[{first}] has the same",
                    taken.len(),
                    conditions.len()
                ),
                "remove them",
            ),
            None => {}
        }
        for text in conditions {
            known.entry(text).or_insert(rule.index);
        }
    }
}
