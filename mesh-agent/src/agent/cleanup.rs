// SPDX-License-Identifier: Apache-2.0

//! `mesh-agent cleanup`: removes what agents left on this node, and says what. An agent that leaves
//! the node for good does the same with its own files.
//!
//! Knows nothing of what is pinned. Invariants: nothing of a node whose agent runs is touched; a
//! second run finds nothing; of directories that are not called after us only ours inside go.

use std::{
    fs::{self, File, TryLockError},
    io,
    io::Write,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use super::{PIN_ROOT, default_pin_dir};
use crate::{
    config, datapath,
    settings::{CleanupSettings, RunSettings, SOCKET_DIR},
};

/// What directories are called that are ours alone.
const OURS: &str = "mesh-agent";

/// The file system of the node, as a container sees it that has the node's processes.
const NODE_ROOT: &str = "/proc/1/root";

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
    remove_if_empty(Path::new(SOCKET_DIR));
    if let Some(state) = &settings.state_dir {
        removed.extend(remove_state(state)?);
    }
    say(&removed).context("writing the output")
}

/// Removes the files of this agent, which has removed itself from the kernel and ends. What cannot
/// be removed is logged.
pub(super) fn leave_nothing(settings: &RunSettings) {
    let socket = settings.admin_socket();
    warn_of(remove_socket(&socket).map(drop));
    remove_own_parent(&socket);
    if let Some(dir) = &settings.source.state_dir {
        if config::kube::is_state_in_use(dir, &settings.node) {
            tracing::warn!(dir = %dir.display(), "another agent has its state there: it stays");
            return;
        }
        warn_of(remove_state(&dir.join(&settings.node)).map(drop));
        remove_if_empty(dir);
        remove_own_parent(dir);
    }
}

fn warn_of(done: anyhow::Result<()>) {
    if let Err(error) = done {
        tracing::warn!(error = format!("{error:#}"), "something stays on the node");
    }
}

/// Removes the directory that `path` is in, if it is called after us and empty.
fn remove_own_parent(path: &Path) {
    let parent = path.parent();
    if let Some(parent) = parent.filter(|parent| parent.file_name().is_some_and(|it| it == OURS)) {
        remove_if_empty(parent);
    }
}

/// Removes a directory if it is empty. In a container it is a mount, which cannot be removed; then
/// it is removed as the node knows it. What is mounted there stays for who has it mounted.
fn remove_if_empty(dir: &Path) {
    let Err(error) = fs::remove_dir(dir) else {
        return;
    };
    let Ok(inner) = dir.strip_prefix("/") else {
        return;
    };
    let outer = Path::new(NODE_ROOT).join(inner);
    let is_same = || {
        let (ours, theirs) = (fs::metadata(dir).ok()?, fs::metadata(&outer).ok()?);
        Some(ours.dev() == theirs.dev() && ours.ino() == theirs.ino())
    };
    // Which of the two it is depends on whether the container's own root can be written.
    let is_mount = matches!(
        error.kind(),
        io::ErrorKind::ResourceBusy | io::ErrorKind::ReadOnlyFilesystem
    );
    if is_mount && is_same() == Some(true) {
        // It is not empty if another agent of this machine has files there.
        drop(fs::remove_dir(outer));
    }
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
    // Held until it is removed: who opened it meanwhile sees that it is no longer there.
    let held = File::open(&lock).ok();
    let tried = held.as_ref().map(File::try_lock);
    if let Some(Err(TryLockError::WouldBlock)) = tried {
        bail!("an agent has {}; stop it first", path.display());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let unique = format!("mesh-cleanup-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(unique);
            drop(fs::remove_dir_all(&path));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn only_empty_directories_that_are_called_after_us_go() {
        let scratch = Scratch::new("parents");
        let (ours, theirs) = (scratch.0.join(OURS), scratch.0.join("data"));
        for dir in [&ours, &theirs] {
            fs::create_dir(dir).unwrap();
            remove_own_parent(&dir.join("x.sock"));
        }
        assert!(!ours.exists() && theirs.exists());
        fs::create_dir(&ours).unwrap();
        fs::write(ours.join("another.sock.lock"), "").unwrap();
        remove_own_parent(&ours.join("x.sock"));
        assert!(ours.exists());
    }

    #[test]
    fn a_lock_goes_unless_somebody_holds_it() {
        let scratch = Scratch::new("lock");
        let (socket, lock) = (scratch.0.join("x.sock"), scratch.0.join("x.sock.lock"));
        let held = File::create(&lock).unwrap();
        held.try_lock().unwrap();
        assert!(remove_socket(&socket).is_err() && lock.exists());
        drop(held);
        assert!(remove_socket(&socket).unwrap().is_some());
        assert!(!lock.exists());
    }
}
