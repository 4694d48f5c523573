// SPDX-License-Identifier: Apache-2.0

//! Certificates that a rule has shown to a server: out of files or a Secret, to nobody else, and
//! what else the rule says of the server.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::{
    RootCertStore, ServerConfig, pki_types::PrivatePkcs8KeyDer, server::WebPkiClientVerifier,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::{
    mesh::{Mesh, connect, get},
    origination::secured,
};
use crate::{
    identity::{CredentialSources, Reading, Sealed, SecretError, Secrets},
    model::{ClientTls, Credential, Origination, Protocol, Roots},
};

const NAME: &str = "bank.example.com";
const URI: &str = "spiffe://bank/teller";

/// A certificate authority whose servers want certificates of it, and a directory with files.
struct Bank {
    dir: PathBuf,
    root: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// The fields of a Secret, or why it cannot be read.
type Kept = Result<Vec<(&'static str, String)>, SecretError>;

/// Secrets by namespace and name; counts how often one is read.
#[derive(Default)]
struct Safe {
    secrets: Mutex<BTreeMap<String, Kept>>,
    reads: AtomicUsize,
}

impl Secrets for Safe {
    fn read<'a>(&'a self, namespace: &'a str, name: &'a str) -> Reading<'a> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let secrets = self.secrets.lock().expect("no panic");
        let found = secrets.get(&format!("{namespace}/{name}")).cloned();
        Box::pin(async move {
            let fields = found.unwrap_or(Err(SecretError::Absent))?;
            let sealed = |(key, text): (&str, String)| (key.to_owned(), Sealed::new(text.into()));
            Ok(fields.into_iter().map(sealed).collect())
        })
    }
}

impl Bank {
    fn new(test: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).expect("a root");
        let name = format!("mesh-agent-certificates-{test}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(dir.join("default")).expect("a directory");
        let bank = Self {
            dir,
            root,
            issuer: Issuer::new(params, key),
        };
        bank.write("ca.pem", &bank.root.pem());
        let (certificate, key) = bank.issue(vec![], 7);
        bank.write("default/tls.crt", &certificate.pem());
        bank.write("default/tls.key", &key.serialize_pem());
        bank
    }

    fn write(&self, name: &str, text: &str) -> Arc<str> {
        let path = self.dir.join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").into()
    }

    fn path(&self, name: &str) -> Arc<str> {
        self.dir.join(name).to_str().expect("UTF-8").into()
    }

    fn issue(&self, names: Vec<SanType>, serial: u64) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.subject_alt_names = names;
        params.serial_number = Some(SerialNumber::from(serial));
        (params.signed_by(&key, &self.issuer).expect("signed"), key)
    }

    /// A list of what is revoked.
    fn revoked(&self, serials: &[u64]) -> String {
        let now = time::OffsetDateTime::now_utc();
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::days(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("signed");
        list.pem().expect("PEM")
    }

    /// A server with a certificate of this serial number, that asks clients for theirs. Requests get
    /// `ok`.
    async fn server(&self, mesh: &Mesh, serial: u64) -> SocketAddr {
        let names = vec![
            SanType::DnsName(NAME.try_into().expect("a name")),
            SanType::URI(URI.try_into().expect("a name")),
        ];
        let (certificate, key) = self.issue(names, serial);
        let mut roots = RootCertStore::empty();
        roots.add(self.root.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a root"))
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .expect("a pair");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        mesh.app(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut bytes = vec![0; 1 << 14];
                while let Ok(1..) = stream.read(&mut bytes).await {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    stream.write_all(answer).await.ok();
                    stream.flush().await.ok();
                }
            }
        })
        .await
    }

    /// A rule with the certificate in files.
    fn files(&self) -> Origination {
        Origination {
            server_name: Some(NAME.into()),
            names: Vec::new(),
            roots: Roots::File(self.path("ca.pem")),
            revoked: None,
            credential: Some(Credential::Files {
                namespace: "default".into(),
                certificate: self.path("default/tls.crt"),
                key: self.path("default/tls.key"),
            }),
            skip_verify: false,
        }
    }

    fn sources(&self, safe: &Arc<Safe>) -> CredentialSources {
        CredentialSources {
            files: Some(self.dir.clone()),
            secrets: Some(Arc::clone(safe) as Arc<dyn Secrets>),
        }
    }

    /// The fields of a Secret with everything.
    fn fields(&self) -> Vec<(&'static str, String)> {
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).expect("a file");
        vec![
            ("tls.crt", read("default/tls.crt")),
            ("tls.key", read("default/tls.key")),
            ("ca.crt", read("ca.pem")),
        ]
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// A rule with the certificate in a Secret.
fn secret(namespace: &str, name: &str, shown: bool) -> Origination {
    Origination {
        server_name: Some(NAME.into()),
        names: Vec::new(),
        roots: Roots::Secret,
        revoked: None,
        credential: Some(Credential::Secret {
            namespace: namespace.into(),
            name: name.into(),
            shown,
        }),
        skip_verify: false,
    }
}

/// What a client is answered whose rule is `wanted`.
async fn answer(mesh: &Mesh, address: SocketAddr, wanted: Origination) -> (String, String) {
    let cluster = secured(address, ClientTls::Originate(wanted));
    let vip = mesh.service(1, Protocol::Http, cluster, vec![]).await;
    let (head, body) = get(&mut connect(vip).await, "/").await;
    (head.lines().next().unwrap_or_default().to_owned(), body)
}

#[track_caller]
fn check_ok((head, body): &(String, String)) {
    assert_eq!(body, "ok", "{head}");
}

