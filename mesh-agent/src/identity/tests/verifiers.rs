// SPDX-License-Identifier: Apache-2.0

//! What no certificate may do to the verifiers, and peers of other names of the own trust domain.

use super::*;

#[test]
fn a_peer_of_an_alias_is_one_of_the_own_trust_domain() {
    let authority = CertificateAuthority::in_memory(DOMAIN).unwrap();
    let now = UnixTime::now();
    let old = |account: &str| SpiffeId::new("old.example", "default", account);
    let certificate = leaf(&authority, &old("web"), DAY);
    let aliases = ["old.example"];
    let (client, server) = verdicts_with(&authority, &certificate, now, &[]);
    assert!(matches!(client, Some(PeerError::Unexpected { .. })));
    assert!(matches!(server, Some(PeerError::ForeignTrustDomain { .. })));
    assert_eq!(
        verdicts_with(&authority, &certificate, now, &aliases),
        (None, None)
    );
    let other = leaf(&authority, &old("db"), DAY);
    let (client, server) = verdicts_with(&authority, &other, now, &aliases);
    assert!(matches!(client, Some(PeerError::Unexpected { .. })));
    assert_eq!(server, None);
}

#[tokio::test]
async fn aliases_come_and_go_with_new_sessions_and_are_no_change_when_they_stay() {
    let (identities, _) = moody(DAY);
    identities.want([id("web")]);
    identities.ready(&id("web")).await;
    let first = identities.generation(&id("web"));
    let aliases: Arc<[Arc<str>]> = ["old.example".into()].into();
    identities.accept_domains(&Arc::default());
    assert_eq!(identities.generation(&id("web")), first);
    identities.accept_domains(&aliases);
    let second = identities.generation(&id("web"));
    assert!(second > first);
    identities.accept_domains(&aliases);
    assert_eq!(identities.generation(&id("web")), second);
    identities.accept_domains(&Arc::default());
    assert!(identities.generation(&id("web")) > second);
}

#[test]
fn the_root_itself_is_no_peer() {
    let authority = CertificateAuthority::in_memory(DOMAIN).unwrap();
    let refused = verdicts(&authority, authority.root(), UnixTime::now());
    let found = Some(PeerError::NotOneUri { found: 0 });
    assert_eq!(refused, (found.clone(), found));
}

#[test]
fn no_bytes_make_the_verifiers_panic_or_agree() {
    let authority = CertificateAuthority::in_memory(DOMAIN).unwrap();
    let der = leaf(&authority, &id("web"), DAY);
    let now = UnixTime::now();
    for end in 0..der.len() {
        let (client, server) = verdicts(&authority, &der[..end], now);
        assert!(client.is_some() && server.is_some(), "cut at {end}");
    }
    let mut random = fastrand::Rng::with_seed(7);
    for place in 0..der.len() {
        for change in [0x01, 0x80, 0xff, random.u8(1..)] {
            let mut changed = der.clone();
            changed[place] ^= change;
            let (client, server) = verdicts(&authority, &changed, now);
            assert!(
                client.is_some() && server.is_some(),
                "{change:#x} at {place}"
            );
        }
    }
    for _ in 0..2_000 {
        let count = random.usize(..200);
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
            .take(count)
            .collect();
        let (client, _) = verdicts(&authority, &bytes, now);
        assert!(matches!(client, Some(PeerError::Malformed(_))), "{bytes:?}");
    }
}
