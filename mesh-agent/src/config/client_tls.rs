// SPDX-License-Identifier: Apache-2.0

//! `tls` of a `trafficPolicy`, checked and compiled.
//!
//! What cannot be done is compiled into a refusal: nothing is sent in plaintext where TLS was asked
//! for. Knows nothing of what is in files and Secrets, only where they are.
//! Reference: Istio `pkg/config/validation` (`validateTLS`), `pilot/pkg/networking/core/cluster_tls.go`.

use std::{
    path::{Component, Path},
    sync::Arc,
};

use super::{
    facts::Findings,
    gaps,
    istio::{ClientTls as Written, ClientTlsMode},
    problem::{Severity, code},
};
use crate::model::{ClientTls, Credential, Origination, Roots};

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
        ClientTlsMode::Mutual => Some(Arc::new(reader.originate(written, true))),
        ClientTlsMode::Simple => Some(Arc::new(reader.originate(written, false))),
    })
}

struct Reader<'a> {
    path: &'a str,
    findings: &'a mut Findings,
}

/// What is written, if anything is.
fn text(value: Option<&String>) -> Option<Arc<str>> {
    let value = value.map(|value| value.as_str());
    value.filter(|value| !value.is_empty()).map(Arc::from)
}

/// Whether a file can be meant: from the root, and never up.
fn is_file(path: &str) -> bool {
    let path = Path::new(path);
    let mut parts = path.components();
    path.is_absolute() && !parts.any(|part| part == Component::ParentDir)
}

/// Whether a Secret can have the name: it becomes part of a path at the API server.
fn is_secret_name(name: &str) -> bool {
    let may_be = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut bytes = name.bytes();
    name.len() <= 253
        && bytes.next().is_some_and(may_be)
        && bytes.all(|byte| may_be(byte) || matches!(byte, b'-' | b'.'))
}

impl Reader<'_> {
    /// What is written cannot be done, and nothing else is done instead.
    fn refuse(&mut self, field: &str, text: &str, fix: &str) -> ClientTls {
        let code = code::UNSUPPORTED;
        self.close(code, field, text, fix)
    }

    /// What is written means nothing. The rule does not go without it: its clients would go on in
    /// plaintext.
    fn reject(&mut self, field: &str, text: &str, fix: &str) -> ClientTls {
        self.close(code::SCHEMA, field, text, fix)
    }

    fn close(&mut self, code: &'static str, field: &str, text: &str, fix: &str) -> ClientTls {
        let said = format!("{text}; what the rule is for is not connected to (UF)");
        let path = format!("{}.{field}", self.path);
        let why = format!("{} {path}: {text}", self.findings.object);
        self.findings.add(Severity::Error, code, path, said, fix);
        ClientTls::Refused(why.into())
    }

    fn originate(&mut self, written: &Written, mutual: bool) -> ClientTls {
        let files = [
            ("clientCertificate", &written.client_certificate),
            ("privateKey", &written.private_key),
            ("caCertificates", &written.ca_certificates),
            ("caCrl", &written.ca_crl),
        ];
        let files = files.map(|(field, value)| (field, text(value.as_ref())));
        let secret = text(written.credential_name.as_ref());
        for (field, file) in &files {
            let Some(file) = file else { continue };
            if secret.is_some() {
                let fix = "write either the Secret or files";
                return self.reject(field, "excludes credentialName", fix);
            }
            if !is_file(file) && !(*field == "caCertificates" && &**file == "system") {
                let said = format!("{file:?} is no absolute path");
                return self.reject(field, &said, "name a file of the agent's");
            }
        }
        let [(_, certificate), (_, key), (_, roots), (_, revoked)] = files;
        let credential = match self.credential([secret, certificate, key], mutual) {
            Ok(credential) => credential,
            Err(refusal) => return *refusal,
        };
        let is_secret = matches!(credential, Some(Credential::Secret { .. }));
        ClientTls::Originate(Origination {
            server_name: text(written.sni.as_ref()),
            names: names(&written.subject_alt_names),
            roots: match roots {
                _ if is_secret => Roots::Secret,
                Some(path) if &*path != "system" => Roots::File(path),
                _ => Roots::System,
            },
            revoked,
            credential,
            skip_verify: written.insecure_skip_verify.unwrap_or_default(),
        })
    }

    /// Whom the agent shows itself as, by a Secret or by files with a certificate and its key.
    fn credential(
        &mut self,
        [secret, certificate, key]: [Option<Arc<str>>; 3],
        mutual: bool,
    ) -> Result<Option<Credential>, Box<ClientTls>> {
        let namespace = Arc::clone(&self.findings.object.namespace);
        match (secret, mutual) {
            (Some(name), _) if name.contains("://") => {
                let gap = gaps::CONFIG_MAP;
                let what = format!("not supported: {}", gap.reason);
                Err(Box::new(self.refuse("credentialName", &what, gap.fix)))
            }
            (Some(name), _) if !is_secret_name(&name) => {
                let said = format!("{name:?} is no name of a Secret");
                Err(Box::new(self.reject("credentialName", &said, "correct it")))
            }
            (Some(name), shown) => Ok(Some(Credential::Secret {
                namespace,
                name,
                shown,
            })),
            (None, true) => match (certificate, key) {
                (Some(certificate), Some(key)) => Ok(Some(Credential::Files {
                    namespace,
                    certificate,
                    key,
                })),
                (missing, _) => {
                    let field = ["privateKey", "clientCertificate"];
                    let field = field[usize::from(missing.is_none())];
                    let fix = "name the files, or a Secret with credentialName";
                    let what = "MUTUAL shows a certificate: must be set";
                    Err(Box::new(self.reject(field, what, fix)))
                }
            },
            (None, false) => {
                self.unheeded(certificate.is_some(), key.is_some());
                Ok(None)
            }
        }
    }

    /// SIMPLE with a certificate of the client's.
    fn unheeded(&mut self, certificate: bool, key: bool) {
        for (field, present) in [("clientCertificate", certificate), ("privateKey", key)] {
            if present {
                self.findings.add(
                    Severity::Warning,
                    code::UNSUPPORTED,
                    format!("{}.{field}", self.path),
                    "SIMPLE shows no certificate: this has no effect",
                    "remove the field, or use MUTUAL",
                );
            }
        }
    }
}

fn names(written: &[String]) -> Vec<Arc<str>> {
    let written = written.iter().map(|name| name.as_str().into());
    written.collect()
}
