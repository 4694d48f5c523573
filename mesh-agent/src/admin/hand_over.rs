// SPDX-License-Identifier: Apache-2.0

//! `POST /hand-over`: a successor of the same node asks for the kernel side.
//!
//! Owns the conversation between two agents, both ends of it. What is handed over and how, the
//! agent decides; it answers when the successor may begin. Decision: `docs/adr/0006-hand-over.md`.
//!
//! Invariants: only a process of our own user is heard; a wish is granted at most once, and who
//! granted it answers at neither the socket nor the metrics address any more, as both are the
//! successor's.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
};

/// An agent answers at once, or hangs.
const ANSWER: Duration = Duration::from_secs(10);

/// An answer is a line.
const ANSWER_MAX_BYTES: u64 = 64 * 1024;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// Its version.
    pub version: String,
    /// The version of what it pins.
    pub abi: u32,
    /// Where its admin socket will be.
    pub socket: PathBuf,
}

/// What the admin socket does with a successor's wish. Without a [`Desk`] every wish is refused.
#[derive(Clone, Debug, Default)]
pub struct HandOver(Option<Arc<Counter>>);

#[derive(Debug)]
struct Counter {
    wishes: mpsc::Sender<Wish>,
    closed: watch::Receiver<bool>,
}

/// The agent's side: where wishes arrive.
#[derive(Debug)]
pub struct Desk {
    wishes: mpsc::Receiver<Wish>,
    closed: watch::Sender<bool>,
}

/// A successor waits for an answer; it is refused if this is dropped.
#[derive(Debug)]
pub struct Wish {
    /// Who.
    pub successor: Successor,
    answer: oneshot::Sender<Result<(), String>>,
}

/// A running agent does not hand over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandOverError {
    /// Nobody is there, or not in time.
    #[error("nobody answers at the admin socket {path}")]
    Unreached {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The socket belongs to somebody else.
    #[error("the admin socket {path} is answered by user {uid}, not by ours")]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Who answers.
        uid: u32,
    },
    /// It is of a version before this one.
    #[error("the running agent is of a version that cannot hand over")]
    Unable,
    /// It has a reason.
    #[error("the running agent refuses: {0}")]
    Refused(String),
}

/// A desk, and what the admin socket needs to bring wishes to it.
pub fn desk() -> (HandOver, Desk) {
    let (sender, wishes) = mpsc::channel(1);
    let closed = watch::Sender::new(false);
    let counter = Counter {
        wishes: sender,
        closed: closed.subscribe(),
    };
    (HandOver(Some(Arc::new(counter))), Desk { wishes, closed })
}

impl Desk {
    /// The next wish; never, once the admin socket is gone. Cancel-safe.
    pub async fn wish(&mut self) -> Wish {
        match self.wishes.recv().await {
            Some(wish) => wish,
            None => std::future::pending().await,
        }
    }

    /// Gives the admin socket and the metrics address up.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }
}

impl Wish {
    /// The successor may begin.
    pub fn grant(self) {
        // Whether it still waits is its business: the kernel side is free either way.
        drop(self.answer.send(Ok(())));
    }

    /// It may not.
    pub fn refuse(self, reason: String) {
        drop(self.answer.send(Err(reason)));
    }
}

impl HandOver {
    /// Brings a wish to the desk and waits for the answer.
    pub(super) async fn ask(&self, successor: Successor) -> Result<(), String> {
        const NOBODY: &str = "it is not running normally";
        let counter = self.0.as_ref().ok_or(NOBODY)?;
        let (answer, answered) = oneshot::channel();
        let wish = Wish { successor, answer };
        if counter.wishes.send(wish).await.is_err() {
            return Err(NOBODY.to_owned());
        }
        match answered.await {
            Ok(answer) => answer,
            Err(_dropped) => Err("it is stopping".to_owned()),
        }
    }

    /// Resolves when the socket and the address are to be given up. Cancel-safe.
    pub(super) async fn closed(&self) {
        match &self.0 {
            Some(counter) => {
                let mut closed = counter.closed.clone();
                if closed.wait_for(|closed| *closed).await.is_err() {
                    // The desk is gone: whoever drains ends the rest.
                    std::future::pending::<()>().await;
                }
            }
            None => std::future::pending().await,
        }
    }
}

impl Successor {
    /// The request's target.
    fn target(&self) -> String {
        let socket: String = self
            .socket
            .to_string_lossy()
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect();
        let Self { version, abi, .. } = self;
        format!("/hand-over?version={version}&abi={abi}&socket={socket}")
    }
}

/// Asks the agent at `socket` to hand over to `successor`; when this is `Ok` it has let go.
///
/// # Errors
/// See [`HandOverError`].
pub async fn ask_to_hand_over(socket: &Path, successor: &Successor) -> Result<(), HandOverError> {
    let (status, body) = exchange(socket, "POST", &successor.target()).await?;
    match status {
        200..300 => Ok(()),
        404 | 405 => Err(HandOverError::Unable),
        _ => {
            let reason = serde_json::from_slice::<serde_json::Value>(&body)
                .ok()
                .and_then(|body| body["error"].as_str().map(str::to_owned));
            Err(HandOverError::Refused(
                reason.unwrap_or_else(|| format!("it answers {status}")),
            ))
        }
    }
}

/// Whether the agent at `socket` has everything in place.
pub async fn is_ready(socket: &Path) -> bool {
    matches!(exchange(socket, "GET", "/ready").await, Ok((200, _)))
}

/// One request and its answer: status and body.
async fn exchange(
    socket: &Path,
    method: &str,
    target: &str,
) -> Result<(u16, Vec<u8>), HandOverError> {
    let unreached = |source| HandOverError::Unreached {
        path: socket.to_owned(),
        source,
    };
    let conversation = async {
        let mut stream = UnixStream::connect(socket).await.map_err(unreached)?;
        let uid = stream.peer_cred().map_err(unreached)?.uid();
        if uid != own_uid().map_err(unreached)? {
            let path = socket.to_owned();
            return Err(HandOverError::Stranger { path, uid });
        }
        let request =
            format!("{method} {target} HTTP/1.1\r\nhost: mesh-agent\r\nconnection: close\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(unreached)?;
        let mut answer = Vec::new();
        let mut limited = stream.take(ANSWER_MAX_BYTES);
        limited.read_to_end(&mut answer).await.map_err(unreached)?;
        parse(&answer).ok_or_else(|| unreached(io::ErrorKind::UnexpectedEof.into()))
    };
    // Cancel-safe: what is given up is the whole conversation.
    match tokio::time::timeout(ANSWER, conversation).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(unreached(io::ErrorKind::TimedOut.into())),
    }
}

/// Status and body; `None` if there is no whole head. The body may be cut short: it only explains.
pub(super) fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let status = str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()?;
    Some((status, answer[end + 4..].to_vec()))
}

/// The user that we are, as the other end of a socket sees it.
pub(super) fn own_uid() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_whole_head_is_none() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(
            parse(b"HTTP/1.1 409 Conflict\r\na: b\r\n\r\n{}"),
            Some((409, b"{}".to_vec()))
        );
    }

    #[test]
    fn a_socket_with_odd_letters_survives_the_request_target() {
        let successor = Successor {
            version: "1.2.3".to_owned(),
            abi: 4,
            socket: "/run/a b&c.sock".into(),
        };
        assert_eq!(
            successor.target(),
            "/hand-over?version=1.2.3&abi=4&socket=/run/a%20b%26c.sock"
        );
    }
}
