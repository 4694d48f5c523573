// SPDX-License-Identifier: Apache-2.0

//! What identities promise: rotation, sessions, and whom the verifiers let through.
//!
//! Knows nothing of tunnels: handshakes happen in memory.

use std::sync::atomic::AtomicBool;

use rcgen::KeyPair;
use rustls::{
    HandshakeKind, NamedGroup, ProtocolVersion,
    client::danger::ServerCertVerifier,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::ClientCertVerifier,
};
use tokio::io::DuplexStream;

use super::{
    verify::{DomainClient, ExpectedServer},
    *,
};

mod intermediates;
mod rehearsals;
mod revoked;
mod verifiers;

const DOMAIN: &str = "cluster.local";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn id(account: &str) -> SpiffeId {
    SpiffeId::new(DOMAIN, "default", account)
}

/// An embedded authority that can be told to fail, and to sign for anybody.
struct Moody {
    authority: CertificateAuthority,
    fails: Arc<AtomicBool>,
}

impl Authority for Moody {
    fn trust_domain(&self) -> &str {
        self.authority.trust_domain()
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.authority.roots()
    }

    fn issue<'a>(&'a self, identity: &'a SpiffeId, key: &'a KeyPair, ttl: Duration) -> Answer<'a> {
        if self.fails.load(Ordering::Relaxed) {
            let refusal = "for the test".into();
            return Box::pin(async move { Err(IssueError::Authority(refusal)) });
        }
        self.authority.issue(identity, key, ttl)
    }
}

fn moody(ttl: Duration) -> (Identities, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(false));
    let authority = Moody {
        authority: CertificateAuthority::in_memory(DOMAIN).unwrap(),
        fails: Arc::clone(&fails),
    };
    (Identities::new(authority, ttl, Tasks::new()), fails)
}

fn leaf(authority: &CertificateAuthority, identity: &SpiffeId, ttl: Duration) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    authority.sign(identity, &key, ttl).unwrap().to_vec()
}

fn store(authority: &CertificateAuthority) -> Arc<RootCertStore> {
    Trust::new(Vec::new(), authority.roots(), TrustDomains::new(DOMAIN, [])).store
}

fn in_secs(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(
        Duration::from_secs(UnixTime::now().as_secs()) + Duration::from_secs(seconds),
    )
}

/// What the client's and the server's verifier say about a certificate.
fn verdicts(
    root: &CertificateAuthority,
    certificate: &[u8],
    now: UnixTime,
) -> (Option<PeerError>, Option<PeerError>) {
    verdicts_with(root, certificate, now, &[])
}

/// The same where the trust domain has other names, too.
fn verdicts_with(
    root: &CertificateAuthority,
    certificate: &[u8],
    now: UnixTime,
    aliases: &[&str],
) -> (Option<PeerError>, Option<PeerError>) {
    let domains = TrustDomains::new(DOMAIN, aliases.iter().map(|alias| Arc::from(*alias)));
    let (provider, roots) = (tls::provider(), store(root));
    let expected: Arc<[SpiffeId]> = [id("web")].into();
    let terms = Terms {
        domains,
        revoked: watch::Sender::new(Arc::default()).subscribe(),
    };
    let client = ExpectedServer::new(&provider, Arc::clone(&roots), expected, terms.clone());
    let client = client.unwrap();
    let server = DomainClient::new(&provider, roots, terms).unwrap();
    let certificate = CertificateDer::from(certificate);
    let name = ServerName::try_from("10.0.0.1").unwrap();
    let refused = |error: rustls::Error| {
        refusal(&std::io::Error::other(error)).expect("every refusal is typed")
    };
    (
        client
            .verify_server_cert(&certificate, &[], &name, &[], now)
            .err()
            .map(refused),
        server
            .verify_client_cert(&certificate, &[], now)
            .err()
            .map(refused),
    )
}

