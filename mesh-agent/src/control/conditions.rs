// SPDX-License-Identifier: Apache-2.0

//! Writes what the mesh thinks of objects into their status, as the leader.
//!
//! Each write reads the object first and changes our part alone, on the version that was read.
//! Knows nothing of why an object is judged as it is. Invariants: nothing is written that is there
//! already; writes are paced, and what fails is tried again ever more rarely.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{sync::watch, time};

use super::{
    book::{Book, Want},
    lease::Leadership,
    merge,
    nodes::Applied,
    pace::Pace,
};
use crate::{
    config::{Kind, ObjectKey, ObjectStatus},
    tasks::Tasks,
};

/// As whom we write.
const FIELD_MANAGER: &str = "mesh-agent-control";

/// Writes per second at most, and at once.
const PACE: (Duration, u32) = (Duration::from_millis(50), 50);

/// How often nodes are asked about at most.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long one request may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// How often a write is tried at once when somebody else was faster.
const MAX_TRIES: usize = 3;

/// Why a status could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// It changed since it was read.
    #[error("somebody else changed the object")]
    Conflict,
    /// The object or its status does not exist (any more).
    #[error("there is no such object, or its kind has no status")]
    Missing,
    /// The API server said no, or nothing.
    #[error("the API server")]
    Api(#[source] kube::Error),
    /// No answer in time.
    #[error("no answer from the API server in time")]
    TimedOut,
}

/// Where objects and their statuses are kept.
pub(super) trait Objects: Send + Sync + 'static {
    /// Reads an object.
    fn read(&self, key: &ObjectKey) -> impl Future<Output = Result<Value, WriteError>> + Send;

    /// Changes an object's status if it still is at `version`.
    fn change(
        &self,
        key: &ObjectKey,
        version: &str,
        status: Value,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;
}

/// What decides what is written.
pub(super) struct Sources<A> {
    /// The judgements.
    pub(super) statuses: watch::Receiver<Arc<Vec<ObjectStatus>>>,
    /// Whether this replica leads.
    pub(super) leadership: watch::Receiver<Leadership>,
    /// Changes when a node reports something new.
    pub(super) reports: watch::Receiver<u64>,
    /// Whom a version of an object of a kind reached.
    pub(super) applied: A,
}

/// Writes statuses by `client` until the tasks drain.
pub(super) fn keep<A>(client: Client, sources: Sources<A>, tasks: &Tasks)
where
    A: Fn(&str, u64) -> Applied + Send + Sync + 'static,
{
    let drain = tasks.drain();
    tasks.spawn("conditions", async move {
        let writing = write(Server(client), sources);
        // Cancel-safe: a write that is cut off is judged anew by the next leader.
        tokio::select! {
            () = writing => {}
            () = drain.requested() => {}
        }
    });
}

/// Writes statuses until a source ends.
async fn write<A>(objects: impl Objects, mut sources: Sources<A>)
where
    A: Fn(&str, u64) -> Applied + Send + Sync + 'static,
{
    let mut book = Book::default();
    let mut pace = Pace::new(PACE.0, PACE.1);
    let statuses = Arc::clone(&sources.statuses.borrow_and_update());
    book.adopt(&statuses, now());
    let (mut led, mut news, mut look_at) = (false, true, now());
    loop {
        let leading = sources.leadership.borrow_and_update().leading;
        if leading && !led {
            // Another may have written meanwhile.
            book.forget_written();
        }
        led = leading;
        if leading && now() >= look_at {
            book.look(now(), &sources.applied);
            (news, look_at) = (false, now() + LOOK_EVERY);
        }
        let wake_at = if leading {
            let more = write_next(&objects, &mut book, &mut pace).await;
            // Who lags shows when nodes are looked at.
            let later = book.wake_at().map(|at| at.max(look_at));
            let look = news.then_some(look_at);
            more.or(later).into_iter().chain(look).min()
        } else {
            None
        };
        // Cancel-safe: watches keep what they have to say, and the time is computed anew.
        let open = tokio::select! {
            biased;
            changed = sources.statuses.changed() => {
                let statuses = Arc::clone(&sources.statuses.borrow_and_update());
                book.adopt(&statuses, now());
                news = true;
                changed.is_ok()
            }
            changed = sources.leadership.changed() => changed.is_ok(),
            changed = sources.reports.changed(), if leading => {
                news = true;
                changed.is_ok()
            }
            () = sleep_until(wake_at) => true,
        };
        if !open {
            return;
        }
    }
}

/// Writes one status that is due, if one is; returns when the next may be written.
async fn write_next(objects: &impl Objects, book: &mut Book, pace: &mut Pace) -> Option<Instant> {
    let (key, want) = book.next(now())?;
    if let Err(later) = pace.take(now()) {
        return Some(later);
    }
    write_one(objects, book, key, want).await;
    Some(now())
}

