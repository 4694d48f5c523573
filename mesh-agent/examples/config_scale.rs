// SPDX-License-Identifier: Apache-2.0

//! Follows a Kubernetes API as the agent does, and says what that costs.
//!
//! `cargo run --profile fast --example config_scale -- KUBECONFIG NODE [STATE_DIR]` prints a line
//! for every snapshot (time, generation, frontier of Services and Pods) and, every five seconds,
//! memory and CPU of this process. Not part of the agent; `docs/scale.md` says how it was used.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use mesh_agent::{
    config::{
        Index, IndexSettings,
        kube::{self, KubeSettings},
    },
    tasks::Tasks,
};

/// How often memory and CPU are printed.
const INTERVAL: Duration = Duration::from_secs(5);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads");
    runtime.block_on(run());
}

async fn run() {
    let mut arguments = std::env::args().skip(1);
    let kubeconfig = arguments.next().map(PathBuf::from);
    let node = arguments.next().unwrap_or_default();
    let settings = KubeSettings {
        node: node.clone(),
        kubeconfig,
        state_dir: arguments.next().map(PathBuf::from),
    };
    let index = Index::new(IndexSettings {
        node,
        ..IndexSettings::default()
    });
    let snapshots = index.subscribe();
    let tasks = Tasks::new();
    let source = Box::pin(kube::follow(&settings, index, &tasks)).await;
    let source = source.expect("a usable kubeconfig");
    let mut frontier = source.frontier;
    let mut interval = tokio::time::interval(INTERVAL);
    let mut generation = 0;
    loop {
        // Cancel-safe: both only wait.
        tokio::select! {
            changed = frontier.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = frontier.borrow_and_update().clone();
                let version = |kind| now.versions.get(kind).copied().unwrap_or_default();
                say(&format!(
                    "frontier {} generation {} new {} services {} pods {}",
                    millis(),
                    now.generation,
                    now.generation != generation,
                    version("Service"),
                    version("Pod"),
                ));
                generation = now.generation;
            }
            _ = interval.tick() => {
                let snapshot = snapshots.borrow().clone();
                let state = source.state.borrow().clone();
                say(&format!(
                    "cost {} rss_kib {} cpu_ticks {} workloads {} services {} synced {}",
                    millis(),
                    resident(),
                    cpu_ticks(),
                    snapshot.workloads.len(),
                    snapshot.services.len(),
                    state.synced,
                ));
            }
        }
    }
}

fn say(line: &str) {
    // Whoever reads this may have gone.
    drop(writeln!(io::stdout().lock(), "{line}"));
}

fn millis() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis()
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
    number.unwrap_or_default()
}

/// User and system time, in hundredths of a second.
fn cpu_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields = after_name.split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<u64>().ok()).sum()
}
