// SPDX-License-Identifier: Apache-2.0

//! Lets people and Prometheus look into the running agent: HTTP/1 on a Unix socket, and metrics
//! and readiness on a loopback address.
//!
//! Reads what others observe and changes nothing but the log level; a successor's wish to take over
//! is brought to whoever can grant it. Knows nothing of how the parts
//! work. Invariants: the socket is never reachable for other users, not even while it is made; a
//! client that is slow, gone or wrong costs the agent a bounded amount of memory and time.

mod answer;
mod body;
mod dump;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gauges;
mod hand_over;
mod opaque;
mod pods;
mod readiness;
mod rehearse;
mod routing;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "tests change what is sampled, the fuzzer does not"
    )
)]
mod samples;
mod serve;
mod socket;
mod status;
mod verify;
mod views;
mod ztunnel;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::TcpListener;

use self::{answer::Scope, serve::Listener, socket::AdminSocket};
pub use self::{
    hand_over::{Desk, HandOver, HandOverError, Successor, Wish, ask_to_hand_over, desk, is_ready},
    readiness::missing,
    views::Views,
};
use crate::tasks::Tasks;

/// The agent cannot be looked into.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// Another agent has this socket.
    #[error("another agent answers at {path}: stop it, or choose another --admin-socket")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is something else.
    #[error("{path} is not a socket: remove it, or choose another --admin-socket")]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// The socket could not be made.
    #[error("making the admin socket {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// What is answered at addresses has no authentication.
    #[error("{flag} {address} is not a loopback address: anyone could read it")]
    NotLoopback {
        /// Who asked for it.
        flag: &'static str,
        /// What was asked for.
        address: SocketAddr,
    },
    /// The address is taken, or not one of this host.
    #[error("listening at {flag} {address}")]
    Listen {
        /// Who asked for it.
        flag: &'static str,
        /// What was asked for.
        address: SocketAddr,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

impl AdminError {
    /// Whether somebody else has the place, and may give it up.
    pub fn is_taken(&self) -> bool {
        match self {
            Self::InUse { .. } => true,
            Self::Listen { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
            Self::NotASocket { .. } | Self::Socket { .. } | Self::NotLoopback { .. } => false,
        }
    }
}

/// Makes the socket at `path` and answers there until the drain begins or a successor takes the
/// place; then the socket is removed.
///
/// Returns once the socket is there.
pub async fn serve(path: &Path, views: Views, tasks: &Tasks) -> Result<(), AdminError> {
    let socket = AdminSocket::make(path)?;
    let listener = socket.listen().map_err(|source| AdminError::Socket {
        path: path.to_owned(),
        source,
    })?;
    let (views, listen_tasks) = (Arc::new(views), tasks.clone());
    tasks.spawn("admin", async move {
        serve::accept(Listener::Unix(listener), Scope::All, views, listen_tasks).await;
        // Another agent may take the place from here on.
        drop(socket);
    });
    Ok(())
}

/// Answers `/metrics` and `/ready` at `address` until the drain begins or a successor takes the
/// place; returns the address, with
/// the port that the kernel chose if it was 0.
///
/// Returns once the address is bound.
pub async fn serve_metrics(
    address: SocketAddr,
    views: Views,
    tasks: &Tasks,
) -> Result<SocketAddr, AdminError> {
    serve_at("--metrics-address", address, Scope::Metrics, views, tasks).await
}

/// Answers `/config_dump` at `address`, likewise.
pub async fn serve_ztunnel_dump(
    address: SocketAddr,
    views: Views,
    tasks: &Tasks,
) -> Result<SocketAddr, AdminError> {
    let scope = Scope::ZtunnelDump;
    serve_at("--ztunnel-dump-address", address, scope, views, tasks).await
}

async fn serve_at(
    flag: &'static str,
    address: SocketAddr,
    scope: Scope,
    views: Views,
    tasks: &Tasks,
) -> Result<SocketAddr, AdminError> {
    if !address.ip().to_canonical().is_loopback() {
        return Err(AdminError::NotLoopback { flag, address });
    }
    let failed = |source| AdminError::Listen {
        flag,
        address,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let (views, listen_tasks) = (Arc::new(views), tasks.clone());
    tasks.spawn("admin", async move {
        serve::accept(Listener::Tcp(listener), scope, views, listen_tasks).await;
    });
    Ok(bound)
}

#[cfg(test)]
mod tests;
