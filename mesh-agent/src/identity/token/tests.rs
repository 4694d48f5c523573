// SPDX-License-Identifier: Apache-2.0

//! Signatures of every kind, and what a cache may remember.

use aws_lc_rs::{
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
        ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _,
        RsaEncoding,
    },
};
use serde_json::{Value, json};

use super::{
    super::fetch::FetchError,
    samples::{Issuer, random, sign},
    *,
};
use crate::model::token::{KeyPlace, Location, base64url};

const NOW: u64 = 1_000_000;

fn rule(keys: KeySource) -> Arc<TokenRule> {
    Arc::new(TokenRule {
        issuer: "i".into(),
        audiences: Vec::new(),
        keys,
        locations: vec![Location::Param("t".to_owned())],
        payload_header: None,
        claim_headers: Vec::new(),
        keeps_token: false,
        space_delimited: Arc::default(),
    })
}

fn inline(keys: &[Value]) -> Arc<TokenRule> {
    let text = json!({"keys": keys}).to_string();
    let keys = KeySet::parse(text.as_bytes()).unwrap();
    rule(KeySource::Inline(Arc::new(keys)))
}

fn verify(rule: &Arc<TokenRule>, text: &str) -> Result<(), TokenFault> {
    let sets = KeySets::default();
    let verified = TokenCache::default().verify(&sets, rule, text, NOW);
    verified.map(drop)
}

fn claims() -> Value {
    json!({"iss": "i", "sub": "s", "exp": NOW + 100})
}

/// A good token passes, one whose payload or signature is another does not.
#[track_caller]
fn check(key: Value, algorithm: &str, signer: impl Fn(&[u8]) -> Vec<u8>) {
    let rule = inline(&[key]);
    let text = sign(&json!({"alg": algorithm}), &claims(), &signer);
    assert_eq!(verify(&rule, &text), Ok(()), "{algorithm}");
    let (signed, signature) = text.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let other = base64url::encode(json!({"iss": "i", "sub": "root"}).to_string().as_bytes());
    let changed = format!("{header}.{other}.{signature}");
    assert_eq!(verify(&rule, &changed), Err(TokenFault::BadSignature));
    let mut wrong = base64url::decode(signature).unwrap();
    wrong[10] ^= 1;
    let wrong = format!("{signed}.{}", base64url::encode(&wrong));
    assert_eq!(verify(&rule, &wrong), Err(TokenFault::BadSignature));
    let none = format!("{signed}.");
    assert_eq!(verify(&rule, &none), Err(TokenFault::BadSignature));
}

#[test]
fn rsa_is_verified_with_both_paddings_and_all_digests() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = pair.public_key();
    let number = |number: &[u8]| base64url::encode(number);
    let key = json!({
        "kty": "RSA",
        "n": number(public.modulus().big_endian_without_leading_zero()),
        "e": number(public.exponent().big_endian_without_leading_zero()),
    });
    let all: [(&str, &'static dyn RsaEncoding); 6] = [
        ("RS256", &signature::RSA_PKCS1_SHA256),
        ("RS384", &signature::RSA_PKCS1_SHA384),
        ("RS512", &signature::RSA_PKCS1_SHA512),
        ("PS256", &signature::RSA_PSS_SHA256),
        ("PS384", &signature::RSA_PSS_SHA384),
        ("PS512", &signature::RSA_PSS_SHA512),
    ];
    for (algorithm, encoding) in all {
        check(key.clone(), algorithm, |message| {
            let mut said = vec![0; pair.public_modulus_len()];
            pair.sign(encoding, &random(), message, &mut said).unwrap();
            said
        });
    }
}

