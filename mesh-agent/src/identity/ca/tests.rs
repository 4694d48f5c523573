// SPDX-License-Identifier: Apache-2.0

//! What the embedded authority promises: the shape of certificates, and custody of the root.
//!
//! Certificates are read with another parser than the one that wrote them.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt};

use super::{super::verify, *};

const DOMAIN: &str = "cluster.local";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A directory that is gone with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("mesh-agent-{:032x}", fastrand::u128(..)));
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new(DOMAIN, "default", account)
}

fn leaf(authority: &CertificateAuthority, identity: &SpiffeId, ttl: Duration) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    authority.sign(identity, &key, ttl).unwrap().to_vec()
}

#[test]
fn a_leaf_says_who_it_is_and_nothing_else() {
    let authority = CertificateAuthority::in_memory(DOMAIN).unwrap();
    let der = leaf(&authority, &id("web"), DAY);
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(parsed.subject().iter().count(), 0);
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    assert_eq!(names.value.general_names.len(), 1);
    assert_eq!(verify::identity_of(&der), Ok(id("web")));
    let usage = parsed.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment());
    assert_eq!(usage.flags.count_ones(), 2);
    let extended = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert!(!parsed.is_ca());
    let validity = parsed.validity();
    let life = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert!((86_520..=86_521).contains(&life), "{life}");
    assert!(parsed.raw_serial().len() == 16 && parsed.raw_serial()[0] < 0x80);
}

#[test]
fn a_leaf_never_outlives_its_root() {
    let authority = CertificateAuthority::in_memory(DOMAIN).unwrap();
    let der = leaf(&authority, &id("web"), DAY * 365 * 50);
    let (_, end) = verify::validity_of(&der).unwrap();
    let (_, root_end) = verify::validity_of(authority.root()).unwrap();
    assert_eq!(end, root_end);
}

#[test]
fn agents_that_start_at_once_share_one_root() {
    let scratch = Scratch::new();
    let starts: Vec<_> = (0..8)
        .map(|_| {
            let dir = scratch.0.clone();
            std::thread::spawn(move || CertificateAuthority::open(&dir, DOMAIN).unwrap())
        })
        .collect();
    let roots: BTreeSet<Vec<u8>> = starts
        .into_iter()
        .map(|start| start.join().unwrap().root().to_vec())
        .collect();
    assert_eq!(roots.len(), 1);
    let left: Vec<_> = fs::read_dir(&scratch.0).unwrap().collect();
    assert_eq!(left.len(), 1, "only the root stays: {left:?}");
    let mode = fs::metadata(scratch.0.join("root.pem"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_root_that_others_could_read_is_refused() {
    let scratch = Scratch::new();
    CertificateAuthority::open(&scratch.0, DOMAIN).unwrap();
    let file = scratch.0.join("root.pem");
    for (path, loose, tight) in [(&file, 0o640, 0o600), (&scratch.0, 0o750, 0o700)] {
        fs::set_permissions(path, fs::Permissions::from_mode(loose)).unwrap();
        let error = CertificateAuthority::open(&scratch.0, DOMAIN).unwrap_err();
        let fix = format!("chmod {tight:04o} {}", path.display());
        assert!(error.to_string().ends_with(&fix), "{error}");
        fs::set_permissions(path, fs::Permissions::from_mode(tight)).unwrap();
    }
    CertificateAuthority::open(&scratch.0, DOMAIN).unwrap();
}

#[test]
fn a_root_of_another_trust_domain_or_a_broken_one_is_refused() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    CertificateAuthority::open(&scratch.0, DOMAIN).unwrap();
    CertificateAuthority::open(&other.0, DOMAIN).unwrap();
    let error = CertificateAuthority::open(&scratch.0, "example.org").unwrap_err();
    assert!(
        matches!(error, AuthorityError::OtherTrustDomain { .. }),
        "{error}"
    );
    let (file, good) = (scratch.0.join("root.pem"), other.0.join("root.pem"));
    let (ours, theirs) = (
        fs::read_to_string(&file).unwrap(),
        fs::read_to_string(good).unwrap(),
    );
    let border = "-----BEGIN CERTIFICATE";
    let (key, _) = ours.split_once(border).unwrap();
    let (_, certificate) = theirs.split_once(border).unwrap();
    for broken in [
        String::new(),
        key.to_owned(),
        format!("{key}{border}{certificate}"),
    ] {
        fs::write(&file, broken).unwrap();
        let error = CertificateAuthority::open(&scratch.0, DOMAIN).unwrap_err();
        assert!(matches!(error, AuthorityError::Unusable { .. }), "{error}");
    }
}
