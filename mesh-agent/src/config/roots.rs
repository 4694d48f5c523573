// SPDX-License-Identifier: Apache-2.0

//! One key of one ConfigMap, followed: the roots that `mesh-agent control` publishes, the list of what is
//! revoked.
//!
//! Knows nothing of certificates: the text is handed on as it is. Invariant: what was once read
//! stays, whatever becomes of the ConfigMap or the API server.

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        watcher::{self, watcher},
    },
};
use tokio::sync::watch;

use crate::tasks::Tasks;

/// Follows `key` of the ConfigMap `name` as a task of `tasks`; `None` until it was first read.
pub fn watch_text(
    client: Client,
    namespace: &str,
    name: &str,
    key: &'static str,
    tasks: &Tasks,
) -> watch::Receiver<Option<String>> {
    let (text, receiver) = watch::channel(None);
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let place = format!("{namespace}/{name}");
    let drain = tasks.drain();
    tasks.spawn("watch ConfigMap", async move {
        let stream = watcher(api, only).default_backoff().applied_objects();
        let mut stream = std::pin::pin!(stream.into_stream());
        loop {
            // Cancel-safe: the stream keeps what it has not handed out.
            let next = tokio::select! {
                next = stream.next() => next,
                () = drain.requested() => return,
            };
            match next {
                Some(Ok(object)) => note(object, key, &place, &text),
                Some(Err(error)) => {
                    tracing::warn!(configmap = place, %error, "watching a ConfigMap, will try again");
                }
                None => return,
            }
        }
    });
    receiver
}

fn note(object: ConfigMap, key: &str, place: &str, text: &watch::Sender<Option<String>>) {
    let found = object.data.and_then(|mut data| data.remove(key));
    let Some(found) = found else {
        tracing::warn!(configmap = place, key, "the ConfigMap has no such key");
        return;
    };
    text.send_if_modified(|known| {
        let changed = known.as_deref() != Some(found.as_str());
        *known = Some(found);
        changed
    });
}
