// SPDX-License-Identifier: Apache-2.0

//! Certificates that survive a restart of the agent without the authority: one file each, with
//! its key, and one with the roots that were trusted.
//!
//! How they are written and read is [`super::private`]'s. Knows nothing of when certificates are issued.
//! Invariants: directory 0700, files 0600, of the agent's own user; what cannot be read, or has expired, is
//! deleted and never used.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{PemObject, SectionKind},
};

use super::{
    ca::AuthorityError,
    issue::Issued,
    private::{self, Unread},
    roots, verify,
};
use crate::model::SpiffeId;

/// Far more than a key and a chain need.
const MAX_BYTES: u64 = 256 * 1024;

/// The file of the trusted roots; no identity's file has this name.
const ROOTS_FILE: &str = "roots.pem";

/// What files of identities end with; namespaces and service accounts have no underscore.
const SUFFIX: &str = ".identity.pem";

/// A directory of certificates with their keys.
#[derive(Clone, Debug)]
pub struct Keep {
    dir: PathBuf,
}

/// What was kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) certificates: BTreeMap<SpiffeId, Issued>,
    pub(super) roots: Vec<CertificateDer<'static>>,
}

impl Keep {
    /// Uses `dir`, which is made (0700) if it is missing.
    ///
    /// # Errors
    /// It cannot be made, belongs to another user, or others may read it.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        private::open_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Reads all that is still good for `trust_domain`; deletes the rest.
    pub(super) fn load(&self, trust_domain: &str) -> Kept {
        let mut kept = Kept::default();
        let roots_path = self.dir.join(ROOTS_FILE);
        match private::read(&roots_path, MAX_BYTES) {
            Ok(text) => match roots::parse_roots(&String::from_utf8_lossy(&text)) {
                Ok(found) => kept.roots = found,
                Err(error) => discard(&roots_path, &error.to_string()),
            },
            Err(Unread::Missing) => {}
            Err(Unread::Problem(problem)) => discard(&roots_path, &problem),
        }
        for path in self.files() {
            match self.certificate(&path, trust_domain, &kept.roots) {
                Ok((identity, issued)) => {
                    kept.certificates.insert(identity, issued);
                }
                Err(problem) => discard(&path, &problem),
            }
        }
        kept
    }

    /// Keeps a certificate in place of its predecessor.
    pub(super) fn store(
        &self,
        identity: &SpiffeId,
        chain: &[CertificateDer<'static>],
        pkcs8: &[u8],
    ) -> io::Result<()> {
        let mut text = pem::encode(&pem::Pem::new("PRIVATE KEY", pkcs8));
        text.push_str(&roots::to_pem(chain));
        private::replace(&self.dir, &file_name(identity), text.as_bytes())
    }

    /// Keeps the roots in place of those before.
    pub(super) fn store_roots(&self, roots: &[CertificateDer<'static>]) -> io::Result<()> {
        private::replace(&self.dir, ROOTS_FILE, roots::to_pem(roots).as_bytes())
    }

    /// Deletes what is kept of `identity`.
    pub(super) fn remove(&self, identity: &SpiffeId) {
        let path = self.dir.join(file_name(identity));
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "deleting a kept certificate");
            }
        }
    }

    /// Deletes everything.
    pub(super) fn clear(&self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "deleting kept certificates");
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "reading kept certificates");
                return Vec::new();
            }
        };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let (drafts, files): (Vec<PathBuf>, Vec<PathBuf>) = paths
            .filter(|path| path.file_name().is_some_and(|name| name != ROOTS_FILE))
            .partition(|path| !path.to_string_lossy().ends_with(SUFFIX));
        for draft in drafts {
            discard(&draft, "it was never finished");
        }
        files
    }

    fn certificate(
        &self,
        path: &Path,
        trust_domain: &str,
        roots: &[CertificateDer<'static>],
    ) -> Result<(SpiffeId, Issued), String> {
        let text = match private::read(path, MAX_BYTES) {
            Ok(text) => text,
            Err(Unread::Missing) => return Err("it is gone".to_owned()),
            Err(Unread::Problem(problem)) => return Err(problem),
        };
        let (mut key, mut chain) = (None, Vec::new());
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&text) {
            match section.map_err(|error| format!("it is not PEM: {error}"))? {
                (SectionKind::Certificate, der) => chain.push(CertificateDer::from(der)),
                (SectionKind::PrivateKey, der) => key = Some(PrivateKeyDer::Pkcs8(der.into())),
                (other, _) => return Err(format!("it holds an unexpected {other:?}")),
            }
        }
        let key = key.ok_or("it holds no PRIVATE KEY")?;
        let leaf = chain.first().ok_or("it holds no CERTIFICATE")?;
        let identity = verify::identity_of(leaf).map_err(|error| error.to_string())?;
        if identity.trust_domain() != trust_domain {
            return Err(format!("{identity} is not of trust domain {trust_domain}"));
        }
        if path.file_name() != Some(file_name(&identity).as_ref()) {
            return Err(format!("it is {identity}'s, under another's name"));
        }
        let issued = Issued::new(&identity, chain, roots.to_vec(), &key)
            .map_err(|error| error.to_string())?;
        Ok((identity, issued))
    }
}

