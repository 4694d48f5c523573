// SPDX-License-Identifier: Apache-2.0

//! Starts and stops the watches of kinds as their definitions come and go.
//!
//! What the server serves, and in which version, is read by discovery. When to read it again is
//! told by a watch of CustomResourceDefinitions (names only), by a watch that finds its resource
//! gone, and by time. A definition that is new is served a little later than it is seen, so after
//! each hint discovery is read several times.
//!
//! Invariant: a kind counts as gone only when discovery was answered and does not have it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};

use super::{
    super::object::Kind,
    kinds::{self, Wanted},
    prune,
    server::{Server, ServerError},
    watcher::{Input, Message, News, Pause, Target, Watch},
};
use crate::tasks::Tasks;

/// Discovery is read anew after this, and up to as much again, without any hint.
const SWEEP: Duration = Duration::from_secs(600);

/// When discovery is read after a hint, counted from one to the next.
const AFTER_HINT: [Duration; 7] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(15),
];

/// How the collector tells the watch of definitions.
pub(super) const DEFINITIONS: Kind = Kind::Unsupported("CustomResourceDefinition");

const JSON: &str = "application/json";

/// Finds kinds and keeps their watches.
pub(super) struct Discoverer {
    pub(super) server: Server,
    pub(super) tasks: Tasks,
    pub(super) sender: mpsc::Sender<Input>,
    /// A watch found its resource gone.
    pub(super) absent: Arc<Notify>,
    pub(super) running: BTreeMap<Kind, Running>,
    pub(super) runs: u64,
}

/// A watch; it ends when this is dropped.
pub(super) struct Running {
    target: Target,
    run: u64,
    _stop: oneshot::Sender<()>,
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct Resources {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    kind: String,
    #[serde(default)]
    verbs: Vec<String>,
}

impl Discoverer {
    /// Goes on until nobody listens. Cancel-safe: watches end with it.
    pub(super) async fn run(mut self) {
        let definitions = self.watch_definitions();
        tokio::pin!(definitions);
        let hints = Arc::clone(&self.absent);
        let mut pause = Pause::default();
        let mut after_hint = AFTER_HINT.iter();
        loop {
            let next = match discover(&self.server).await {
                Ok(targets) => {
                    pause.reset();
                    if !self.bring_in_line(targets).await {
                        return;
                    }
                    let sweep = SWEEP.mul_f64(1.0 + fastrand::f64());
                    after_hint.next().copied().unwrap_or(sweep)
                }
                Err(error) => {
                    let failed = Input::Undiscovered(error.to_string());
                    if self.sender.send(failed).await.is_err() {
                        return;
                    }
                    pause.next()
                }
            };
            let next = Instant::now() + next;
            // Cancel-safe: a hint stays noted until it is taken, and definitions go on where they
            // were.
            tokio::select! {
                () = sleep_until(next) => {}
                () = hints.notified() => {
                    after_hint = AFTER_HINT.iter();
                    sleep(AFTER_HINT[0]).await;
                }
                () = &mut definitions => return,
            }
        }
    }

    /// Hints whenever a definition of a group that matters comes, changes or goes.
    fn watch_definitions(&self) -> impl Future<Output = ()> + Send + 'static {
        let (sender, mut receiver) = mpsc::channel(64);
        let watch = Watch {
            server: self.server.clone(),
            target: Target {
                kind: DEFINITIONS,
                path: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned(),
                fields: "",
                metadata_only: true,
            },
            mask: prune::METADATA,
            run: 0,
            sender,
        };
        let hints = Arc::clone(&self.absent);
        let collector = self.sender.clone();
        let read = async move {
            while let Some(input) = receiver.recv().await {
                let Input::News(Message { news, .. }) = &input else {
                    continue;
                };
                if let News::Applied(item) | News::Deleted(item) = news {
                    if is_ours(&item.key.name) {
                        hints.notify_one();
                    }
                } else if !matches!(news, News::Part(_)) && collector.send(input).await.is_err() {
                    return;
                }
            }
        };
        async move {
            // Cancel-safe: either ends the other.
            tokio::select! {
                () = watch.run() => {}
                () = read => {}
            }
        }
    }

    /// Stops, starts and moves watches so that they are those of `targets`. Returns whether anybody
    /// listens.
    async fn bring_in_line(&mut self, targets: BTreeMap<Kind, Target>) -> bool {
        self.running
            .retain(|kind, running| targets.get(kind) == Some(&running.target));
        let mut fresh = Vec::new();
        for (kind, target) in targets {
            if self.running.contains_key(&kind) {
                continue;
            }
            self.runs += 1;
            let (stop, stopped) = oneshot::channel();
            fresh.push((target.clone(), self.runs, stopped));
            let running = Running {
                target,
                run: self.runs,
                _stop: stop,
            };
            self.running.insert(kind, running);
        }
        let runs = self.running.iter();
        let runs = runs.map(|(kind, running)| (*kind, running.run)).collect();
        // Before any news of them arrive.
        if self.sender.send(Input::Kinds(runs)).await.is_err() {
            return false;
        }
        for (target, run, stopped) in fresh {
            self.start(target, run, stopped);
        }
        true
    }

