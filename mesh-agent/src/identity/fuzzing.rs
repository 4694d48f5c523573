// SPDX-License-Identifier: Apache-2.0

//! Certificates, identities and what an authority answers.

use super::{remote, verify};
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
