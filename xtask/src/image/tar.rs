// SPDX-License-Identifier: Apache-2.0

//! A tar archive in memory.
//!
//! Format: POSIX.1-1988 "ustar", which every reader of images knows. Knows nothing of images.
//! Invariants: the same files give the same bytes, so nothing carries a time or an owner; a name
//! that the format has no room for is an error, never cut.

use anyhow::{Result, ensure};

const BLOCK: usize = 512;
const MOST_NAME: usize = 100;

/// An archive that is being filled.
#[derive(Debug, Default)]
pub(super) struct Tar {
    bytes: Vec<u8>,
    names: Vec<String>,
}

impl Tar {
    /// Adds a directory.
    pub(super) fn directory(&mut self, name: &str, permissions: u32) -> Result<()> {
        self.entry(&format!("{name}/"), b'5', permissions, &[])
    }

    /// Adds a file; one that is there already stays as it is.
    pub(super) fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> Result<()> {
        self.entry(name, b'0', permissions, content)
    }

    /// The archive with its end.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn entry(&mut self, name: &str, kind: u8, permissions: u32, content: &[u8]) -> Result<()> {
        ensure!(
            name.len() < MOST_NAME,
            "{name:?} is too long a name for a tar archive"
        );
        if self.names.iter().any(|known| known == name) {
            return Ok(());
        }
        self.names.push(name.to_owned());
        self.bytes
            .extend(header(name, kind, permissions, content.len()));
        self.bytes.extend(content);
        let padded = self.bytes.len().next_multiple_of(BLOCK);
        self.bytes.resize(padded, 0);
        Ok(())
    }
}

fn header(name: &str, kind: u8, permissions: u32, size: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, format!("{permissions:07o}").as_bytes());
    // Owner and group are root, the time is that of the epoch.
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000");
    // The checksum counts itself as blanks.
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[test]
    fn tar_itself_reads_it() {
        let mut tar = Tar::default();
        tar.directory("tmp", 0o1777).expect("a short name");
        tar.file("bin/program", 0o755, &[7; 513])
            .expect("a short name");
        tar.file("bin/program", 0o755, b"again")
            .expect("a short name");
        let path = std::env::temp_dir().join(format!("xtask-tar-{}", std::process::id()));
        fs::write(&path, tar.finish()).expect("the temporary directory can be written");
        let listed = Command::new("tar").arg("-tvf").arg(&path).output();
        fs::remove_file(&path).expect("it was just written");
        let listed = listed.expect("every machine has tar");
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.status.success(), "{listed:?}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("drwxrwxrwt"), "{text}");
        assert!(
            lines[1].starts_with("-rwxr-xr-x") && lines[1].contains(" 513 "),
            "{text}"
        );
    }

    #[test]
    fn a_name_without_room_is_refused() {
        assert!(Tar::default().file(&"a".repeat(100), 0o644, b"").is_err());
    }
}
