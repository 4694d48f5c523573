// SPDX-License-Identifier: Apache-2.0

//! Debian packages.
//!
//! Knows nothing of other distributions but the names of programs and files: a package counts as
//! there when its proof is, so a Go from elsewhere will do. Invariant: the package lists are
//! fetched only when something is missing.

use std::{fs, path::Path};

use anyhow::Result;

use super::{Fix, Need, Scope};
use crate::command::{self, program};

struct Package {
    name: &'static str,
    /// A program in `PATH`, or a file by its whole path.
    proof: &'static str,
    scope: Scope,
    why: &'static str,
}

/// What bpf-linker is built with; not needed once it runs.
const FOR_THE_LINKER: &[Package] = &[
    package("g++", "g++", Scope::Build, "links LLVM, which is C++"),
    package(
        "llvm-22-dev",
        "/usr/lib/llvm-22/bin/llvm-config",
        Scope::Build,
        "bpf-linker is built on LLVM",
    ),
    package(
        "libpolly-22-dev",
        "/usr/lib/llvm-22/lib/libPolly.a",
        Scope::Build,
        "LLVM is linked with it",
    ),
    package(
        "zlib1g-dev",
        "/usr/include/zlib.h",
        Scope::Build,
        "LLVM is linked with it",
    ),
    package(
        "libzstd-dev",
        "/usr/include/zstd.h",
        Scope::Build,
        "LLVM is linked with it",
    ),
];

const PACKAGES: &[Package] = &[
    package(
        "gcc",
        "cc",
        Scope::Build,
        "links programs, compiles the cryptography",
    ),
    package(
        "libc6-dev",
        "/usr/include/x86_64-linux-gnu/bits/libc-header-start.h",
        Scope::Build,
        "headers of the C library, for the cryptography",
    ),
    package(
        "iproute2",
        "ip",
        Scope::Nodes,
        "makes nodes and pods out of network namespaces",
    ),
    package(
        "tcpdump",
        "tcpdump",
        Scope::Nodes,
        "records what crosses the wire between nodes",
    ),
    package(
        "nginx-light",
        "nginx",
        Scope::Nodes,
        "an application nobody wrote for us",
    ),
    package("curl", "curl", Scope::Nodes, "a client nobody wrote for us"),
    package(
        "python3",
        "/usr/bin/python3",
        Scope::Applications,
        "applications and clients of another making",
    ),
    package(
        "openssl",
        "openssl",
        Scope::Applications,
        "certificates for foreign programs that speak HBONE",
    ),
    package(
        "valgrind",
        "valgrind",
        Scope::Benchmark,
        "counts the instructions of single pieces",
    ),
    package("wrk", "wrk", Scope::Benchmark, "HTTP/1.1 under load"),
    package(
        "nghttp2-client",
        "h2load",
        Scope::Benchmark,
        "HTTP/2 and gRPC under load",
    ),
    package(
        "iperf3",
        "iperf3",
        Scope::Benchmark,
        "bytes as fast as they go",
    ),
    package(
        "iptables",
        "iptables",
        Scope::Benchmark,
        "leads traffic to Envoys as Istio does",
    ),
    package(
        "openssl",
        "openssl",
        Scope::Benchmark,
        "certificates for Envoys",
    ),
    package(
        "python3-venv",
        "/usr/lib/python3.11/ensurepip/__init__.py",
        Scope::Benchmark,
        "fetches Envoy from PyPI",
    ),
    package(
        "iproute2",
        "ip",
        Scope::Kernels,
        "makes nodes and pods on the booted kernel",
    ),
    package(
        "tcpdump",
        "tcpdump",
        Scope::Kernels,
        "records what crosses the wire between nodes",
    ),
    package(
        "qemu-system-x86",
        "qemu-system-x86_64",
        Scope::Kernels,
        "boots other kernels",
    ),
    package("xz-utils", "xz", Scope::Kernels, "unpacks kernel modules"),
    package(
        "binutils",
        "strip",
        Scope::Kernels,
        "makes programs small enough to boot with",
    ),
    package(
        "iproute2",
        "ip",
        Scope::Cluster,
        "makes nodes out of network namespaces",
    ),
    package(
        "containerd",
        "containerd",
        Scope::Cluster,
        "runs the containers of pods",
    ),
    package("runc", "runc", Scope::Cluster, "starts their programs"),
    package(
        "containernetworking-plugins",
        "/usr/lib/cni/bridge",
        Scope::Cluster,
        "gives pods their network",
    ),
    package(
        "iptables",
        "iptables",
        Scope::Cluster,
        "kube-proxy leads Services to pods with it",
    ),
    package(
        "conntrack",
        "conntrack",
        Scope::Cluster,
        "kube-proxy forgets the connections of pods that are gone with it",
    ),
    package(
        "procps",
        "sysctl",
        Scope::Cluster,
        "lets nodes forward what is for their pods",
    ),
    package(
        "curl",
        "curl",
        Scope::Cluster,
        "a client nobody wrote for us",
    ),
    package(
        "openssl",
        "openssl",
        Scope::Cluster,
        "certificates of the control plane and the nodes",
    ),
    package(
        "binutils",
        "strip",
        Scope::Cluster,
        "makes programs small enough to copy into every pod",
    ),
];

