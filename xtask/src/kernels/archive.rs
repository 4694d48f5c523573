// SPDX-License-Identifier: Apache-2.0

//! The files that a kernel boots with, as a cpio archive in memory.
//!
//! Format: `Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel ("newc").
//! Knows nothing of what the files do. Invariants: a directory stands before what is in it; a
//! program is packed with every library it is linked to.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result};

use crate::linked;

const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const FILE: u32 = 0o100_000;

/// An archive that is being filled.
pub(super) struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
}

impl Archive {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            names: BTreeSet::new(),
        }
    }

    /// Adds a directory; its parents have to be there.
    pub(super) fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY, &[]);
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, name: &str, target: &str) {
        self.parents(name);
        self.entry(name, LINK, target.as_bytes());
    }

    /// Adds a file with the given permissions, and the directories above it.
    pub(super) fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.parents(name);
        self.entry(name, FILE | permissions, content);
    }

    /// Adds the program at `path` as `name`, and its libraries where it looks for them.
    pub(super) fn program(&mut self, path: &Path, name: &str) -> Result<()> {
        let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        self.file(name, 0o755, &content);
        for library in linked::libraries(path) {
            let content =
                fs::read(&library).with_context(|| format!("read {}", library.display()))?;
            let place = library.to_string_lossy();
            self.file(place.trim_start_matches('/'), 0o755, &content);
        }
        Ok(())
    }

    /// The archive as the kernel wants it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn parents(&mut self, name: &str) {
        for (at, _) in name.match_indices('/') {
            self.directory(&name[..at]);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        if !self.names.insert(name.to_owned()) {
            return;
        }
        let (inode, size) = (self.names.len(), content.len());
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let header = [
            inode,
            mode as usize,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in header {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_closed_by_a_trailer() {
        let mut archive = Archive::new();
        archive.file("a/b", 0o644, b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 3, "directory, file and trailer");
        assert!(starts.iter().all(|at| at % 4 == 0));
        assert!(text.contains("TRAILER!!!"));
    }

    #[test]
    fn a_shared_library_is_packed_once() {
        let mut archive = Archive::new();
        archive.file("lib/x", 0o755, b"1");
        let length = archive.bytes.len();
        archive.file("lib/x", 0o755, b"1");
        assert_eq!(archive.bytes.len(), length);
    }
}
