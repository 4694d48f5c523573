// SPDX-License-Identifier: Apache-2.0

//! ServiceEntries, WorkloadEntries, Sidecars and XBackendTrafficPolicies by chance.

use std::{net::IpAddr, sync::Arc};

use super::Chance;
use crate::config::{Kind, ObjectKey};

impl Chance {
    pub(super) fn service_entry(&mut self) -> (ObjectKey, String) {
        let (key, text) = self.name(Kind::ServiceEntry, "n", 4);
        let first = self.below(3);
        let host = match self.below(5) {
            0 => format!("s{first}.a.svc.cluster.local"),
            1 => format!("e{first}.example, e{}.example", (first + 1) % 3),
            2 => "'*.example'".to_owned(),
            _ => format!("e{first}.example"),
        };
        let address = self.of(&["", "10.0.0.1", "10.0.0.9", "10.9.0.0/16"]);
        let endpoint = self.below(6);
        let resolution = match self.below(6) {
            0 => "STATIC",
            1 | 2 if !host.contains('*') && !address.contains('/') => "DNS",
            3 => &format!(
                "STATIC, endpoints: [{{address: 10.1.0.{endpoint}, labels: {{version: v1}}, weight: {}}}, {{address: 10.2.0.1}}]",
                1 + self.below(2)
            ),
            4 if !address.contains('/') => {
                "DNS, endpoints: [{address: e1.example}, {address: 10.1.0.1}]"
            }
            5 => &format!(
                "STATIC, workloadSelector: {{labels: {{{}}}}}",
                self.labels()
            ),
            _ => "NONE",
        };
        let protocol = self.of(&["HTTP", "TCP", "TLS"]);
        let port = self.of(&["80", "80, targetPort: 8080"]);
        let export = self.export();
        let text = format!(
            "{text}}}\nspec: {{{export}hosts: [{host}], addresses: [{address}], resolution: {resolution}, \
             ports: [{{number: {port}, name: web, protocol: {protocol}}}]}}\n"
        );
        (key, text)
    }

    pub(super) fn workload_entry(&mut self) -> (ObjectKey, String) {
        let (key, text) = self.name(Kind::WorkloadEntry, "w", 3);
        let address = match self.below(3) {
            0 => format!("e{}.example", self.below(3)),
            _ => format!("10.1.0.{}", self.below(8)),
        };
        let (labels, account) = (
            self.labels(),
            self.of(&["", "serviceAccount: vm, ", "locality: r/b, ", "weight: 3, "]),
        );
        let text = format!(
            "{text}}}\nspec: {{address: {address}, {account}labels: {{{labels}}}, ports: {{web: 8081}}}}\n"
        );
        (key, text)
    }

    pub(super) fn sidecar(&mut self) -> (ObjectKey, String) {
        let (key, text) = self.name(Kind::Sidecar, "c", 3);
        let selector = match self.below(2) {
            0 => String::new(),
            _ => format!("workloadSelector: {{labels: {{{}}}}}, ", self.labels()),
        };
        let policy = self.of(&[
            "",
            "outboundTrafficPolicy: {}, ",
            "outboundTrafficPolicy: {mode: ALLOW_ANY}, ",
        ]);
        let hosts = self.of(&[
            "./*",
            "'*/*'",
            "'~/*'",
            "a/*",
            "b/e1.example, ./*",
            "'*/s1.a.svc.cluster.local', a/s2.b.svc.cluster.local",
            "'*/*', '~b/*'",
            "'*/*.svc.cluster.local', '~./s1.a.svc.cluster.local'",
            "x",
        ]);
        (
            key,
            format!("{text}}}\nspec: {{{selector}{policy}egress: [{{hosts: [{hosts}]}}]}}\n"),
        )
    }

    pub(super) fn backend_policy(&mut self) -> (ObjectKey, String) {
        let (key, text) = self.name(Kind::BackendTrafficPolicy, "t", 3);
        let (one, other) = (self.below(4), self.below(4));
        let constraint = self.of(&[
            "",
            "retryConstraint: {}, ",
            "retryConstraint: {budget: {percent: 30}}, ",
            "retryConstraint: {budget: {percent: 101}}, ",
        ]);
        let text = format!(
            "{text}}}\nspec: {{{constraint}targetRefs: [{{group: '', kind: Service, name: s{one}}}, \
             {{group: '', kind: Service, name: s{other}}}]}}\n"
        );
        (key, text)
    }

    /// What a name resolves to.
    pub(in super::super) fn answer(&mut self) -> (Arc<str>, Vec<IpAddr>) {
        let name = format!("e{}.example", self.below(3)).into();
        let addresses = (0..1 + self.below(2)).map(|_| [10, 1, 0, self.0.u8(0..8)].into());
        let mut addresses: Vec<_> = addresses.collect();
        addresses.sort();
        addresses.dedup();
        (name, addresses)
    }
}
