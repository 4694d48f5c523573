// SPDX-License-Identifier: Apache-2.0

//! Fetches key sets over HTTP, from the agent's own place in the network.
//!
//! Servers of `https` URLs must be those whom the system trusts. Redirects are not followed: who may say
//! which keys count is written in the policy. Knows nothing of when to fetch. Invariants: no answer
//! is read beyond its limit; no address of the node itself, its link or a metadata service is connected to, whatever
//! names resolve to, unless the operator says so. Reference: OpenID Connect Discovery 1.0 section 4.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream, lookup_host},
    sync::watch,
    time::timeout,
};

use super::{OriginationError, credentials::CredentialSources, originations::Originations};
use crate::{
    model::{
        Origination, Roots,
        inner::Inner,
        token::{KeyPlace, KeySet, NotKeys},
    },
    tasks::Tasks,
};

/// The largest answer that is read.
const ANSWER_MAX: usize = 1024 * 1024;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Where an issuer says where its keys are.
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Why a key set could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// It is no URL of a web server.
    #[error("{0:?} is no http or https URL")]
    Url(String),
    /// There is no TLS towards it.
    #[error("setting up TLS")]
    Tls(#[from] OriginationError),
    /// The server cannot be reached.
    #[error("connecting to {authority}")]
    Connect {
        /// Host and port.
        authority: String,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// Nothing is fetched from such addresses.
    #[error(
        "{authority} is at {address}, {}: nothing is fetched from there unless --jwks-allow has it",
        .why.as_str()
    )]
    Inner {
        /// Host and port.
        authority: String,
        /// The address.
        address: IpAddr,
        /// What is special about it.
        why: Inner,
    },
    /// It does not speak HTTP.
    #[error("asking")]
    Ask(#[source] hyper::Error),
    /// It answers something else than 200.
    #[error("the answer's status is {0}")]
    Status(StatusCode),
    /// The answer is too large, or breaks off.
    #[error("reading the answer")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is no discovery document.
    #[error("the issuer does not say jwks_uri")]
    NoKeysUrl,
    /// The answer is no key set.
    #[error("the answer is no key set")]
    Keys(#[from] NotKeys),
    /// It takes too long.
    #[error("no answer within {0:?}")]
    Late(Duration),
}

/// Fetches.
pub(super) struct Fetcher {
    originations: Originations,
    /// Networks from which keys are fetched, whatever they are.
    allowed: Vec<IpNet>,
    tasks: Tasks,
}

#[derive(Deserialize)]
struct Discovery {
    jwks_uri: String,
}

impl Fetcher {
    pub(super) fn new(allowed: Vec<IpNet>, tasks: Tasks) -> Self {
        // Whom the system trusts is all that counts here.
        let (_, none) = watch::channel(CredentialSources::default());
        Self {
            originations: Originations::new(none, &tasks),
            allowed,
            tasks,
        }
    }

    /// The key set of a place.
    pub(super) async fn key_set(&self, place: &KeyPlace) -> Result<KeySet, FetchError> {
        match timeout(place.timeout, Box::pin(self.all(place))).await {
            Ok(fetched) => fetched,
            Err(_elapsed) => Err(FetchError::Late(place.timeout)),
        }
    }

    async fn all(&self, place: &KeyPlace) -> Result<KeySet, FetchError> {
        let mut url = place.url.to_string();
        if place.discover {
            let document = format!("{}{DISCOVERY}", url.trim_end_matches('/'));
            let answer = self.get(&document).await?;
            let said: Option<Discovery> = serde_json::from_slice(&answer).ok();
            url = said.ok_or(FetchError::NoKeysUrl)?.jwks_uri;
        }
        Ok(KeySet::parse(&self.get(&url).await?)?)
    }

    async fn get(&self, url: &str) -> Result<Bytes, FetchError> {
        let target = Target::new(url).ok_or_else(|| FetchError::Url(url.to_owned()))?;
        let stream = self.connect(&target).await?;
        if !target.is_tls {
            return self.ask(stream, &target).await;
        }
        let wanted = Origination {
            server_name: Some(target.host.as_str().into()),
            names: Vec::new(),
            roots: Roots::System,
            revoked: None,
            credential: None,
            skip_verify: false,
        };
        let connector = self.originations.connector(&wanted, Some("http/1.1"));
        let (tls, name) = connector.await?;
        let stream = tls.connect(name, stream).await.map_err(|source| {
            let authority = target.authority();
            FetchError::Connect { authority, source }
        })?;
        self.ask(stream, &target).await
    }

    async fn connect(&self, target: &Target) -> Result<TcpStream, FetchError> {
        let authority = target.authority();
        let failed = |source| FetchError::Connect {
            authority: target.authority(),
            source,
        };
        let place = (target.host.as_str(), target.port);
        let addresses = lookup_host(place).await.map_err(failed)?;
        let nothing = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut last = failed(nothing);
        for address in addresses.take(ADDRESSES_MAX) {
            // What is judged is what is connected to: a name may mean something else a moment later.
            if let Some(why) = self.objection(address.ip()) {
                let (authority, address) = (authority.clone(), address.ip());
                last = FetchError::Inner {
                    authority,
                    address,
                    why,
                };
                continue;
            }
            match dial(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = failed(error),
            }
        }
        Err(last)
    }

    fn objection(&self, address: IpAddr) -> Option<Inner> {
        let why = Inner::of(address)?;
        let is_in = |network: &IpNet| network.contains(&address.to_canonical());
        (!self.allowed.iter().any(is_in)).then_some(why)
    }

    async fn ask<Stream>(&self, stream: Stream, target: &Target) -> Result<Bytes, FetchError>
    where
        Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(FetchError::Ask)?;
        let drain = self.tasks.drain();
        self.tasks.spawn("key set connection", async move {
            // Cancelling the connection closes it: nobody asks any more once the drain began.
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection for a key set ended");
                },
                () = drain.requested() => {}
            }
        });
        let request = Request::get(target.path.as_str())
            .header(header::HOST, target.authority())
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|_invalid| FetchError::Url(target.path.clone()))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(FetchError::Ask)?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|error| match error.downcast::<LengthLimitError>() {
                Ok(limit) => FetchError::Read(limit),
                Err(error) => FetchError::Read(error),
            })
    }
}

/// What a URL says.
struct Target {
    host: String,
    port: u16,
    is_tls: bool,
    path: String,
}

impl Target {
    fn new(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let is_tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Some(Self {
            host: uri.host()?.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            is_tls,
            path: path.to_owned(),
        })
    }

    /// As `Host` has it.
    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        match (self.is_tls, port) {
            (true, 443) | (false, 80) => host,
            _ => format!("{host}:{port}"),
        }
    }
}

/// Untagged: this happens in the agent's own network namespace, where nothing is captured.
async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.connect(address).await
}
