// SPDX-License-Identifier: Apache-2.0

//! A very small API server that can be made to fail.
//!
//! Knows nothing of the front end, but for the tasks that it runs in.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::tasks::Tasks;

/// Lists in pages, watches with history, bookmarks, discovery.
#[derive(Clone)]
pub(super) struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    pub(super) version: u64,
    /// By path and name.
    pub(super) objects: BTreeMap<(String, String), Value>,
    /// Version, path, line.
    pub(super) history: Vec<(u64, String, String)>,
    /// Watches from before this are too old.
    pub(super) oldest: u64,
    /// Watches of an earlier number end.
    pub(super) cut: u64,
    /// Nobody answers.
    pub(super) down: bool,
    /// The last page of lists is not served.
    pub(super) no_last_page: bool,
    pub(super) page: usize,
    /// Custom kinds that are served: group, version, plural, kind.
    pub(super) custom: Vec<[&'static str; 4]>,
    pub(super) requests: Vec<String>,
}

pub(super) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub(super) const NAMESPACES: &str = "/api/v1/namespaces";
pub(super) const PODS: &str = "/api/v1/pods";
pub(super) const SERVICES: &str = "/api/v1/services";
pub(super) const VIRTUAL_SERVICES: &str = "/apis/networking.istio.io/v1/virtualservices";

impl Fake {
    pub(super) async fn start() -> (Self, SocketAddr) {
        let fake = Self(Arc::new(Mutex::new(State {
            version: 1,
            page: 500,
            ..State::default()
        })));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = fake.clone();
        Tasks::new().spawn("fake", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let fake = server.clone();
                Tasks::new().spawn("fake", async move {
                    drop(fake.connection(stream).await);
                });
            }
        });
        (fake, address)
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    pub(super) fn put(&self, path: &str, name: &str, mut object: Value) {
        self.change(|state| {
            state.version += 1;
            object["metadata"]["name"] = name.into();
            object["metadata"]["resourceVersion"] = state.version.to_string().into();
            let line = json!({"type": "MODIFIED", "object": object}).to_string();
            state.history.push((state.version, path.to_owned(), line));
            state
                .objects
                .insert((path.to_owned(), name.to_owned()), object);
        });
    }

    pub(super) fn delete(&self, path: &str, name: &str) {
        self.change(|state| {
            state.version += 1;
            let object = state.objects.remove(&(path.to_owned(), name.to_owned()));
            let mut object = object.unwrap();
            object["metadata"]["resourceVersion"] = state.version.to_string().into();
            let line = json!({"type": "DELETED", "object": object}).to_string();
            state.history.push((state.version, path.to_owned(), line));
        });
    }

    /// Ends all watches; what happened until now cannot be read from them any more.
    pub(super) fn compact(&self) {
        self.change(|state| {
            state.oldest = state.version;
            state.cut += 1;
        });
    }

    pub(super) fn requests(&self, part: &str) -> usize {
        self.change(|state| {
            let all = state.requests.iter();
            all.filter(|request| request.contains(part)).count()
        })
    }

    async fn connection(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            while !buffer.ends_with(b"\r\n\r\n") {
                if self.change(|state| state.down) || stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
            }
            let text = String::from_utf8(std::mem::take(&mut buffer)).unwrap();
            let target = text.split(' ').nth(1).unwrap().to_owned();
            if self.change(|state| state.down) {
                return Ok(());
            }
            self.change(|state| state.requests.push(target.clone()));
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            let query: BTreeMap<&str, &str> = query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .collect();
            if query.contains_key("watch") {
                return self.watch(stream, path, &query).await;
            }
            let (code, body) = self.answer(path, &query);
            let head = format!(
                "HTTP/1.1 {code} X\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await?;
        }
    }

    fn answer(&self, path: &str, query: &BTreeMap<&str, &str>) -> (u16, String) {
        self.change(|state| {
            let missing = (404, json!({"message": "not found"}).to_string());
            let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
            match parts.as_slice() {
                ["apis"] => {
                    let groups = state.custom.iter().map(|[group, version, ..]| {
                        json!({"name": group, "versions": [{"version": version}]})
                    });
                    let groups: Vec<Value> = groups.collect();
                    (200, json!({ "groups": groups }).to_string())
                }
                ["apis", group, version] => {
                    let of_it = state
                        .custom
                        .iter()
                        .filter(|it| it[..2] == [*group, *version]);
                    let resources = of_it.map(|[.., plural, kind]| {
                        json!({"name": plural, "kind": kind, "verbs": ["list", "watch"]})
                    });
                    let resources: Vec<Value> = resources.collect();
                    (200, json!({ "resources": resources }).to_string())
                }
                ["apis", group, version, plural]
                    if group.contains("istio")
                        && !state
                            .custom
                            .iter()
                            .any(|it| it[..3] == [*group, *version, *plural]) =>
                {
                    missing
                }
                _ => state.list(path, query),
            }
        })
    }

    async fn watch(
        &self,
        mut stream: TcpStream,
        path: &str,
        query: &BTreeMap<&str, &str>,
    ) -> std::io::Result<()> {
        let mut from: u64 = query["resourceVersion"].parse().unwrap();
        let cut = self.change(|state| state.cut);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await?;
        loop {
            let (lines, over) = self.change(|state| {
                if from < state.oldest {
                    let status = json!({"code": 410, "message": "too old"});
                    return (
                        vec![json!({"type": "ERROR", "object": status}).to_string()],
                        true,
                    );
                }
                let fresh = state
                    .history
                    .iter()
                    .filter(|(version, of, _)| *version > from && of == path);
                let mut lines: Vec<String> = fresh.map(|(.., line)| line.clone()).collect();
                if from < state.version {
                    let version = state.version.to_string();
                    let bookmark = json!({"metadata": {"resourceVersion": version}});
                    lines.push(json!({"type": "BOOKMARK", "object": bookmark}).to_string());
                }
                from = state.version;
                (lines, state.cut != cut || state.down)
            });
            for line in lines {
                let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
                stream.write_all(chunk.as_bytes()).await?;
            }
            if over {
                return Ok(());
            }
            sleep(Duration::from_millis(2)).await;
        }
    }
}

impl State {
    fn list(&self, path: &str, query: &BTreeMap<&str, &str>) -> (u16, String) {
        let of_path = self.objects.iter().filter(|((of, _), _)| of == path);
        let all: Vec<&Value> = of_path.map(|(_, object)| object).collect();
        let start: usize = query
            .get("continue")
            .map_or(0, |token| token.parse().unwrap());
        let end = (start + self.page).min(all.len());
        let next = if end < all.len() {
            end.to_string()
        } else {
            String::new()
        };
        if next.is_empty() && self.no_last_page {
            return (500, json!({"message": "for the test"}).to_string());
        }
        let metadata = json!({"resourceVersion": self.version.to_string(), "continue": next});
        (
            200,
            json!({"metadata": metadata, "items": all[start..end]}).to_string(),
        )
    }
}
