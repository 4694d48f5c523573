// SPDX-License-Identifier: Apache-2.0

//! Which ciphers protect records, and whose implementation of them.
//!
//! Knows nothing of keys and certificates. Invariants: AES-GCM under TLS 1.3 and nothing else; everything
//! but the protection of records (signatures, key exchange, tickets, random numbers) stays with one library;
//! where that is a FIPS module, so does the protection of records.

use rustls::{
    SupportedCipherSuite,
    crypto::{aws_lc_rs, ring},
};

/// What is offered and taken, the best first.
///
/// AES-128 comes first as with Envoy: what it protects is as safe, and large transfers cost a tenth less.
pub(super) fn suites() -> Vec<SupportedCipherSuite> {
    suites_of(is_fips(), wants_vector_aes())
}

/// Whether the one library is a FIPS module: it was built with the feature `rustls/fips`.
pub(super) fn is_fips() -> bool {
    aws_lc_rs::default_provider().fips()
}

fn suites_of(is_fips: bool, wants_vector_aes: bool) -> Vec<SupportedCipherSuite> {
    if wants_vector_aes && !is_fips {
        return vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ];
    }
    vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
    ]
}

/// The processor has AES for vectors of 256 bits but not for 512: `ring` uses the former, aws-lc only the latter.
///
/// Measured on such a processor `ring` seals 400 and 16,384 bytes in half the time
/// (`benches/records.rs`).
#[cfg(target_arch = "x86_64")]
fn wants_vector_aes() -> bool {
    is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("avx2")
        && !is_x86_feature_detected!("avx512vl")
}

#[cfg(not(target_arch = "x86_64"))]
fn wants_vector_aes() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use rustls::{CipherSuite, ProtocolVersion};

    use super::*;

    /// Whether records are left to the one library.
    #[track_caller]
    fn check(is_fips: bool, wants_vector_aes: bool, want: bool) {
        let first = suites_of(is_fips, wants_vector_aes)[0];
        let same = first
            .tls13()
            .zip(aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13());
        let same = same.is_some_and(|(one, other)| std::ptr::eq(one, other));
        assert_eq!(same, want, "{is_fips} {wants_vector_aes}");
    }

    #[test]
    fn a_fips_module_protects_records_whatever_the_processor_has() {
        check(true, true, true);
        check(true, false, true);
        check(false, true, false);
        check(false, false, true);
    }

    #[test]
    fn records_are_aes_gcm_whatever_the_processor_has() {
        let suites = suites();
        let names: Vec<_> = suites.iter().map(SupportedCipherSuite::suite).collect();
        assert_eq!(
            names,
            [
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS13_AES_256_GCM_SHA384
            ]
        );
        for suite in suites {
            assert_eq!(suite.version().version, ProtocolVersion::TLSv1_3);
        }
    }
}
