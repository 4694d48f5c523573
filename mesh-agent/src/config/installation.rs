// SPDX-License-Identifier: Apache-2.0

//! Whether the installation that this agent belongs to is going away, or leaves this node.
//!
//! Asked once, at a stop. The installation is its DaemonSet: gone, being deleted, or no longer
//! for this node. Whoever uninstalls usually takes our rights away in the same moment, so being
//! refused what was once allowed says the same.
//!
//! Invariant: no answer within `PATIENCE`, or one that says nothing, is `None`.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Namespace, Node},
};
use kube::{Api, Client};

use super::client::{ClientError, client};

/// How long the API server may take: a stop must not wait for it.
const PATIENCE: Duration = Duration::from_secs(2);

const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;

/// The installation, as far as a stop needs to know it.
#[derive(Clone)]
pub struct Installation {
    client: Client,
    namespace: String,
    daemonset: String,
    node: String,
    /// It was seen once, so we had the right to.
    seen: Arc<AtomicBool>,
}

impl Installation {
    /// Prepares to ask about `daemonset` in `namespace` and `node`; nothing is asked yet.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn open(
        kubeconfig: Option<&Path>,
        namespace: &str,
        daemonset: &str,
        node: &str,
    ) -> Result<Self, ClientError> {
        let client = client(kubeconfig).await?;
        Ok(Self::new(client, namespace, daemonset, node))
    }

    fn new(client: Client, namespace: &str, daemonset: &str, node: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            daemonset: daemonset.to_owned(),
            node: node.to_owned(),
            seen: Arc::default(),
        }
    }

    /// Whether it is going away or leaving this node; `None` if that cannot be told.
    pub async fn is_leaving(&self) -> Option<bool> {
        // Cancel-safe: nothing but questions. On the heap, as objects are large on their way.
        match tokio::time::timeout(PATIENCE, Box::pin(self.look())).await {
            Ok(Ok(leaving)) => {
                self.seen.store(true, Ordering::Relaxed);
                Some(leaving)
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "asked about the installation");
                (is_refused(&error) && self.seen.load(Ordering::Relaxed)).then_some(true)
            }
            Err(_elapsed) => None,
        }
    }

    async fn look(&self) -> kube::Result<bool> {
        let daemonsets: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.namespace);
        let Some(daemonset) = daemonsets.get_opt(&self.daemonset).await? else {
            return Ok(true);
        };
        if daemonset.metadata.deletion_timestamp.is_some() {
            return Ok(true);
        }
        // Not every installation lets its agents read nodes.
        let nodes: Api<Node> = Api::all(self.client.clone());
        match nodes.get_opt(&self.node).await {
            Ok(None) => return Ok(true),
            Ok(Some(node)) if !is_for(&daemonset, &node) => return Ok(true),
            Ok(Some(_)) => {}
            Err(error) if is_refused(&error) => {}
            Err(error) => return Err(error),
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = namespaces.get_opt(&self.namespace).await?;
        Ok(namespace.is_none_or(|it| it.metadata.deletion_timestamp.is_some()))
    }
}

