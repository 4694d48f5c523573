// SPDX-License-Identifier: Apache-2.0

//! Certificates, identities and what an authority answers.

use std::{sync::LazyLock, time::Duration};

use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{
    remote,
    signer::{RootPem, Signer, SignerPem},
    verify,
};
use crate::{
    grpc,
    model::{
        SpiffeId,
        token::{Jwt, KeySet},
    },
};

/// The beginning of a certificate: SEQUENCE, SEQUENCE, version 3, a serial number.
pub const CERTIFICATE_SEED: &[u8] =
    b"\x30\x82\x01\x10\x30\x81\xb7\xa0\x03\x02\x01\x02\x02\x01\x07\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";

/// A request for a P-256 key, signed by it.
pub const SIGNING_REQUEST_SEED: &[u8] =
    b"\x30\x81\xba\x30\x62\x02\x01\x00\x30\x00\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\
    \x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04\x5c\xf8\x16\xa2\x35\x91\xf2\
    \x6a\xdb\x98\x4f\xe4\x26\x37\x81\xa4\x05\x25\x37\x80\x23\x50\xbf\x76\xa5\x01\xfc\x3d\x56\
    \xd2\x3e\x7f\xa3\x76\xc2\xe5\x6c\x9f\xe7\x22\x98\xee\x0a\x32\x5e\x6e\xbb\x33\xcc\xa7\x4f\
    \x0c\x49\x0c\x31\x34\xa2\x84\x7e\x1c\x16\xa2\x74\x71\xa0\x00\x30\x0a\x06\x08\x2a\x86\x48\
    \xce\x3d\x04\x03\x02\x03\x48\x00\x30\x45\x02\x21\x00\xfe\xa4\xd8\xaf\xf8\xc2\xb1\x70\x1d\
    \x56\x12\x9c\x15\x27\x2a\x8e\xe6\x70\xe7\x55\xc9\x9d\xc8\xe3\xbb\x41\xc9\x8a\x7e\x64\x78\
    \xa0\x02\x20\x2d\xbe\x2a\x7c\x2c\xed\xde\x3a\x22\xb8\x04\x60\x03\x8d\xf3\x51\x6f\x4a\xbf\
    \x01\x09\x11\x22\xf7\x46\xa7\x94\xad\x8a\x87\x8c\x7b";

/// What requests are signed with.
static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let hour = Duration::from_secs(3600);
    let root = RootPem::generate("cluster.local", hour).expect("a root can be made");
    let signer = SignerPem {
        key: root.key,
        certificate: root.certificate.clone(),
        chain: String::new(),
        roots: root.certificate,
    };
    Signer::from_pem(&signer).expect("it was just made")
});

/// A token, without a signature that fits.
pub const TOKEN_SEED: &[u8] =
    b"eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJpIiwic3ViIjoicyJ9.c2ln";

/// Keys of all kinds.
pub const KEYS_SEED: &[u8] = b"{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"a\",\"n\":\"AQAB\",\"e\":\"AQAB\"},{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AQ\",\"y\":\"AQ\"},{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}]}";

/// What is signed is the token without its last part, and never empty.
pub fn token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(jwt) = Jwt::parse(&text) {
        let (signed, _) = text.rsplit_once('.').expect("it has three parts");
        assert_eq!(jwt.signed, signed);
    }
}

/// A set that is accepted has keys, and none of them verifies a token of nobody.
pub fn keys(bytes: &[u8]) {
    let Ok(keys) = KeySet::parse(bytes) else {
        return;
    };
    assert!(!keys.is_empty());
    let text = String::from_utf8_lossy(TOKEN_SEED);
    let jwt = Jwt::parse(&text).expect("it has the form of one");
    assert!(super::token::verified(&jwt, &keys).is_err());
}

/// An identity that is read from a certificate is one that can be read again.
pub fn certificate(bytes: &[u8]) {
    if let Ok(identity) = verify::identity_of(bytes) {
        spiffe(identity.as_str().as_bytes());
    }
    // Only that it does not panic: most bytes are no certificate.
    drop(verify::validity_of(bytes));
}

/// The parts of what is accepted make up the whole.
pub fn spiffe(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(identity) = SpiffeId::parse(&text) {
        let composed = SpiffeId::new(
            identity.trust_domain(),
            identity.namespace(),
            identity.service_account(),
        );
        assert_eq!(composed, identity);
        assert_eq!(identity.as_str(), text);
    }
}

/// What an authority sends instead of a chain is refused.
pub fn ca_response(bytes: &[u8]) {
    if let Ok(answer) = grpc::decode_certificates(bytes) {
        drop(remote::chain(&answer.cert_chain));
    }
}

/// Whoever asks, and for whatever name: what is signed has the name that was granted.
pub fn signing_request(bytes: &[u8]) {
    let granted = SpiffeId::new("cluster.local", "default", "web");
    let wrapped = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", bytes));
    for text in [String::from_utf8_lossy(bytes).into_owned(), wrapped] {
        let Ok(chain) = SIGNER.issue(&granted, &text, Duration::from_secs(60)) else {
            continue;
        };
        let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).expect("it was just made");
        let named = verify::identity_of(&leaf).expect("it has a name");
        assert_eq!(named, granted);
    }
}
