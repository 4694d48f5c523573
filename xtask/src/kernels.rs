// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask test kernels`: the smoke test on older kernels, booted under qemu.
//!
//! Owns the list of kernels and the report. Each kernel is Debian's own, fetched once (`image`),
//! started with the agent and the smoke test as its only files (`archive`), and watched on its
//! serial console (`boot`). Knows nothing of what the smoke test does but its last line. Needs
//! neither root nor KVM. Invariant: no last line, no pass.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context, Result, bail};

use crate::{artefacts, command};

mod archive;
mod boot;
mod image;

use self::{archive::Archive, boot::Verdict};

/// One kernel to boot.
#[derive(Debug)]
pub(crate) struct Series {
    /// Its name as a test.
    name: &'static str,
    /// What its Debian packages begin and end with.
    package: (&'static str, &'static str),
    /// What is proven there.
    why: &'static str,
}

const SERIES: &[Series] = &[
    Series {
        name: "kernel_6_1",
        package: ("linux-image-6.1.0-", "-cloud-amd64"),
        why: "Debian 12: no tcx, programs are attached by clsact",
    },
    Series {
        name: "kernel_6_12",
        package: ("linux-image-6.12.", "+deb12-cloud-amd64"),
        why: "Debian 13, and 12 with updates: tcx",
    },
];

/// Programs of this machine that the fixtures of the smoke test call.
const PROGRAMS: &[&str] = &["ip", "nsenter", "setpriv", "tcpdump"];

/// Built as modules in Debian's kernels, in the order in which they are loaded.
const MODULES: &[&str] = &[
    "drivers/net/veth.ko",
    "net/sched/sch_ingress.ko",
    "net/sched/cls_bpf.ko",
];

/// Boots every kernel whose name contains `filter`, and reports as cargo test does.
#[allow(
    clippy::print_stdout,
    reason = "the report of a test goes to standard output"
)]
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    let started = Instant::now();
    let wanted = |series: &&Series| filter.is_none_or(|part| series.name.contains(part));
    let chosen: Vec<&Series> = SERIES.iter().filter(wanted).collect();
    let agent = artefacts::agent()?;
    let smoke = artefacts::build("mesh-tests", "mesh-smoke")?;
    println!("\nrunning {} tests", chosen.len());
    let mut failed = Vec::new();
    for series in &chosen {
        match one(series, &agent, &smoke) {
            Ok(verdict) => println!("test {} ... ok ({verdict})", series.name),
            Err(error) => {
                println!("test {} ... FAILED", series.name);
                failed.push(format!(
                    "---- {} ({}) ----\n{error:#}\n",
                    series.name, series.why
                ));
            }
        }
    }
    for failure in &failed {
        println!("\n{failure}");
    }
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; \
         finished in {:.2}s\n",
        chosen.len() - failed.len(),
        failed.len(),
        SERIES.len() - chosen.len(),
        started.elapsed().as_secs_f64()
    );
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("{} kernels failed", failed.len())
    }
}

fn one(series: &Series, agent: &PathBuf, smoke: &PathBuf) -> Result<Verdict> {
    let image = image::get(series)?;
    let place = command::target().join("kernels").join(series.name);
    fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
    let mut archive = Archive::new();
    for directory in ["dev", "etc", "proc", "run", "sys", "tmp", "var"] {
        archive.directory(directory);
    }
    archive.link("var/run", "/run");
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/false\n");
    for (path, name) in [(smoke, "init"), (agent, "bin/mesh-agent")] {
        let stripped = place.join("stripped");
        let mut strip = command::program("strip");
        let done = command::output(strip.arg("-o").arg(&stripped).arg(path));
        done.with_context(|| format!("strip {}", path.display()))?;
        archive.program(&stripped, name)?;
    }
    for name in PROGRAMS {
        let path = command::find(name).with_context(|| format!("no {name} in PATH"))?;
        archive.program(&path, &format!("bin/{name}"))?;
    }
    for (number, module) in MODULES.iter().enumerate() {
        let name = module.rsplit('/').next().unwrap_or(module);
        archive.file(
            &format!("modules/{number}-{name}"),
            0o644,
            &image.module(module)?,
        );
    }
    let initial = place.join("initramfs");
    fs::write(&initial, archive.finish())
        .with_context(|| format!("write {}", initial.display()))?;
    boot::boot(&image.kernel, &initial, &place.join("console.log"))
}