const fn package(
    name: &'static str,
    proof: &'static str,
    scope: Scope,
    why: &'static str,
) -> Package {
    Package {
        name,
        proof,
        scope,
        why,
    }
}

/// Adds the packages that `scopes` need and the machine lacks.
pub(super) fn survey(scopes: &[Scope], builds_linker: bool, needs: &mut Vec<Need>) {
    let linker = if builds_linker { FOR_THE_LINKER } else { &[] };
    for package in PACKAGES.iter().chain(linker) {
        let known = needs
            .iter()
            .any(|need| matches!(need.fix, Fix::Package(name) if name == package.name));
        if !scopes.contains(&package.scope) || known || is_there(package.proof) {
            continue;
        }
        needs.push(Need {
            what: format!("Debian package {}", package.name),
            why: package.why,
            how: format!("apt-get install {} (gives {})", package.name, package.proof),
            fix: Fix::Package(package.name),
        });
    }
}

fn is_there(proof: &str) -> bool {
    if proof.starts_with('/') {
        Path::new(proof).exists()
    } else {
        command::installed(proof)
    }
}

/// Installs `names` with apt; nothing to do, nothing fetched.
pub(super) fn install(names: &[&str]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    command::run_aside(program("apt-get").args(["-qq", "update"]))?;
    let mut install = program("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    // Keeps the installation of a server from starting it, where that is possible.
    install.env("RUNLEVEL", "1");
    install
        .args(["-qq", "--yes", "--no-install-recommends", "install"])
        .args(names);
    command::run_aside(&mut install)
}

/// Whether the packages above are this machine's.
pub(super) fn is_debian_12() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    names_debian_12(&release)
}

fn names_debian_12(release: &str) -> bool {
    let has = |want: &str| release.lines().any(|line| line.replace('"', "") == want);
    has("ID=debian") && has("VERSION_ID=12")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_12_is_debian_12() {
        assert!(names_debian_12(
            "NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n"
        ));
        assert!(!names_debian_12("VERSION_ID=\"13\"\nID=debian\n"));
        assert!(!names_debian_12(
            "VERSION_ID=\"12\"\nID=devuan\nID_LIKE=debian\n"
        ));
    }

    #[test]
    fn a_package_is_asked_for_once() {
        let mut needs = Vec::new();
        survey(&[Scope::Nodes, Scope::Kernels], true, &mut needs);
        let names: Vec<_> = needs.iter().map(|need| &need.what).collect();
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(names.len(), unique.len(), "{names:?}");
    }
}
