// SPDX-License-Identifier: Apache-2.0

//! Requests to the API server: one answer, or lines as they come.
//!
//! Knows paths and bytes, not what they mean. Invariant: no request waits for ever, whatever the
//! server or the network does.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response, header::ACCEPT};
use http_body_util::BodyExt;
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::time::timeout;

use super::parse;
use crate::telemetry::chain;

/// A connection that is not there after this is given up.
const CONNECT: Duration = Duration::from_secs(5);

/// How long the head of an answer may take.
const HEAD: Duration = Duration::from_secs(30);

/// How long one answer may take as a whole, however large.
const WHOLE: Duration = Duration::from_secs(120);

/// A watch without any line for so long is dead: the server sends a bookmark every minute.
const SILENCE: Duration = Duration::from_secs(180);

/// A line that is longer is no object: etcd takes no more than 1.5 MiB.
const LONGEST_LINE: usize = 16 << 20;

/// The Kubernetes API cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// The file that says how to reach it is not usable.
    #[error("kubeconfig {path}: {}", chain(cause))]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: Box<kube::config::KubeconfigError>,
    },
    /// There is no service account.
    #[error(
        "this is no pod with a service account ({}): name a kubeconfig with --kubeconfig or manifests with --config-dir",
        chain(.0)
    )]
    InCluster(Box<kube::config::InClusterError>),
    /// It did not tell all it has.
    #[error("not everything could be read within half a minute: {}", problems.join("; "))]
    Unanswered {
        /// What is wrong so far.
        problems: Vec<String>,
    },
    /// What is configured does not make a client.
    #[error("client of the Kubernetes API: {}", chain(.0))]
    Client(Box<kube::Error>),
}

/// A request was not answered as it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    #[error("no answer: {}", chain(.0))]
    Unreachable(Box<kube::Error>),
    #[error("the answer broke off: {}", chain(.0))]
    BrokeOff(Box<kube::Error>),
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// Code and message of the server.
    #[error("{code}: {message}")]
    Refused { code: u16, message: String },
    #[error("the answer is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("a line of more than {LONGEST_LINE} bytes")]
    TooLong,
    #[error("the watch ended at once")]
    Short,
}

impl ServerError {
    /// What the client knows is too old to go on from.
    pub(super) fn is_expired(&self) -> bool {
        matches!(self, Self::Refused { code: 410, .. })
    }

    /// There is no such resource.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }
}

/// The API server. Clones share its connections.
#[derive(Clone)]
pub(super) struct Server {
    client: Client,
}

impl Server {
    /// The server that `kubeconfig` names, or the one of the cluster that this runs in. Asks it
    /// nothing.
    pub(super) async fn new(kubeconfig: Option<&Path>) -> Result<Self, KubeError> {
        let config = match kubeconfig {
            Some(path) => {
                let of_file = |source| KubeError::Kubeconfig {
                    path: path.to_owned(),
                    cause: Box::new(source),
                };
                let read = Kubeconfig::read_from(path).map_err(of_file)?;
                Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                    .await
                    .map_err(of_file)?
            }
            None => Config::incluster().map_err(|source| KubeError::InCluster(Box::new(source)))?,
        };
        Self::to(config)
    }

    /// The server that `config` names.
    pub(super) fn to(mut config: Config) -> Result<Self, KubeError> {
        config.connect_timeout = Some(CONNECT);
        // The caller backs off, and says so.
        config.default_retry = false;
        let client =
            Client::try_from(config).map_err(|source| KubeError::Client(Box::new(source)))?;
        Ok(Self { client })
    }

    /// The whole answer.
    pub(super) async fn get(&self, path: &str, accept: &str) -> Result<Bytes, ServerError> {
        let whole = async {
            let response = self.send(path, accept).await?;
            collect(response.into_body()).await
        };
        // Cancel-safe: an answer that comes too late is of no use.
        match timeout(WHOLE, whole).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(ServerError::Silent(WHOLE)),
        }
    }

    /// The answer, line by line.
    pub(super) async fn lines(&self, path: &str, accept: &str) -> Result<Lines, ServerError> {
        let response = self.send(path, accept).await?;
        Ok(Lines {
            body: response.into_body(),
            buffer: BytesMut::new(),
            searched: 0,
        })
    }

    async fn send(&self, path: &str, accept: &str) -> Result<Response<Body>, ServerError> {
        let request = Request::get(path)
            .header(ACCEPT, accept)
            .body(Body::empty())
            .map_err(|error| ServerError::Unreachable(Box::new(kube::Error::HttpError(error))))?;
        let response = match timeout(HEAD, self.client.send(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(ServerError::Unreachable(Box::new(error))),
            Err(_elapsed) => return Err(ServerError::Silent(HEAD)),
        };
        let code = response.status().as_u16();
        if code == 200 {
            return Ok(response);
        }
        let body = match timeout(HEAD, collect(response.into_body())).await {
            Ok(body) => body.unwrap_or_default(),
            Err(_elapsed) => Bytes::new(),
        };
        let status = serde_json::from_slice(&body).unwrap_or_default();
        Err(ServerError::Refused {
            code,
            message: parse::message(&status),
        })
    }
}

async fn collect(body: Body) -> Result<Bytes, ServerError> {
    match body.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(ServerError::BrokeOff(Box::new(error))),
    }
}

/// The lines of an answer that goes on.
pub(super) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer holds no end of a line.
    searched: usize,
}

impl Lines {
    /// The next line without its end; `None` once the server ended the answer.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ServerError> {
        loop {
            let unsearched = &self.buffer[self.searched..];
            if let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > LONGEST_LINE {
                return Err(ServerError::TooLong);
            }
            let frame = match timeout(SILENCE, self.body.frame()).await {
                Ok(frame) => frame,
                Err(_elapsed) => return Err(ServerError::Silent(SILENCE)),
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.buffer.extend_from_slice(&bytes);
                    }
                }
                Some(Err(error)) => return Err(ServerError::BrokeOff(Box::new(error))),
                // A torn last line is no line.
                None => return Ok(None),
            }
        }
    }
}
