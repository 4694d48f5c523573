// SPDX-License-Identifier: Apache-2.0

//! Every parser of foreign bytes, as a function of bytes: not part of what the agent offers.
//!
//! `cargo xtask fuzz` drives these with libFuzzer (`tests/fuzz`), the tests here with what they mutate
//! themselves. A target panics when a promise is broken: that nothing panics, for one, and
//! what its own description says. Knows nothing of the parsers but where they are.

use crate::{admin, config, datapath, identity, model::authorization, proxy};

/// A parser, fed.
pub type Target = fn(&[u8]);

/// All targets, with what a good input begins as.
pub const TARGETS: &[(&str, Target, &[&[u8]])] = &[
    (
        "sniff",
        proxy::fuzzing::sniff,
        &[b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
    ),
    (
        "client_hello",
        proxy::fuzzing::client_hello,
        &[proxy::fuzzing::HELLO_SEED],
    ),
    (
        "http1_request",
        proxy::fuzzing::http1_request,
        proxy::fuzzing::REQUEST_SEEDS,
    ),
    (
        "http1_answer",
        proxy::fuzzing::http1_answer,
        proxy::fuzzing::ANSWER_SEEDS,
    ),
    (
        "http1_body",
        proxy::fuzzing::http1_body,
        proxy::fuzzing::BODY_SEEDS,
    ),
    (
        "request_reading",
        authorization::fuzzing::request_reading,
        authorization::fuzzing::READING_SEEDS,
    ),
    (
        "mux_frames",
        proxy::fuzzing::mux_frames,
        proxy::fuzzing::MUX_SEEDS,
    ),
    (
        "mux_session",
        proxy::fuzzing::mux_session,
        proxy::fuzzing::MUX_SEEDS,
    ),
    (
        "bulk_header",
        proxy::fuzzing::bulk_header,
        proxy::fuzzing::BULK_SEEDS,
    ),
    (
        "hbone_server",
        proxy::fuzzing::hbone_server,
        &[proxy::fuzzing::HBONE_SEED],
    ),
    (
        "certificate",
        identity::fuzzing::certificate,
        &[identity::fuzzing::CERTIFICATE_SEED],
    ),
    (
        "spiffe",
        identity::fuzzing::spiffe,
        &[b"spiffe://cluster.local/ns/default/sa/web"],
    ),
    (
        "signing_request",
        identity::fuzzing::signing_request,
        &[identity::fuzzing::SIGNING_REQUEST_SEED],
    ),
    (
        "ca_response",
        identity::fuzzing::ca_response,
        &[b"\x0a\x1b-----BEGIN CERTIFICATE-----"],
    ),
    (
        "token",
        identity::fuzzing::token,
        &[identity::fuzzing::TOKEN_SEED],
    ),
    (
        "token_keys",
        identity::fuzzing::keys,
        &[identity::fuzzing::KEYS_SEED],
    ),
    (
        "manifests",
        config::fuzzing::manifests,
        config::fuzzing::SEEDS,
    ),
    (
        "admin_request",
        admin::fuzzing::request,
        admin::fuzzing::REQUEST_SEEDS,
    ),
    (
        "admin_query",
        admin::fuzzing::query,
        &[b"version=1&abi=7&socket=%2Frun%2Fa.sock"],
    ),
    (
        "hand_over_answer",
        admin::fuzzing::answer,
        &[b"HTTP/1.1 200 OK\r\n\r\n{}"],
    ),
    ("flow_record", datapath::fuzzing::flow_record, &[&[0; 72]]),
    (
        "map_values",
        datapath::fuzzing::map_values,
        &[
            &[0; 20],
            b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\x01\x01\x03\x50\0\0\0\x01",
        ],
    ),
    (
        "socket_list",
        datapath::fuzzing::socket_list,
        &[datapath::fuzzing::SOCKET_LIST_SEED],
    ),
];

/// Runs the target of that name; whether there is one.
pub fn run(name: &str, bytes: &[u8]) -> bool {
    let found = TARGETS.iter().find(|(known, ..)| *known == name);
    if let Some((_, target, _)) = found {
        target(bytes);
    }
    found.is_some()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// How many inputs each target gets: seconds for all of them, unoptimised.
    const INPUTS: usize = 1_500;

    /// Changes a few bytes of a seed, or cuts, doubles or joins what there is.
    fn mutate(random: &mut fastrand::Rng, seeds: &[&[u8]]) -> Vec<u8> {
        let mut bytes = seeds[random.usize(..seeds.len())].to_vec();
        for _ in 0..random.usize(..6) {
            let at = random.usize(..=bytes.len());
            match random.u8(..6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, random.u8(..)),
                2 => {
                    let other = seeds[random.usize(..seeds.len())];
                    bytes.splice(at.., other.iter().copied());
                }
                3 => {
                    let again = bytes[at..].to_vec();
                    bytes.extend(again);
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = [0, 0xff, *byte ^ 1 << random.u8(..8), random.u8(..)]
                            [random.usize(..4)];
                    }
                }
            }
        }
        bytes
    }

    #[test]
    fn no_parser_breaks_its_promise_on_what_seeds_mutate_to() {
        for (name, target, seeds) in TARGETS {
            let mut random = fastrand::Rng::with_seed(5);
            seeds.iter().for_each(|seed| target(seed));
            for _ in 0..INPUTS {
                let bytes = mutate(&mut random, seeds);
                let broken = std::panic::catch_unwind(|| target(&bytes)).is_err();
                assert!(!broken, "{name} panics on {bytes:?}");
            }
        }
    }

    #[test]
    fn what_broke_a_parser_once_breaks_it_no_more() {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds");
        for target in fs::read_dir(kept).unwrap() {
            let directory = target.unwrap().path();
            let name = directory.file_name().unwrap().to_string_lossy();
            for input in fs::read_dir(&directory).unwrap() {
                let bytes = fs::read(input.unwrap().path()).unwrap();
                assert!(run(&name, &bytes), "{name} is no target");
            }
        }
    }

    #[test]
    fn targets_are_found_by_name() {
        assert!(run("sniff", b"GET "));
        assert!(!run("nothing", b""));
    }
}
