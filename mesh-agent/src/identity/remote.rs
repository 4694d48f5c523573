// SPDX-License-Identifier: Apache-2.0

//! The certificate authority behind a network: Istio's contract, as `mesh-agent control`, istiod
//! and cert-manager's istio-csr speak it.
//!
//! Owns the connection's TLS and its roots. Knows nothing of where roots come from: they are
//! handed in, and again when they change. Invariants: a token is only sent to a server whose
//! certificate leads to these roots; the private key never leaves the process.

use std::{
    fmt, fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, header};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType, string::Ia5String};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::CertificateDer};
use tokio::{sync::watch, time::timeout};

use super::{
    issue::{Answer, Authority, Chain, IssueError},
    roots::{self, RootsError},
};
use crate::{
    grpc::{
        Client, Code, Endpoint, Status, TlsSource,
        messages::{CREATE_CERTIFICATE, CreateCertificateRequest, CreateCertificateResponse},
    },
    model::SpiffeId,
    tasks::Tasks,
};

/// How to reach an authority.
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// `HOST:PORT`.
    pub address: String,
    /// File with the agent's token, read for every request.
    pub token: PathBuf,
    /// The name that the authority knows this cluster by.
    pub cluster_id: String,
    /// The trust domain of the identities that are asked for.
    pub trust_domain: String,
    /// Where roots come from, for people.
    pub roots_from: String,
}

/// An authority behind Istio's contract. Clones share connection and roots.
#[derive(Clone)]
pub struct RemoteAuthority(Arc<Remote>);

struct Remote {
    settings: RemoteSettings,
    client: Client,
    roots: watch::Sender<Vec<CertificateDer<'static>>>,
}

/// Why an authority gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// No root to verify the authority against.
    #[error("there are no roots yet to verify {address} against: {from} has none")]
    NoRoots {
        /// The authority.
        address: String,
        /// Where they should come from.
        from: String,
    },
    /// The token cannot be read.
    #[error(
        "reading the token {}: is a projected service account token (audience istio-ca) mounted there?",
        path.display()
    )]
    Token {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file holds no token.
    #[error("{} holds no token", path.display())]
    NoToken {
        /// The file.
        path: PathBuf,
    },
    /// No signing request could be made.
    #[error("making a signing request")]
    Request(#[from] rcgen::Error),
    /// It did not answer.
    #[error("{address} cannot be reached")]
    Unreachable {
        /// The authority.
        address: String,
        /// What happened.
        #[source]
        source: Status,
    },
    /// It refused.
    #[error("{address} refused")]
    Refused {
        /// The authority.
        address: String,
        /// What it said.
        #[source]
        source: Status,
    },
    /// Its roots cannot be read.
    #[error("the roots in its answer")]
    Roots(#[source] RootsError),
}

/// For one certificate, all attempts to connect included.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long a request waits for the first roots before it fails.
const ROOTS_PATIENCE: Duration = Duration::from_secs(5);

impl RemoteAuthority {
    /// Knows no roots yet: see [`RemoteAuthority::set_roots`].
    pub fn new(settings: RemoteSettings, tasks: Tasks) -> Self {
        let roots = watch::Sender::new(Vec::new());
        let tls = tls_source(&settings, roots.subscribe());
        let endpoint = Endpoint {
            server_name: server_name(&settings.address),
            address: settings.address.clone(),
        };
        Self(Arc::new(Remote {
            client: Client::new(endpoint, tls, tasks),
            roots,
            settings,
        }))
    }

    /// Sets the roots that the authority's own certificate is verified against.
    pub fn set_roots(&self, roots: Vec<CertificateDer<'static>>) {
        let changed = self.0.roots.send_if_modified(|known| {
            let changed = *known != roots;
            *known = roots;
            changed
        });
        if changed {
            // What failed for want of the right root may work now.
            self.0.client.reconnect();
        }
    }

    /// A client of another replica of the authority, at `address`, verified as this one is.
    pub fn client_at(&self, address: String, tasks: Tasks) -> Client {
        let endpoint = Endpoint {
            address,
            server_name: server_name(&self.0.settings.address),
        };
        let tls = tls_source(&self.0.settings, self.0.roots.subscribe());
        Client::new(endpoint, tls, tasks)
    }

    /// The client of the authority's own address.
    pub fn client(&self) -> Client {
        self.0.client.clone()
    }

    /// What says who asks.
    ///
    /// # Errors
    /// There is no token.
    pub fn credentials(&self) -> Result<HeaderMap, RemoteError> {
        self.0.settings.credentials()
    }

    async fn ask(
        &self,
        identity: &SpiffeId,
        key: &KeyPair,
        ttl: Duration,
    ) -> Result<Chain, RemoteError> {
        let Remote {
            settings,
            client,
            roots,
        } = &*self.0;
        let mut known = roots.subscribe();
        let any = known.wait_for(|roots| !roots.is_empty());
        if timeout(ROOTS_PATIENCE, any).await.is_err() {
            return Err(RemoteError::NoRoots {
                address: settings.address.clone(),
                from: settings.roots_from.clone(),
            });
        }
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let csr = signing_request(identity, key)?;
        let request = CreateCertificateRequest::impersonating(csr, seconds, identity.as_str());
        let credentials = settings.credentials()?;
        let answer: Result<CreateCertificateResponse, Status> = client
            .unary(CREATE_CERTIFICATE, credentials, &request, DEADLINE)
            .await;
        let answer = answer.map_err(|status| settings.failed(status))?;
        chain(&answer.cert_chain).map_err(RemoteError::Roots)
    }
}

impl Authority for RemoteAuthority {
    fn trust_domain(&self) -> &str {
        &self.0.settings.trust_domain
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.0.roots.borrow().clone()
    }

    fn issue<'a>(&'a self, identity: &'a SpiffeId, key: &'a KeyPair, ttl: Duration) -> Answer<'a> {
        Box::pin(async move {
            self.ask(identity, key, ttl)
                .await
                .map_err(|error| IssueError::Authority(Box::new(error)))
        })
    }
}

