// SPDX-License-Identifier: Apache-2.0

//! `tls` of a `trafficPolicy`, checked and compiled.
//!
//! What cannot be done is compiled into a refusal: nothing is sent in plaintext where TLS was asked
//! for. Reference: Istio `pkg/config/validation` (`validateTLS`), `pilot/pkg/networking/core/cluster_tls.go`.

use std::{path::Path, sync::Arc};

use super::{
    facts::Findings,
    istio::{ClientTls as Written, ClientTlsMode},
    problem::{Severity, code},
};
use crate::model::{ClientTls, Origination, Roots};

/// Compiles `tls`; `Some(None)` is none by will.
pub(super) fn read(
    written: Option<&Written>,
    path: &str,
    findings: &mut Findings,
) -> Option<Option<Arc<ClientTls>>> {
    let written = written?;
    let mut reader = Reader { path, findings };
    Some(match written.mode.unwrap_or(ClientTlsMode::Disable) {
        ClientTlsMode::Disable => None,
        ClientTlsMode::IstioMutual => Some(Arc::new(ClientTls::Mesh)),
        ClientTlsMode::Mutual => {
            let text = "certificates of clients cannot be read by the agent";
            Some(Arc::new(reader.refuse("mode", text)))
        }
        ClientTlsMode::Simple => Some(Arc::new(reader.simple(written))),
    })
}

struct Reader<'a> {
    path: &'a str,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    fn refuse(&mut self, field: &str, text: &str) -> ClientTls {
        self.findings.add(
            Severity::Error,
            code::UNSUPPORTED,
            format!("{}.{field}", self.path),
            format!("not supported yet: {text}; what the rule is for is not connected to (UF)"),
            "use SIMPLE with caCertificates, or DISABLE",
        );
        let object = &self.findings.object;
        ClientTls::Refused(format!("{object} {}.{field}: {text}", self.path).into())
    }

    fn simple(&mut self, written: &Written) -> ClientTls {
        for (field, present, text) in [
            (
                "credentialName",
                written.credential_name,
                "Secrets are not read",
            ),
            ("caCrl", written.ca_crl, "revocation is not checked"),
        ] {
            if present.0 {
                return self.refuse(field, text);
            }
        }
        let fields = [
            ("clientCertificate", written.client_certificate),
            ("privateKey", written.private_key),
        ];
        self.findings
            .unsupported(self.path, &fields, "SIMPLE shows no certificate");
        let text = |value: &Option<String>| {
            let value = value.as_deref().filter(|value| !value.is_empty());
            value.map(Arc::<str>::from)
        };
        let roots = match text(&written.ca_certificates) {
            None => Roots::System,
            Some(system) if &*system == "system" => Roots::System,
            Some(path) if Path::new(&*path).is_absolute() => Roots::File(path),
            Some(path) => {
                let field = format!("{}.caCertificates", self.path);
                let text = format!("{path:?} is no absolute path");
                let fix = "name a file of the agent's, or system";
                self.findings.reject(field, text, fix);
                Roots::System
            }
        };
        let names = &written.subject_alt_names;
        if names.iter().any(|name| name.contains('/')) {
            let text = "names that are URIs are not compared";
            return self.refuse("subjectAltNames", text);
        }
        ClientTls::Originate(Origination {
            server_name: text(&written.sni),
            names: names.iter().map(|name| name.as_str().into()).collect(),
            roots,
            skip_verify: written.insecure_skip_verify.unwrap_or_default(),
        })
    }
}
