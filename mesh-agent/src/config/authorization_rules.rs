// SPDX-License-Identifier: Apache-2.0

//! Compiles the rules of an AuthorizationPolicy, and says what is wrong with them.
//!
//! Knows nothing of which pods a policy is for. Invariant: a value that cannot be compiled rejects
//! the policy; what compiles but is not known here counts against the caller, and that is said.

use super::{
    authorization::{ActionSpec, ConditionSpec, OperationSpec, RuleSpec, SourceSpec},
    authorization_values::{self as values, Lists},
    facts::Findings,
    problem::{Severity, code},
};
use crate::model::{
    authorization::{
        Clause, Condition, HostPattern, Operation, PathPattern, Pattern, Rule, Source,
    },
    token::TokenPart,
};

/// What may stand in `when`.
const KEYS: &str = "source.ip, remote.ip, source.namespace, source.principal, source.serviceAccount, \
                    source.trustDomain, request.headers[NAME], request.auth.*, destination.ip, \
                    destination.port or connection.sni";

/// Compiles the rules of one policy.
pub(super) struct Compiler<'a> {
    pub(super) namespace: &'a str,
    pub(super) trust_domain: &'a str,
    pub(super) action: ActionSpec,
    pub(super) findings: &'a mut Findings,
}

impl Compiler<'_> {
    /// The rules in the model's form.
    pub(super) fn rules(&mut self, rules: &[RuleSpec]) -> Vec<Rule> {
        let rules = rules.iter().enumerate();
        rules
            .map(|(index, rule)| self.rule(rule, &format!("spec.rules[{index}]")))
            .collect()
    }

    fn rule(&mut self, rule: &RuleSpec, field: &str) -> Rule {
        let mut compiled = Rule::default();
        for (index, from) in rule.from.iter().enumerate() {
            let field = format!("{field}.from[{index}].source");
            match &from.source {
                Some(source) if *source != SourceSpec::default() => {
                    let source = self.source(source, &field);
                    compiled.sources.push(source);
                }
                _ => self.empty(&field, "principals, namespaces or another field"),
            }
        }
        for (index, to) in rule.to.iter().enumerate() {
            let field = format!("{field}.to[{index}].operation");
            match &to.operation {
                Some(operation) if *operation != OperationSpec::default() => {
                    let operation = self.operation(operation, &field);
                    compiled.operations.push(operation);
                }
                _ => self.empty(&field, "hosts, ports, methods or paths"),
            }
        }
        for (index, condition) in rule.when.iter().enumerate() {
            let field = format!("{field}.when[{index}]");
            let condition = self.condition(condition, &field);
            compiled.conditions.extend(condition);
        }
        compiled
    }

    fn empty(&mut self, field: &str, what: &str) {
        let fix = format!("set {what}, or leave the entry out to match everything");
        self.findings.reject(field, "must not be empty", fix);
    }

    fn source(&mut self, spec: &SourceSpec, field: &str) -> Source {
        let lists = |name, any, none| Lists::new(field, name, any, none);
        let principals = lists("principals", &spec.principals, &spec.not_principals);
        let namespaces = lists("namespaces", &spec.namespaces, &spec.not_namespaces);
        let accounts = lists(
            "serviceAccounts",
            &spec.service_accounts,
            &spec.not_service_accounts,
        );
        let domains = lists("trustDomains", &spec.trust_domains, &spec.not_trust_domains);
        let tokens = lists(
            "requestPrincipals",
            &spec.request_principals,
            &spec.not_request_principals,
        );
        let near = lists("ipBlocks", &spec.ip_blocks, &spec.not_ip_blocks);
        let far = lists(
            "remoteIpBlocks",
            &spec.remote_ip_blocks,
            &spec.not_remote_ip_blocks,
        );
        let named = !principals.is_empty() || !namespaces.is_empty();
        if named && !accounts.is_empty() {
            self.findings.reject(
                accounts.field(),
                "cannot stand beside principals or namespaces",
                "use one of them",
            );
        }
        let who = named || !accounts.is_empty() || !tokens.is_empty();
        if self.action == ActionSpec::Custom && who {
            self.findings.reject(
                field,
                "a CUSTOM policy cannot ask for principals, namespaces, service accounts or tokens",
                "ask for them in another policy",
            );
        }
        let identity = [principals, namespaces, accounts, domains];
        self.warn_of_plaintext(&identity);
        self.warn_of_anonymous(&tokens);
        self.note_remote(&far);
        Source {
            principals: self.principals(principals),
            namespaces: values::patterns(namespaces, self.findings),
            service_accounts: values::accounts(accounts, self.namespace, self.findings),
            trust_domains: values::patterns(domains, self.findings),
            addresses: vec![
                values::networks(near, self.findings),
                values::networks(far, self.findings),
            ],
            request_principals: values::patterns(tokens, self.findings),
        }
    }

    fn principals(&mut self, lists: Lists<'_>) -> Clause<Pattern> {
        values::principals(lists, self.trust_domain, self.findings)
    }

    fn operation(&mut self, spec: &OperationSpec, field: &str) -> Operation {
        let lists = |name, any, none| Lists::new(field, name, any, none);
        let hosts = lists("hosts", &spec.hosts, &spec.not_hosts);
        let ports = lists("ports", &spec.ports, &spec.not_ports);
        let methods = lists("methods", &spec.methods, &spec.not_methods);
        let paths = lists("paths", &spec.paths, &spec.not_paths);
        Operation {
            hosts: hosts.compile(self.findings, |text| Ok(HostPattern::new(text))),
            ports: values::ports(ports, self.findings),
            methods: values::patterns(methods, self.findings),
            paths: values::starred(paths, self.findings).compile(self.findings, |text| {
                PathPattern::new(text).map_err(|error| {
                    let fix = "write {*} for one segment, {**} for the rest, or no braces";
                    (format!("{text:?} is no path template: {error}"), fix)
                })
            }),
        }
    }

    fn condition(&mut self, spec: &ConditionSpec, field: &str) -> Option<Condition> {
        let key_field = format!("{field}.key");
        let key = spec.key.as_str();
        let lists = Lists::of_condition(field, &spec.values, &spec.not_values);
        if lists.is_empty() {
            let fix = "set values or notValues";
            self.findings
                .reject(field, "must not be without values", fix);
        }
        let mut source = Source::default();
        match key {
            "source.ip" => source.addresses = vec![values::networks(lists, self.findings)],
            "remote.ip" => {
                self.note_remote(&lists);
                source.addresses = vec![values::networks(lists, self.findings)];
            }
            "source.namespace" => source.namespaces = values::patterns(lists, self.findings),
            "source.principal" => source.principals = self.principals(lists),
            "source.trustDomain" => source.trust_domains = values::patterns(lists, self.findings),
            "source.serviceAccount" => {
                source.service_accounts = values::accounts(lists, self.namespace, self.findings);
            }
            "destination.ip" => {
                let networks = values::networks(lists, self.findings);
                return Some(Condition::DestinationAddress(networks));
            }
            "destination.port" => {
                return Some(Condition::DestinationPort(values::ports(
                    lists,
                    self.findings,
                )));
            }
            "connection.sni" => {
                self.unknowable(&key_field, "the server name of TLS inside is not read yet");
                return Some(Condition::Unknowable);
            }
            _ => return self.other_condition(key, lists, &key_field),
        }
        let who = !(key == "source.ip" || key == "remote.ip");
        if self.action == ActionSpec::Custom && who {
            let text = "a CUSTOM policy cannot ask who the peer is";
            self.findings
                .reject(&key_field, text, "ask for that in another policy");
        }
        if who {
            self.warn_of_plaintext(&[lists]);
        }
        Some(Condition::Source(source))
    }

    fn other_condition(&mut self, key: &str, lists: Lists<'_>, field: &str) -> Option<Condition> {
        let header = key
            .strip_prefix("request.headers[")
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(name) = header {
            let Ok(name) = name.parse() else {
                let text = format!("{name:?} is no name of a header");
                self.findings
                    .reject(field, text, "name one, as in request.headers[x-name]");
                return None;
            };
            return Some(Condition::Header(
                name,
                values::patterns(lists, self.findings),
            ));
        }
        if let Some(part) = token_part(key) {
            if self.action == ActionSpec::Custom {
                let text = "a CUSTOM policy cannot ask for tokens";
                self.findings
                    .reject(field, text, "ask for them in another policy");
            }
            self.warn_of_anonymous(&lists);
            let clause = values::patterns(lists, self.findings);
            return Some(Condition::Token(part, clause));
        }
        if key.starts_with("experimental.envoy.filters.") {
            self.unknowable(field, "there is no Envoy whose filters could tell");
            return Some(Condition::Unknowable);
        }
        let text = format!("{key:?} is no condition");
        self.findings.reject(field, text, format!("use {KEYS}"));
        None
    }

    /// What the mesh cannot know counts against the caller.
    fn unknowable(&mut self, field: &str, why: &str) {
        let what = match self.action {
            ActionSpec::Allow | ActionSpec::Audit => "rules that ask for it never match",
            ActionSpec::Deny | ActionSpec::Custom => {
                "it counts as matched, so the rule denies more"
            }
        };
        let (severity, code) = (Severity::Error, code::UNSUPPORTED);
        let fix = "remove it if you can do without";
        self.findings
            .add(severity, code, field, format!("{why}: {what}"), fix);
    }

    fn note_remote(&mut self, lists: &Lists<'_>) {
        if lists.is_empty() {
            return;
        }
        self.findings.add(
            Severity::Warning,
            code::UNSUPPORTED,
            lists.field(),
            "no proxy is trusted to tell the address of its client: that of the connection counts",
            "use ipBlocks or source.ip",
        );
    }

    /// A request without a token is in no list, so it passes all that only say who must not.
    fn warn_of_anonymous(&mut self, lists: &Lists<'_>) {
        if lists.wants() || !lists.excludes() || self.action != ActionSpec::Allow {
            return;
        }
        self.findings.add(
            Severity::Warning,
            code::OPEN_TO_PLAINTEXT,
            lists.not_field(),
            "requests without a token are not excluded by it: they are allowed",
            "add requestPrincipals: [\"*\"] beside it",
        );
    }

    /// A peer without an identity is in no list, so it passes all that only say who must not.
    fn warn_of_plaintext(&mut self, identity: &[Lists<'_>]) {
        let wants = identity.iter().any(|lists| lists.wants());
        let excludes = identity.iter().find(|lists| lists.excludes());
        let (Some(excluding), false, ActionSpec::Allow) = (excludes, wants, self.action) else {
            return;
        };
        let field = excluding.not_field();
        self.findings.add(
            Severity::Warning,
            code::OPEN_TO_PLAINTEXT,
            field,
            "peers without an identity (plaintext) are not excluded by it: they are allowed",
            "add principals: [\"*\"] beside it, or make mutual TLS STRICT",
        );
    }
}

/// What of a token a key names.
fn token_part(key: &str) -> Option<TokenPart> {
    let rest = key.strip_prefix("request.auth.")?;
    match rest {
        "principal" => return Some(TokenPart::Principal),
        "audiences" => return Some(TokenPart::Audiences),
        "presenter" => return Some(TokenPart::Presenter),
        _ => {}
    }
    let names = rest.strip_prefix("claims[")?.strip_suffix(']')?;
    let names: Vec<String> = names.split("][").map(str::to_owned).collect();
    (!names.iter().any(String::is_empty)).then_some(TokenPart::Claim(names))
}
