// SPDX-License-Identifier: Apache-2.0

//! Whom this node's workloads are: keys, certificates, trust, and the TLS made of them.
//!
//! [`Identities`] holds a live certificate for every identity in use here, rotates it at half its
//! life and hands out TLS clients and servers. Knows nothing of connections, pods or Kubernetes.
//!
//! Invariant: state is one immutable table behind a `watch`; readers on the request path only
//! ever borrow it. A generation is never used twice, so it can be part of a pool's key.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider, pki_types::ServerName};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

mod ca;
mod ciphers;
mod credentials;
mod custody;
mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod issue;
mod keep;
mod kept_list;
mod key_sets;
mod lasting;
mod origination;
mod originations;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod pieces;
mod private;
mod rehearse;
mod remote;
mod roots;
mod rotate;
mod server_names;
mod sessions;
mod signer;
mod tls;
mod token;
mod trust;
mod verify;
mod view;

#[cfg(test)]
pub(crate) use self::token::samples as token_samples;
pub use self::{
    ca::{AuthorityError, CertificateAuthority},
    credentials::{CredentialSources, Reading, Sealed, SecretError, SecretFields, Secrets},
    issue::{Answer, Authority, Chain, IssueError},
    keep::Keep,
    kept_list::{KeptList, KeptListError},
    key_sets::{KeySetView, KeySets},
    origination::OriginationError,
    rehearse::{Failing, Holder, Rehearsal, RehearseError},
    remote::{RemoteAuthority, RemoteError, RemoteSettings},
    roots::{RootView, RootsError, fingerprint, parse_roots},
    sessions::{Cutter, RevokedView, Seat, Side},
    signer::{RootPem, SignError, Signer, SignerPem, certificate_facts},
    tls::Alpn,
    token::TokenCache,
    verify::{PeerError, refusal},
    view::{CertificateState, CertificateView},
};
use self::{
    issue::Issued, originations::Originations, sessions::Sessions, trust::Trust, verify::Terms,
};
use crate::{
    model::{Origination, SpiffeId, TrustDomains},
    tasks::Tasks,
};

