// SPDX-License-Identifier: Apache-2.0

//! Keys of workloads, which agents of a cluster keep on disk, and tokens: told to nobody.

use std::{fs, path::Path};

use mesh_tests::{
    Secret, Told,
    kube::{Cluster, Mesh, PATIENCE, PodProcess, Workload},
    wait,
};

use crate::strict::closed;

/// What an agent's admin socket is asked, of one of its pods.
const ANSWERS: &[&str] = &[
    "/status",
    "/verify",
    "/proxy-status",
    "/proxy-config/listeners?pod=",
    "/proxy-config/clusters?pod=",
    "/proxy-config/routes?pod=",
    "/proxy-config/endpoints?pod=",
    "/config",
    "/config_dump",
    "/problems",
    "/metrics",
];

/// The keys that the agent on `node` keeps, and how many of them are for workloads of `namespace`.
#[track_caller]
fn kept_keys(node: &str, namespace: &str) -> (Vec<(String, Secret)>, usize) {
    let kept = format!("/var/lib/mesh-agent/{node}/{node}/certificates");
    let mut keys = Vec::new();
    for entry in fs::read_dir(&kept).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // It may be written anew at the moment.
        let Ok(text) = fs::read_to_string(entry.path()) else {
            continue;
        };
        if name.ends_with(".identity.pem") && !name.starts_with('.') {
            keys.push((name, Secret::of_key(&text)));
        }
    }
    let ours = keys.iter().filter(|(name, _)| name.starts_with(namespace));
    let ours = ours.count();
    (keys, ours)
}

/// What `kubectl` with `words` prints, byte by byte.
#[track_caller]
fn printed(cluster: &Cluster, words: &[&str]) -> Vec<u8> {
    let ran = cluster.kubectl().args(words).output().unwrap();
    assert!(ran.status.success(), "{words:?}: {ran:?}");
    ran.stdout
}

/// Everything that the mesh tells: logs, answers, and what is in objects that many may read.
#[track_caller]
fn told(cluster: &Cluster, mesh: &Mesh, pods: &[(String, String)]) -> Vec<(String, Told)> {
    let mut told = Vec::new();
    for (node, pod) in pods {
        let agent = mesh.agent_on(node);
        let log = printed(cluster, &["--namespace=mesh-system", "logs", &agent]);
        told.push((format!("log of {node}"), Told::new(log)));
        for path in ANSWERS {
            let of_pod = path.ends_with("pod=");
            let path = format!("{path}{}", if of_pod { pod } else { "" });
            let answer = mesh.admin(node, "GET", &path).unwrap();
            told.push((format!("{path} of {node}"), Told::new(answer)));
        }
    }
    let control = "--selector=app.kubernetes.io/name=mesh-agent-control";
    for words in [
        ["logs", control, "--namespace=mesh-system", "--tail=-1"],
        [
            "get",
            "configmaps,events,pods",
            "--all-namespaces",
            "--output=yaml",
        ],
    ] {
        told.push((words.join(" "), Told::new(printed(cluster, &words))));
    }
    told
}

/// Agents that log everything; what they logged before again when this is dropped.
struct Talkative<'a>(&'a Mesh, &'a [String]);

impl<'a> Talkative<'a> {
    #[track_caller]
    fn new(mesh: &'a Mesh, nodes: &'a [String]) -> Self {
        let talkative = Self(mesh, nodes);
        talkative.level("trace");
        talkative
    }

    #[track_caller]
    fn level(&self, level: &str) {
        for node in self.1 {
            let path = format!("/log?level={level}");
            self.0.admin(node, "PUT", &path).unwrap();
        }
    }
}

impl Drop for Talkative<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.level("info");
        }
    }
}

#[test]
fn keys_of_workloads_and_tokens_are_in_no_log_answer_or_object() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let nodes = cluster.nodes();
    let _talkative = Talkative::new(&mesh, &nodes);
    let namespace = closed(&cluster, "secretive");
    // Certificates for these are issued, kept, and used, while everything is logged.
    for account in ["asks", "answers"] {
        namespace.account(account);
    }
    namespace.start(&[
        &Workload::new("server").on(&nodes[1]).account("answers"),
        &Workload::new("client").on(&nodes[0]).account("asks"),
    ]);
    wait::until("an answer", PATIENCE, || {
        let client = "deployment/client";
        namespace.answers(client, "http://server/", 1, "server-v1")
    });
    let pods = [("client", 0), ("server", 1)].map(|(app, node)| {
        let pod = namespace.field_of(app, "metadata.name");
        (nodes[node].clone(), format!("{pod}.{}", namespace.name()))
    });
    let told = told(&cluster, &mesh, &pods);
    // What is no secret of theirs is told, and found.
    let name = Secret::new(b"ns/secretive/sa/asks");
    let tell_name = told.iter().filter(|(_, text)| text.tells(&name));
    let tell_name: Vec<&str> = tell_name.map(|(place, _)| place.as_str()).collect();
    let log = format!("log of {}", nodes[0]);
    assert!(tell_name.contains(&log.as_str()), "{tell_name:?}");
    for node in &nodes {
        let (keys, ours) = kept_keys(node, namespace.name());
        assert_eq!(ours, 1, "{node} keeps the key of its own workload");
        for (name, key) in &keys {
            for (place, text) in &told {
                assert!(!text.tells(key), "{place} tells the key in {name}");
            }
        }
        let token = token(node, &mesh);
        for (place, text) in &told {
            assert!(
                !text.tells(&token),
                "{place} tells the token of {node}'s agent"
            );
        }
    }
}

/// What the agent on `node` shows to the authority.
#[track_caller]
fn token(node: &str, mesh: &Mesh) -> Secret {
    let uid = mesh.agent_on(node);
    let uid = mesh.ok(&["get", &uid, "--output=jsonpath={.metadata.uid}"]);
    let process = PodProcess::all(&uid, "/mesh-agent run ");
    let [process] = process[..] else {
        panic!("agents in {uid}: {process:?}");
    };
    let path = Path::new("var/run/secrets/tokens/istio-token");
    let token = fs::read_to_string(process.root().join(path)).unwrap();
    // What is before the last dot is no secret without what is after it.
    let signature = token.trim().rsplit('.').next().unwrap_or_default();
    Secret::new(signature.as_bytes())
}
