// SPDX-License-Identifier: Apache-2.0

//! What a rule's TLS is made of: roots, lists of what is revoked, a certificate and its key, out of
//! files or a Secret.
//!
//! Blocks while it reads files: never called on a data thread. Knows nothing of TLS, nor of how
//! Secrets are read. Invariant: a key is read from below the directory that the operator gave, and
//! there from the rule's own namespace; what was read is overwritten before its memory is given back.

use std::{
    collections::BTreeMap,
    fmt, fs,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use crate::model::{Credential, Origination, Roots};

/// The largest file that is read.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// Where systems keep whom they trust.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// What Istio calls the Secret that has the roots alone.
const ROOTS_SUFFIX: &str = "-cacert";

/// Bytes that nobody shall find in memory later.
#[derive(Default)]
pub struct Sealed(Vec<u8>);

/// The fields of a Secret.
pub type SecretFields = BTreeMap<String, Sealed>;

/// A Secret cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SecretError {
    /// There is none of that name.
    #[error("there is no such Secret")]
    Absent,
    /// The agent may not read it.
    #[error("the agent may not read it: let its service account `get` this Secret by a Role")]
    Forbidden,
    /// Nobody answered, or not as they should.
    #[error("{0}")]
    Unanswered(String),
}

/// A Secret on its way.
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<SecretFields, SecretError>> + Send + 'a>>;

/// Who has Secrets.
pub trait Secrets: Send + Sync {
    /// The fields of the Secret `name` in `namespace`.
    fn read<'a>(&'a self, namespace: &'a str, name: &'a str) -> Reading<'a>;
}

/// Where credentials come from.
#[derive(Clone, Default)]
pub struct CredentialSources {
    /// The directory in which a directory for each namespace has the files that its rules may name.
    pub files: Option<PathBuf>,
    /// Who has Secrets.
    pub secrets: Option<Arc<dyn Secrets>>,
}

/// Why there is nothing to make TLS of.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialError {
    #[error("reading {path}")]
    File {
        path: Arc<str>,
        #[source]
        source: io::Error,
    },
    #[error("client certificates in files need the agent's flag --client-certificates")]
    NoFiles,
    #[error("{path} is not below {}, where rules of that namespace may name files", dir.display())]
    Outside { path: Arc<str>, dir: PathBuf },
    #[error("there is no Kubernetes API to read Secrets from")]
    NoSecrets,
    #[error("Secret {namespace}/{name}")]
    Secret {
        namespace: Arc<str>,
        name: Arc<str>,
        #[source]
        source: SecretError,
    },
    #[error("Secret {namespace}/{name} has no {field}")]
    Field {
        namespace: Arc<str>,
        name: Arc<str>,
        field: &'static str,
    },
}

/// What TLS is made of, in PEM.
#[derive(Default)]
pub(super) struct Material {
    pub(super) roots: Sealed,
    pub(super) revoked: Option<Sealed>,
    /// Certificate and key.
    pub(super) shown: Option<(Sealed, Sealed)>,
}

impl Sealed {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        self.0.fill(0);
        // So that the zeros are written although nobody reads them.
        std::hint::black_box(&self.0);
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sealed")
    }
}

impl CredentialError {
    /// Whether it was taken away on purpose: what was read before is not used any longer.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::File { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Secret { source, .. } => {
                matches!(source, SecretError::Absent | SecretError::Forbidden)
            }
            Self::NoFiles | Self::Outside { .. } | Self::NoSecrets => true,
            Self::Field { .. } => false,
        }
    }
}

/// What the files say that `wanted` names. Blocks.
pub(super) fn from_files(
    wanted: &Origination,
    dir: Option<&Path>,
) -> Result<Material, CredentialError> {
    let mut material = Material::default();
    let system = || {
        let found = SYSTEM.iter().find(|path| Path::new(path).is_file());
        found.copied().unwrap_or(SYSTEM[0]).into()
    };
    let roots = match &wanted.roots {
        Roots::File(path) => Some(Arc::clone(path)),
        Roots::System => Some(system()),
        Roots::Secret => None,
    };
    if let Some(roots) = roots.filter(|_| !wanted.skip_verify) {
        material.roots = read(&roots)?;
        material.revoked = wanted.revoked.as_ref().map(read).transpose()?;
    }
    if let Some(Credential::Files {
        namespace,
        certificate,
        key,
    }) = &wanted.credential
    {
        let dir = dir.ok_or(CredentialError::NoFiles)?.join(&**namespace);
        material.shown = Some((read_below(&dir, certificate)?, read_below(&dir, key)?));
    }
    Ok(material)
}

