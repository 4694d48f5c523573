// SPDX-License-Identifier: Apache-2.0

//! Istio's own program signs instead of ours: what the agents ask it, and what it answers, is what both
//! sides think it is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use mesh_tests::{
    command::{run, run_ok},
    kube::{Cluster, Istiod, Mesh, Namespace, PATIENCE, PodLoad, Workload, istiod},
    wait,
};
use serde_json::Value;

use crate::authority::{apart, asks};

mod plugged;

/// The agents ask istiod; they are again as delivered when this is dropped.
struct Signed<'a>(&'a Mesh);

impl<'a> Signed<'a> {
    #[track_caller]
    fn by_istiod(mesh: &'a Mesh, arguments: &[&str]) -> Self {
        let signed = Self(mesh);
        mesh.apply_with(&istiod::patches(arguments));
        signed
    }
}

impl Drop for Signed<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.apply();
        }
    }
}

/// Whom a certificate of `account` names.
fn identity(namespace: &Namespace, account: &str) -> String {
    format!(
        "spiffe://cluster.local/ns/{}/sa/{account}",
        namespace.name()
    )
}

/// What the agent on `node` says of a certificate.
#[track_caller]
fn certificate(mesh: &Mesh, node: &str, identity: &str) -> Value {
    let status = mesh.status(node);
    let rows = status["certificates"].as_array();
    let row = rows.and_then(|rows| rows.iter().find(|row| row["identity"] == identity));
    row.cloned().unwrap_or_default()
}

/// Waits until the agent on `node` says of a certificate what `is_it` wants.
#[track_caller]
fn until(what: &str, mesh: &Mesh, node: &str, id: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    wait::until(what, PATIENCE, || {
        let row = certificate(mesh, node, id);
        if is_it(&row) { Ok(row) } else { Err(row) }
    })
}

fn says(row: &Value, words: &[&str]) -> bool {
    let error = row["error"].as_str().unwrap_or_default();
    words.iter().all(|word| error.contains(word))
}

/// The file in which the agent on `node` keeps a certificate and its chain.
fn kept(node: &str, namespace: &Namespace) -> PathBuf {
    let name = format!("{}_default.identity.pem", namespace.name());
    Path::new("/var/lib/mesh-agent")
        .join(node)
        .join(node)
        .join("certificates")
        .join(name)
}

/// Asks openssl whether the certificate in `file` leads to `roots`, with nothing but what is in the file.
#[track_caller]
fn leads_to(roots: &Path, file: &Path) -> Result<(), String> {
    let mut verify = Command::new("openssl");
    verify.args(["verify", "-CAfile"]).arg(roots);
    let ran = run(verify.arg("-untrusted").arg(file).arg(file));
    if ran.ok() {
        Ok(())
    } else {
        Err(format!("{ran:?}"))
    }
}

/// The certificates of both nodes are of istiod's root, and say whose they are.
#[track_caller]
fn check_chains(cluster: &Cluster, namespace: &Namespace, roots: &str, certificates: usize) {
    let file = cluster.directory().join("istiod-roots.pem");
    fs::write(&file, roots).unwrap();
    for node in cluster.nodes() {
        let kept = kept(&node, namespace);
        leads_to(&file, &kept).unwrap();
        let text = fs::read_to_string(&kept).unwrap();
        assert_eq!(
            text.matches("BEGIN CERTIFICATE").count(),
            certificates,
            "{node}"
        );
        let mut names = Command::new("openssl");
        names.args(["x509", "-noout", "-ext", "subjectAltName", "-in"]);
        let names = run_ok(names.arg(&kept));
        let want = format!("URI:{}", identity(namespace, "default"));
        assert_eq!(names.lines().last().map(str::trim), Some(want.as_str()));
    }
}

#[test]
fn istiod_signs_refuses_goes_and_returns_and_no_request_fails() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let istiod = Istiod::start(&cluster);
    let _signed = Signed::by_istiod(&mesh, &["--cert-ttl=120s"]);
    let namespace = apart(&cluster, "istiod");
    check_chains(&cluster, &namespace, &istiod.roots(), 1);
    let nodes = cluster.nodes();
    let load = PodLoad::start(&namespace, "deployment/client", "http://server/", 4);

    // Nobody may ask for others: a new identity gets nothing, and what is said names it.
    istiod.trust("mesh-system/nobody");
    let fresh = identity(&namespace, "fresh");
    namespace.start(&[&Workload::new("fresh").on(&nodes[0]).account("fresh")]);
    let refused = until("a refusal", &mesh, &nodes[0], &fresh, |row| {
        says(row, &[istiod::ADDRESS, "refused", "impersonation"])
    });
    assert_eq!(refused["state"], "waiting", "{refused}");
    assert!(
        asks(&namespace, "fresh").is_err(),
        "answered without a certificate"
    );
    istiod.trust(istiod::AGENT);
    wait::until("an answer by a new certificate", PATIENCE, || {
        asks(&namespace, "fresh")
    });

    // Nobody is there at all: what is live stays, and is renewed by whoever comes back.
    istiod.stop();
    let live = identity(&namespace, "default");
    let failing = |node: &String| {
        let row = until("a renewal that fails", &mesh, node, &live, |row| {
            row["state"] == "renewal failing"
        });
        assert!(says(&row, &[istiod::ADDRESS, "cannot be reached"]), "{row}");
        row["serial"].clone()
    };
    let before: Vec<Value> = nodes.iter().map(failing).collect();
    asks(&namespace, "client").unwrap();
    istiod.trust(istiod::AGENT);
    for (node, serial) in nodes.iter().zip(&before) {
        until("a renewal", &mesh, node, &live, |row| {
            row["state"] == "live" && row["serial"] != *serial
        });
    }
    asks(&namespace, "client").unwrap();
    load.stop().assert_all_answered(500);
}