impl fmt::Debug for RemoteAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteAuthority({})", self.0.settings.address)
    }
}

impl RemoteSettings {
    fn credentials(&self) -> Result<HeaderMap, RemoteError> {
        let path = &self.token;
        let token = fs::read_to_string(path).map_err(|source| RemoteError::Token {
            path: path.clone(),
            source,
        })?;
        let no_token = || RemoteError::NoToken { path: path.clone() };
        if token.trim().is_empty() {
            return Err(no_token());
        }
        let bearer = HeaderValue::try_from(format!("Bearer {}", token.trim()));
        let Ok(mut bearer) = bearer else {
            return Err(no_token());
        };
        bearer.set_sensitive(true);
        let mut metadata = HeaderMap::new();
        metadata.insert(header::AUTHORIZATION, bearer);
        if let Ok(cluster) = HeaderValue::try_from(&self.cluster_id) {
            metadata.insert("clusterid", cluster);
        }
        Ok(metadata)
    }

    fn failed(&self, status: Status) -> RemoteError {
        let (address, source) = (self.address.clone(), status);
        match source.code {
            Code::Unavailable | Code::DeadlineExceeded => {
                RemoteError::Unreachable { address, source }
            }
            _ => RemoteError::Refused { address, source },
        }
    }
}

/// The host of `HOST:PORT`, without an IPv6 address's brackets.
fn server_name(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned()
}

