// SPDX-License-Identifier: Apache-2.0

//! `mesh-agent cleanup`: removes what agents left on this node, and says what.
//!
//! Knows nothing of what is pinned. Invariants: nothing of a node whose agent runs is touched; a
//! second run finds nothing.

use std::{
    fs, io,
    io::Write,
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use super::{PIN_ROOT, default_pin_dir};
use crate::{
    datapath,
    settings::{CleanupSettings, SOCKET_DIR},
};

/// Removes it.
///
/// # Errors
/// An agent runs, or something cannot be removed.
pub fn cleanup(settings: &CleanupSettings) -> anyhow::Result<()> {
    let mut removed = Vec::new();
    // First of all, so that a running agent is found before anything is removed.
    for pin_dir in pin_directories(settings)? {
        let pins = datapath::cleanup(&pin_dir)
            .with_context(|| format!("kernel programs in {}", pin_dir.display()))?;
        removed.extend(pins);
    }
    for socket in sockets(settings) {
        removed.extend(remove_socket(&socket)?);
    }
    // Only where it is empty now.
    drop(fs::remove_dir(SOCKET_DIR));
    if let Some(state) = &settings.state_dir {
        removed.extend(remove_state(state)?);
    }
    say(&removed).context("writing the output")
}

/// Where something may be pinned.
fn pin_directories(settings: &CleanupSettings) -> anyhow::Result<Vec<PathBuf>> {
    match (&settings.pin_dir, &settings.node) {
        (Some(pin_dir), _) => Ok(vec![pin_dir.clone()]),
        (None, Some(node)) => Ok(vec![default_pin_dir(node)]),
        (None, None) => entries(Path::new(PIN_ROOT)),
    }
}

fn sockets(settings: &CleanupSettings) -> Vec<PathBuf> {
    match (&settings.admin_socket, &settings.node) {
        (Some(socket), _) => vec![socket.clone()],
        (None, Some(node)) => vec![Path::new(SOCKET_DIR).join(format!("{node}.sock"))],
        // With a pin directory of one's own and no node there is no telling which socket.
        (None, None) if settings.pin_dir.is_some() => Vec::new(),
        (None, None) => entries(Path::new(SOCKET_DIR))
            .unwrap_or_default()
            .into_iter()
            .filter(|path| path.extension().is_some_and(|end| end == "sock"))
            .collect(),
    }
}

fn entries(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| directory.display().to_string()),
    }
}

/// Removes a socket that nobody answers, and its lock.
fn remove_socket(path: &Path) -> anyhow::Result<Option<String>> {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    let is_socket = fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_ok() {
        bail!("an agent answers at {}; stop it first", path.display());
    }
    let had_lock = fs::remove_file(lock).is_ok();
    if !is_socket {
        return Ok(had_lock.then(|| format!("the lock of the admin socket {}", path.display())));
    }
    fs::remove_file(path).with_context(|| path.display().to_string())?;
    Ok(Some(format!("admin socket {}", path.display())))
}

fn remove_state(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(Some(format!("state in {}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("state in {}", path.display())),
    }
}

fn say(removed: &[String]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in removed {
        writeln!(out, "removed {line}")?;
    }
    if removed.is_empty() {
        writeln!(out, "nothing to remove")?;
    }
    Ok(())
}
