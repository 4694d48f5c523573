// SPDX-License-Identifier: Apache-2.0

//! The hot pieces of the data path: `cargo bench --features fuzzing --bench pieces`.
//!
//! `--count NAME TIMES` does one piece so often and nothing else, for a tool that counts instructions
//! (`cargo xtask bench --instructions`); `--names` says which there are. Not part of the agent;
//! `docs/benchmarks.md` has the numbers.

use std::{env, hint::black_box};

use criterion::Criterion;
use mesh_agent::pieces::PIECES;

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["--names", ..] => PIECES.iter().for_each(|(name, _)| println!("{name}")),
        ["--count", name, times] => count(name, times.parse().expect("a number")),
        _ => measure(),
    }
}

fn count(name: &str, times: usize) {
    let (_, prepare) = PIECES
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a name that --names says");
    let mut piece = prepare();
    for _ in 0..times {
        black_box(piece());
    }
}

fn measure() {
    let mut criterion = Criterion::default().configure_from_args();
    for (name, prepare) in PIECES {
        let mut piece = prepare();
        criterion.bench_function(name, |bencher| bencher.iter(|| black_box(piece())));
    }
    criterion.final_summary();
}