fn now() -> Instant {
    time::Instant::now().into_std()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn write_one(objects: &impl Objects, book: &mut Book, key: ObjectKey, want: Want) {
    match change(objects, &key, &want).await {
        Ok(()) => book.written(&key, want),
        // Deleted or another incarnation: the index will say so. Without status: nothing to be done.
        Err(WriteError::Missing) => {
            tracing::debug!(object = %key, "no status to write");
            book.written(&key, want);
        }
        Err(error) => {
            let error = crate::telemetry::chain(&error);
            tracing::warn!(object = %key, error, "writing its status, will try again");
            book.failed(&key, now());
        }
    }
}

async fn change(objects: &impl Objects, key: &ObjectKey, want: &Want) -> Result<(), WriteError> {
    let mut tries = 1;
    loop {
        let object = objects.read(key).await?;
        if object["metadata"]["uid"] != *want.uid {
            return Err(WriteError::Missing);
        }
        let second = Timestamp::now().as_second();
        let time = Timestamp::from_second(second).map_or_else(|_| String::new(), |t| t.to_string());
        let Some(status) = merge::merge(&object["status"], want, &time) else {
            return Ok(());
        };
        let version = object["metadata"]["resourceVersion"].as_str();
        match objects
            .change(key, version.unwrap_or_default(), status)
            .await
        {
            Err(WriteError::Conflict) if tries < MAX_TRIES => tries += 1,
            ended => return ended,
        }
    }
}

/// The API server.
struct Server(Client);

impl Server {
    /// The object in each version that may be served.
    fn apis(&self, key: &ObjectKey) -> impl Iterator<Item = Api<DynamicObject>> {
        let (group, versions) = served(key.kind).unwrap_or_default();
        versions
            .iter()
            .map(move |version| self.api(key, group, version))
    }

    fn api(&self, key: &ObjectKey, group: &str, version: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(group, version, key.kind.as_str());
        let plural = plural(key.kind.as_str());
        let resource = ApiResource::from_gvk_with_plural(&kind, &plural);
        if key.namespace.is_empty() {
            Api::all_with(self.0.clone(), &resource)
        } else {
            Api::namespaced_with(self.0.clone(), &key.namespace, &resource)
        }
    }
}

/// Where a kind with a status is served: in one of these versions, best first.
fn served(kind: Kind) -> Option<(&'static str, &'static [&'static str])> {
    match kind {
        Kind::HttpRoute | Kind::GrpcRoute => Some(("gateway.networking.k8s.io", &["v1"])),
        Kind::TcpRoute => Some(("gateway.networking.k8s.io", &["v1", "v1alpha2"])),
        Kind::TlsRoute => Some(("gateway.networking.k8s.io", &["v1", "v1alpha3", "v1alpha2"])),
        Kind::VirtualService
        | Kind::DestinationRule
        | Kind::ServiceEntry
        | Kind::WorkloadEntry
        | Kind::Sidecar => Some(("networking.istio.io", &["v1"])),
        Kind::PeerAuthentication | Kind::AuthorizationPolicy | Kind::RequestAuthentication => {
            Some(("security.istio.io", &["v1"]))
        }
        Kind::LocalRateLimit => Some(("mesh-agent.io", &["v1alpha1"])),
        Kind::Policy | Kind::MeshPolicy => Some(("authentication.istio.io", &["v1alpha1"])),
        Kind::Namespace
        | Kind::Node
        | Kind::ConfigMap
        | Kind::ServiceAccount
        | Kind::Pod
        | Kind::Service
        | Kind::EndpointSlice
        // Its status would be for others to read, by ancestor.
        | Kind::BackendTrafficPolicy
        | Kind::Unenforced(_)
        | Kind::Unsupported(_) => None,
    }
}

/// `httproutes`, `policies`.
fn plural(kind: &str) -> String {
    let name = kind.to_ascii_lowercase();
    match name.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{name}s"),
    }
}

impl Objects for Server {
    async fn read(&self, key: &ObjectKey) -> Result<Value, WriteError> {
        for api in self.apis(key) {
            match in_time(api.get(&key.name)).await {
                // Gone, or not served in this version.
                Err(WriteError::Missing) => {}
                read => {
                    return serde_json::to_value(read?)
                        .map_err(|error| WriteError::Api(kube::Error::SerdeError(error)));
                }
            }
        }
        Err(WriteError::Missing)
    }

    async fn change(
        &self,
        key: &ObjectKey,
        version: &str,
        status: Value,
    ) -> Result<(), WriteError> {
        let patch = json!({ "metadata": { "resourceVersion": version }, "status": status });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(patch);
        for api in self.apis(key) {
            match in_time(api.patch_status(&key.name, &params, &patch)).await {
                Err(WriteError::Missing) => {}
                changed => return changed.map(drop),
            }
        }
        Err(WriteError::Missing)
    }
}

async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
    match time::timeout(REQUEST_DEADLINE, request).await {
        Err(_elapsed) => Err(WriteError::TimedOut),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(WriteError::Conflict),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(WriteError::Missing),
        Ok(Err(error)) => Err(WriteError::Api(error)),
    }
}

#[cfg(test)]
mod tests;
