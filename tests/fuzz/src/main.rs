// SPDX-License-Identifier: Apache-2.0

//! One program for all targets: `MESH_FUZZ_TARGET` says which parser the fuzzer feeds.
//!
//! `cargo xtask fuzz` builds and runs it; the targets are `mesh_agent::fuzzing`.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<String> =
    LazyLock::new(|| std::env::var("MESH_FUZZ_TARGET").unwrap_or_default());

fuzz_target!(|bytes: &[u8]| {
    assert!(
        mesh_agent::fuzzing::run(&TARGET, bytes),
        "MESH_FUZZ_TARGET names no target"
    );
});
