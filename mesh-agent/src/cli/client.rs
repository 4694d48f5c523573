// SPDX-License-Identifier: Apache-2.0

//! Finds the admin socket and asks it: one HTTP/1.1 exchange per command, blocking.
//!
//! Knows nothing of what the answers mean. Invariant: an answer cut short is an error, never a
//! shorter answer (RFC 9112 section 8).

use std::{
    borrow::Cow,
    fs,
    io::{self, Read, Write},
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::CliError;
use crate::settings::{ClientSettings, SOCKET_DIR};

/// The agent answers from memory; longer than this means that it hangs.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An agent's admin socket.
pub(super) struct Client {
    path: PathBuf,
}

impl Client {
    /// The socket that `settings` names, else the only one there is.
    pub(super) fn find(settings: &ClientSettings) -> Result<Self, CliError> {
        Self::find_in(settings.socket.as_deref(), Path::new(SOCKET_DIR))
    }

    pub(super) fn find_in(named: Option<&Path>, dir: &Path) -> Result<Self, CliError> {
        if let Some(path) = named {
            return Ok(Self {
                path: path.to_owned(),
            });
        }
        let mut found = sockets(dir)?;
        match found.len() {
            0 => Err(CliError::NoSocket {
                dir: dir.to_owned(),
            }),
            1 => Ok(Self {
                path: found.remove(0),
            }),
            _ => {
                found.sort();
                Err(CliError::SeveralSockets { found })
            }
        }
    }

    /// What the agent answers to `GET path`, as JSON.
    pub(super) fn get_json(&self, path: &str) -> Result<Value, CliError> {
        self.json(&self.exchange("GET", path)?)
    }

    /// What the agent answers to `PUT path`, as JSON.
    pub(super) fn put_json(&self, path: &str) -> Result<Value, CliError> {
        self.json(&self.exchange("PUT", path)?)
    }

    /// What the agent answers to `GET path`, as text.
    pub(super) fn get_text(&self, path: &str) -> Result<String, CliError> {
        String::from_utf8(self.exchange("GET", path)?)
            .map_err(|_not_text| self.not_an_agent("the answer is not text"))
    }

    fn json(&self, body: &[u8]) -> Result<Value, CliError> {
        serde_json::from_slice(body)
            .map_err(|error| self.not_an_agent(&format!("the answer is not JSON: {error}")))
    }

    /// What keeps the agent from being ready; nothing if it is.
    pub(super) fn missing(&self) -> Result<Vec<String>, CliError> {
        let (status, body) = self.converse(self.connect()?, "GET", "/ready")?;
        let answer = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        match answer["missing"].as_array() {
            Some(missing) => Ok(missing
                .iter()
                .filter_map(|it| it.as_str().map(str::to_owned))
                .collect()),
            None => Err(CliError::Refused(refusal(status, &body))),
        }
    }

    /// Whether the agent and this command are in one container.
    ///
    /// # Errors
    /// It cannot be told, or they are not.
    pub(super) fn is_of_our_container(&self) -> Result<(), CliError> {
        let stream = self.connect()?;
        let failed = |source| CliError::Exchange {
            path: self.path.clone(),
            source,
        };
        let agent = listener_of(stream).map_err(failed)?;
        let mounts = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt"));
        let ours = mounts("self").map_err(failed)?;
        match mounts(&agent.to_string()) {
            Ok(theirs) if theirs == ours => Ok(()),
            // Not to be seen from here: of another container for sure.
            _ => Err(CliError::NotOurs {
                path: self.path.clone(),
                agent,
            }),
        }
    }

    fn connect(&self) -> Result<UnixStream, CliError> {
        UnixStream::connect(&self.path).map_err(|source| self.unreached(source))
    }

    fn exchange(&self, method: &str, path: &str) -> Result<Vec<u8>, CliError> {
        let (status, body) = self.converse(self.connect()?, method, path)?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        Err(CliError::Refused(refusal(status, &body)))
    }

    fn converse(
        &self,
        mut stream: UnixStream,
        method: &str,
        path: &str,
    ) -> Result<(u16, Vec<u8>), CliError> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: mesh-agent\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        let answer = (|| {
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            // In one write: who refuses early need not read the rest first.
            stream.write_all(request.as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        })()
        .map_err(|source| CliError::Exchange {
            path: self.path.clone(),
            source,
        })?;
        let (status, body) = split(&answer).map_err(|reason| self.not_an_agent(reason))?;
        Ok((status, body.into_owned()))
    }

    fn unreached(&self, source: io::Error) -> CliError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => CliError::Permission { path, source },
            _ => CliError::NotRunning { path, source },
        }
    }

    fn not_an_agent(&self, reason: &str) -> CliError {
        CliError::NotAnAgent {
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// The process that listens at the other end.
fn listener_of(stream: UnixStream) -> io::Result<i32> {
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let _entered = runtime.enter();
    let stream = tokio::net::UnixStream::from_std(stream)?;
    let process = stream.peer_cred()?.pid();
    process.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

fn sockets(dir: &Path) -> Result<Vec<PathBuf>, CliError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            return Err(CliError::Permission {
                path: dir.to_owned(),
                source,
            });
        }
        Err(_absent) => return Ok(Vec::new()),
    };
    Ok(entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .map(|entry| entry.path())
        // What an agent left behind when it was killed is no agent.
        .filter(|path| {
            UnixStream::connect(path).map_or_else(
                |error| error.kind() == io::ErrorKind::PermissionDenied,
                |_| true,
            )
        })
        .collect())
}

/// The text of the agent's own refusal, if it gave one.
fn refusal(status: u16, body: &[u8]) -> String {
    let text = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|value| value["error"].as_str().map(str::to_owned));
    text.unwrap_or_else(|| {
        format!(
            "the agent answered {status}: {}",
            String::from_utf8_lossy(body).trim()
        )
    })
}

/// Splits an answer into status and body (RFC 9112 sections 4 and 6).
fn split(answer: &[u8]) -> Result<(u16, Cow<'_, [u8]>), &'static str> {
    const CUT_SHORT: &str = "the answer was cut short";
    let (head, body) = split_once(answer, b"\r\n\r\n").ok_or("the answer has no head")?;
    let head = str::from_utf8(head).map_err(|_not_text| "the head is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok())
        .ok_or("the answer is not HTTP/1.1")?;
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let value = |name: &str| {
        let named = headers
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim())
    };
    if value("transfer-encoding") == Some("chunked") {
        return Ok((status, unchunk(body).ok_or(CUT_SHORT)?.into()));
    }
    let length = value("content-length").and_then(|length| length.parse::<usize>().ok());
    match length {
        None => Err("the answer has no length"),
        Some(length) if length == body.len() => Ok((status, body.into())),
        Some(_other) => Err(CUT_SHORT),
    }
}

fn split_once<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let start = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..start], &bytes[start + at.len()..]))
}

/// Joins chunks; `None` if the last one is missing (RFC 9112 section 7.1).
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::with_capacity(rest.len());
    loop {
        let (size, tail) = split_once(rest, b"\r\n")?;
        let size = usize::from_str_radix(str::from_utf8(size).ok()?, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        let (chunk, tail) = tail.split_at_checked(size)?;
        body.extend_from_slice(chunk);
        rest = tail.strip_prefix(b"\r\n")?;
    }
}

/// Percent-encodes what stands after `=` in a query (RFC 3986 section 2.1).
pub(super) fn query_value(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