#[test]
fn the_right_peer_passes_and_others_are_named() {
    let (ours, theirs) = (
        CertificateAuthority::in_memory(DOMAIN).unwrap(),
        CertificateAuthority::in_memory(DOMAIN).unwrap(),
    );
    let now = UnixTime::now();
    assert_eq!(
        verdicts(&ours, &leaf(&ours, &id("web"), DAY), now),
        (None, None)
    );
    let (client, server) = verdicts(&ours, &leaf(&theirs, &id("web"), DAY), now);
    for refused in [client, server] {
        assert!(
            matches!(refused, Some(PeerError::Untrusted { presented, .. }) if presented == id("web"))
        );
    }
    let (client, server) = verdicts(&ours, &leaf(&ours, &id("db"), DAY), now);
    let (expected, presented) = ([id("web")].into(), id("db"));
    assert_eq!(
        client,
        Some(PeerError::Unexpected {
            expected,
            presented
        })
    );
    assert_eq!(server, None);
    let stranger = SpiffeId::new("elsewhere", "default", "web");
    let (_, server) = verdicts(&ours, &leaf(&ours, &stranger, DAY), now);
    let (expected, presented) = (DOMAIN.to_owned(), stranger);
    assert_eq!(
        server,
        Some(PeerError::ForeignTrustDomain {
            expected,
            presented
        })
    );
}

