// SPDX-License-Identifier: Apache-2.0

//! The manifest files below a directory, as they are at one moment.
//!
//! Symbolic links are followed, so that a mounted ConfigMap (`x.yaml -> ..data/x.yaml`, `..data`
//! swapped as a whole) is read like any directory. Hidden names are left out: editors and mounts
//! keep what is not meant for others there.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The text of each manifest file, or why it cannot be read. In the order of paths.
    pub(super) files: BTreeMap<PathBuf, io::Result<String>>,
    /// Every directory whose entries matter, with its identity (device and inode).
    pub(super) directories: BTreeMap<PathBuf, (u64, u64)>,
}

impl Tree {
    /// Reads everything below `root`; fails only if `root` itself cannot be read.
    pub(super) fn read(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        let mut seen = HashSet::new();
        tree.directory(root, &mut seen)?;
        Ok(tree)
    }

    fn directory(&mut self, path: &Path, seen: &mut HashSet<(u64, u64)>) -> io::Result<()> {
        let metadata = fs::metadata(path)?;
        let identity = (metadata.dev(), metadata.ino());
        if !seen.insert(identity) {
            // A link back up, or a second way to the same place.
            return Ok(());
        }
        self.directories.insert(path.to_owned(), identity);
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            self.entry(&entry.path(), seen);
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, seen: &mut HashSet<(u64, u64)>) {
        let Ok(metadata) = fs::metadata(path) else {
            // It vanished, or is a link to nothing: as if it were not there.
            return;
        };
        if metadata.is_dir() {
            if let Err(error) = self.directory(path, seen) {
                self.files.insert(path.to_owned(), Err(error));
            }
        } else if metadata.is_file() && is_manifest(path) {
            self.linked_directory(path);
            match fs::read_to_string(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => {
                    self.files.insert(path.to_owned(), outcome);
                }
            }
        }
    }

    /// A file that is a link changes where it leads to.
    fn linked_directory(&mut self, path: &Path) {
        let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        let target = is_link.then(|| fs::canonicalize(path).ok()).flatten();
        let Some(parent) = target.as_deref().and_then(Path::parent) else {
            return;
        };
        if let Ok(metadata) = fs::metadata(parent) {
            let identity = (metadata.dev(), metadata.ino());
            self.directories.insert(parent.to_owned(), identity);
        }
    }
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}
