// SPDX-License-Identifier: Apache-2.0

//! Policies about clients and tokens by chance.

use super::Chance;
use crate::config::{Kind, ObjectKey};

impl Chance {
    pub(super) fn authorization(&mut self) -> (ObjectKey, String) {
        let (key, text) = self.name(Kind::AuthorizationPolicy, "a", 3);
        let service = self.below(4);
        let aim = match self.below(4) {
            0 => String::new(),
            1 => format!("targetRefs: [{{kind: Service, name: s{service}}}], "),
            _ => format!("selector: {{matchLabels: {{{}}}}}, ", self.labels()),
        };
        let rest = self.of(&[
            "rules: [{}]",
            "action: DENY, rules: [{from: [{source: {namespaces: [a]}}]}]",
            "action: DENY, rules: [{to: [{operation: {ports: ['8080']}}]}]",
            // Cannot be evaluated.
            "action: DENY",
        ]);
        (key, format!("{text}}}\nspec: {{{aim}{rest}}}\n"))
    }

    pub(super) fn authentication(&mut self) -> (ObjectKey, String) {
        let (key, text) = self.name(Kind::RequestAuthentication, "t", 3);
        let service = self.below(4);
        let aim = match self.below(4) {
            0 => String::new(),
            1 => format!("targetRefs: [{{kind: Service, name: s{service}}}], "),
            _ => format!("selector: {{matchLabels: {{{}}}}}, ", self.labels()),
        };
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
