// SPDX-License-Identifier: Apache-2.0

//! The composition root: builds the parts from settings, joins them, and drains them.
//!
//! Names everything; nobody names it but `main`. Owns the order of things: a pod's certificate is
//! asked for before the pod is captured, the kernel stops handing over new connections before the
//! proxy drains, and kernel programs go last; unless a successor asked for them: then they are its
//! own at once, and we drain beside it.
//!
//! Invariant: whatever fails at the start leaves the node as it was.

mod authority;
mod budgets;
mod cleanup;
mod credentials;
mod hand_over;
mod memory;
mod report;
mod revoked;
mod source;
mod stopping;
mod sync;
mod typed;
mod unfit;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

pub use self::cleanup::cleanup;
use self::{
    authority::Started, hand_over::Claim, report::AppliedState, source::Source, stopping::Policy,
    sync::Sync,
};
use crate::{
    admin::{self, Desk, Successor, Views, Wish},
    datapath::{self, ABI_VERSION, Datapath, DatapathSettings, Stop},
    identity::{Alpn, KeySets},
    proxy::{Http1Engine, Proxy, ProxySettings, ProxyView, Shared},
    settings::{AccessLog, Http1, LogForm, OnAgentDeath, RunSettings, Tunnel},
    tasks::Tasks,
    telemetry::{
        AccessLogFormat, Telemetry,
        log::{self, LogFormat, LogLevel},
    },
};

/// Configuration, kernel sync, identities and the admin socket; requests never run here.
const CONTROL_THREADS: usize = 2;

/// How long the last lines of the logs may take to be written.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// What of the drain deadline is left for ending in order what could not be handed over.
const WIND_DOWN: Duration = Duration::from_secs(5);

/// Where agents pin, each in a directory of its own.
const PIN_ROOT: &str = "/sys/fs/bpf/mesh-agent";

/// How often the start looks whether everything is in place.
const READY_INTERVAL: Duration = Duration::from_millis(10);

/// Runs the agent of one node until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting: bad settings, an unfit kernel, a missing privilege, another agent.
pub fn run(settings: RunSettings) -> anyhow::Result<()> {
    // Before there is any other thread, which would not have part in it.
    datapath::confine_start().context("privileges that are not needed")?;
    let log = log::start(log_format(settings.log_format), &settings.log_level)?;
    let telemetry = Telemetry::new(access_log_format(settings.access_log));
    let control = control_runtime()?;
    let ended = control.block_on(async {
        match Box::pin(Agent::start(&settings, &log, &telemetry)).await? {
            Some(agent) => Box::pin(agent.serve()).await,
            None => Ok(Stop::Leave),
        }
    });
    // A blocked resolver or file watcher must not hold up the exit.
    control.shutdown_timeout(FLUSH_DEADLINE);
    if matches!(ended, Ok(Stop::Remove)) {
        cleanup::leave_nothing(&settings);
    }
    telemetry.flush(FLUSH_DEADLINE);
    log.flush(FLUSH_DEADLINE);
    ended.map(drop)
}

/// A running agent.
struct Agent {
    sync: Sync,
    signals: Signals,
    desk: Desk,
    policy: Policy,
    drain_deadline: Duration,
}