/// Whether the DaemonSet's node selector still takes the node.
fn is_for(daemonset: &DaemonSet, node: &Node) -> bool {
    let none = BTreeMap::new();
    let pod = daemonset.spec.template.spec.as_ref();
    let wanted = pod
        .and_then(|it| it.node_selector.as_ref())
        .unwrap_or(&none);
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn is_refused(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, UNAUTHORIZED | FORBIDDEN),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use kube::Config;

    use super::*;

    #[track_caller]
    fn check_selector(selector: &[(&str, &str)], labels: &[(&str, &str)], want: bool) {
        let map = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let owned = pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            Some(owned.collect::<BTreeMap<_, _>>())
        };
        let mut daemonset = DaemonSet::default();
        let pod = daemonset.spec.template.spec.get_or_insert_default();
        pod.node_selector = map(selector);
        let mut node = Node::default();
        node.metadata.labels = map(labels);
        assert_eq!(
            is_for(&daemonset, &node),
            want,
            "{selector:?} on {labels:?}"
        );
    }

    #[test]
    fn a_node_that_the_selector_no_longer_takes_is_left() {
        check_selector(&[], &[], true);
        check_selector(&[("mesh", "on")], &[("mesh", "on"), ("a", "b")], true);
        check_selector(&[("mesh", "on")], &[("mesh", "off")], false);
        check_selector(&[("mesh", "on")], &[], false);
    }

    /// What an API server answers: status and body, by the end of the path.
    type Answers = [(&'static str, u16, &'static str); 3];

    const HERE: Answers = [
        (
            "/daemonsets/mesh-agent",
            200,
            r#"{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"name":"mesh-agent"},
                "spec":{"selector":{},"template":{"spec":{"containers":[]}}}}"#,
        ),
        (
            "/nodes/n1",
            200,
            r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}}"#,
        ),
        (
            "/namespaces/mesh-system",
            200,
            r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"mesh-system"}}"#,
        ),
    ];

    const GONE: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",
        "message":"gone","reason":"NotFound","code":404}"#;
    const BROKEN: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",
        "message":"no quorum","reason":"InternalError","code":500}"#;
    const DENIED: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",
        "message":"no","reason":"Forbidden","code":403}"#;

    /// An API server that gives the answers of `answers`, whatever they are at the moment.
    async fn api_server(answers: Arc<std::sync::Mutex<Answers>>) -> Installation {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        crate::tasks::Tasks::new().spawn("api", async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let length = client.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..length]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let found = *answers
                    .lock()
                    .unwrap()
                    .iter()
                    .find(|(end, ..)| path.ends_with(end))
                    .unwrap_or(&("", 404, GONE));
                let answer = format!(
                    "HTTP/1.1 {} x\r\ncontent-type: application/json\r\nconnection: close\r\n\
                     content-length: {}\r\n\r\n{}",
                    found.1,
                    found.2.len(),
                    found.2
                );
                client.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let config = Config::new(format!("http://{address}").parse().unwrap());
        let client = Client::try_from(config).unwrap();
        Installation::new(client, "mesh-system", "mesh-agent", "n1")
    }

    async fn check_leaving(change: (usize, u16, &'static str), want: Option<bool>) {
        let mut answers = HERE;
        (answers[change.0].1, answers[change.0].2) = (change.1, change.2);
        let installation = api_server(Arc::new(std::sync::Mutex::new(answers))).await;
        assert_eq!(installation.is_leaving().await, want, "{change:?}");
    }

    #[tokio::test]
    async fn an_installation_that_is_gone_or_going_is_leaving() {
        check_leaving((0, 200, HERE[0].2), Some(false)).await;
        check_leaving((0, 404, GONE), Some(true)).await;
        check_leaving((1, 404, GONE), Some(true)).await;
        check_leaving((2, 404, GONE), Some(true)).await;
        let going = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"mesh-system",
            "deletionTimestamp":"2026-01-01T00:00:00Z"}}"#;
        check_leaving((2, 200, going), Some(true)).await;
        check_leaving((0, 500, BROKEN), None).await;
    }

    #[tokio::test]
    async fn rights_that_were_taken_away_say_that_it_is_leaving() {
        check_leaving((0, 403, DENIED), None).await;
        check_leaving((1, 403, DENIED), Some(false)).await;
        let answers = Arc::new(std::sync::Mutex::new(HERE));
        let installation = api_server(Arc::clone(&answers)).await;
        assert_eq!(installation.is_leaving().await, Some(false));
        answers.lock().unwrap()[0] = (HERE[0].0, 403, DENIED);
        assert_eq!(installation.is_leaving().await, Some(true));
    }

    #[tokio::test]
    async fn an_api_server_that_is_away_says_nothing() {
        let config = Config::new("http://127.0.0.1:1".parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let installation = Installation::new(client, "mesh-system", "mesh-agent", "n1");
        assert_eq!(installation.is_leaving().await, None);
    }
}
