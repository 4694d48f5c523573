// SPDX-License-Identifier: Apache-2.0

//! Where a root is kept: one file, in a directory that only the agents of an installation read.
//!
//! Key and certificate are in one file, so that it exists whole or not at all. It is written
//! under another name, synced, and given its name by link(2), which does not replace: of agents
//! that start at once one wins, and all read the winner's. Knows nothing of what the root signs.
//!
//! Invariant: a root is only used from a file (0600) and directory (0700) of the agent's own user.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rcgen::KeyPair;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{PemObject, SectionKind},
};

use super::ca::{AuthorityError, RootMaterial};

/// The file in the directory of an authority.
pub(super) const FILE: &str = "root.pem";

/// Far more than a key and a certificate need.
const MAX_BYTES: u64 = 64 * 1024;

/// The root in `dir`, which `create` makes if there is none yet.
pub(super) fn load_or_create(
    dir: &Path,
    create: impl FnOnce() -> Result<RootMaterial, AuthorityError>,
) -> Result<RootMaterial, AuthorityError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(file("creating", dir))?;
    let metadata = fs::metadata(dir).map_err(file("reading", dir))?;
    check_private(dir, &metadata, 0o700)?;
    let path = dir.join(FILE);
    match load(&path) {
        Err(AuthorityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            store(dir, &path, &create()?)?;
            load(&path)
        }
        outcome => outcome,
    }
}

fn load(path: &Path) -> Result<RootMaterial, AuthorityError> {
    let opened = File::open(path).map_err(file("opening", path))?;
    // The file that is judged is the one that is read, whatever happens to its name.
    let metadata = opened.metadata().map_err(file("reading", path))?;
    check_private(path, &metadata, 0o600)?;
    let mut text = Vec::new();
    opened
        .take(MAX_BYTES)
        .read_to_end(&mut text)
        .map_err(file("reading", path))?;
    parse(&text).map_err(|problem| AuthorityError::Unusable {
        path: path.to_owned(),
        problem,
    })
}

fn parse(text: &[u8]) -> Result<RootMaterial, String> {
    let (mut key, mut certificate) = (None, None);
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der) = section.map_err(|error| format!("it is not PEM: {error}"))?;
        match kind {
            SectionKind::Certificate if certificate.is_none() => {
                certificate = Some(CertificateDer::from(der));
            }
            SectionKind::PrivateKey if key.is_none() => {
                key = Some(PrivateKeyDer::Pkcs8(der.into()));
            }
            other => return Err(format!("it holds an unexpected or second {other:?}")),
        }
    }
    let key = key.ok_or("it holds no PRIVATE KEY (PKCS#8)")?;
    let certificate = certificate.ok_or("it holds no CERTIFICATE")?;
    let key = KeyPair::try_from(&key).map_err(|error| format!("its key is unusable: {error}"))?;
    Ok(RootMaterial { key, certificate })
}

fn store(dir: &Path, path: &Path, material: &RootMaterial) -> Result<(), AuthorityError> {
    let draft = dir.join(format!(
        ".{FILE}.{}.{:016x}",
        std::process::id(),
        fastrand::u64(..)
    ));
    let stored = write_synced(&draft, material)
        .map_err(file("writing", &draft))
        .and_then(|()| match fs::hard_link(&draft, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(file("creating", path)(error))
            }
            // Ours, or another agent was faster.
            _ => Ok(()),
        });
    // A draft that stays behind does no harm but hold a key that nobody uses.
    drop(fs::remove_file(&draft));
    stored?;
    File::open(dir)
        .and_then(|opened| opened.sync_all())
        .map_err(file("syncing", dir))
}

fn write_synced(draft: &Path, material: &RootMaterial) -> io::Result<()> {
    let mut opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)?;
    let certificate = pem::Pem::new("CERTIFICATE", material.certificate.as_ref());
    opened.write_all(material.key.serialize_pem().as_bytes())?;
    opened.write_all(pem::encode(&certificate).as_bytes())?;
    opened.sync_all()
}

/// Refuses what others than this program's user may read or own.
pub(super) fn check_private(
    path: &Path,
    metadata: &fs::Metadata,
    most: u32,
) -> Result<(), AuthorityError> {
    let exposed = |problem: String, fix: String| AuthorityError::Exposed {
        path: path.to_owned(),
        problem,
        fix,
    };
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & !most & 0o777 != 0 {
        return Err(exposed(
            format!("its mode is {mode:04o}"),
            format!("chmod {most:04o} {}", path.display()),
        ));
    }
    // The owner of /proc/self is the user that this program runs as.
    let own = fs::metadata("/proc/self").map_err(file("reading", Path::new("/proc/self")))?;
    if metadata.uid() != own.uid() {
        return Err(exposed(
            format!("it belongs to user {}", metadata.uid()),
            format!("chown {} {}", own.uid(), path.display()),
        ));
    }
    Ok(())
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::File {
        action,
        path,
        source,
    }
}