/// Why there is no TLS for an identity, or none with a peer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nobody wants this identity here, or its first certificate is still to come.
    #[error("no certificate is live for {0}")]
    NotLive(SpiffeId),
    /// No successor could be issued in time.
    #[error("the certificate of {identity} expired and could not be renewed")]
    Expired {
        /// Whose.
        identity: SpiffeId,
    },
    /// Certificate, roots and provider make no TLS configuration.
    #[error("setting up TLS as {identity}")]
    Configuration {
        /// As whom.
        identity: SpiffeId,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
    /// The peer is not who it must be.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

/// The identities in use on this node. Clones share everything.
#[derive(Clone)]
pub struct Identities(Arc<Shared>);

struct Shared {
    wanted: watch::Sender<BTreeSet<SpiffeId>>,
    core: Arc<Core>,
    credentials: watch::Sender<CredentialSources>,
    originations: Originations,
}

/// What the rotation and the readers share.
struct Core {
    authority: Box<dyn Authority>,
    ttl: Duration,
    provider: Arc<CryptoProvider>,
    table: watch::Sender<Table>,
    last_generation: AtomicU64,
    tasks: Tasks,
    keep: Mutex<Option<Keep>>,
    /// What survived the last restart and was not wanted yet.
    kept: Mutex<BTreeMap<SpiffeId, Issued>>,
    started: Instant,
    sessions: Arc<Sessions>,
}

#[derive(Clone)]
struct Table {
    entries: BTreeMap<SpiffeId, Entry>,
    trust: Trust,
}

#[derive(Clone, Default)]
struct Entry {
    live: Option<Arc<Live>>,
    error: Option<String>,
}

type ClientKey = (Arc<[SpiffeId]>, Alpn);

/// A certificate in use, with the TLS made of it.
struct Live {
    identity: SpiffeId,
    generation: u64,
    issued: Issued,
    roots: Arc<RootCertStore>,
    terms: Terms,
    servers: tls::Servers,
    /// By whom they expect; made when first needed, gone with the certificate.
    clients: Mutex<HashMap<ClientKey, Arc<ClientConfig>>>,
}

impl Identities {
    /// Nothing wanted yet. Rotation runs as a task of `tasks`, until these are drained.
    ///
    /// `ttl` is how long certificates are asked to be valid.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(authority: impl Authority, ttl: Duration, tasks: Tasks) -> Self {
        Self::with_keep(authority, ttl, tasks, None)
    }

    /// As [`Identities::new`]; certificates and roots survive restarts in `keep`.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn with_keep(
        authority: impl Authority,
        ttl: Duration,
        tasks: Tasks,
        keep: Option<Keep>,
    ) -> Self {
        let kept = keep
            .as_ref()
            .map(|keep| keep.load(authority.trust_domain()));
        let kept = kept.unwrap_or_default();
        let core = Arc::new(Core {
            ttl,
            provider: tls::provider(),
            table: watch::Sender::new(Table {
                entries: BTreeMap::new(),
                trust: Trust::new(
                    kept.roots,
                    authority.roots(),
                    TrustDomains::new(authority.trust_domain(), []),
                ),
            }),
            authority: Box::new(authority),
            last_generation: AtomicU64::new(0),
            tasks: tasks.clone(),
            keep: Mutex::new(keep),
            kept: Mutex::new(kept.certificates),
            started: Instant::now(),
            sessions: Arc::new(Sessions::new()),
        });
        let wanted = watch::Sender::new(BTreeSet::new());
        let rotation = rotate::run(Arc::clone(&core), wanted.subscribe(), tasks.drain());
        tasks.spawn("rotate certificates", rotation);
        let credentials = watch::Sender::new(CredentialSources::default());
        let originations = Originations::new(credentials.subscribe(), &tasks);
        Self(Arc::new(Shared {
            wanted,
            core,
            credentials,
            originations,
        }))
    }

    /// Sets the identities in use here: missing ones are issued at once, others forgotten.
    pub fn want(&self, identities: impl IntoIterator<Item = SpiffeId>) {
        let identities: BTreeSet<SpiffeId> = identities.into_iter().collect();
        self.0.wanted.send_if_modified(|wanted| {
            let changed = *wanted != identities;
            *wanted = identities;
            changed
        });
    }

    /// Resolves when `id` has a valid certificate. Cancel-safe.
    pub async fn ready(&self, id: &SpiffeId) {
        let mut table = self.0.core.table.subscribe();
        // An error would mean that the sender is gone, which this value holds.
        drop(table.wait_for(|table| table.live(id).is_ok()).await);
    }

    /// Waits for the first certificate of `id`, for at most `patience`: a pod may be faster with
    /// its first connection than we with its certificate. One that ran out is not waited for.
    /// Cancel-safe.
    pub async fn first(&self, id: &SpiffeId, patience: Duration) {
        if self.generation(id) == 0 {
            // Whoever asks for the certificate next learns that there is none.
            tokio::time::timeout(patience, self.ready(id)).await.ok();
        }
    }

    /// TLS as it is `wanted` towards a server that is no peer, offering one application protocol or
    /// none, and the name to ask for. Shows none of the identities. Waits for what it is made of to be
    /// read when it is asked for the first time. Cancel-safe.
    ///
    /// # Errors
    /// If there are no roots, a name is none, or what is to be shown cannot be read.
    pub async fn originate(
        &self,
        wanted: &Origination,
        alpn: Option<&'static str>,
    ) -> Result<(TlsConnector, ServerName<'static>), OriginationError> {
        self.0.originations.connector(wanted, alpn).await
    }

    /// Says where credentials of rules come from; from nowhere before.
    pub fn set_credential_sources(&self, sources: CredentialSources) {
        self.0.credentials.send_replace(sources);
    }

    /// TLS as `source` to a peer that must be one of `expected`.
    ///
    /// # Errors
    /// If `source` has no valid certificate.
    pub fn client(
        &self,
        source: &SpiffeId,
        expected: &[SpiffeId],
        alpn: Alpn,
    ) -> Result<TlsConnector, IdentityError> {
        let live = self.0.core.table.borrow().live(source)?;
        live.client(&self.0.core.provider, expected, alpn)
            .map(TlsConnector::from)
            .map_err(live.misconfigured())
    }

    /// TLS as `local` for clients of the own trust domain and its aliases, by `alpn` if they offer it.
    ///
    /// # Errors
    /// If `local` has no valid certificate.
    pub fn server(&self, local: &SpiffeId, alpn: Alpn) -> Result<TlsAcceptor, IdentityError> {
        let live = self.0.core.table.borrow().live(local)?;
        Ok(TlsAcceptor::from(live.servers.speaking(alpn)))
    }

    /// A number that grows with every change of `id`'s certificate or of the trusted roots.
    /// 0 while there is no certificate.
    pub fn generation(&self, id: &SpiffeId) -> u64 {
        let table = self.0.core.table.borrow();
        let live = table.entries.get(id).and_then(|entry| entry.live.as_ref());
        live.map_or(0, |live| live.generation)
    }

    /// The trust domain of this node.
    pub fn trust_domain(&self) -> &str {
        self.0.core.authority.trust_domain()
    }

    /// All identities, in order.
    pub fn list(&self) -> Vec<CertificateView> {
        let table = self.0.core.table.borrow();
        let roots: Vec<String> = table.trust.roots().iter().map(issue::serial_of).collect();
        table
            .entries
            .iter()
            .map(|(identity, entry)| entry.view(identity, roots.clone()))
            .collect()
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.trust_domain())
    }
}

