// SPDX-License-Identifier: Apache-2.0

//! Which requests are signed, and what the certificates say.

use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType, string::Ia5String};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn pem_of(root: RootPem) -> SignerPem {
    SignerPem {
        roots: root.certificate.clone(),
        key: root.key,
        certificate: root.certificate,
        chain: String::new(),
    }
}

fn root() -> SignerPem {
    pem_of(RootPem::generate("a.b", 10 * DAY).unwrap())
}

fn csr(key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    let name = Ia5String::try_from("spiffe://evil/ns/x/sa/y").unwrap();
    params.subject_alt_names = vec![SanType::URI(name)];
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn id() -> SpiffeId {
    SpiffeId::new("a.b", "ns", "sa")
}

fn leaf(texts: &[String]) -> CertificateDer<'static> {
    roots::parse_roots(&texts[0]).unwrap().swap_remove(0)
}

#[test]
fn the_name_is_the_granted_identity_not_the_requested_one() {
    let signer = Signer::from_pem(&root()).unwrap();
    for algorithm in [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ED25519,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let texts = signer.issue(&id(), &csr(&key), DAY).unwrap();
        assert_eq!(texts.len(), 2);
        let named = super::super::verify::identity_of(&leaf(&texts));
        assert_eq!(named, Ok(id()));
        assert_eq!(texts[1], signer.roots_pem());
    }
}

#[test]
fn a_certificate_never_outlives_its_issuer() {
    let signer = Signer::from_pem(&root()).unwrap();
    let key = KeyPair::generate().unwrap();
    let texts = signer.issue(&id(), &csr(&key), 100 * DAY).unwrap();
    let (_, end) = super::super::verify::validity_of(&leaf(&texts)).unwrap();
    assert!(end <= signer.validity().1);
}

#[test]
fn a_request_that_does_not_prove_its_key_is_refused() {
    let signer = Signer::from_pem(&root()).unwrap();
    let good = csr(&KeyPair::generate().unwrap());
    let mut der = pem::parse(&good).unwrap().into_contents();
    let last = der.len() - 1;
    der[last] ^= 1;
    let forged = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
    for wrong in ["", "nonsense", forged.as_str()] {
        let refusal = signer.issue(&id(), wrong, DAY);
        assert!(matches!(refusal, Err(SignError::Request(_))), "{wrong}");
    }
}

#[test]
fn an_intermediate_is_part_of_the_chain() {
    let top_key = KeyPair::generate().unwrap();
    let mut top = ca::root_params("a.b", 10 * DAY);
    top.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let top_certificate = top.self_signed(&top_key).unwrap();
    let issuer = Issuer::new(top, top_key);
    let key = KeyPair::generate().unwrap();
    let below = ca::root_params("below", 5 * DAY)
        .signed_by(&key, &issuer)
        .unwrap();
    let top_pem = roots::to_pem([top_certificate.der()]);
    let below_pem = roots::to_pem([below.der()]);
    // With and without itself and the root in the chain.
    for chain in [
        String::new(),
        below_pem.clone(),
        format!("{below_pem}{top_pem}"),
    ] {
        let signer = Signer::from_pem(&SignerPem {
            key: key.serialize_pem(),
            certificate: below_pem.clone(),
            chain,
            roots: top_pem.clone(),
        })
        .unwrap();
        let key = KeyPair::generate().unwrap();
        let texts = signer.issue(&id(), &csr(&key), DAY).unwrap();
        assert_eq!(texts[1..], [below_pem.clone(), top_pem.clone()]);
    }
}

#[test]
fn roots_of_another_issuer_can_be_trusted_beforehand() {
    let (one, two) = (root(), root());
    let (one, two) = (
        Signer::from_pem(&one).unwrap(),
        Signer::from_pem(&two).unwrap(),
    );
    assert!(!two.is_covered_by(&one));
    let both = one.with_roots_of(&two);
    assert_eq!(both.fingerprint(), one.fingerprint());
    assert!(one.is_covered_by(&both) && two.is_covered_by(&both));
    assert_eq!(both.with_roots_of(&two).roots_pem(), both.roots_pem());
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let (one, two) = (root(), root());
    let mixed = SignerPem {
        key: two.key,
        ..one
    };
    let refusal = Signer::from_pem(&mixed).unwrap_err().to_string();
    assert!(refusal.contains("does not belong"), "{refusal}");
}

#[test]
fn a_signer_never_shows_its_key() {
    let pem = root();
    let shown = format!("{:?} {:?}", Signer::from_pem(&pem).unwrap(), pem);
    assert!(!shown.contains("PRIVATE"), "{shown}");
}
