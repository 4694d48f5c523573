// SPDX-License-Identifier: Apache-2.0

//! One policy in the words of Istio and in those of Envoy, and what is asked under it.
//!
//! `$A` and `$B` stand for two destinations, in both languages: `$A` is the one that is asked for, with
//! endpoints as the case has them; `$B` has one, which always answers 200.

use serde_json::{Value, json};

/// What an endpoint of `$A` does with a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// Answers with this status, and with these lines in the head.
    Say(u16, &'static str),
    /// Answers 200 after so many milliseconds.
    Late(u64),
    /// Never answers.
    Hang,
    /// Ends the connection; with HTTP/2 the stream.
    Close,
    /// Ends the connection with all its streams.
    Cut,
    /// Does not look at it, which only HTTP/2 can say.
    Refuse,
}

/// A request, and what the endpoints do with it, try after try.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) head: String,
    pub(super) body: String,
    pub(super) acts: Vec<Act>,
    /// What the first endpoint always does instead.
    pub(super) first: Option<Act>,
    /// So many copies come to `$B`.
    pub(super) copies: usize,
}

/// A policy in both languages.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) what: &'static str,
    /// HTTP/2 is spoken, by all.
    pub(super) http2: bool,
    /// Endpoints of `$A` that answer, and how many of them nobody is at.
    pub(super) live: usize,
    pub(super) dead: usize,
    /// Rules of a VirtualService's `http`, in YAML.
    pub(super) rules: String,
    /// Fields of a DestinationRule's `trafficPolicy`, in YAML.
    pub(super) policy: &'static str,
    /// Fields of a LocalRateLimit for `$A`, in YAML.
    pub(super) limit: &'static str,
    /// Routes of Envoy.
    pub(super) routes: Value,
    /// Fields of Envoy's cluster.
    pub(super) cluster: Value,
    pub(super) steps: Vec<Step>,
}

/// A request with this method for this path.
pub(super) fn ask(method: &'static str, path: &str) -> Step {
    Step {
        method,
        path: path.to_owned(),
        head: String::new(),
        body: String::new(),
        acts: Vec::new(),
        first: None,
        copies: 0,
    }
}

/// `GET /`.
pub(super) fn get() -> Step {
    ask("GET", "/")
}

impl Step {
    /// With a field in its head.
    pub(super) fn with(mut self, field: &str) -> Self {
        self.head.push_str(field);
        self.head.push_str("\r\n");
        self
    }

    /// With a body.
    pub(super) fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    /// To which the endpoints do this, in turn, and then answer 200.
    pub(super) fn acts(mut self, acts: &[Act]) -> Self {
        self.acts = acts.to_vec();
        self
    }

    /// To which the endpoints answer with these statuses, in turn, and then with 200.
    pub(super) fn statuses(self, statuses: &[u16]) -> Self {
        let acts: Vec<Act> = statuses.iter().map(|one| Act::Say(*one, "")).collect();
        self.acts(&acts)
    }

    /// To which the first endpoint does this, and the others answer 200.
    pub(super) fn first(mut self, act: Act) -> Self {
        self.first = Some(act);
        self
    }

    /// Of which `$B` gets so many copies.
    pub(super) fn copies(mut self, copies: usize) -> Self {
        self.copies = copies;
        self
    }
}

/// A case with one endpoint where all is sent to `$A`.
pub(super) fn case(what: &'static str) -> Case {
    Case {
        what,
        http2: false,
        live: 1,
        dead: 0,
        rules: String::new(),
        policy: "",
        limit: "",
        routes: json!([]),
        cluster: json!({}),
        steps: Vec::new(),
    }
    .rule("", json!({}))
}

impl Case {
    /// All requests go to `$A`, with these fields of a rule and of an Envoy's route action.
    pub(super) fn rule(self, fields: &str, action: Value) -> Self {
        let rule = format!("{{route: [{{destination: {{host: $A}}}}], {fields}}}");
        self.rules(&rule, json!([route("/", action)]))
    }

    /// These rules, and these routes.
    pub(super) fn rules(mut self, rules: &str, routes: Value) -> Self {
        rules.clone_into(&mut self.rules);
        self.routes = routes;
        self
    }

    /// The route has a filter of its own, too.
    pub(super) fn filtered(mut self, name: &str, kind: &str, mut fields: Value) -> Self {
        fields["@type"] = json!(format!(
            "type.googleapis.com/envoy.extensions.filters.http.{kind}"
        ));
        self.routes[0]["typed_per_filter_config"] = json!({name: fields});
        self
    }

    /// `$A` is used like this.
    pub(super) fn policy(mut self, policy: &'static str, cluster: Value) -> Self {
        self.policy = policy;
        self.cluster = cluster;
        self
    }

    /// Requests to `$A` are limited like this.
    pub(super) fn limited(mut self, limit: &'static str) -> Self {
        self.limit = limit;
        self
    }

    /// Everybody speaks HTTP/2.
    pub(super) fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// `$A` has so many endpoints, and so many more at which nobody is.
    pub(super) fn endpoints(mut self, live: usize, dead: usize) -> Self {
        (self.live, self.dead) = (live, dead);
        self
    }

    /// This is asked, one after the other.
    pub(super) fn asks(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.steps.extend(steps);
        self
    }
}

/// An Envoy's route to `$A` for what begins with `prefix`, with these fields of its action.
pub(super) fn route(prefix: &str, action: Value) -> Value {
    let mut whole = json!({"cluster": "$A", "timeout": "0s"});
    if let (Value::Object(whole), Value::Object(action)) = (&mut whole, action) {
        if action.contains_key("weighted_clusters") {
            whole.remove("cluster");
        }
        whole.extend(action);
    }
    json!({"match": {"prefix": prefix}, "route": whole})
}
