// SPDX-License-Identifier: Apache-2.0

//! The authority gets another root, as an operator asks for it: no request fails, and in the end
//! nobody trusts the old one.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, SystemTime},
};

use mesh_tests::{
    command::run,
    kube::{Cluster, Mesh, PATIENCE, PodLoad, Workload},
    wait,
};
use serde_json::{Value, json};

use crate::strict::closed;

/// How long certificates are valid here, so that each is renewed while the test looks.
const LIFE: &str = "60s";

/// Agents with such certificates; they are again as delivered when this is dropped.
struct ShortLived<'a>(&'a Mesh);

impl<'a> ShortLived<'a> {
    #[track_caller]
    fn new(mesh: &'a Mesh) -> Self {
        let path = "/spec/template/spec/containers/0/args/-";
        let patch = json!([{"op": "add", "path": path, "value": format!("--cert-ttl={LIFE}")}]);
        let short = Self(mesh);
        mesh.ok(&[
            "patch",
            "daemonset",
            "mesh-agent",
            "--type=json",
            "--patch",
            &patch.to_string(),
        ]);
        mesh.wait();
        short
    }
}

impl Drop for ShortLived<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.0.apply();
        }
    }
}

/// A key of the Secret with the authority's root.
#[track_caller]
fn secret(mesh: &Mesh, key: &str) -> String {
    let output = format!("--output=go-template={{{{index .data \"{key}\" | base64decode}}}}");
    mesh.ok(&["get", "secret", "mesh-agent-ca", &output])
}

/// All roots that are published.
#[track_caller]
fn published(mesh: &Mesh) -> String {
    let output = "--output=go-template={{index .data \"root-cert.pem\"}}";
    mesh.ok(&["get", "configmap", "mesh-agent-ca-roots", output])
}

fn count(roots: &str) -> usize {
    roots.matches("BEGIN CERTIFICATE").count()
}

/// Whether the certificates of `namespace` on `node` are all signed by the root in the file.
#[track_caller]
fn all_signed_by(root: &Path, node: &str, namespace: &str) -> Result<(), String> {
    let kept = format!("/var/lib/mesh-agent/{node}/{node}/certificates");
    let mut any = false;
    for entry in fs::read_dir(&kept).unwrap().flatten() {
        if !entry.file_name().to_string_lossy().contains(namespace) {
            continue;
        }
        any = true;
        let mut verify = Command::new("openssl");
        verify.args(["verify", "-CAfile"]).arg(root);
        let ran = run(verify.arg(entry.path()));
        if !ran.ok() {
            return Err(format!("{ran:?}"));
        }
    }
    any.then_some(())
        .ok_or_else(|| format!("nothing in {kept}"))
}

/// How many roots the agent on `node` trusts, and the longest that one of its certificates lasts.
#[track_caller]
fn trust(mesh: &Mesh, node: &str) -> (Vec<usize>, u64) {
    let status = mesh.status(node);
    let rows = status["pods"].as_array().cloned().unwrap_or_default();
    let of = |key: &'static str| {
        let certificates = rows.iter().map(|row| &row["certificate"]);
        certificates
            .filter(|it| it.is_object())
            .map(move |it| it[key].clone())
            .collect::<Vec<Value>>()
    };
    let roots = of("roots")
        .iter()
        .filter_map(Value::as_array)
        .map(Vec::len)
        .collect();
    let lasts = of("expiresInSeconds")
        .iter()
        .filter_map(Value::as_u64)
        .max();
    (roots, lasts.unwrap_or(u64::MAX))
}

/// As if the time had passed in which the old root's certificates expire.
#[track_caller]
fn let_time_pass(mesh: &Mesh) {
    let mut progress: Value = serde_json::from_str(&secret(mesh, "rotation.json")).unwrap();
    let retired = progress["retired"].as_array_mut().unwrap();
    assert_eq!(retired.len(), 1, "{retired:?}");
    retired[0]["until"] = 1.into();
    let patch = json!({"stringData": {"rotation.json": progress.to_string()}});
    mesh.ok(&[
        "patch",
        "secret",
        "mesh-agent-ca",
        "--type=merge",
        "--patch",
        &patch.to_string(),
    ]);
}

/// Asks for another root; returns it once it signs.
#[track_caller]
fn replaced(mesh: &Mesh, old: &str) -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let wish = format!("mesh-agent.io/rotate-root={}", now.as_secs());
    mesh.ok(&["annotate", "--overwrite", "secret", "mesh-agent-ca", &wish]);
    wait::until("the next root to be published", PATIENCE, || {
        let roots = published(mesh);
        if count(&roots) == 2 && roots.contains(old.trim()) {
            Ok(())
        } else {
            Err(roots)
        }
    });
    wait::until("the next root to sign", PATIENCE, || {
        let root = secret(mesh, "root-cert.pem");
        if root == old { Err(root) } else { Ok(root) }
    })
}

/// Waits until nothing but `root` is published, and trusted on all nodes.
#[track_caller]
fn wait_until_alone(mesh: &Mesh, nodes: &[String], root: &str) {
    wait::until("the old root to be forgotten", PATIENCE, || {
        let roots = published(mesh);
        if roots.trim() == root.trim() {
            Ok(())
        } else {
            Err(roots)
        }
    });
    for node in nodes {
        wait::until("the agents to forget it", PATIENCE, || {
            let (roots, _) = trust(mesh, node);
            let done = !roots.is_empty() && roots.iter().all(|number| *number == 1);
            if done { Ok(()) } else { Err(roots) }
        });
    }
}

#[test]
fn the_root_is_rotated_under_load_and_nothing_fails() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = closed(&cluster, "rotated");
    let nodes = cluster.nodes();
    namespace.start(&[
        &Workload::new("server").on(&nodes[1]),
        &Workload::new("client").on(&nodes[0]),
    ]);
    let _short = ShortLived::new(&mesh);
    for node in &nodes {
        wait::until("certificates that do not last", PATIENCE, || {
            let (roots, lasts) = trust(&mesh, node);
            if lasts <= 60 && !roots.is_empty() {
                Ok(())
            } else {
                Err((roots, lasts))
            }
        });
    }
    let old = secret(&mesh, "root-cert.pem");
    let loads = [
        ("load", "http://server/"),
        ("short", "http://server/"),
        ("hold", "ws://server/ws"),
    ]
    .map(|(kind, url)| PodLoad::of(&namespace, "deployment/client", kind, url, 2));
    let new = replaced(&mesh, &old);
    let file = cluster.directory().join("rotated-root.pem");
    fs::write(&file, &new).unwrap();
    for node in &nodes {
        wait::until("certificates of the new root", PATIENCE, || {
            thread::sleep(Duration::from_secs(1));
            all_signed_by(&file, node, namespace.name())
        });
    }
    let_time_pass(&mesh);
    wait_until_alone(&mesh, &nodes, &new);
    // Certificates are renewed once more, with nothing but the new root.
    thread::sleep(Duration::from_secs(40));
    namespace
        .answers("deployment/client", "http://server/", 5, "server-v1")
        .unwrap();
    for load in loads {
        load.stop().assert_all_answered(100);
    }
}