impl Core {
    /// Makes a certificate the live one of `identity`.
    fn publish(&self, identity: &SpiffeId, issued: Issued) -> Result<(), IssueError> {
        let roots = issued.roots.clone();
        self.change_trust(|trust| trust.issuers = roots);
        self.install(identity, issued).map_err(IssueError::UseKey)
    }

    /// Makes TLS of a certificate, and that the live one.
    fn install(&self, identity: &SpiffeId, issued: Issued) -> Result<(), rustls::Error> {
        let mut made = Ok(());
        // Trust must not change between making it and its being there.
        self.table.send_if_modified(|table| {
            let live = match self.live(identity, issued, &table.trust) {
                Ok(live) => live,
                Err(error) => {
                    made = Err(error);
                    return false;
                }
            };
            tracing::debug!(%identity, serial = live.issued.serial, generation = live.generation, "certificate in use");
            let entry = table.entries.entry(identity.clone()).or_default();
            entry.live = Some(Arc::new(live));
            entry.error = None;
            true
        });
        made
    }

    fn note_failure(&self, identity: &SpiffeId, error: &IssueError, failures: u32) {
        let text = chain_text(error);
        tracing::warn!(%identity, failures, error = text, "no certificate issued, will try again");
        self.table.send_modify(|table| {
            table.entries.entry(identity.clone()).or_default().error = Some(text);
        });
    }

    fn keep_only(&self, identities: &BTreeSet<SpiffeId>) {
        self.table.send_if_modified(|table| {
            let before = table.entries.len();
            table.entries.retain(|id, _| identities.contains(id));
            let mut changed = table.entries.len() != before;
            for identity in identities {
                if !table.entries.contains_key(identity) {
                    table.entries.insert(identity.clone(), Entry::default());
                    changed = true;
                }
            }
            changed
        });
    }

    fn live(
        &self,
        identity: &SpiffeId,
        issued: Issued,
        trust: &Trust,
    ) -> Result<Live, rustls::Error> {
        let key = Arc::clone(&issued.key);
        let roots = Arc::clone(&trust.store);
        let terms = Terms {
            domains: trust.domains.clone(),
            revoked: self.sessions.revoked(),
        };
        let servers = tls::servers(&self.provider, key, Arc::clone(&roots), terms.clone())?;
        Ok(Live {
            identity: identity.clone(),
            generation: self.last_generation.fetch_add(1, Ordering::Relaxed) + 1,
            issued,
            roots,
            terms,
            servers,
            clients: Mutex::new(HashMap::new()),
        })
    }
}

impl Table {
    fn live(&self, identity: &SpiffeId) -> Result<Arc<Live>, IdentityError> {
        let live = self
            .entries
            .get(identity)
            .and_then(|entry| entry.live.as_ref())
            .ok_or_else(|| IdentityError::NotLive(identity.clone()))?;
        if live.issued.not_after < SystemTime::now() {
            return Err(IdentityError::Expired {
                identity: identity.clone(),
            });
        }
        Ok(Arc::clone(live))
    }
}

impl Entry {
    fn view(&self, identity: &SpiffeId, roots: Vec<String>) -> CertificateView {
        let issued = self.live.as_ref().map(|live| &live.issued);
        let state = match (issued, &self.error) {
            (None, _) => CertificateState::Waiting,
            (Some(issued), _) if issued.not_after < SystemTime::now() => CertificateState::Expired,
            (Some(_), Some(_)) => CertificateState::RenewalFailing,
            (Some(_), None) => CertificateState::Live,
        };
        CertificateView {
            identity: identity.clone(),
            state,
            serial: issued
                .map(|issued| issued.serial.clone())
                .unwrap_or_default(),
            not_before: issued.map(|issued| issued.not_before),
            not_after: issued.map(|issued| issued.not_after),
            generation: self.live.as_ref().map_or(0, |live| live.generation),
            roots,
            error: self.error.clone(),
        }
    }
}

impl Live {
    fn client(
        &self,
        provider: &Arc<CryptoProvider>,
        expected: &[SpiffeId],
        alpn: Alpn,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: ClientKey = (expected.into(), alpn);
        if let Some(config) = clients.get(&wanted) {
            return Ok(Arc::clone(config));
        }
        let (key, roots) = (Arc::clone(&self.issued.key), Arc::clone(&self.roots));
        let config = Arc::new(tls::client(
            provider,
            key,
            roots,
            (Arc::clone(&wanted.0), self.terms.clone()),
            alpn,
        )?);
        clients.insert(wanted, Arc::clone(&config));
        Ok(config)
    }

    fn misconfigured(&self) -> impl FnOnce(rustls::Error) -> IdentityError {
        let identity = self.identity.clone();
        move |source| IdentityError::Configuration { identity, source }
    }
}

/// An error and its sources in one line.
fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
