// SPDX-License-Identifier: Apache-2.0

//! TLS towards servers that are no peers of the mesh: made of what a rule wants and names.
//!
//! No identity of ours is shown, only what the rule names. Knows nothing of connections, files and
//! time. Invariant: without roots, with a name that is none, or without the certificate that is to be
//! shown there is no configuration, so that nothing is sent.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    client::danger::ServerCertVerifier,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, InvalidDnsNameError, PrivateKeyDer,
        ServerName, pem, pem::PemObject,
    },
};

use super::{
    credentials::{Material, Sealed},
    server_names::{Anybody, Name, OneOf},
};
use crate::model::Origination;

/// Why there is no TLS towards a server.
#[derive(Debug, thiserror::Error)]
pub enum OriginationError {
    /// The name is no host name.
    #[error("{name:?} is no server name")]
    Name {
        /// What is written.
        name: Arc<str>,
        /// What is wrong.
        #[source]
        source: InvalidDnsNameError,
    },
    /// What TLS is to be made of is not there, or of no use.
    #[error("{0}")]
    Unready(Arc<str>),
}

/// Why what was read makes no configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    #[error(transparent)]
    Name(#[from] OriginationError),
    #[error("{0} has no certificate in it")]
    Empty(&'static str),
    #[error("reading the {what}")]
    Pem {
        what: &'static str,
        #[source]
        source: pem::Error,
    },
    #[error("setting up TLS: {0}")]
    Verifier(rustls::client::VerifierBuilderError),
    #[error("setting up TLS")]
    Configuration(#[source] rustls::Error),
}

/// What is asked for.
pub(super) fn asked(wanted: &Origination) -> Result<ServerName<'static>, OriginationError> {
    server_name(&wanted.server_name.clone().unwrap_or_default())
}

fn server_name(text: &Arc<str>) -> Result<ServerName<'static>, OriginationError> {
    ServerName::try_from(text.to_string()).map_err(|source| OriginationError::Name {
        name: Arc::clone(text),
        source,
    })
}

fn name(text: &Arc<str>) -> Result<Name, OriginationError> {
    match text.contains("://") {
        true => Ok(Name::Uri(Arc::clone(text))),
        false => server_name(text).map(Name::Server),
    }
}

/// TLS as it is `wanted`, of `material`, offering one application protocol or none.
pub(super) fn configure(
    wanted: &Origination,
    material: &Material,
    alpn: Option<&'static str>,
) -> Result<ClientConfig, MakeError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if wanted.skip_verify {
        Arc::new(Anybody(Arc::clone(&provider)))
    } else {
        let names: Result<Vec<_>, _> = wanted.names.iter().map(name).collect();
        let names = match names? {
            none if none.is_empty() => vec![Name::Server(asked(wanted)?)],
            names => names,
        };
        let revoked = match &material.revoked {
            None => Vec::new(),
            Some(text) => revoked(text)?,
        };
        let roots = Arc::new(roots(&material.roots)?);
        let verifier = OneOf::new(&provider, roots, revoked, names);
        Arc::new(verifier.map_err(MakeError::Verifier)?)
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(MakeError::Configuration)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &material.shown {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate, "client's certificate")?;
            let key = PrivateKeyDer::from_pem_slice(key.bytes());
            let key = key.map_err(unreadable("client's key"))?;
            let config = config.with_client_auth_cert(chain, key);
            config.map_err(MakeError::Configuration)?
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

fn unreadable(what: &'static str) -> impl FnOnce(pem::Error) -> MakeError {
    move |source| MakeError::Pem { what, source }
}

fn certificates(
    text: &Sealed,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, MakeError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.bytes()).collect();
    match read.map_err(unreadable(what))? {
        none if none.is_empty() => Err(MakeError::Empty(what)),
        some => Ok(some),
    }
}

/// All of them must be readable: one that is not may be the one that counts.
fn revoked(text: &Sealed) -> Result<Vec<CertificateRevocationListDer<'static>>, MakeError> {
    let what = "list of what is revoked";
    let lists = CertificateRevocationListDer::pem_slice_iter(text.bytes());
    let lists: Result<Vec<_>, _> = lists.collect();
    match lists.map_err(unreadable(what))? {
        none if none.is_empty() => Err(MakeError::Empty(what)),
        some => Ok(some),
    }
}

fn roots(text: &Sealed) -> Result<RootCertStore, MakeError> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(text.bytes()).filter_map(Result::ok);
    // Systems have roots among theirs that nobody can read; one is enough here.
    let (added, _ignored) = roots.add_parsable_certificates(certificates);
    match added {
        0 => Err(MakeError::Empty("what holds the roots")),
        _ => Ok(roots),
    }
}
