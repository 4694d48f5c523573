// SPDX-License-Identifier: Apache-2.0

//! Gives back memory that only the start needed.
//!
//! A start touches most of the program once: the command line, manifests, certificates, self-tests
//! of cryptography. Its pages would stay mapped for good, which is half of what an idle agent weighs.
//! They are in the page cache: what is needed again is mapped again, by minor faults.
//!
//! Invariant: only pages that are as they are in their file are given back, so that nothing can be
//! lost. Reference: madvise(2) `MADV_DONTNEED`, malloc_trim(3), proc_pid_smaps(5).

use std::{fs, io};

/// A part of the address space that is as it is in a file.
#[derive(Debug, PartialEq, Eq)]
struct Unmodified {
    begin: usize,
    length: usize,
}

/// Unmaps the program's code and constants, and gives free heap back to the system; returns how many
/// bytes of files were mapped before and after. What the kernel refuses stays mapped.
pub fn give_back() -> io::Result<(u64, u64)> {
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let before = resident_files()?;
    for part in unmodified(&smaps) {
        // SAFETY: the range is that of a private, file-backed mapping without any modified page:
        // reading it again yields the same bytes. It is not writable, so nothing can modify it.
        let given = unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(part.begin),
                part.length,
                libc::MADV_DONTNEED,
            )
        };
        if given != 0 {
            let error = io::Error::last_os_error();
            tracing::debug!(%error, ?part, "pages of the start stay mapped");
        }
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number; it is safe to call from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
    Ok((before, resident_files()?))
}

/// Mappings of files that nobody can write and nobody has written.
fn unmodified(smaps: &str) -> Vec<Unmodified> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some(range), Some(access)) if !range.ends_with(':') => {
                let is_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
                let is_fixed = matches!(access, "r-xp" | "r--p");
                current = (is_file && is_fixed).then(|| read_range(range)).flatten();
            }
            // A modified page is one of the two, also behind a mapping that is read-only by now.
            (Some("Anonymous:" | "Swap:"), Some(size)) if size != "0" => current = None,
            (Some("Swap:"), _) => found.extend(current.take()),
            _ => {}
        }
    }
    found
}

fn read_range(range: &str) -> Option<Unmodified> {
    let (begin, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let (begin, end) = (number(begin)?, number(end)?);
    Some(Unmodified {
        begin,
        length: end.checked_sub(begin)?,
    })
}

fn resident_files() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssFile:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.unwrap_or_default() * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55aa00000000-55aa00004000 r--p 00000000 fe:00 12 /usr/bin/mesh-agent
Rss:                  16 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr mw me
55aa00004000-55aa00008000 r-xp 00004000 fe:00 12 /usr/bin/mesh-agent
Anonymous:             4 kB
Swap:                  0 kB
55aa00008000-55aa00009000 r--p 00008000 fe:00 12 /usr/bin/mesh-agent
Anonymous:             0 kB
Swap:                  4 kB
55aa00009000-55aa0000a000 rw-p 00009000 fe:00 12 /usr/bin/mesh-agent
Anonymous:             0 kB
Swap:                  0 kB
7f0000000000-7f0000021000 r--p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
7f0000030000-7f0000032000 r-xp 00001000 fe:00 13 /lib/libc.so.6 (deleted)
Anonymous:             0 kB
Swap:                  0 kB
7ffff7fc0000-7ffff7fc2000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
Swap:                  0 kB
";

    #[test]
    fn only_what_is_as_in_its_file_and_cannot_be_written_counts() {
        let found = unmodified(SMAPS);
        let want = [(0x55aa_0000_0000, 0x4000), (0x7f00_0003_0000, 0x2000)];
        let want = want.map(|(begin, length)| Unmodified { begin, length });
        assert_eq!(found, want);
    }

    #[test]
    fn the_program_goes_on_after_its_pages_are_given_back() {
        let (before, after) = give_back().unwrap();
        assert!(before > 0 && after > 0);
        // Code that was not run yet, and constants that were not read yet.
        assert_eq!(format!("{:>8.3}", 1.5_f64), "   1.500");
    }
}
