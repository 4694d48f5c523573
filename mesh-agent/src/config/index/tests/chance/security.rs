// SPDX-License-Identifier: Apache-2.0

//! Policies about clients and tokens by chance.

use super::Chance;
use crate::config::{Kind, ObjectKey};

impl Chance {
    /// Whom a policy is for.
    fn aim(&mut self) -> String {
        let service = self.below(4);
        match self.below(4) {
            0 => String::new(),
            1 => format!("targetRefs: [{{kind: Service, name: s{service}}}], "),
            _ => format!("selector: {{matchLabels: {{{}}}}}, ", self.labels()),
        }
    }

    pub(super) fn authorization(&mut self) -> (ObjectKey, String) {
        let (key, text) = self.name(Kind::AuthorizationPolicy, "a", 3);
        let aim = self.aim();
        let rest = self.of(&[
            "rules: [{}]",
            "action: DENY, rules: [{from: [{source: {namespaces: [a]}}]}]",
            "action: DENY, rules: [{to: [{operation: {ports: ['8080']}}]}]",
            "rules: [{from: [{source: {principals: [old/ns/a/sa/b]}}]}]",
            "action: CUSTOM, provider: {name: p}, rules: [{to: [{operation: {methods: [GET]}}]}]",
            // Cannot be evaluated.
            "action: DENY",
        ]);
        (key, format!("{text}}}\nspec: {{{aim}{rest}}}\n"))
    }

    pub(super) fn mesh_config(&mut self) -> (ObjectKey, String) {
        let key = ObjectKey {
            kind: Kind::ConfigMap,
            namespace: "istio-system".to_owned(),
            name: "istio".to_owned(),
        };
        let text = self.head(&key);
        let service = self.below(4);
        let provider = format!("{{service: s{service}.a.svc.cluster.local, port: 80}}");
        let providers = match self.below(4) {
            0 => "[]".to_owned(),
            1 => format!("[{{name: p, envoyExtAuthzGrpc: {provider}}}]"),
            2 => format!("[{{name: p, envoyExtAuthzHttp: {provider}}}]"),
            // Cannot be read.
            _ => "7".to_owned(),
        };
        let aliases = self.of(&["", "old", "old, older"]);
        let mesh = format!("{{extensionProviders: {providers}, trustDomainAliases: [{aliases}]}}");
        (key, format!("{text}}}\ndata: {{mesh: '{mesh}'}}\n"))
    }

    pub(super) fn authentication(&mut self) -> (ObjectKey, String) {
        let (key, text) = self.name(Kind::RequestAuthentication, "t", 3);
        let aim = self.aim();
        let rest = self.of(&[
            "jwtRules: [{issuer: i, jwksUri: 'https://i/keys'}]",
            "jwtRules: [{issuer: 'https://i', outputPayloadToHeader: x-payload}]",
            "jwtRules: []",
            // Cannot be evaluated.
            "jwtRules: [{issuer: i}]",
        ]);
        (key, format!("{text}}}\nspec: {{{aim}{rest}}}\n"))
    }
}
