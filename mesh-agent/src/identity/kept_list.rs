// SPDX-License-Identifier: Apache-2.0

//! The list of what is revoked, as it was when it was last good, for a start without whoever has it.
//!
//! Knows nothing of its form: it is a text. Invariant: what is read is what was written, as a whole, by the
//! agent's own user.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    ca::AuthorityError,
    private::{self, Unread},
};

/// The file in the directory.
const FILE: &str = "revoked.yaml";

/// More than a ConfigMap can hold.
const MAX_BYTES: u64 = 4 << 20;

/// A directory with the list.
#[derive(Clone, Debug)]
pub struct KeptList {
    dir: PathBuf,
}

/// A list was kept, and cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct KeptListError {
    path: PathBuf,
    problem: String,
}

impl KeptList {
    /// Uses `dir`, which is made (0700) if it is missing.
    ///
    /// # Errors
    /// It cannot be made, belongs to another user, or others may read it.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        private::open_dir(dir)?;
        private::remove_drafts(dir, FILE);
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// What was kept last; `None` if nothing ever was.
    ///
    /// # Errors
    /// The file cannot be read, is no text, or others may read or write it.
    pub fn load(&self) -> Result<Option<String>, KeptListError> {
        let path = self.path();
        let text = match private::read(&path, MAX_BYTES) {
            Ok(text) => text,
            Err(Unread::Missing) => return Ok(None),
            Err(Unread::Problem(problem)) => return Err(KeptListError { path, problem }),
        };
        match String::from_utf8(text) {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(KeptListError {
                path,
                problem: error.to_string(),
            }),
        }
    }

    /// Keeps `text` in place of what was kept before, which stays if that does not work.
    ///
    /// # Errors
    /// What the disk says.
    pub fn store(&self, text: &str) -> io::Result<()> {
        private::replace(&self.dir, FILE, text.as_bytes())
    }

    /// The file, for people.
    pub fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Self {
            let name = format!("mesh-agent-list-{:016x}", fastrand::u64(..));
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn what_was_kept_last_is_there_after_a_restart_and_nobody_elses() {
        let dir = Dir::new();
        let kept = KeptList::open(&dir.0).unwrap();
        assert_eq!(kept.load().unwrap(), None);
        fs::write(dir.0.join(".revoked.yaml.draft"), "half").unwrap();
        for text in ["- serial: '01'\n", "", "- serial: '02'\n"] {
            kept.store(text).unwrap();
            let again = KeptList::open(&dir.0).unwrap();
            assert_eq!(again.load().unwrap().as_deref(), Some(text));
        }
        let files: Vec<_> = fs::read_dir(&dir.0).unwrap().flatten().collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let mode = files[0].metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_disk_that_takes_nothing_leaves_what_was_kept_before() {
        let dir = Dir::new();
        let kept = KeptList::open(&dir.0).unwrap();
        kept.store("- serial: '01'\n").unwrap();
        // No file can take the place of a directory that has something in it.
        let list = kept.path();
        let aside = dir.0.join("aside");
        fs::rename(&list, &aside).unwrap();
        fs::create_dir_all(list.join("in the way")).unwrap();
        assert!(kept.store("- serial: '02'\n").is_err());
        fs::remove_dir_all(&list).unwrap();
        fs::rename(&aside, &list).unwrap();
        let text = kept.load().unwrap();
        assert_eq!(text.as_deref(), Some("- serial: '01'\n"));
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1, "drafts are gone");
    }

    #[track_caller]
    fn refused(spoil: impl FnOnce(&Path), want: &str) {
        let dir = Dir::new();
        let kept = KeptList::open(&dir.0).unwrap();
        kept.store("- serial: '01'\n").unwrap();
        spoil(&kept.path());
        let error = kept.load().unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn what_others_could_have_written_or_is_no_list_is_not_used() {
        let mode = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o622));
        refused(|path| mode(path).unwrap(), "its mode is 0622");
        refused(|path| fs::write(path, [0xff, 0xfe]).unwrap(), "utf-8");
        let large = |path: &Path| {
            let file = fs::File::options().write(true).open(path)?;
            file.set_len(MAX_BYTES + 1)
        };
        refused(|path| large(path).unwrap(), "more than 4194304");
        let dir = Dir::new();
        KeptList::open(&dir.0).unwrap();
        fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(KeptList::open(&dir.0).is_err());
    }
}