#[track_caller]
fn check_refused((head, body): &(String, String), why: &str) {
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(body.contains("TLS: ") && body.contains(why), "{body}");
    assert!(!body.contains("PRIVATE KEY"), "{body}");
}

#[tokio::test]
async fn the_certificate_of_files_is_shown_from_the_namespaces_directory_alone() {
    let (mesh, bank, safe) = (Mesh::start(), Bank::new("files"), Arc::<Safe>::default());
    let address = bank.server(&mesh, 1).await;
    let refused = answer(&Mesh::start(), address, bank.files()).await;
    check_refused(&refused, "--client-certificates");
    mesh.credentials(bank.sources(&safe));
    check_ok(&answer(&mesh, address, bank.files()).await);

    let with = |namespace: &str, certificate: &str, key: &str| Origination {
        credential: Some(Credential::Files {
            namespace: namespace.into(),
            certificate: bank.path(certificate),
            key: bank.path(key),
        }),
        ..bank.files()
    };
    let other = with("other", "default/tls.crt", "default/tls.key");
    let refused = answer(&mesh, address, other).await;
    check_refused(&refused, "for clients of the rule's own namespace");
    let outside = with("default", "ca.pem", "default/tls.key");
    check_refused(&answer(&mesh, address, outside).await, "is not below");
    let link = bank.dir.join("default/link.crt");
    std::os::unix::fs::symlink(bank.dir.join("ca.pem"), link).expect("a link");
    let led = with("default", "default/link.crt", "default/tls.key");
    check_refused(&answer(&mesh, address, led).await, "is not below");
    bank.write("default/none.key", "no key at all");
    let none = with("default", "default/tls.crt", "default/none.key");
    check_refused(&answer(&mesh, address, none).await, "client's key");
    let simple = Origination {
        credential: None,
        ..bank.files()
    };
    let (head, _) = answer(&mesh, address, simple).await;
    assert!(
        head.starts_with("HTTP/1.1 503"),
        "a certificate is asked for: {head}"
    );
}

#[tokio::test]
async fn the_certificate_of_a_secret_is_shown_and_none_is_read_before() {
    let (mesh, bank, safe) = (Mesh::start(), Bank::new("secret"), Arc::<Safe>::default());
    mesh.credentials(bank.sources(&safe));
    let address = bank.server(&mesh, 1).await;
    {
        let mut secrets = safe.secrets.lock().expect("no panic");
        let fields = bank.fields();
        let old = [("cert", 0), ("key", 1), ("cacert", 2)];
        let old = old.map(|(key, at)| (key, fields[at].1.clone()));
        secrets.insert("default/bank".into(), Ok(fields.clone()));
        secrets.insert("default/old".into(), Ok(old.to_vec()));
        secrets.insert("default/two".into(), Ok(fields[..2].to_vec()));
        secrets.insert("default/two-cacert".into(), Ok(fields[2..].to_vec()));
        secrets.insert("default/rootless".into(), Ok(fields[..2].to_vec()));
        secrets.insert(
            "default/keyless".into(),
            Ok(vec![fields[0].clone(), fields[2].clone()]),
        );
        secrets.insert("default/forbidden".into(), Err(SecretError::Forbidden));
        secrets.insert("other/bank".into(), Ok(fields));
    }
    assert_eq!(safe.reads.load(Ordering::Relaxed), 0);
    for name in ["bank", "old", "two"] {
        check_ok(&answer(&mesh, address, secret("default", name, true)).await);
    }
    for (name, why) in [
        ("absent", "there is no such Secret"),
        ("forbidden", "`get` this Secret"),
        ("rootless", "has no ca.crt"),
        ("keyless", "has no tls.key"),
    ] {
        let refused = answer(&mesh, address, secret("default", name, true)).await;
        check_refused(&refused, why);
    }
    let before = safe.reads.load(Ordering::Relaxed);
    let refused = answer(&mesh, address, secret("other", "bank", true)).await;
    check_refused(&refused, "for clients of the rule's own namespace");
    assert_eq!(safe.reads.load(Ordering::Relaxed), before, "not even read");
}

#[tokio::test]
async fn what_is_revoked_is_nobody_and_uris_are_names() {
    let (mesh, bank, safe) = (Mesh::start(), Bank::new("revoked"), Arc::<Safe>::default());
    mesh.credentials(bank.sources(&safe));
    let (good, bad) = (bank.server(&mesh, 1).await, bank.server(&mesh, 2).await);
    let revoking = Origination {
        revoked: Some(bank.write("ca.crl", &bank.revoked(&[2]))),
        ..bank.files()
    };
    check_ok(&answer(&mesh, good, revoking.clone()).await);
    check_refused(&answer(&mesh, bad, revoking.clone()).await, "Revoked");
    let named = |names: &[&str]| Origination {
        names: names.iter().map(|name| (*name).into()).collect(),
        ..revoking.clone()
    };
    check_ok(&answer(&mesh, good, named(&["spiffe://a/b", URI])).await);
    check_refused(&answer(&mesh, bad, named(&[URI])).await, "Revoked");
    check_refused(
        &answer(&mesh, good, named(&["spiffe://a/b"])).await,
        "NotValidForName",
    );
    let stranger = Bank::new("stranger");
    let theirs = Origination {
        roots: Roots::File(stranger.path("ca.pem")),
        revoked: None,
        ..named(&[URI])
    };
    check_refused(
        &answer(&mesh, good, theirs).await,
        "invalid peer certificate",
    );
    let unreadable = Origination {
        revoked: Some(bank.write("none.crl", "nothing")),
        ..bank.files()
    };
    check_refused(
        &answer(&mesh, good, unreadable).await,
        "list of what is revoked",
    );
}