impl Agent {
    #[expect(
        clippy::too_many_lines,
        reason = "the parts in the order in which they depend on each other"
    )]
    async fn start(
        settings: &RunSettings,
        log: &LogLevel,
        telemetry: &Telemetry,
    ) -> anyhow::Result<Option<Self>> {
        let mut signals = Signals::new()?;
        let tasks = Tasks::new();
        let (hand_over, desk) = admin::desk();
        datapath::raise_open_files();

        let Source {
            snapshot,
            report,
            state: source,
            frontier,
        } = Box::pin(source::start(settings, &tasks)).await?;
        let Started { identities, remote } = authority::start(settings, &tasks).await?;
        credentials::start(settings, &identities).await?;
        revoked::start(settings, &identities, &tasks).await?;
        let keys = KeySets::start(snapshot.clone(), settings.jwks_allow.clone(), &tasks);

        let policy = stopping::policy(settings, &tasks).await;

        let claim = Claim {
            datapath: datapath_settings(settings),
            successor: hand_over::successor(&settings.admin_socket()),
            snapshot: snapshot.clone(),
            identities: identities.clone(),
        };
        let Some(taken) = claim.take(&mut signals).await? else {
            return Ok(None);
        };
        if let Err(error) = datapath::confine_process() {
            warn!(%error, "system calls that are not needed stay allowed");
        }
        let datapath = match taken {
            Ok(datapath) => datapath,
            Err(error) if error.is_lasting() => {
                let views = Views {
                    snapshot,
                    report,
                    source,
                    identities,
                    keys,
                    telemetry: telemetry.clone(),
                    datapath: unfit::observe(&error),
                    proxy: Arc::new(ProxyView::default),
                    log: log.clone(),
                    hand_over,
                };
                serve_admin(settings, &views, &tasks).await?;
                return Err(unfit::stand_by(error, signals).await);
            }
            Err(error) => return Err(anyhow::Error::new(error).context("kernel programs")),
        };
        let (applied, state) = watch::channel(AppliedState::default());
        if let Some(authority) = remote {
            report::start(authority, identities.clone(), state, &tasks);
        }
        sync::hold_early(datapath.early_gate(), snapshot.clone(), &tasks);
        let connector = datapath.connector();
        let datapath = Arc::new(Mutex::new(datapath));

        let proxy = Proxy::start(
            &ProxySettings {
                threads: settings.thread_count(),
                tunnel: match settings.tunnel {
                    Tunnel::Mux => Alpn::Mux,
                    Tunnel::Hbone => Alpn::Hbone,
                },
                budgets: budgets::limits(&settings.budgets),
            },
            Shared {
                snapshot: snapshot.clone(),
                identities: identities.clone(),
                keys: keys.clone(),
                connector,
                telemetry: telemetry.clone(),
                tasks: tasks.clone(),
                encrypt_on_node: settings.pods.encrypt_on_node,
                http1: match settings.http1 {
                    Http1::Fast => Http1Engine::Fast,
                    Http1::Hyper => Http1Engine::Hyper,
                },
                request_headers: typed::request_headers(settings.request_headers),
                path_normalization: typed::path_normalization(settings.path_normalization),
                head_time: settings.budgets.request_head_timeout,
            },
        )
        .context("data threads")?;
        let proxy = Arc::new(proxy);

        let views = Views {
            snapshot: snapshot.clone(),
            report,
            source,
            identities: identities.clone(),
            keys,
            telemetry: telemetry.clone(),
            datapath: observe_datapath(&datapath),
            proxy: {
                let proxy = Arc::clone(&proxy);
                Arc::new(move || proxy.observe())
            },
            log: log.clone(),
            hand_over,
        };
        serve_admin(settings, &views, &tasks).await?;
        announce_ready(&tasks, views, &settings.node);
        Ok(Some(Self {
            sync: Sync {
                snapshot,
                identities,
                datapath,
                proxy,
                telemetry: telemetry.clone(),
                frontier,
                applied,
            },
            signals,
            desk,
            policy,
            drain_deadline: settings.drain_deadline,
        }))
    }

    /// Follows the configuration until a signal or a successor comes, then drains. Returns what
    /// was done with the node.
    async fn serve(mut self) -> anyhow::Result<Stop> {
        // Cancel-safe: see each.
        let signal = tokio::select! {
            name = self.signals.next() => name,
            wish = self.desk.wish() => {
                self.leave(wish).await;
                return Ok(Stop::Leave);
            }
            ended = self.sync.follow() => {
                self.sync.stop(Stop::Leave, Duration::ZERO).await;
                return ended.map(|()| Stop::Leave);
            }
        };
        info!(signal, "stopping");
        let how = self.policy.decide().await;
        match how {
            Stop::Remove => {
                let is_done = self.stop(how, self.drain_deadline).await;
                return Ok(if is_done { how } else { Stop::Leave });
            }
            Stop::Leave => self.stay().await,
        }
        Ok(how)
    }

    /// Nobody has taken over yet, and whoever does needs what is in the kernel: serves on for as
    /// long as it may, so that as little as possible comes between us and the next agent.
    async fn stay(mut self) {
        let drain = WIND_DOWN.min(self.drain_deadline / 2);
        let until = Instant::now() + self.drain_deadline.saturating_sub(drain);
        info!("serving on until the drain deadline or until nothing is left");
        let proxy = Arc::clone(&self.sync.proxy);
        // Cancel-safe: see each.
        tokio::select! {
            wish = self.desk.wish() => {
                self.leave(wish).await;
                return;
            }
            ended = self.sync.follow() => note_end(ended),
            () = hand_over::nothing_left(&proxy) => {}
            () = sleep_until(until) => {}
            signal = self.signals.next() => {
                warn!(signal, "stopped at once, connections are reset");
                return;
            }
        }
        self.stop(Stop::Leave, drain).await;
    }

    /// A successor takes over: gives it the kernel side, and drains beside it.
    async fn leave(mut self, wish: Wish) {
        let Successor { version, abi, .. } = &wish.successor;
        info!(successor = version, "handing over");
        if *abi != ABI_VERSION {
            warn!(
                theirs = abi,
                ours = ABI_VERSION,
                "the successor pins otherwise: requests on kept connections may fail"
            );
        }
        let successor = wish.successor.clone();
        self.sync.hand_over();
        self.desk.close();
        wish.grant();
        let until = Instant::now() + self.drain_deadline;
        let proxy = Arc::clone(&self.sync.proxy);
        // Cancel-safe: see each. Configuration and certificates are followed until the end.
        let left = tokio::select! {
            () = hand_over::let_go(&proxy, &successor) => WIND_DOWN,
            ended = self.sync.follow() => {
                note_end(ended);
                until.saturating_duration_since(Instant::now())
            }
            () = sleep_until(until) => Duration::ZERO,
            signal = hand_over::insisted(&mut self.signals) => {
                warn!(signal, "stopped at once, connections are reset");
                return;
            }
        };
        self.stop(Stop::Leave, left).await;
    }

    /// Drains, unless a signal says that there is no time. Whether it was done to the end.
    async fn stop(&mut self, how: Stop, deadline: Duration) -> bool {
        // Cancel-safe: when the second signal comes nothing of the drain is needed any more.
        tokio::select! {
            () = self.sync.stop(how, deadline) => {
                info!("stopped");
                true
            }
            signal = self.signals.next() => {
                warn!(signal, "stopped at once, connections are reset");
                false
            }
        }
    }
}