fn read(path: &Arc<str>) -> Result<Sealed, CredentialError> {
    let file = |source| CredentialError::File {
        path: Arc::clone(path),
        source,
    };
    let facts = fs::metadata(&**path).map_err(file)?;
    if !facts.is_file() || facts.len() > FILE_MAX {
        let wrong = io::Error::new(io::ErrorKind::InvalidData, "no file of certificates");
        return Err(file(wrong));
    }
    fs::read(&**path).map(Sealed).map_err(file)
}

/// As [`read`], of a file that is below `dir` wherever links lead.
fn read_below(dir: &Path, path: &Arc<str>) -> Result<Sealed, CredentialError> {
    let file = |source| CredentialError::File {
        path: Arc::clone(path),
        source,
    };
    let outside = || CredentialError::Outside {
        path: Arc::clone(path),
        dir: dir.to_owned(),
    };
    // First by its name, so that nothing is told of files elsewhere.
    if !Path::new(&**path).starts_with(dir) {
        return Err(outside());
    }
    let real = fs::canonicalize(&**path).map_err(file)?;
    if !real.starts_with(fs::canonicalize(dir).map_err(file)?) {
        return Err(outside());
    }
    read(path)
}

/// What the Secret says that `wanted` names, in place of what no file says.
pub(super) async fn from_secret(
    wanted: &Origination,
    secrets: Option<&Arc<dyn Secrets>>,
    material: &mut Material,
) -> Result<(), CredentialError> {
    let Some(Credential::Secret {
        namespace,
        name,
        shown,
    }) = &wanted.credential
    else {
        return Ok(());
    };
    let secrets = secrets.ok_or(CredentialError::NoSecrets)?;
    let failed = |source| CredentialError::Secret {
        namespace: Arc::clone(namespace),
        name: Arc::clone(name),
        source,
    };
    let missing = |field| CredentialError::Field {
        namespace: Arc::clone(namespace),
        name: Arc::clone(name),
        field,
    };
    let of_roots = format!("{name}{ROOTS_SUFFIX}");
    let of_roots = match secrets.read(namespace, &of_roots).await {
        Ok(fields) => Some(fields),
        Err(SecretError::Absent | SecretError::Forbidden) => None,
        Err(other) => return Err(failed(other)),
    };
    let own = secrets.read(namespace, name).await;
    let mut own = match own {
        Ok(fields) => fields,
        // The Secret of the roots is enough where no certificate is shown.
        Err(SecretError::Absent | SecretError::Forbidden) if !shown && of_roots.is_some() => {
            SecretFields::new()
        }
        Err(error) => return Err(failed(error)),
    };
    if *shown {
        let certificate = take(&mut own, ["tls.crt", "cert"]).ok_or_else(|| missing("tls.crt"))?;
        let key = take(&mut own, ["tls.key", "key"]).ok_or_else(|| missing("tls.key"))?;
        material.shown = Some((certificate, key));
    }
    if !wanted.skip_verify {
        let mut from = of_roots.unwrap_or_default();
        let roots = match take(&mut from, ["ca.crt", "cacert"]) {
            Some(roots) => Some(roots),
            None => {
                from = own;
                take(&mut from, ["ca.crt", "cacert"])
            }
        };
        material.roots = roots.ok_or_else(|| missing("ca.crt"))?;
        material.revoked = take(&mut from, ["ca.crl", "crl"]);
    }
    Ok(())
}

/// What one of two keys has, unless it is empty.
fn take(fields: &mut SecretFields, keys: [&str; 2]) -> Option<Sealed> {
    let mut found = keys.iter().filter_map(|key| fields.remove(*key));
    found.find(|value| !value.0.is_empty())
}