#[test]
fn a_certificate_is_good_for_its_time_only() {
    let authority = CertificateAuthority::in_memory(DOMAIN).unwrap();
    let der = leaf(&authority, &id("web"), Duration::from_secs(2));
    assert_eq!(verdicts(&authority, &der, UnixTime::now()), (None, None));
    for now in [
        in_secs(5),
        UnixTime::since_unix_epoch(Duration::from_secs(1)),
    ] {
        let (client, server) = verdicts(&authority, &der, now);
        for refused in [client, server] {
            assert!(
                matches!(refused, Some(PeerError::NotValidNow { .. })),
                "{refused:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_replaced_at_half_its_life() {
    let (identities, _) = moody(DAY);
    identities.want([id("web")]);
    identities.ready(&id("web")).await;
    let (first, begin) = (
        identities.generation(&id("web")),
        tokio::time::Instant::now(),
    );
    let serial = identities.list()[0].serial.clone();
    let mut table = identities.0.core.table.subscribe();
    drop(
        table
            .wait_for(|table| {
                table
                    .live(&id("web"))
                    .is_ok_and(|live| live.generation > first)
            })
            .await,
    );
    let waited = begin.elapsed();
    assert!(
        (DAY / 100 * 44..=DAY / 100 * 56).contains(&waited),
        "{waited:?}"
    );
    assert_ne!(identities.list()[0].serial, serial);
}

#[tokio::test(start_paused = true)]
async fn a_live_certificate_stays_while_the_authority_fails() {
    let (identities, fails) = moody(DAY);
    identities.want([id("web")]);
    identities.ready(&id("web")).await;
    let first = identities.generation(&id("web"));
    fails.store(true, Ordering::Relaxed);
    tokio::time::sleep(DAY * 2 / 3).await;
    assert_eq!(identities.generation(&id("web")), first);
    identities
        .client(&id("web"), &[id("db")], Alpn::Hbone)
        .unwrap();
    let view = &identities.list()[0];
    assert_eq!(view.state, CertificateState::RenewalFailing);
    assert_eq!(
        view.error.as_deref(),
        Some("asking the certificate authority: for the test")
    );
    fails.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(identities.generation(&id("web")) > first);
    assert_eq!(identities.list()[0].state, CertificateState::Live);
}

#[tokio::test]
async fn a_certificate_that_ran_out_is_not_used() {
    let (identities, _) = moody(DAY);
    identities.want([id("web")]);
    identities.ready(&id("web")).await;
    let core = &identities.0.core;
    let mut issued = core.table.borrow().live(&id("web")).unwrap().issued.clone();
    issued.not_after = SystemTime::now() - Duration::from_secs(1);
    core.publish(&id("web"), issued).unwrap();
    assert_eq!(identities.list()[0].state, CertificateState::Expired);
    for error in [
        identities.server(&id("web"), Alpn::Hbone).err(),
        identities
            .client(&id("web"), &[id("db")], Alpn::Hbone)
            .err(),
    ] {
        assert!(
            matches!(error, Some(IdentityError::Expired { .. })),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn what_is_not_wanted_any_more_is_forgotten() {
    let (identities, _) = moody(DAY);
    identities.want([id("web"), id("db")]);
    identities.ready(&id("web")).await;
    identities.ready(&id("db")).await;
    let before = identities.generation(&id("web"));
    identities.want([id("db")]);
    while identities.list().len() > 1 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(
        identities.server(&id("web"), Alpn::Hbone),
        Err(IdentityError::NotLive(_))
    ));
    assert_eq!(identities.generation(&id("web")), 0);
    identities.want([id("web"), id("db")]);
    identities.ready(&id("web")).await;
    assert!(
        identities.generation(&id("web")) > before,
        "generations are never used twice"
    );
}

type Session = (
    tokio_rustls::client::TlsStream<DuplexStream>,
    tokio_rustls::server::TlsStream<DuplexStream>,
);

/// A session from `web` to `db`, which is expected among `expected`.
async fn session(identities: &Identities, expected: &[SpiffeId]) -> std::io::Result<Session> {
    Box::pin(handshake(identities, expected)).await
}

async fn handshake(identities: &Identities, expected: &[SpiffeId]) -> std::io::Result<Session> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = identities
        .client(&id("web"), expected, Alpn::Hbone)
        .unwrap();
    let acceptor = identities.server(&id("db"), Alpn::Hbone).unwrap();
    let name = ServerName::try_from("10.0.0.1").unwrap();
    let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    let (mut client, mut server) = (client?, server?);
    // A byte from the server brings the ticket.
    server.write_all(b"x").await?;
    server.flush().await?;
    client.read_u8().await?;
    Ok((client, server))
}

#[tokio::test]
async fn sessions_are_hybrid_tls_1_3_and_know_both_ends() {
    let (identities, _) = moody(DAY);
    identities.want([id("web"), id("db")]);
    identities.ready(&id("web")).await;
    identities.ready(&id("db")).await;
    let (client, server) = session(&identities, &[id("db")]).await.unwrap();
    let (near, far) = (client.get_ref().1, server.get_ref().1);
    assert_eq!(near.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = near.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    let suite = near.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(near.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(far.server_name(), None);
    assert_eq!(
        (
            verify::peer(near).unwrap().identity,
            verify::peer(far).unwrap().identity
        ),
        (id("db"), id("web"))
    );
}

#[tokio::test]
async fn only_the_same_pair_resumes_a_session_and_only_until_a_rotation() {
    let (identities, _) = moody(DAY);
    identities.want([id("web"), id("db")]);
    identities.ready(&id("web")).await;
    identities.ready(&id("db")).await;
    let kind = async |expected: &[SpiffeId]| {
        let (client, server) = session(&identities, expected).await.unwrap();
        assert_eq!(verify::peer(client.get_ref().1).unwrap().identity, id("db"));
        assert_eq!(
            verify::peer(server.get_ref().1).unwrap().identity,
            id("web")
        );
        client.get_ref().1.handshake_kind().unwrap()
    };
    assert_eq!(kind(&[id("db")]).await, HandshakeKind::Full);
    assert_eq!(kind(&[id("db")]).await, HandshakeKind::Resumed);
    assert_eq!(kind(&[id("db"), id("cache")]).await, HandshakeKind::Full);
    // Whoever expects somebody else must not be let in by a ticket.
    let error = session(&identities, &[id("cache")])
        .await
        .map(drop)
        .unwrap_err();
    assert!(
        matches!(refusal(&error), Some(PeerError::Unexpected { .. })),
        "{error}"
    );
    // New roots, like new certificates, begin anew.
    identities.trust(CertificateAuthority::in_memory(DOMAIN).unwrap().roots());
    assert_eq!(kind(&[id("db")]).await, HandshakeKind::Full);
}

#[tokio::test]
async fn roots_change_without_a_restart() {
    let (ours, _) = moody(DAY);
    let (theirs, _) = moody(DAY);
    ours.want([id("web")]);
    theirs.want([id("db")]);
    ours.ready(&id("web")).await;
    theirs.ready(&id("db")).await;
    let handshake = async || {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let connector = ours.client(&id("web"), &[id("db")], Alpn::Hbone).unwrap();
        let acceptor = theirs.server(&id("db"), Alpn::Hbone).unwrap();
        let name = ServerName::try_from("10.0.0.1").unwrap();
        let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        client.is_ok() && server.is_ok()
    };
    let generation = ours.generation(&id("web"));
    assert!(!handshake().await);
    ours.trust(theirs.roots());
    theirs.trust(ours.roots());
    assert!(handshake().await);
    assert!(
        ours.generation(&id("web")) > generation,
        "tunnels are made anew, too"
    );
    ours.trust(Vec::new());
    assert!(!handshake().await);
    assert_eq!(ours.list()[0].roots.len(), 1);
}

/// A directory that is gone with the value.
struct Dir(std::path::PathBuf);

impl Dir {
    fn new() -> Self {
        let name = format!("mesh-agent-identities-{:016x}", fastrand::u64(..));
        Self(std::env::temp_dir().join(name))
    }

    fn files(&self) -> usize {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.filter(|name| name != "roots.pem").count()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn kept_in(dir: &Dir, authority: &CertificateAuthority, fails: bool) -> Identities {
    let authority = Moody {
        authority: authority.clone(),
        fails: Arc::new(AtomicBool::new(fails)),
    };
    let keep = Keep::open(&dir.0).unwrap();
    Identities::with_keep(authority, DAY, Tasks::new(), Some(keep))
}

#[tokio::test]
async fn a_certificate_survives_a_restart_without_the_authority() {
    let (dir, authority) = (Dir::new(), CertificateAuthority::in_memory(DOMAIN).unwrap());
    let first = kept_in(&dir, &authority, false);
    first.want([id("web")]);
    first.ready(&id("web")).await;
    let serial = first.list()[0].serial.clone();
    let second = kept_in(&dir, &authority, true);
    second.want([id("web"), id("db")]);
    second.ready(&id("web")).await;
    let views = second.list();
    let [db, web] = views.as_slice() else {
        panic!("{views:?}");
    };
    assert_eq!((web.state, &web.serial), (CertificateState::Live, &serial));
    assert_eq!(db.state, CertificateState::Waiting);
    second.server(&id("web"), Alpn::Hbone).unwrap();
}

#[tokio::test]
async fn what_nobody_wants_any_more_is_not_kept() {
    let (dir, authority) = (Dir::new(), CertificateAuthority::in_memory(DOMAIN).unwrap());
    let identities = kept_in(&dir, &authority, false);
    identities.want([id("web"), id("db")]);
    identities.ready(&id("web")).await;
    identities.ready(&id("db")).await;
    assert_eq!(dir.files(), 2);
    identities.want([id("web")]);
    while dir.files() != 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_node_that_leaves_the_mesh_keeps_nothing() {
    let (dir, authority) = (Dir::new(), CertificateAuthority::in_memory(DOMAIN).unwrap());
    let identities = kept_in(&dir, &authority, false);
    identities.want([id("web")]);
    identities.ready(&id("web")).await;
    identities.keep_nothing();
    assert!(!dir.0.exists());
    identities.want([id("web"), id("db")]);
    identities.ready(&id("db")).await;
    identities.server(&id("web"), Alpn::Hbone).unwrap();
    assert!(!dir.0.exists());
}

#[tokio::test]
async fn a_new_root_is_trusted_without_a_new_certificate() {
    let (identities, _) = moody(DAY);
    identities.want([id("web")]);
    identities.ready(&id("web")).await;
    let before = identities.list().remove(0);
    let other = CertificateAuthority::in_memory(DOMAIN).unwrap();
    identities.trust(vec![other.root().clone()]);
    let after = identities.list().remove(0);
    assert_eq!(after.serial, before.serial);
    assert!(after.generation > before.generation);
    assert_eq!(after.roots.len(), 2);
    assert!(identities.roots().contains(other.root()));
}