/// The configuration ended while we are on the way out: the last one has to do.
fn note_end(ended: anyhow::Result<()>) {
    if let Err(error) = ended {
        warn!(
            error = format!("{error:#}"),
            "draining with the last configuration"
        );
    }
}

/// The signals that end the agent.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listening for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listening for SIGINT")?,
        })
    }

    async fn next(&mut self) -> &'static str {
        // Cancel-safe: a signal that arrived stays noted until it is taken.
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Lets operators and Prometheus look inside.
async fn serve_admin(settings: &RunSettings, views: &Views, tasks: &Tasks) -> anyhow::Result<()> {
    let socket = settings.admin_socket();
    hand_over::when_free(|| admin::serve(&socket, views.clone(), tasks))
        .await
        .with_context(|| format!("admin socket {}", socket.display()))?;
    hand_over::when_free(|| admin::serve_metrics(settings.metrics_address, views.clone(), tasks))
        .await
        .with_context(|| format!("metrics on {}", settings.metrics_address))?;
    if let Some(address) = settings.ztunnel_dump_address {
        serve_ztunnel_dump(address, views.clone(), tasks);
    }
    Ok(())
}

/// Lets istioctl look inside. Nobody's traffic depends on it: it is no reason to wait or to fail.
fn serve_ztunnel_dump(address: SocketAddr, views: Views, tasks: &Tasks) {
    let (drain, listen_tasks) = (tasks.drain(), tasks.clone());
    tasks.spawn("ztunnel-dump", async move {
        let serve = || admin::serve_ztunnel_dump(address, views.clone(), &listen_tasks);
        // Cancel-safe: an address that is bound is served already.
        let served = tokio::select! {
            served = hand_over::when_free(serve) => served,
            () = drain.requested() => return,
        };
        if let Err(error) = served {
            let error = format!("{:#}", anyhow::Error::new(error));
            warn!(error, "istioctl ztunnel-config cannot ask this agent");
        }
    });
}

/// Logs `ready` once everything the first configuration asked for is in place, and tidies up behind the
/// start.
fn announce_ready(tasks: &Tasks, views: Views, node: &str) {
    let node = node.to_owned();
    let drain = tasks.drain();
    tasks.spawn("announce-ready", async move {
        let work = async {
            while !admin::missing(&views).is_empty() {
                tokio::time::sleep(READY_INTERVAL).await;
            }
            info!(node, "ready");
            memory::give_back_often().await;
        };
        // Cancel-safe: to wait changes nothing, and to give memory back nothing that anybody sees.
        tokio::select! {
            () = work => {}
            () = drain.requested() => {}
        }
    });
}

fn observe_datapath(
    datapath: &Arc<Mutex<Datapath>>,
) -> Arc<dyn Fn() -> datapath::Observation + Send + std::marker::Sync> {
    let datapath = Arc::clone(datapath);
    Arc::new(move || {
        datapath
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .observe()
    })
}

fn control_runtime() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("control threads")
}

fn datapath_settings(settings: &RunSettings) -> DatapathSettings {
    DatapathSettings {
        pin_dir: settings
            .pin_dir
            .clone()
            .unwrap_or_else(|| default_pin_dir(&settings.node)),
        cgroup: settings.cgroup.clone().unwrap_or_default(),
        cgroup_root: settings.pods.cgroup_root.clone(),
        close_existing_after: settings.pods.close_existing_after,
        on_agent_death: match settings.on_agent_death {
            OnAgentDeath::Open => datapath::OnAgentDeath::Open,
            OnAgentDeath::Closed => datapath::OnAgentDeath::Closed,
        },
        debug_log: settings.log_level.contains("debug") || settings.log_level.contains("trace"),
    }
}

/// bpffs takes no dots in names; node names often are DNS names.
fn default_pin_dir(node: &str) -> PathBuf {
    Path::new(PIN_ROOT).join(node.replace('.', "_"))
}

fn log_format(form: LogForm) -> LogFormat {
    match form {
        LogForm::Text => LogFormat::Text,
        LogForm::Json => LogFormat::Json,
    }
}

fn access_log_format(form: AccessLog) -> AccessLogFormat {
    match form {
        AccessLog::Text => AccessLogFormat::Text,
        AccessLog::Json => AccessLogFormat::Json,
        AccessLog::Off => AccessLogFormat::Off,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_named_like_a_host_gets_a_pin_directory_bpffs_accepts() {
        assert_eq!(
            default_pin_dir("node-a.example.org"),
            Path::new("/sys/fs/bpf/mesh-agent/node-a_example_org")
        );
    }
}
