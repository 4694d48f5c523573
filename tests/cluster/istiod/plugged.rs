// SPDX-License-Identifier: Apache-2.0

//! Istio with a root that is not there: it signs with an intermediate of the Secret `cacerts`, which is
//! replaced by one of another root while requests are under way.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use mesh_tests::{
    command::{feed, run_ok},
    kube::{Cluster, Istiod, Mesh, Namespace, PATIENCE, PodLoad, Workload, istiod},
    wait,
};

use super::{
    Signed, apart, asks, certificate, check_chains, identity, kept, leads_to, says, until,
};

/// A root and the intermediate that signs, in a directory of their own.
struct Signer(PathBuf);

impl Signer {
    #[track_caller]
    fn new(cluster: &Cluster, name: &str) -> Self {
        let directory = cluster.directory().join(format!("cacerts-{name}"));
        fs::create_dir_all(&directory).unwrap();
        let openssl = |words: &str| {
            let mut command = Command::new("openssl");
            run_ok(command.current_dir(&directory).args(words.split(' ')));
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256";
        let usage = "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign";
        openssl(&format!(
            "req -x509 {key} -days 2 -subj /O=tests/CN=root-{name} {usage} -keyout root-key.pem -out root-cert.pem"
        ));
        openssl(&format!(
            "req {key} -subj /O=tests/CN=intermediate-{name} {usage} -keyout ca-key.pem -out ca.csr"
        ));
        openssl(
            "x509 -req -days 1 -CA root-cert.pem -CAkey root-key.pem -CAcreateserial -copy_extensions copy \
             -in ca.csr -out ca-cert.pem",
        );
        Self(directory)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    #[track_caller]
    fn root(&self) -> String {
        fs::read_to_string(self.file("root-cert.pem")).unwrap()
    }

    /// Makes the Secret: this one signs, and `roots` are to be trusted.
    #[track_caller]
    fn plug_in(&self, namespace: &Namespace, roots: &str) {
        fs::write(self.file("roots.pem"), roots).unwrap();
        // As Istio's documentation has it: the chain has the root, too.
        let chain = fs::read_to_string(self.file("ca-cert.pem")).unwrap() + &self.root();
        fs::write(self.file("cert-chain.pem"), chain).unwrap();
        let from =
            |key: &str, name: &str| format!("--from-file={key}={}", self.file(name).display());
        let secret = namespace.ok(&[
            "create",
            "secret",
            "generic",
            "cacerts",
            "--dry-run=client",
            "--output=yaml",
            &from("ca-cert.pem", "ca-cert.pem"),
            &from("ca-key.pem", "ca-key.pem"),
            &from("cert-chain.pem", "cert-chain.pem"),
            &from("root-cert.pem", "roots.pem"),
        ]);
        feed(namespace.kubectl().args(["apply", "-f", "-"]), &secret);
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        // It is in the cluster's directory: what stays goes with that.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The agents' tokens, where the test can change them.
struct Tokens<'a> {
    mesh: &'a Mesh,
    nodes: Vec<String>,
}

impl<'a> Tokens<'a> {
    /// How the agents are told.
    const FLAG: &'static str = "--ca-token=/var/lib/mesh-agent/$(MESH_AGENT_NODE).token";

    #[track_caller]
    fn new(mesh: &'a Mesh, cluster: &Cluster) -> Self {
        let nodes = cluster.nodes();
        Self { mesh, nodes }
    }

    fn file(node: &str) -> PathBuf {
        Path::new("/var/lib/mesh-agent").join(format!("{node}.token"))
    }

    /// Gives the agent on `node` a token of the agent's pod on node `of`.
    #[track_caller]
    fn give(&self, node: &str, of: &str) {
        let pod = self.mesh.agent_on(of);
        let pod = pod.trim_start_matches("pod/");
        let token = self.mesh.ok(&[
            "create",
            "token",
            "mesh-agent",
            "--audience=istio-ca",
            "--bound-object-kind=Pod",
            &format!("--bound-object-name={pod}"),
        ]);
        let (file, draft) = (Self::file(node), Self::file(node).with_extension("draft"));
        fs::write(&draft, token).unwrap();
        fs::rename(draft, file).unwrap();
    }

    #[track_caller]
    fn give_all(&self) {
        for node in &self.nodes {
            self.give(node, node);
        }
    }
}

impl Drop for Tokens<'_> {
    fn drop(&mut self) {
        for node in &self.nodes {
            drop(fs::remove_file(Self::file(node)));
        }
    }
}

/// Waits until istiod publishes `roots` and all agents trust as many.
#[track_caller]
fn trusted(istiod: &Istiod, mesh: &Mesh, namespace: &Namespace, roots: &[&Signer]) {
    let texts: Vec<String> = roots.iter().map(|one| one.root()).collect();
    istiod.deliver();
    wait::until("istiod to publish its roots", PATIENCE, || {
        let found = istiod.roots();
        let count = found.matches("BEGIN CERTIFICATE").count();
        let all = texts.iter().all(|text| found.contains(text.trim()));
        if all && count == roots.len() {
            Ok(())
        } else {
            Err(found)
        }
    });
    istiod.deliver();
    let id = identity(namespace, "default");
    for node in namespace.cluster().nodes() {
        until("the agents to trust them", mesh, &node, &id, |row| {
            row["roots"]
                .as_array()
                .is_some_and(|found| found.len() == roots.len())
        });
    }
}

/// Waits until both nodes' certificates are of this signer alone.
#[track_caller]
fn signed_by(signer: &Signer, namespace: &Namespace) {
    for node in namespace.cluster().nodes() {
        wait::until("certificates of the new root", PATIENCE, || {
            leads_to(&signer.file("root-cert.pem"), &kept(&node, namespace))
        });
    }
}

#[test]
fn an_intermediate_signs_and_its_root_is_replaced_under_load() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let (old, new) = (Signer::new(&cluster, "old"), Signer::new(&cluster, "new"));
    let istiod = Istiod::with(&cluster, |namespace| old.plug_in(namespace, &old.root()));
    let tokens = Tokens::new(&mesh, &cluster);
    let _signed = Signed::by_istiod(&mesh, &["--cert-ttl=60s", Tokens::FLAG]);
    tokens.give_all();
    let namespace = apart(&cluster, "plugged");
    check_chains(&cluster, &namespace, &old.root(), 3);
    let nodes = cluster.nodes();
    let load = PodLoad::start(&namespace, "deployment/client", "http://server/", 4);

    // By the token of another node's agent, a node gets nothing for its pods.
    tokens.give(&nodes[0], &nodes[1]);
    let fresh = identity(&namespace, "fresh");
    namespace.start(&[&Workload::new("fresh").on(&nodes[0]).account("fresh")]);
    let refused = until("a refusal", &mesh, &nodes[0], &fresh, |row| {
        says(row, &[istiod::ADDRESS, "refused", "impersonation"])
    });
    assert_eq!(refused["state"], "waiting", "{refused}");
    tokens.give(&nodes[0], &nodes[0]);
    wait::until("an answer by a new certificate", PATIENCE, || {
        asks(&namespace, "fresh")
    });

    // Both roots are trusted before the new one signs, and the old one is forgotten after that.
    let both = old.root() + &new.root();
    old.plug_in(istiod.namespace(), &both);
    trusted(&istiod, &mesh, &namespace, &[&old, &new]);
    new.plug_in(istiod.namespace(), &both);
    istiod.deliver();
    signed_by(&new, &namespace);
    new.plug_in(istiod.namespace(), &new.root());
    trusted(&istiod, &mesh, &namespace, &[&new]);
    let id = identity(&namespace, "default");
    for node in &nodes {
        let serial = certificate(&mesh, node, &id)["serial"].clone();
        until("one more renewal", &mesh, node, &id, |row| {
            row["serial"] != serial
        });
    }
    asks(&namespace, "client").unwrap();
    load.stop().assert_all_answered(500);
}
