// SPDX-License-Identifier: Apache-2.0

//! The admin socket in the file system.
//!
//! Invariants: its mode is 0600 whenever its name can be reached; a socket that answers is never
//! replaced, one that a dead agent left always is; what is removed is our own.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::AdminError;

/// What fits `sockaddr_un` with its final zero byte (unix(7)).
const PATH_MAX: usize = 107;

/// A socket under its name, until it is dropped.
#[derive(Debug)]
pub(super) struct AdminSocket {
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode, to know it again.
    node: (u64, u64),
    /// Held for as long as the socket is ours, so that two agents that start at once cannot both
    /// find the old one dead.
    _lock: File,
}

impl AdminSocket {
    /// Makes the socket and, if need be, its directory.
    pub(super) fn make(path: &Path) -> Result<Self, AdminError> {
        let failed = |source| AdminError::Socket {
            path: path.to_owned(),
            source,
        };
        if path.as_os_str().len() > PATH_MAX {
            let reason = format!("longer than {PATH_MAX} bytes, so nobody could connect");
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, reason)));
        }
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(failed)?;
        let lock = lock(path)?;
        refuse_a_live_one(path)?;
        let listener = bind_privately(dir, path).map_err(failed)?;
        let node = node(path).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            listener,
            node,
            _lock: lock,
        })
    }

    /// The listener, for the current runtime.
    pub(super) fn listen(&self) -> io::Result<tokio::net::UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener)
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if node(&self.path).is_ok_and(|node| node == self.node) {
            // If it cannot be removed, the next agent replaces it: nobody answers there.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn node(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Takes the lock file beside the socket. It stays when we go, unless we leave the node for good:
/// then it is removed by who holds it, so a file that is not there any more when we have it is not
/// the lock.
fn lock(path: &Path) -> Result<File, AdminError> {
    let failed = |source| AdminError::Socket {
        path: path.to_owned(),
        source,
    };
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&name)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(AdminError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let held = file.metadata().map_err(failed)?;
        if node(&name).is_ok_and(|named| named == (held.dev(), held.ino())) {
            return Ok(file);
        }
    }
}

fn refuse_a_live_one(path: &Path) -> Result<(), AdminError> {
    let path = path.to_owned();
    match fs::symlink_metadata(&path) {
        Ok(metadata) if !metadata.file_type().is_socket() => Err(AdminError::NotASocket { path }),
        Ok(_socket) if UnixStream::connect(&path).is_ok() => Err(AdminError::InUse { path }),
        Ok(_stale) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(AdminError::Socket { path, source }),
    }
}

/// Binds in a directory that only we can enter, sets the mode, and moves the socket to `path`,
/// which replaces a stale one in the same step. The umask is not touched: it belongs to the whole
/// process.
fn bind_privately(dir: &Path, path: &Path) -> io::Result<UnixListener> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    let private = dir.join(format!(".{}-{unique}", std::process::id()));
    // Left behind by a dead agent that had our process id.
    drop(fs::remove_dir_all(&private));
    DirBuilder::new().mode(0o700).create(&private)?;
    let bound = (|| {
        let first = private.join("s");
        let listener = UnixListener::bind(&first)?;
        fs::set_permissions(&first, Permissions::from_mode(0o600))?;
        fs::rename(&first, path)?;
        Ok(listener)
    })();
    drop(fs::remove_dir_all(&private));
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty directory, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("mesh-admin-{name}-{}", std::process::id()));
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

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn the_socket_is_for_its_owner_alone_and_goes_with_us() {
        let scratch = Scratch::new("mode");
        let path = scratch.0.join("new/agent.sock");
        let socket = AdminSocket::make(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        drop(UnixStream::connect(&path).unwrap());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_nobody_answers_is_replaced() {
        let scratch = Scratch::new("stale");
        let path = scratch.0.join("agent.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists() && UnixStream::connect(&path).is_err());
        let _socket = AdminSocket::make(&path).unwrap();
        drop(UnixStream::connect(&path).unwrap());
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_socket_that_answers_stays() {
        let scratch = Scratch::new("live");
        let path = scratch.0.join("agent.sock");
        let _theirs = UnixListener::bind(&path).unwrap();
        let before = node(&path).unwrap();
        let error = AdminSocket::make(&path).expect_err("somebody is there");
        assert!(matches!(error, AdminError::InUse { .. }), "{error}");
        assert_eq!(node(&path).unwrap(), before);
    }

    #[test]
    fn of_two_agents_one_wins() {
        let scratch = Scratch::new("two");
        let path = scratch.0.join("agent.sock");
        let first = AdminSocket::make(&path).unwrap();
        assert!(AdminSocket::make(&path).is_err());
        drop(first);
        AdminSocket::make(&path).unwrap();
    }

    #[test]
    fn a_file_is_not_overwritten() {
        let scratch = Scratch::new("file");
        let path = scratch.0.join("agent.sock");
        fs::write(&path, "precious").unwrap();
        let error = AdminSocket::make(&path).expect_err("it is a file");
        assert!(matches!(error, AdminError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn the_socket_of_a_successor_is_not_removed() {
        let scratch = Scratch::new("successor");
        let path = scratch.0.join("agent.sock");
        let ours = AdminSocket::make(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_an_error_that_names_it() {
        let scratch = Scratch::new("long");
        let path = scratch.0.join("x".repeat(200));
        let error = AdminSocket::make(&path).expect_err("nobody could connect to it");
        assert!(error.to_string().contains("xxx"), "{error}");
        assert!(!path.exists());
    }
}