/// Makes TLS of the present roots, once for each set of them.
fn tls_source(
    settings: &RemoteSettings,
    roots: watch::Receiver<Vec<CertificateDer<'static>>>,
) -> TlsSource {
    let (address, from) = (settings.address.clone(), settings.roots_from.clone());
    let made: Mutex<Option<(Vec<CertificateDer<'static>>, Arc<ClientConfig>)>> = Mutex::new(None);
    Arc::new(move || {
        let roots = roots.borrow().clone();
        if roots.is_empty() {
            let (address, from) = (address.clone(), from.clone());
            return Err(RemoteError::NoRoots { address, from }.to_string());
        }
        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some((of, config)) if *of == roots => Ok(Arc::clone(config)),
            _ => {
                let config = Arc::new(client_config(&roots).map_err(|error| error.to_string())?);
                *made = Some((roots, Arc::clone(&config)));
                Ok(config)
            }
        }
    })
}

/// TLS 1.2 is allowed, too: the authority may be anybody's.
fn client_config(roots: &[CertificateDer<'static>]) -> Result<ClientConfig, rustls::Error> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

pub(super) fn signing_request(identity: &SpiffeId, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity.as_str())?)];
    params.serialize_request(key)?.pem()
}

/// The leaf and intermediates, one certificate each, then all roots in the last text.
pub(super) fn chain(texts: &[String]) -> Result<Chain, RootsError> {
    let (last, before) = texts.split_last().ok_or(RootsError::Empty)?;
    let mut certificates = Vec::new();
    for text in before {
        certificates.extend(roots::parse_roots(text)?);
    }
    let roots = roots::parse_roots(last)?;
    Ok(Chain {
        certificates,
        roots,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::CertificateAuthority;

    #[test]
    fn the_server_name_is_the_host_of_the_address() {
        assert_eq!(server_name("ca.mesh.svc:15012"), "ca.mesh.svc");
        assert_eq!(server_name("[::1]:15012"), "::1");
        assert_eq!(server_name("10.0.0.1:15012"), "10.0.0.1");
    }

    #[test]
    fn roots_are_the_last_text_and_may_be_several() {
        let root = || {
            let authority = CertificateAuthority::in_memory("a.b").unwrap();
            authority.root().clone()
        };
        let (leaf, one, two) = (root(), root(), root());
        let texts = [roots::to_pem([&leaf]), roots::to_pem([&one, &two])];
        let chain = chain(&texts).unwrap();
        assert_eq!(chain.certificates, [leaf]);
        assert_eq!(chain.roots, [one, two]);
        assert!(super::chain(&[]).is_err());
    }

    #[test]
    fn a_signing_request_has_one_name_and_no_subject() {
        use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
        use x509_parser::prelude::{FromDer, X509CertificationRequest};

        let id = SpiffeId::new("a.b", "ns", "sa");
        let text = signing_request(&id, &KeyPair::generate().unwrap()).unwrap();
        let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).unwrap();
        let (_, csr) = X509CertificationRequest::from_der(&der).unwrap();
        csr.verify_signature().unwrap();
        let info = &csr.certification_request_info;
        assert_eq!(info.subject.iter().count(), 0);
        assert_eq!(csr.requested_extensions().unwrap().count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_is_named() {
        let settings = RemoteSettings {
            address: "ca.test:15012".to_owned(),
            token: "/nonexistent/token".into(),
            cluster_id: "Kubernetes".to_owned(),
            trust_domain: "a.b".to_owned(),
            roots_from: "ConfigMap mesh-system/mesh-agent-ca-roots".to_owned(),
        };
        let remote = RemoteAuthority::new(settings, Tasks::new());
        let (id, key) = (SpiffeId::new("a.b", "n", "s"), KeyPair::generate().unwrap());
        let ask = async || {
            let refusal = remote.ask(&id, &key, Duration::from_secs(60)).await;
            refusal.unwrap_err().to_string()
        };
        assert!(
            ask()
                .await
                .contains("ConfigMap mesh-system/mesh-agent-ca-roots has none")
        );
        let authority = CertificateAuthority::in_memory("a.b").unwrap();
        remote.set_roots(vec![authority.root().clone()]);
        assert!(ask().await.contains("/nonexistent/token"));
    }
}
