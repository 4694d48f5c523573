// SPDX-License-Identifier: Apache-2.0

//! An image of one layer, in the archive format that `ctr images import` and `docker load` take.
//!
//! Format: Docker Image Specification v1.2 (a `manifest.json`, a configuration, a layer, named by
//! their digests). Knows nothing of what is in an image. Invariants: a program is packed with the
//! libraries it is linked to; the archive appears under its name when it is whole.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::tar::Tar;
use crate::{
    command::{self, program},
    linked,
};

/// An image that is being filled.
#[derive(Debug)]
pub(crate) struct Image {
    reference: String,
    entrypoint: String,
    layer: Tar,
}

impl Image {
    /// An image with an empty `/tmp` and nothing else.
    pub(crate) fn new(reference: &str, entrypoint: &str) -> Result<Self> {
        let mut layer = Tar::default();
        layer.directory("tmp", 0o1777)?;
        Ok(Self {
            reference: reference.to_owned(),
            entrypoint: entrypoint.to_owned(),
            layer,
        })
    }

    /// Adds the program at `path` as `place`, and its libraries where it looks for them.
    pub(crate) fn program(&mut self, path: &Path, place: &str) -> Result<()> {
        self.file(path, place, 0o755)?;
        for library in linked::libraries(path) {
            let place = library.to_string_lossy().into_owned();
            self.file(&library, &place, 0o755)?;
        }
        Ok(())
    }

    /// Adds the file at `path` as `place`.
    pub(crate) fn file(&mut self, path: &Path, place: &str, permissions: u32) -> Result<()> {
        let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let name = place.trim_start_matches('/');
        self.layer.file(name, permissions, &content)
    }

    /// Writes the archive.
    pub(crate) fn write(self, to: &Path) -> Result<()> {
        let parent = to.parent().context("an image needs a directory")?;
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        let part = to.with_extension(format!("part{}", std::process::id()));
        let layer = self.layer.finish();
        let layer_digest = sha256(&part, &layer)?;
        let configuration = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Entrypoint":[{:?}],"Env":["PATH=/usr/local/bin:/usr/bin:/bin:/"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{layer_digest}"]}}}}"#,
            self.entrypoint
        );
        let configuration_name = format!("{}.json", sha256(&part, configuration.as_bytes())?);
        let layer_name = format!("{layer_digest}.tar");
        let manifest = format!(
            r#"[{{"Config":{configuration_name:?},"RepoTags":[{:?}],"Layers":[{layer_name:?}]}}]"#,
            self.reference
        );
        let mut archive = Tar::default();
        archive.file(&configuration_name, 0o644, configuration.as_bytes())?;
        archive.file(&layer_name, 0o644, &layer)?;
        archive.file("manifest.json", 0o644, manifest.as_bytes())?;
        let context = || format!("write {}", to.display());
        fs::write(&part, archive.finish()).with_context(context)?;
        fs::rename(&part, to).with_context(context)
    }
}

/// A copy of the program at `path` without what only debuggers read, in the build directory.
pub(crate) fn stripped(path: &Path) -> Result<PathBuf> {
    let directory = command::target().join("images");
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let name = path.file_name().context("a program has a name")?;
    let target = directory.join(name);
    let mut strip = program("strip");
    let done = command::output(strip.arg("-o").arg(&target).arg(path));
    done.with_context(|| format!("strip {}", path.display()))?;
    Ok(target)
}

/// The digest of `bytes`, which are written to `part` for the program that knows how.
fn sha256(part: &Path, bytes: &[u8]) -> Result<String> {
    fs::write(part, bytes).with_context(|| format!("write {}", part.display()))?;
    let said = command::output(program("sha256sum").arg(part)).context("sha256sum failed")?;
    let digest = said.split_whitespace().next();
    Ok(digest.context("sha256sum said nothing")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_names_its_parts_by_their_digests() {
        let directory = std::env::temp_dir().join(format!("xtask-image-{}", std::process::id()));
        let mut image = Image::new("example.local/cat:1", "/cat").expect("a short name");
        image
            .program(
                &command::find("cat").expect("every machine has cat"),
                "/cat",
            )
            .expect("cat can be read");
        let to = directory.join("image.tar");
        image
            .write(&to)
            .expect("the temporary directory can be written");
        let mut list = program("tar");
        let names = command::output(list.arg("-tf").arg(&to)).expect("tar reads it");
        let names: Vec<&str> = names.lines().collect();
        assert_eq!(names.len(), 3, "{names:?}");
        let digest = names[1].trim_end_matches(".tar");
        let mut extract = program("tar");
        extract.arg("-C").arg(&directory).arg("-xf").arg(&to);
        command::output(&mut extract).expect("tar reads it");
        let layer = fs::read(directory.join(names[1])).expect("it was unpacked");
        let found = sha256(&directory.join("part"), &layer).expect("sha256sum runs");
        assert_eq!(found, digest);
        fs::remove_dir_all(directory).expect("it was just made");
    }
}
