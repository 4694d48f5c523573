// SPDX-License-Identifier: Apache-2.0

//! What of an object's status is ours, and how it changes.
//!
//! Knows nothing of the API. Invariants: what others wrote stays as it is, in its place; a
//! condition's time changes only with its status; what changes nothing is no change.
//! Reference: Gateway API `RouteParentStatus` (the list is replaced as a whole, so it is read
//! first); Istio `meta/v1alpha1/status.proto`.

use serde_json::{Map, Value, json};

use super::{book::Want, nodes::Applied};
use crate::config::{Condition, Conditions, status::ACCEPTED};

/// Who we are in a route's status.
pub(super) const CONTROLLER: &str = "mesh-agent.io/control";

/// The condition that says how far the nodes are.
const APPLIED: &str = "mesh-agent.io/Applied";

/// All conditions that are ours in a route's entry.
const OF_ROUTES: [&str; 4] = ["Accepted", "ResolvedRefs", "PartiallyInvalid", APPLIED];

/// All conditions that are ours elsewhere.
const OF_OTHERS: [&str; 2] = [ACCEPTED, APPLIED];

/// The fields of `status` that change, at the time `now`; `None` if none does.
pub(super) fn merge(status: &Value, want: &Want, now: &str) -> Option<Value> {
    let merger = Merger { want, now };
    let empty = Vec::new();
    let list = |field: &str| status.get(field).and_then(Value::as_array);
    match &want.conditions {
        Conditions::Own(conditions) => {
            let before = list("conditions").unwrap_or(&empty);
            let after = merger.conditions(before, conditions, &OF_OTHERS);
            (*before != after).then(|| json!({ "conditions": after }))
        }
        Conditions::Parents(parents) => {
            let before = list("parents").unwrap_or(&empty);
            let is_ours = |entry: &Value| entry["controllerName"] == CONTROLLER;
            let mut left: Vec<_> = parents.iter().collect();
            let mut after = Vec::new();
            for entry in before {
                if !is_ours(entry) {
                    after.push(entry.clone());
                    continue;
                }
                let place = left.iter().position(|one| one.parent == entry["parentRef"]);
                if let Some(place) = place {
                    let one = left.remove(place);
                    after.push(merger.entry(entry, &one.parent, &one.conditions));
                }
            }
            for one in left {
                after.push(merger.entry(&Value::Null, &one.parent, &one.conditions));
            }
            (*before != after).then(|| json!({ "parents": after }))
        }
    }
}

struct Merger<'a> {
    want: &'a Want,
    now: &'a str,
}

impl Merger<'_> {
    fn entry(&self, before: &Value, parent: &Value, conditions: &[Condition]) -> Value {
        let empty = Vec::new();
        let known = before["conditions"].as_array().unwrap_or(&empty);
        json!({
            "parentRef": parent,
            "controllerName": CONTROLLER,
            "conditions": self.conditions(known, conditions, &OF_ROUTES),
        })
    }

    fn conditions(&self, before: &[Value], wanted: &[Condition], ours: &[&str]) -> Vec<Value> {
        let mut left: Vec<Value> = wanted.iter().map(|one| self.condition(one)).collect();
        left.extend(self.want.applied.as_ref().map(|said| self.applied(said)));
        let mut after = Vec::new();
        for known in before {
            let kind = known["type"].as_str().unwrap_or_default();
            let place = left.iter().position(|one| one["type"] == kind);
            match place {
                Some(place) => after.push(since(left.remove(place), known)),
                // How far the nodes are with an older generation, as long as nothing newer is said.
                None if !ours.contains(&kind) || kind == APPLIED => after.push(known.clone()),
                None => {}
            }
        }
        after.extend(left);
        after
    }

    fn condition(&self, one: &Condition) -> Value {
        self.fields(one.kind, one.holds, one.reason, &one.message)
    }

    fn applied(&self, said: &Applied) -> Value {
        let all = said.nodes == said.of;
        let nodes = if said.of == 1 { "node" } else { "nodes" };
        let mut text = format!("applied on {} of {} {nodes}", said.nodes, said.of);
        if let Some(slowest) = &said.slowest {
            text.push_str(&format!("; slowest: {slowest}"));
        }
        self.fields(APPLIED, all, if all { "Applied" } else { "Pending" }, &text)
    }

    fn fields(&self, kind: &str, holds: bool, reason: &str, message: &str) -> Value {
        json!({
            "type": kind,
            "status": if holds { "True" } else { "False" },
            "reason": reason,
            "message": message,
            "observedGeneration": self.want.generation,
            "lastTransitionTime": self.now,
        })
    }
}