#[test]
fn elliptic_curves_are_verified() {
    let all: [(&str, &str, &'static EcdsaSigningAlgorithm); 3] = [
        ("ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
        ("ES512", "P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
    ];
    for (algorithm, curve, signing) in all {
        let pair = EcdsaKeyPair::generate(signing).unwrap();
        let point = &pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let (x, y) = (base64url::encode(x), base64url::encode(y));
        let key = json!({"kty": "EC", "crv": curve, "x": x, "y": y});
        check(key, algorithm, |message| {
            pair.sign(&random(), message).unwrap().as_ref().to_vec()
        });
    }
    let issuer = Issuer::new("a");
    let rule = inline(&[issuer.key()]);
    assert_eq!(verify(&rule, &issuer.token(&claims())), Ok(()));
}

#[test]
fn a_key_is_not_used_for_another_algorithm_and_a_secret_never() {
    let issuer = Issuer::new("a");
    let rule = inline(&[issuer.key()]);
    for (algorithm, want) in [
        ("RS256", TokenFault::NoKey),
        ("ES256", TokenFault::NoKey),
        ("HS256", TokenFault::UnknownAlgorithm),
        ("none", TokenFault::UnknownAlgorithm),
        ("None", TokenFault::UnknownAlgorithm),
    ] {
        let text = sign(&json!({"alg": algorithm}), &claims(), |_| vec![1]);
        assert_eq!(verify(&rule, &text), Err(want), "{algorithm}");
    }
    let stranger = Issuer::new("b").token(&claims());
    assert_eq!(verify(&rule, &stranger), Err(TokenFault::NoKey));
    let forger = Issuer::new("a").token(&claims());
    assert_eq!(verify(&rule, &forger), Err(TokenFault::BadSignature));
}

#[test]
fn what_is_remembered_ends_with_the_token_and_counts_for_its_rule_only() {
    let issuer = Issuer::new("a");
    let (one, other) = (inline(&[issuer.key()]), inline(&[Issuer::new("a").key()]));
    let (sets, mut cache) = (KeySets::default(), TokenCache::default());
    let text = issuer.token(&claims());
    let mut verify = |rule, now| cache.verify(&sets, rule, &text, now);
    let first = verify(&one, NOW).unwrap();
    let again = verify(&one, NOW + 100).unwrap();
    assert!(Arc::ptr_eq(&first, &again), "it was verified once");
    assert_eq!(verify(&other, NOW), Err(TokenFault::BadSignature));
    assert!(verify(&one, NOW + 160).is_ok(), "clocks differ");
    assert_eq!(verify(&one, NOW + 161), Err(TokenFault::Expired));
}

#[test]
fn no_more_is_remembered_than_there_is_room_for() {
    let issuer = Issuer::new("a");
    let (rule, sets) = (inline(&[issuer.key()]), KeySets::default());
    let mut cache = TokenCache::default();
    let hot = issuer.token(&json!({"iss": "i", "sub": "hot"}));
    let first = cache.verify(&sets, &rule, &hot, NOW).unwrap();
    for number in 0..2 * TOKENS_MAX {
        let text = issuer.token(&json!({"iss": "i", "sub": number.to_string()}));
        cache.verify(&sets, &rule, &text, NOW).unwrap();
        if number % 100 == 0 {
            let again = cache.verify(&sets, &rule, &hot, NOW).unwrap();
            assert!(Arc::ptr_eq(&first, &again), "what is used stays");
        }
    }
    assert!(cache.fresh.len() + cache.aging.len() <= 2 * TOKENS_MAX);
}

#[test]
fn a_token_that_was_good_is_verified_anew_when_the_keys_are_others() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let place = KeyPlace {
        url: "http://keys".into(),
        discover: false,
        timeout: std::time::Duration::from_secs(1),
    };
    let rule = rule(KeySource::Remote(place.clone()));
    let sets = KeySets::default();
    let mut cache = TokenCache::default();
    let (before, after) = (old.token(&claims()), new.token(&claims()));
    let mut verify = |text: &str| cache.verify(&sets, &rule, text, NOW).map(drop);
    assert_eq!(verify(&before), Err(TokenFault::NoKeys), "never fetched");
    let parse = |text: String| KeySet::parse(text.as_bytes()).unwrap();
    sets.put(&place, Ok(parse(old.keys())));
    assert_eq!(verify(&before), Ok(()));
    assert_eq!(verify(&after), Err(TokenFault::NoKey));
    assert!(sets.is_asked(&place));
    // An outage changes nothing.
    sets.put(&place, Err(FetchError::NoKeysUrl));
    assert_eq!(verify(&before), Ok(()));
    sets.put(&place, Ok(parse(new.keys())));
    assert_eq!(verify(&before), Err(TokenFault::NoKey));
    assert_eq!(verify(&after), Ok(()));
}
