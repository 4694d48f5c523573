// SPDX-License-Identifier: Apache-2.0

//! Builds the kernel programs (`mesh-ebpf`) and leaves their object in `OUT_DIR/mesh`.
//!
//! Calls cargo directly instead of through aya-build, which fixes the compiler flags: ours ask for
//! instruction set v3 (32-bit arithmetic and jumps, atomics; kernels from 5.12 on). The nightly is
//! pinned and named here, whatever toolchain builds the agent. Artefacts are shared between
//! profiles in `target/ebpf`, and cargo reruns this only when the programs, the shared layouts or
//! the lock file change.
//!
//! With `AYA_BUILD_SKIP=1` (builds that never run: editors, lints) the object is empty; the loader
//! refuses it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

const TOOLCHAIN: &str = "nightly-2026-07-20";

/// `--btf`: maps are declared by their BTF types. Debug information carries them to the linker.
const FLAGS: [&str; 4] = [
    "-Ctarget-cpu=v3",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Cpanic=abort",
];

#[allow(
    clippy::disallowed_methods,
    reason = "cargo talks to build scripts through the environment"
)]
fn main() {
    println!("cargo::rerun-if-env-changed=AYA_BUILD_SKIP");
    for path in [
        "build.rs",
        "../mesh-ebpf/src",
        "../mesh-ebpf/Cargo.toml",
        "../mesh-common/src",
        "../mesh-common/Cargo.toml",
        "../Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    let out = PathBuf::from(variable("OUT_DIR")).join("mesh");
    let skip = env::var("AYA_BUILD_SKIP").is_ok_and(|skip| skip == "1" || skip == "true");
    let result = if skip {
        fs::write(&out, []).map_err(|error| format!("cannot write {}: {error}", out.display()))
    } else {
        build(&out)
    };
    if let Err(error) = result {
        println!("cargo::error={error}");
        exit(1);
    }
}

fn build(out: &Path) -> Result<(), String> {
    check_tools()?;
    let target_dir = target_dir(out);
    let big_endian = variable("CARGO_CFG_TARGET_ENDIAN") == "big";
    let target = if big_endian {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    };
    let output = Command::new("rustup")
        .args(["run", TOOLCHAIN, "cargo", "build", "--quiet", "--release"])
        .args(["--package", "mesh-ebpf", "--bins"])
        .args(["-Z", "build-std=core", "--target", target])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        // What the outer cargo set for the host must not reach the inner one.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .output()
        .map_err(|error| format!("cannot run rustup: {error}; run `cargo xtask setup`"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        for line in said.lines() {
            println!("cargo::warning={line}");
        }
        return Err(
            "the kernel programs do not build (see the warnings above); \
                    if a tool is missing, run `cargo xtask setup`"
                .to_owned(),
        );
    }
    let built = target_dir.join(target).join("release/mesh");
    fs::copy(&built, out)
        .map(drop)
        .map_err(|error| format!("cannot copy {}: {error}", built.display()))
}

/// Says what is missing before a compiler says it worse.
fn check_tools() -> Result<(), String> {
    let nightly = Command::new("rustup")
        .args(["run", TOOLCHAIN, "rustc", "--print", "sysroot"])
        .env_remove("RUSTUP_TOOLCHAIN")
        .output();
    let sysroot = match nightly {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => {
            return Err(format!(
                "the kernel programs need the toolchain {TOOLCHAIN}: run `cargo xtask setup`"
            ));
        }
    };
    if !Path::new(&sysroot)
        .join("lib/rustlib/src/rust/library/core")
        .is_dir()
    {
        return Err(format!(
            "the kernel programs need rust-src of {TOOLCHAIN}: run `cargo xtask setup`"
        ));
    }
    let linker = Command::new("bpf-linker").arg("--version").output();
    if !linker.is_ok_and(|output| output.status.success()) {
        return Err("the kernel programs need bpf-linker: run `cargo xtask setup`".to_owned());
    }
    Ok(())
}

/// `target/ebpf`, from `target/PROFILE/build/PACKAGE/out/mesh`.
fn target_dir(out: &Path) -> PathBuf {
    let target = out.ancestors().nth(5).unwrap_or(out);
    target.join("ebpf")
}

#[allow(
    clippy::disallowed_methods,
    reason = "cargo talks to build scripts through the environment"
)]
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