fn file_name(identity: &SpiffeId) -> String {
    let (namespace, account) = (identity.namespace(), identity.service_account());
    format!("{namespace}_{account}{SUFFIX}")
}

fn discard(path: &Path, problem: &str) {
    tracing::info!(path = %path.display(), problem, "deleting a kept certificate");
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "deleting a kept certificate");
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    use super::*;
    use crate::identity::{CertificateAuthority, issue};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Self {
            let name = format!("mesh-agent-keep-{:016x}", fastrand::u64(..));
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn id(account: &str) -> SpiffeId {
        SpiffeId::new("a.b", "default", account)
    }

    async fn keep_one(keep: &Keep, authority: &CertificateAuthority, account: &str, ttl: Duration) {
        let fresh = issue::issue(authority, &id(account), ttl).await.unwrap();
        let chain = &fresh.issued.key.cert;
        keep.store(&id(account), chain, &fresh.pkcs8).unwrap();
    }

    #[tokio::test]
    async fn what_was_kept_is_there_after_a_restart() {
        let dir = Dir::new();
        let authority = CertificateAuthority::in_memory("a.b").unwrap();
        let keep = Keep::open(&dir.0).unwrap();
        keep_one(&keep, &authority, "web", DAY).await;
        keep_one(&keep, &authority, "db.v1", DAY).await;
        keep.store_roots(&[authority.root().clone()]).unwrap();
        let kept = Keep::open(&dir.0).unwrap().load("a.b");
        let identities: Vec<&SpiffeId> = kept.certificates.keys().collect();
        assert_eq!(identities, [&id("db.v1"), &id("web")]);
        assert_eq!(kept.roots, [authority.root().clone()]);
        for entry in fs::read_dir(&dir.0).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[tokio::test]
    async fn what_is_no_longer_good_is_deleted() {
        let dir = Dir::new();
        let authority = CertificateAuthority::in_memory("a.b").unwrap();
        let keep = Keep::open(&dir.0).unwrap();
        keep_one(&keep, &authority, "short", Duration::from_secs(1)).await;
        keep_one(&keep, &authority, "gone", DAY).await;
        keep.remove(&id("gone"));
        fs::copy(
            dir.0.join(file_name(&id("short"))),
            dir.0.join(file_name(&id("renamed"))),
        )
        .unwrap();
        private::write_synced(&dir.0.join(format!("a_b{SUFFIX}")), b"broken").unwrap();
        private::write_synced(&dir.0.join(".draft"), b"half").unwrap();
        std::thread::sleep(Duration::from_millis(2100));
        assert!(keep.load("a.b").certificates.is_empty());
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_file_that_others_can_read_is_not_used() {
        let dir = Dir::new();
        let authority = CertificateAuthority::in_memory("a.b").unwrap();
        let keep = Keep::open(&dir.0).unwrap();
        keep_one(&keep, &authority, "web", DAY).await;
        let path = dir.0.join(file_name(&id("web")));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(keep.load("a.b").certificates.is_empty());
        fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Keep::open(&dir.0).is_err());
    }

    #[tokio::test]
    async fn another_trust_domain_starts_afresh() {
        let dir = Dir::new();
        let authority = CertificateAuthority::in_memory("a.b").unwrap();
        let keep = Keep::open(&dir.0).unwrap();
        keep_one(&keep, &authority, "web", DAY).await;
        assert!(keep.load("c.d").certificates.is_empty());
    }
}
