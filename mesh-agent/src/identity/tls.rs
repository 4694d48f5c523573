// SPDX-License-Identifier: Apache-2.0

//! TLS as the mesh speaks it: version, suites, groups, and the two sides' configurations.
//!
//! Knows nothing of when certificates are issued. Invariants: TLS 1.3 only; AES-GCM only; the
//! hybrid X25519MLKEM768 is offered first; both sides always present a certificate; no server
//! name is sent. A session is resumed only between the same pair of identities, and never across
//! a rotation: each client configuration has its own store, each server configuration its own
//! ticket key, and both are made anew with the certificate.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, Tls12Resumption},
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, Ticketer, kx_group},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{
    ciphers,
    verify::{DomainClient, ExpectedServer, Terms},
};
use crate::model::SpiffeId;

/// The application protocol that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/2, as HBONE has it.
    Hbone,
    /// The mux between agents; HBONE with peers that do not know it.
    Mux,
    /// A session for one stream of the mux, and nothing else.
    Bulk,
}

impl Alpn {
    /// The protocol's name on the wire.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Hbone => b"h2",
            Self::Mux => b"mesh-mux/1",
            Self::Bulk => b"mesh-bulk/1",
        }
    }

    /// The protocol that is called `name`.
    pub fn of_name(name: &[u8]) -> Option<Self> {
        [Self::Hbone, Self::Mux, Self::Bulk]
            .into_iter()
            .find(|alpn| alpn.name() == name)
    }

    /// The names of all that will do, the best first.
    fn offer(self) -> Vec<Vec<u8>> {
        let all: &[Self] = match self {
            Self::Hbone => &[Self::Hbone],
            Self::Mux => &[Self::Mux, Self::Hbone],
            Self::Bulk => &[Self::Bulk],
        };
        all.iter().map(|alpn| alpn.name().to_vec()).collect()
    }

    /// The names of all that a server takes, the best first.
    fn accept(self) -> Vec<Vec<u8>> {
        let mut all = self.offer();
        if self == Self::Mux {
            // Who knows the one knows the other, but a client offers it alone.
            all.extend(Self::Bulk.offer());
        }
        all
    }
}

/// How many servers of one identity a client keeps tickets for: pods of one service account.
const RESUMABLE_SERVERS: usize = 16;

/// The cryptography that both sides use.
pub(super) fn provider() -> Arc<CryptoProvider> {
    let mut groups = vec![
        kx_group::X25519MLKEM768,
        kx_group::X25519,
        kx_group::SECP256R1,
        kx_group::SECP384R1,
    ];
    if ciphers::is_fips() {
        groups.retain(|group| group.fips());
    }
    Arc::new(CryptoProvider {
        cipher_suites: ciphers::suites(),
        kx_groups: groups,
        ..aws_lc_rs::default_provider()
    })
}

/// A client that is `key`'s identity and talks to nobody but `expected`.
pub(super) fn client(
    provider: &Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    (expected, terms): (Arc<[SpiffeId]>, Terms),
    alpn: Alpn,
) -> Result<ClientConfig, rustls::Error> {
    let verifier = ExpectedServer::new(provider, roots, expected, terms)?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = alpn.offer();
    // The records of such a session are sealed and opened where they are read and written.
    config.enable_secret_extraction = alpn == Alpn::Bulk;
    config.enable_sni = false;
    config.resumption = Resumption::in_memory_sessions(RESUMABLE_SERVERS)
        .tls12_resumption(Tls12Resumption::Disabled);
    Ok(config)
}

/// A server by what it speaks.
pub(super) struct Servers {
    hbone: Arc<ServerConfig>,
    /// The mux and sessions for its streams, and HBONE with clients that do not offer it.
    mux: Arc<ServerConfig>,
}

impl Servers {
    /// The one that speaks `alpn`. What it prefers counts, not what clients prefer.
    pub(super) fn speaking(&self, alpn: Alpn) -> Arc<ServerConfig> {
        Arc::clone(match alpn {
            Alpn::Hbone => &self.hbone,
            Alpn::Mux | Alpn::Bulk => &self.mux,
        })
    }
}

/// A server that is `key`'s identity and talks to its own trust domain only.
pub(super) fn servers(
    provider: &Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    terms: Terms,
) -> Result<Servers, rustls::Error> {
    let verifier = DomainClient::new(provider, roots, terms)?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.ticketer = Ticketer::new()?;
    // One connection per pair is the rule, so one ticket is enough.
    config.send_tls13_tickets = 1;
    let speaking = |alpn: Alpn| {
        let mut config = config.clone();
        config.alpn_protocols = alpn.accept();
        config.enable_secret_extraction = alpn == Alpn::Mux;
        Arc::new(config)
    };
    Ok(Servers {
        hbone: speaking(Alpn::Hbone),
        mux: speaking(Alpn::Mux),
    })
}
