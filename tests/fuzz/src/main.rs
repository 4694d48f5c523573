// SPDX-License-Identifier: Apache-2.0

//! One program for all targets: `MESH_FUZZ_TARGET` says which parser the fuzzer feeds.
//!
//! `cargo xtask fuzz` builds and runs it; the targets are `mesh_agent::fuzzing`. What good inputs of the target
//! begin as is written into the directory `MESH_FUZZ_SEEDS` first, if there is one.

#![no_main]

use std::{env, fs, path::Path, sync::LazyLock};

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<String> =
    LazyLock::new(|| env::var("MESH_FUZZ_TARGET").unwrap_or_default());

fuzz_target!(
    init: {
        if let Some(directory) = env::var_os("MESH_FUZZ_SEEDS") {
            write_seeds(directory.as_ref());
        }
    },
    |bytes: &[u8]| {
        assert!(
            mesh_agent::fuzzing::run(&TARGET, bytes),
            "MESH_FUZZ_TARGET names no target"
        );
    }
);

fn write_seeds(directory: &Path) {
    let all = mesh_agent::fuzzing::TARGETS.iter();
    let own = all.filter(|(name, ..)| *name == *TARGET);
    for (index, seed) in own.flat_map(|(.., seeds)| seeds.iter()).enumerate() {
        let path = directory.join(format!("seed-{index}"));
        fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
