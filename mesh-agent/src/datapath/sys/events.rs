// SPDX-License-Identifier: Apache-2.0

//! Waiting for directories to change and for processes to end.
//!
//! Reference: inotify(7), pidfd_open(2) (5.3), poll(2), clock_gettime(2).

use std::{
    ffi::{CStr, OsStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::Duration,
};

use super::{c_path, owned};

/// The fixed part of `struct inotify_event`: watch, mask, cookie, length of the name.
const EVENT_BYTES: usize = 16;

/// Tells of directories that are made and removed in watched ones.
#[derive(Debug)]
pub(in crate::datapath) struct Inotify(OwnedFd);

/// What happened in a watched directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::datapath) enum Event {
    /// A directory of this name was made.
    Made(Watch, OsString),
    /// A directory of this name was removed.
    Removed(Watch, OsString),
    /// The watch itself is over: its directory is gone.
    Over(Watch),
    /// Events were lost.
    Lost,
}

/// The number of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::datapath) struct Watch(i32);

impl Inotify {
    /// Begins, watching nothing.
    pub(in crate::datapath) fn new() -> io::Result<Self> {
        // SAFETY: inotify_init1 takes no pointers. std has no such call.
        let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just returned this descriptor for us to own.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches the directory at `path`.
    pub(in crate::datapath) fn watch(&self, path: &Path) -> io::Result<Watch> {
        let path = c_path(path)?;
        let mask = libc::IN_CREATE | libc::IN_DELETE | libc::IN_ONLYDIR;
        // SAFETY: the descriptor is open and `path` a valid C string for the duration of the call.
        // std has no such call.
        let watch = unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), mask) };
        if watch < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Watch(watch))
    }

    /// What has happened since the last call.
    pub(in crate::datapath) fn read(&self) -> Vec<Event> {
        let mut buffer = vec![0_u8; 64 * 1024];
        // SAFETY: `buffer` is live and writable, and as long as is said. std has no inotify.
        let read =
            unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        // Nothing to read is an error of its own kind (EAGAIN): nothing has happened.
        let length = usize::try_from(read).unwrap_or(0);
        parse(&buffer[..length])
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn parse(mut bytes: &[u8]) -> Vec<Event> {
    let word =
        |at: usize, bytes: &[u8]| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
    let mut events = Vec::new();
    while let (Some(watch), Some(mask), Some(length)) =
        (word(0, bytes), word(4, bytes), word(12, bytes))
    {
        let watch = Watch(i32::from_ne_bytes(watch));
        let mask = u32::from_ne_bytes(mask);
        let length = usize::try_from(u32::from_ne_bytes(length)).unwrap_or(usize::MAX);
        let end = EVENT_BYTES.saturating_add(length);
        let Some(name) = bytes.get(EVENT_BYTES..end) else {
            break;
        };
        let name = CStr::from_bytes_until_nul(name).map_or(&[][..], CStr::to_bytes);
        let name = OsStr::from_bytes(name).to_owned();
        let is = |bit: u32| mask & bit != 0;
        if is(libc::IN_Q_OVERFLOW) {
            events.push(Event::Lost);
        } else if is(libc::IN_IGNORED) {
            events.push(Event::Over(watch));
        } else if is(libc::IN_ISDIR) && is(libc::IN_CREATE) {
            events.push(Event::Made(watch, name));
        } else if is(libc::IN_ISDIR) && is(libc::IN_DELETE) {
            events.push(Event::Removed(watch, name));
        }
        bytes = &bytes[end..];
    }
    events
}

/// Opens the process, whose descriptor becomes readable when it has ended.
pub(in crate::datapath) fn open_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes no pointers. std has no such call.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(owned(result))
    }
}

/// Waits until one of `fds` is readable or `timeout` has passed; returns which are.
pub(in crate::datapath) fn wait_readable(
    fds: &[BorrowedFd<'_>],
    timeout: Duration,
) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let count = polled
        .len()
        .try_into()
        .expect("descriptors are ints, so their number fits");
    let timeout = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: `polled` is live and writable and has `count` entries. std has no poll.
    if unsafe { libc::poll(polled.as_mut_ptr(), count, timeout) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(polled.iter().map(|fd| fd.revents != 0).collect())
}

/// How long ago the machine was started, suspended time included.
pub(in crate::datapath) fn time_since_boot() -> io::Result<Duration> {
    read_clock(libc::CLOCK_BOOTTIME)
}

/// The time that programs read (`bpf_ktime_get_ns`).
pub(in crate::datapath) fn monotonic_time() -> io::Result<Duration> {
    read_clock(libc::CLOCK_MONOTONIC)
}

fn read_clock(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is live and writable. std does not tell the value of these clocks.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Ok(Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_and_removed_directories_are_told() {
        let directory = std::env::temp_dir().join(format!("inotify-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let inotify = Inotify::new().unwrap();
        let watch = inotify.watch(&directory).unwrap();
        std::fs::create_dir(directory.join("pod")).unwrap();
        std::fs::write(directory.join("file"), "").unwrap();
        std::fs::remove_dir(directory.join("pod")).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let want = [
            Event::Made(watch, "pod".into()),
            Event::Removed(watch, "pod".into()),
            Event::Over(watch),
        ];
        assert_eq!(inotify.read(), want);
        assert!(inotify.read().is_empty());
    }

    #[test]
    fn a_cut_event_is_left_alone() {
        assert!(parse(&[1, 0, 0]).is_empty());
        let mut event = vec![1, 0, 0, 0];
        event.extend((libc::IN_CREATE | libc::IN_ISDIR).to_ne_bytes());
        event.extend([0, 0, 0, 0, 16, 0, 0, 0, b'a']);
        assert!(parse(&event).is_empty());
    }

    #[test]
    fn the_end_of_a_process_is_noticed() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = open_process(child.id()).unwrap();
        let ready = wait_readable(&[process.as_fd()], Duration::from_secs(10)).unwrap();
        assert_eq!(ready, [true]);
        child.wait().unwrap();
    }
}
