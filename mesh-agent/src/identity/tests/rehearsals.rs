// SPDX-License-Identifier: Apache-2.0

//! Who would fail if a root were dropped.

use super::*;
use crate::identity::{Holder, RehearseError};

fn failing(identities: &Identities, root: &str) -> Vec<(Holder, SpiffeId, usize)> {
    let rehearsal = identities.rehearse(root).unwrap();
    let failing = rehearsal.failing.into_iter();
    failing
        .map(|one| (one.holder, one.identity, one.sessions))
        .collect()
}

async fn live(account: &str) -> Identities {
    let (identities, _) = moody(DAY);
    identities.want([id(account)]);
    identities.ready(&id(account)).await;
    identities
}

#[tokio::test]
async fn own_certificates_and_those_of_live_peers_are_told_by_the_root_that_they_need() {
    let (ours, theirs) = (live("web").await, live("db").await);
    let (own, other) = (ours.root_fingerprints(), theirs.root_fingerprints());
    let spare = CertificateAuthority::in_memory(DOMAIN).unwrap();
    ours.trust([theirs.roots(), spare.roots()].concat());
    theirs.trust(ours.roots());
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = ours.client(&id("web"), &[id("db")], Alpn::Hbone).unwrap();
    let acceptor = theirs.server(&id("db"), Alpn::Hbone).unwrap();
    let name = ServerName::try_from("10.0.0.1").unwrap();
    let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    let (client, server) = (client.unwrap(), server.unwrap());
    let session = client.get_ref().1;
    let seats = [(), ()].map(|()| ours.seat(session, &id("web"), Side::Server, None).unwrap());
    let session = server.get_ref().1;
    let seat = theirs.seat(session, &id("db"), Side::Client, None).unwrap();

    assert_eq!(failing(&ours, &own[0]), [(Holder::Own, id("web"), 0)]);
    assert_eq!(failing(&ours, &other[0]), [(Holder::Server, id("db"), 2)]);
    assert_eq!(failing(&theirs, &own[0]), [(Holder::Client, id("web"), 1)]);
    let spare = fingerprint(spare.root());
    let rehearsal = ours.rehearse(&spare.to_uppercase()).unwrap();
    assert_eq!((rehearsal.checked, rehearsal.left), (2, 2));
    assert_eq!(rehearsal.failing, []);
    drop((seats, seat));
    assert_eq!(failing(&ours, &other[0]), []);
    assert_eq!(ours.roots().len(), 3, "nothing changes");
}

#[tokio::test]
async fn the_last_root_is_everybodys() {
    let ours = live("web").await;
    let root = &ours.root_fingerprints()[0];
    let rehearsal = ours.rehearse(&root[..8]).unwrap();
    assert_eq!(
        (rehearsal.root.as_str(), rehearsal.left),
        (root.as_str(), 0)
    );
    assert_eq!(rehearsal.failing[0].error, "no root would be left");
}

#[tokio::test]
async fn a_root_that_is_not_there_is_told_with_those_that_are() {
    let ours = live("web").await;
    for asked in ["", "zz", "xyz"] {
        let known = ours.root_fingerprints();
        let asked = asked.to_owned();
        let want = RehearseError::Unknown {
            asked: asked.clone(),
            known,
        };
        assert_eq!(ours.rehearse(&asked).unwrap_err(), want);
    }
}