    fn start(&self, target: Target, run: u64, stopped: oneshot::Receiver<()>) {
        let watch = Watch {
            mask: prune::mask(target.kind),
            server: self.server.clone(),
            sender: self.sender.clone(),
            target,
            run,
        };
        let drain = self.tasks.drain();
        self.tasks.spawn("config-watch", async move {
            // Cancel-safe: a watch that ends is not wanted any more.
            tokio::select! {
                () = watch.run() => {}
                _ = stopped => {}
                () = drain.requested() => {}
            }
        });
    }
}

fn is_ours(definition: &str) -> bool {
    let group = definition.split_once('.').map(|(_, group)| group);
    kinds::wanted().any(|wanted| !wanted.is_built_in() && Some(wanted.group) == group)
}

/// What can be watched of what is wanted.
pub(super) async fn discover(server: &Server) -> Result<BTreeMap<Kind, Target>, ServerError> {
    let (built_in, custom): (Vec<Wanted>, Vec<Wanted>) =
        kinds::wanted().partition(Wanted::is_built_in);
    let mut targets: BTreeMap<Kind, Target> = built_in
        .iter()
        .map(|wanted| (wanted.kind, built_in_target(wanted)))
        .collect();
    let groups: Groups = serde_json::from_slice(&server.get("/apis", JSON).await?)?;
    for group in &groups.groups {
        let of_group: Vec<&Wanted> = custom
            .iter()
            .filter(|wanted| wanted.group == group.name)
            .collect();
        if of_group.is_empty() {
            continue;
        }
        let mut served: Vec<(&str, Vec<Resource>)> = Vec::new();
        for Version { version } in &group.versions {
            let path = format!("/apis/{}/{version}", group.name);
            match server.get(&path, JSON).await {
                Ok(text) => {
                    let resources: Resources = serde_json::from_slice(&text)?;
                    served.push((version, resources.resources));
                }
                // It went since the groups were read.
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error),
            }
        }
        for wanted in of_group {
            let target = custom_target(wanted, &served);
            targets.extend(target.map(|target| (wanted.kind, target)));
        }
    }
    Ok(targets)
}

fn built_in_target(wanted: &Wanted) -> Target {
    let plural = format!("{}s", wanted.kind.as_str().to_lowercase());
    let version = wanted.versions.first().copied().unwrap_or("v1");
    let path = match wanted.group {
        // One object of it is.
        "" if wanted.kind == Kind::ConfigMap => {
            format!("/api/{version}/namespaces/istio-system/{plural}")
        }
        "" => format!("/api/{version}/{plural}"),
        group => format!("/apis/{group}/{version}/{plural}"),
    };
    let fields = match wanted.kind {
        // `status.phase!=Succeeded,status.phase!=Failed`: pods that have ended have no traffic.
        Kind::Pod => "status.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed",
        // `metadata.name=istio`
        Kind::ConfigMap => "metadata.name%3Distio",
        _ => "",
    };
    Target {
        kind: wanted.kind,
        path,
        fields,
        metadata_only: wanted.metadata_only(),
    }
}

fn custom_target(wanted: &Wanted, served: &[(&str, Vec<Resource>)]) -> Option<Target> {
    let resource = |version: &str| {
        let (_, resources) = served.iter().find(|(known, _)| *known == version)?;
        resources.iter().find(|resource| {
            resource.kind == wanted.kind.as_str()
                && resource.verbs.iter().any(|verb| verb == "watch")
        })
    };
    let versions: Vec<&str> = served
        .iter()
        .map(|(version, _)| *version)
        .filter(|version| resource(version).is_some())
        .collect();
    let version = wanted.version(&versions)?;
    let plural = &resource(version)?.name;
    Some(Target {
        kind: wanted.kind,
        path: format!("/apis/{}/{version}/{plural}", wanted.group),
        fields: "",
        metadata_only: wanted.metadata_only(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: &str, kind: &str, verbs: &[&str]) -> Resource {
        Resource {
            name: name.to_owned(),
            kind: kind.to_owned(),
            verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        }
    }

    #[test]
    fn a_custom_kind_is_read_in_the_best_version_that_can_be_watched() {
        let wanted = kinds::wanted().find(|wanted| wanted.kind == Kind::VirtualService);
        let served = [
            (
                "v1",
                vec![resource(
                    "virtualservices/status",
                    "VirtualService",
                    &["get"],
                )],
            ),
            (
                "v1beta1",
                vec![resource(
                    "virtualservices",
                    "VirtualService",
                    &["list", "watch"],
                )],
            ),
        ];
        let target = custom_target(&wanted.unwrap(), &served).unwrap();
        assert_eq!(
            target.path,
            "/apis/networking.istio.io/v1beta1/virtualservices"
        );
        assert_eq!(custom_target(&wanted.unwrap(), &[]), None);
    }

    #[test]
    fn built_in_kinds_have_their_paths() {
        let paths: Vec<String> = kinds::wanted()
            .filter(Wanted::is_built_in)
            .map(|wanted| built_in_target(&wanted).path)
            .collect();
        assert_eq!(
            paths,
            [
                "/api/v1/namespaces",
                "/api/v1/nodes",
                "/api/v1/namespaces/istio-system/configmaps",
                "/api/v1/pods",
                "/api/v1/services",
                "/apis/discovery.k8s.io/v1/endpointslices",
            ]
        );
    }

    #[test]
    fn definitions_matter_by_their_group() {
        assert!(is_ours("virtualservices.networking.istio.io"));
        assert!(is_ours("httproutes.gateway.networking.k8s.io"));
        assert!(!is_ours("certificates.cert-manager.io"));
        assert!(!is_ours("nonsense"));
    }
}
