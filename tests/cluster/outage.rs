// SPDX-License-Identifier: Apache-2.0

//! The API server stops answering: traffic goes on, and an agent that starts meanwhile works with
//! the last good configuration from disk.

use std::{fs, process::Command, thread, time::Duration};

use mesh_tests::{
    command::{Ran, feed, run, run_ok},
    kube::{Cluster, Mesh, Namespace, PATIENCE, PodLoad, PodProcess, Workload, install::NAMESPACE},
    wait,
};

use crate::enrol::ALL_TO_V2;

/// How long the API server is away.
const OUTAGE: Duration = Duration::from_secs(60);

/// The API server's process, stopped; it goes on when this is dropped.
struct Silent(u32);

impl Silent {
    #[track_caller]
    fn api_server(cluster: &Cluster) -> Self {
        let file = cluster.directory().join("pid/kube-apiserver");
        let text = fs::read_to_string(file).unwrap();
        let silent = Self(text.split(' ').next().unwrap().parse().unwrap());
        silent.signal("-STOP");
        silent
    }

    #[track_caller]
    fn signal(&self, signal: &str) {
        run_ok(Command::new("kill").args([signal, &self.0.to_string()]));
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

/// A list of one revoked certificate; an empty one when this is dropped.
struct Revoking<'a>(&'a Mesh);

impl<'a> Revoking<'a> {
    #[track_caller]
    fn one(mesh: &'a Mesh, node: &str) -> Self {
        let revoking = Self(mesh);
        revoking.write("- serial: 'feedc0de'");
        let file = format!("/var/lib/mesh-agent/{node}/{node}/revoked/revoked.yaml");
        wait::until("the list to be kept", PATIENCE, || {
            let kept = fs::read_to_string(&file).map_err(|error| error.to_string())?;
            if kept.contains("feedc0de") {
                Ok(())
            } else {
                Err(kept)
            }
        });
        revoking
    }

    #[track_caller]
    fn write(&self, list: &str) {
        let words = ["create", "configmap", "mesh-agent-revoked"];
        let list = format!("--from-literal=revoked.yaml={list}");
        let made = [
            words.as_slice(),
            &[&list, "--dry-run=client", "--output=yaml"],
        ]
        .concat();
        let object = self.0.ok(&made);
        let apply = ["--namespace", NAMESPACE, "apply", "--filename", "-"];
        feed(self.0.cluster().kubectl().args(apply), &object);
    }

    /// How many are in force on `node`, asked without the API server's help.
    fn in_force(&self, node: &str) -> Result<(), String> {
        let answer = self.0.admin(node, "GET", "/status")?;
        let status: serde_json::Value =
            serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        match status["revoked"]["serials"].as_u64() {
            Some(1) => Ok(()),
            _ => Err(status["revoked"].to_string()),
        }
    }
}

impl Drop for Revoking<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.write("[]");
        }
    }
}

/// Two versions of a server on two nodes and an enrolled client, with everything sent to the second.
#[track_caller]
fn routed(cluster: &Cluster, name: &str) -> Namespace {
    let namespace = Namespace::create(cluster, name);
    let nodes = cluster.nodes();
    namespace.label("istio-injection=enabled");
    namespace.apply(ALL_TO_V2);
    namespace.start(&[
        &Workload::version("server", "v1").on(&nodes[0]),
        &Workload::version("server", "v2").on(&nodes[1]),
        &Workload::new("client").on(&nodes[0]),
    ]);
    wait::until("the mesh to route", PATIENCE, || {
        all_from_v2(|| namespace.get("deployment/client", "http://server/", 1))
    });
    namespace
}

/// Asks on ten connections: without the mesh kube-proxy throws a coin for each.
fn all_from_v2(ask: impl Fn() -> Ran) -> Result<(), String> {
    for _ in 0..10 {
        let ran = ask();
        if !ran.stdout.contains(" 200 server-v2 ") {
            return Err(format!("{ran:?}"));
        }
    }
    Ok(())
}

#[test]
fn traffic_goes_on_while_the_api_server_is_silent() {
    let cluster = Cluster::here();
    Mesh::on(&cluster);
    let namespace = routed(&cluster, "outage");
    let client = PodProcess::application(&namespace.field_of("client", "metadata.uid"));
    let load = PodLoad::beside(client, "http://server/", 4);
    {
        let _silent = Silent::api_server(&cluster);
        thread::sleep(OUTAGE);
    }
    let tally = load.stop();
    tally.assert_all_answered(1000);
    let others = tally
        .answers
        .keys()
        .any(|answer| !answer.contains("server-v2"));
    assert!(!others, "{tally:#?}");
    // The configuration is followed again.
    namespace.ok(&["delete", "virtualservice", "server"]);
    wait::until("the deletion", PATIENCE, || {
        let ask = || namespace.get("deployment/client", "http://server/", 1);
        match all_from_v2(ask) {
            Err(_) => Ok(()),
            Ok(()) => Err("still all from the second version"),
        }
    });
}

#[test]
fn an_agent_that_starts_without_the_api_server_works_from_disk() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = routed(&cluster, "from-disk");
    let node = cluster.nodes().remove(0);
    let agent = mesh.agent_on(&node);
    let revoking = Revoking::one(&mesh, &node);
    let uid_of = "jsonpath={.metadata.uid}";
    let uid = mesh.run(&["get", &agent, "--output", uid_of]).stdout;
    let client = PodProcess::application(&namespace.field_of("client", "metadata.uid"));
    // As the client would, without the API server's help.
    let ask = || {
        run(client
            .beside("/applications")
            .args(["get", "http://server/", "1"]))
    };
    let before = PodProcess::all(&uid, "/mesh-agent run ");
    assert_eq!(before.len(), 1, "{uid}: {before:?}");
    {
        let _silent = Silent::api_server(&cluster);
        before[0].kill();
        wait::until("another agent", PATIENCE, || {
            match PodProcess::all(&uid, "/mesh-agent run ") {
                fresh if fresh.len() == 1 && fresh != before => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        wait::until("answers from the second version", PATIENCE, || {
            all_from_v2(ask)
        });
        wait::until("what was revoked before", PATIENCE, || {
            revoking.in_force(&node)
        });
    }
    wait::until("the agent's own words", PATIENCE, || {
        let log = mesh.run(&["logs", &agent]);
        if log.stdout.contains("configuration is from disk") {
            Ok(())
        } else {
            Err(format!("{log:?}"))
        }
    });
}
