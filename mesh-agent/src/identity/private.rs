// SPDX-License-Identifier: Apache-2.0

//! Files that are the agent's alone, and exist whole or not at all.
//!
//! A file is written under another name, synced, and renamed. Knows nothing of what is in them. Invariant:
//! directories are 0700, files 0600, of the agent's own user; what is looser, or larger than it may be, is
//! not read.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use super::{ca::AuthorityError, custody};

/// Why there is no text.
#[derive(Debug)]
pub(super) enum Unread {
    /// There is no such file.
    Missing,
    /// There is one that is not to be used.
    Problem(String),
}

/// Makes `dir` (0700) if it is missing.
///
/// # Errors
/// It cannot be made, belongs to another user, or others may read it.
pub(super) fn open_dir(dir: &Path) -> Result<(), AuthorityError> {
    let file = |action, source| AuthorityError::File {
        action,
        path: dir.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| file("creating", source))?;
    let metadata = fs::metadata(dir).map_err(|source| file("reading", source))?;
    custody::check_private(dir, &metadata, 0o700)
}

/// What is in a file of at most `most` bytes.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>, Unread> {
    let problem = |error: &dyn std::error::Error| Unread::Problem(error.to_string());
    let opened = match File::open(path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unread::Missing),
        Err(error) => return Err(problem(&error)),
    };
    let metadata = opened.metadata().map_err(|error| problem(&error))?;
    if !metadata.is_file() {
        return Err(Unread::Problem("it is no file".to_owned()));
    }
    custody::check_private(path, &metadata, 0o600).map_err(|error| problem(&error))?;
    if metadata.len() > most {
        return Err(Unread::Problem(format!(
            "it has {} bytes, more than {most}",
            metadata.len()
        )));
    }
    let mut text = Vec::new();
    opened
        .take(most)
        .read_to_end(&mut text)
        .map_err(|error| problem(&error))?;
    Ok(text)
}

/// Puts `text` in place of what was in the file `name`.
pub(super) fn replace(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let draft = dir.join(format!(".{name}.{:016x}", fastrand::u64(..)));
    let written = write_synced(&draft, text)
        .and_then(|()| fs::rename(&draft, dir.join(name)))
        .and_then(|()| File::open(dir)?.sync_all());
    if written.is_err() {
        // There may be none; one that stays is deleted at the next start.
        drop(fs::remove_file(&draft));
    }
    written
}

/// Deletes what was begun in place of the file `name` and never finished.
pub(super) fn remove_drafts(dir: &Path, name: &str) {
    let begins = format!(".{name}.");
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&begins) {
            // It does no harm if it stays.
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Writes a file that is not there yet.
pub(super) fn write_synced(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    opened.write_all(text)?;
    opened.sync_all()
}
