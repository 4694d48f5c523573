// SPDX-License-Identifier: Apache-2.0

//! Authorities whose root is offline: what signs is an intermediate below another one.

use rcgen::{BasicConstraints, Certificate, IsCa, Issuer};

use super::*;
use crate::identity::{Chain, Signer, SignerPem, ca, remote, roots};

/// An authority of Istio's contract, in this process.
struct Below {
    signer: Signer,
    /// Leaves out what is above the leaf.
    is_forgetful: bool,
}

impl Authority for Below {
    fn trust_domain(&self) -> &str {
        DOMAIN
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        parse_roots(&self.signer.roots_pem()).unwrap()
    }

    fn issue<'a>(&'a self, identity: &'a SpiffeId, key: &'a KeyPair, ttl: Duration) -> Answer<'a> {
        Box::pin(async move {
            let csr = remote::signing_request(identity, key).unwrap();
            let texts = self.signer.issue(identity, &csr, ttl).unwrap();
            let mut chain: Chain = remote::chain(&texts).unwrap();
            if self.is_forgetful {
                chain.certificates.truncate(1);
            }
            Ok(chain)
        })
    }
}

/// One that may sign others, below `above`.
fn certified(name: &str, above: &Issuer<'_, KeyPair>, key: &KeyPair) -> Certificate {
    let mut params = ca::root_params(name, 5 * DAY);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.signed_by(key, above).unwrap()
}

/// What a Secret `cacerts` has: root, one intermediate, and below that the one that signs.
fn cacerts() -> SignerPem {
    let keys = [(), (), ()].map(|()| KeyPair::generate().unwrap());
    let [top_key, middle_key, key] = keys;
    let mut top = ca::root_params(DOMAIN, 10 * DAY);
    top.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = top.self_signed(&top_key).unwrap();
    let top = Issuer::new(top, top_key);
    let middle = certified("middle", &top, &middle_key);
    let above = Issuer::from_ca_cert_der(middle.der(), middle_key).unwrap();
    let signing = certified("signing", &above, &key);
    SignerPem {
        key: key.serialize_pem(),
        certificate: roots::to_pem([signing.der()]),
        chain: roots::to_pem([signing.der(), middle.der()]),
        roots: roots::to_pem([root.der()]),
    }
}

async fn live(pem: &SignerPem, account: &str, is_forgetful: bool) -> Identities {
    let signer = Signer::from_pem(pem).unwrap();
    let authority = Below {
        signer,
        is_forgetful,
    };
    let identities = Identities::new(authority, DAY, Tasks::new());
    identities.want([id(account)]);
    identities.ready(&id(account)).await;
    identities
}

async fn meet(near: &Identities, far: &Identities) -> (Option<PeerError>, Option<PeerError>) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let connector = near.client(&id("web"), &[id("db")], Alpn::Hbone).unwrap();
    let acceptor = far.server(&id("db"), Alpn::Hbone).unwrap();
    let name = ServerName::try_from("10.0.0.1").unwrap();
    let (client, server) = tokio::join!(connector.connect(name, client), acceptor.accept(server));
    let of = |error: std::io::Error| refusal(&error);
    (client.err().and_then(of), server.err().and_then(of))
}

#[tokio::test]
async fn leaves_come_with_what_is_above_them_and_peers_need_the_root_alone() {
    let pem = cacerts();
    let (near, far) = (
        live(&pem, "web", false).await,
        live(&pem, "db", false).await,
    );
    assert_eq!(near.roots().len(), 1, "intermediates are no roots");
    assert_eq!(meet(&near, &far).await, (None, None));
    let rehearsal = near.rehearse(&near.root_fingerprints()[0]).unwrap();
    assert_eq!(rehearsal.failing.len(), 1);
}

#[tokio::test]
async fn a_leaf_without_what_is_above_it_leads_to_no_root() {
    let pem = cacerts();
    let (near, far) = (live(&pem, "web", false).await, live(&pem, "db", true).await);
    let (client, _) = meet(&near, &far).await;
    assert!(
        matches!(client, Some(PeerError::Untrusted { .. })),
        "{client:?}"
    );
}
