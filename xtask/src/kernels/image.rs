// SPDX-License-Identifier: Apache-2.0

//! Debian's kernels: found by apt, unpacked into the cache, never installed.
//!
//! Knows nothing of booting. Invariant: a directory in the cache holds a whole package, because
//! it is renamed into place; what is cached is used without asking anybody, so that the tests
//! run without a network. Delete `~/.cache/mesh-agent/kernels` to get newer ones.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::Series;
use crate::command::{self, program};

/// An unpacked kernel package.
pub(super) struct Image {
    /// The compressed kernel.
    pub(super) kernel: PathBuf,
    /// The directory that holds `drivers/`, `net/` and so on.
    modules: PathBuf,
}

/// Returns the kernel of the series that is cached; else fetches the newest.
pub(super) fn get(series: &Series) -> Result<Image> {
    let cache = command::cache()?.join("kernels");
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    let cached = entries(&cache)?
        .into_iter()
        .filter(|name| series.owns(name));
    let name = match newest(cached) {
        Some(name) => name,
        None => fetch(series, &cache)?,
    };
    Image::open(&cache.join(name))
}

impl Series {
    fn owns(&self, name: &str) -> bool {
        let (start, end) = self.package;
        let middle = name
            .strip_prefix(start)
            .and_then(|rest| rest.strip_suffix(end));
        middle
            .is_some_and(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

impl Image {
    fn open(directory: &Path) -> Result<Self> {
        let boot = directory.join("boot");
        let kernel = entries(&boot)?
            .into_iter()
            .find(|name| name.starts_with("vmlinuz"));
        let kernel = kernel.with_context(|| format!("no kernel in {}", boot.display()))?;
        let modules = directory.join("lib/modules");
        let version = entries(&modules)?.into_iter().next();
        let version = version.with_context(|| format!("no modules in {}", modules.display()))?;
        Ok(Self {
            kernel: boot.join(kernel),
            modules: modules.join(version).join("kernel"),
        })
    }

    /// A module by its path, unpacked.
    pub(super) fn module(&self, path: &str) -> Result<Vec<u8>> {
        let plain = self.modules.join(path);
        if plain.is_file() {
            return fs::read(&plain).with_context(|| format!("read {}", plain.display()));
        }
        let packed = self.modules.join(format!("{path}.xz"));
        let mut unpack = program("xz");
        let unpacked = unpack
            .arg("-dc")
            .arg(&packed)
            .output()
            .context("start xz")?;
        ensure!(
            unpacked.status.success(),
            "xz cannot unpack {}",
            packed.display()
        );
        Ok(unpacked.stdout)
    }
}

fn fetch(series: &Series, cache: &Path) -> Result<String> {
    eprintln!("--- kernels: fetching {}: {}", series.name, series.why);
    let name = match search(series) {
        Some(name) => name,
        None => {
            command::run_aside(program("apt-get").args(["-qq", "update"]))?;
            search(series).with_context(|| {
                let (start, end) = series.package;
                format!("apt knows no package {start}*{end}; this test needs Debian 12's archive")
            })?
        }
    };
    let work = cache.join(format!(".{name}.part"));
    if work.exists() {
        fs::remove_dir_all(&work).context("remove what an earlier run left")?;
    }
    let unpacked = work.join("root");
    fs::create_dir_all(&unpacked).with_context(|| format!("make {}", unpacked.display()))?;
    let mut download = program("apt-get");
    // apt's own user may not write into our cache.
    download.args(["-qq", "-o", "APT::Sandbox::User=root", "download", &name]);
    command::run_aside(download.current_dir(&work))?;
    let package = entries(&work)?
        .into_iter()
        .find(|name| name.ends_with(".deb"));
    let package = work.join(package.context("apt downloaded no package")?);
    command::run_aside(program("dpkg-deb").arg("-x").arg(&package).arg(&unpacked))?;
    let place = cache.join(&name);
    fs::rename(&unpacked, &place).with_context(|| format!("rename to {}", place.display()))?;
    fs::remove_dir_all(&work).context("remove the package")?;
    Ok(name)
}

fn search(series: &Series) -> Option<String> {
    let (start, _) = series.package;
    let names = command::output(program("apt-cache").args(["pkgnames", start]))?;
    newest(
        names
            .lines()
            .map(str::to_owned)
            .filter(|name| series.owns(name)),
    )
}

/// The name with the greatest numbers in it.
fn newest(names: impl Iterator<Item = String>) -> Option<String> {
    names.max_by_key(|name| {
        let numbers = name.split(|letter: char| !letter.is_ascii_digit());
        numbers
            .filter_map(|part| part.parse::<u64>().ok())
            .collect::<Vec<_>>()
    })
}

fn entries(directory: &Path) -> Result<Vec<String>> {
    let list = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let names =
        list.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names
        .collect::<Result<_, _>>()
        .with_context(|| format!("read {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_newest_by_number() {
        let names = ["linux-image-6.12.99+deb12", "linux-image-6.12.117+deb12"].map(str::to_owned);
        assert_eq!(
            newest(names.into_iter()).as_deref(),
            Some("linux-image-6.12.117+deb12")
        );
    }

    #[test]
    fn a_series_owns_signed_images_only() {
        let [old, new] = super::super::SERIES else {
            panic!("two series")
        };
        assert!(old.owns("linux-image-6.1.0-56-cloud-amd64"));
        assert!(!old.owns("linux-image-6.1.0-56-cloud-amd64-unsigned"));
        assert!(!old.owns("linux-image-6.12.117+deb12-cloud-amd64"));
        assert!(new.owns("linux-image-6.12.117+deb12-cloud-amd64"));
    }
}
