// SPDX-License-Identifier: Apache-2.0

//! Network namespaces: naming one, and being in one for a moment.
//!
//! Owns the only `setns` of the agent. A thread has a home namespace, the one it was in when it
//! first entered another; [`Entered`] brings it back when dropped. The guard is `!Send`, so it
//! cannot be held across an await that might move the task.
//!
//! Invariant: outside an [`Entered`] every thread is at home. A thread that cannot go home would
//! serve one pod as another, so the agent ends there.
//!
//! Reference: setns(2), network_namespaces(7).

use std::{
    cell::OnceCell,
    fs::File,
    io,
    marker::PhantomData,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::Path,
    sync::Arc,
};

/// The inode of a network namespace: what tells two apart while both live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId(pub u64);

/// A network namespace, kept alive while this value lives.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
    id: NetnsId,
}

/// Being in another namespace; the thread goes home when this is dropped.
#[derive(Debug)]
#[must_use = "the thread goes home at once otherwise"]
pub struct Entered {
    away: bool,
    not_send: PhantomData<*const ()>,
}

thread_local! {
    static HOME: OnceCell<Netns> = const { OnceCell::new() };
}

impl Netns {
    /// Opens the namespace that `path` names, for example `/run/netns/NAME` or `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let id = NetnsId(file.metadata()?.ino());
        Ok(Self {
            file: Arc::new(file),
            id,
        })
    }

    /// The namespace that the calling thread is in.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace that the agent itself is in: the node's.
    pub fn host() -> io::Result<Self> {
        Self::open(Path::new("/proc/self/ns/net"))
    }

    /// Its inode.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Its open file, for system calls that take a namespace.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Takes the calling thread into the namespace until the guard is dropped.
    ///
    /// Needs `CAP_SYS_ADMIN`, unless the thread is there already. Does not nest.
    pub fn enter(&self) -> io::Result<Entered> {
        let home = HOME.with(|home| match home.get() {
            Some(netns) => Ok(netns.id),
            None => {
                let netns = Self::current()?;
                let id = netns.id;
                Ok::<_, io::Error>(home.get_or_init(|| netns).id).map(|_| id)
            }
        })?;
        let away = home != self.id;
        if away {
            set_namespace(self)?;
        }
        Ok(Entered {
            away,
            not_send: PhantomData,
        })
    }

    /// Runs `work` in the namespace.
    pub(super) fn within<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let entered = self.enter()?;
        let value = work();
        drop(entered);
        Ok(value)
    }
}

impl Drop for Entered {
    #[allow(clippy::print_stderr, reason = "the last words of the program")]
    fn drop(&mut self) {
        if !self.away {
            return;
        }
        let back = HOME.with(|home| set_namespace(home.get().expect("enter set it")));
        if let Err(error) = back {
            tracing::error!(%error, "cannot leave a pod's network namespace");
            std::process::abort();
        }
    }
}

#[allow(
    unsafe_code,
    reason = "the standard library has no call for namespaces"
)]
fn set_namespace(netns: &Netns) -> io::Result<()> {
    // SAFETY: setns takes no pointers. The descriptor is open, since `netns` owns it, and only
    // the calling thread changes its namespace. Safe code cannot do it: std has no setns.
    let result = unsafe { libc::setns(netns.file.as_raw_fd(), libc::CLONE_NEWNET) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entering_home_needs_no_privilege() {
        let here = Netns::current().expect("proc is mounted");
        let inside = here.within(|| Netns::current().expect("proc is mounted").id());
        assert_eq!(inside.expect("no namespace is changed"), here.id());
    }
}