/// `fresh` with the time of `known` if the status is the same, and with fields that are not ours.
fn since(fresh: Value, known: &Value) -> Value {
    let mut fields = known.as_object().cloned().unwrap_or_else(Map::new);
    let time = fields.get("lastTransitionTime").cloned();
    let same = fields.get("status") == fresh.get("status");
    if let Value::Object(fresh) = fresh {
        fields.extend(fresh);
    }
    if let Some(time) = time.filter(|_| same) {
        fields.insert("lastTransitionTime".to_owned(), time);
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ParentStatus;

    const THEN: &str = "2026-01-01T00:00:00Z";
    const NOW: &str = "2026-01-02T00:00:00Z";

    fn condition(kind: &'static str, holds: bool) -> Condition {
        Condition {
            kind,
            holds,
            reason: "Why",
            message: "words".to_owned(),
        }
    }

    fn want(conditions: Conditions, applied: Option<Applied>) -> Want {
        Want {
            uid: "u".into(),
            generation: 3,
            conditions,
            applied,
        }
    }

    fn route(parents: &[&str], holds: bool) -> Conditions {
        let one = |name: &&str| ParentStatus {
            parent: json!({"kind": "Service", "name": name}),
            conditions: vec![condition("Accepted", holds)],
        };
        Conditions::Parents(parents.iter().map(one).collect())
    }

    fn written(kind: &str, status: &str, time: &str) -> Value {
        json!({
            "type": kind, "status": status, "reason": "Why", "message": "words",
            "observedGeneration": 3, "lastTransitionTime": time,
        })
    }

    #[test]
    fn what_others_wrote_stays_and_ours_goes_with_its_parent() {
        let other =
            json!({"parentRef": {"name": "gw"}, "controllerName": "other", "conditions": []});
        let gone = json!({"parentRef": {"kind": "Service", "name": "old"}, "controllerName": CONTROLLER, "conditions": []});
        let before = json!({"parents": [gone, other]});
        let after = merge(&before, &want(route(&["web"], true), None), NOW).unwrap();
        assert_eq!(after["parents"][0], other);
        let ours = &after["parents"][1];
        assert_eq!(ours["controllerName"], CONTROLLER);
        assert_eq!(
            ours["conditions"],
            json!([written("Accepted", "True", NOW)])
        );
        assert_eq!(after["parents"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn what_is_there_already_is_no_change() {
        let want = want(route(&["a", "b"], true), None);
        let status = merge(&json!({}), &want, THEN).unwrap();
        assert_eq!(merge(&status, &want, NOW), None);
    }

    #[test]
    fn a_time_changes_with_the_status_alone() {
        let own = |holds| Conditions::Own(vec![condition(ACCEPTED, holds)]);
        let foreign = json!({"type": "Ready", "status": "True"});
        let before = json!({"conditions": [foreign, written(ACCEPTED, "True", THEN)]});
        let mut said = want(own(true), None);
        said.generation = 4;
        let after = merge(&before, &said, NOW).unwrap();
        assert_eq!(after["conditions"][0], foreign);
        assert_eq!(after["conditions"][1]["lastTransitionTime"], THEN);
        assert_eq!(after["conditions"][1]["observedGeneration"], 4);
        let after = merge(&before, &want(own(false), None), NOW).unwrap();
        assert_eq!(after["conditions"][1], written(ACCEPTED, "False", NOW));
    }

    #[test]
    fn a_condition_that_no_longer_applies_goes_but_how_far_the_nodes_are_stays() {
        let own = Conditions::Own(vec![condition(ACCEPTED, true)]);
        let said = |nodes, slowest: Option<&str>| Applied {
            nodes,
            of: 2,
            slowest: slowest.map(Into::into),
        };
        let lagging = want(own.clone(), Some(said(1, Some("node-b"))));
        let status = merge(&json!({}), &lagging, THEN).unwrap();
        let applied = &status["conditions"][1];
        assert_eq!(
            applied["message"],
            "applied on 1 of 2 nodes; slowest: node-b"
        );
        assert_eq!(
            (&applied["status"], &applied["reason"]),
            (&json!("False"), &json!("Pending"))
        );
        assert_eq!(merge(&status, &want(own.clone(), None), NOW), None);
        let after = merge(&status, &want(own, Some(said(2, None))), NOW).unwrap();
        assert_eq!(after["conditions"][1]["message"], "applied on 2 of 2 nodes");
        assert_eq!(after["conditions"][1]["lastTransitionTime"], NOW);
        let partly = json!({"parents": [{
            "parentRef": {"kind": "Service", "name": "web"}, "controllerName": CONTROLLER,
            "conditions": [written("Accepted", "True", THEN), written("PartiallyInvalid", "True", THEN)],
        }]});
        let after = merge(&partly, &want(route(&["web"], true), None), NOW).unwrap();
        let left = &after["parents"][0]["conditions"];
        assert_eq!(*left, json!([written("Accepted", "True", THEN)]));
    }
}
