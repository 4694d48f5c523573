// SPDX-License-Identifier: Apache-2.0

//! The shared libraries of a program, for those who pack it into something that has none.
//!
//! Knows nothing of where it is packed. Invariant: a program without libraries has an empty list.

use std::path::{Path, PathBuf};

use crate::command::{self, program};

/// Every library that the program at `path` is linked to, and its loader, where it looks for them.
pub(crate) fn libraries(path: &Path) -> Vec<PathBuf> {
    // A static program makes `ldd` fail.
    let said = command::output(program("ldd").arg(path)).unwrap_or_default();
    parse(&said).map(PathBuf::from).collect()
}

/// The paths in what `ldd` prints: `name => path (address)` or `path (address)`.
fn parse(said: &str) -> impl Iterator<Item = &str> {
    said.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let said = "\tlinux-vdso.so.1 (0x7ffc)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let found: Vec<_> = parse(said).collect();
        assert_eq!(found, ["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
