// SPDX-License-Identifier: Apache-2.0

//! The API server stops answering: traffic goes on, and an agent that starts meanwhile works with
//! the last good configuration from disk.

use std::{fs, path::PathBuf, process::Command, thread, time::Duration};

use mesh_tests::{
    command::{Ran, run, run_ok},
    kube::{Cluster, Mesh, Namespace, PATIENCE, PodLoad, Workload},
    wait,
};

/// Sends everything for `server` to its second version: only who has the configuration obeys.
const ALL_TO_V2: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: server}
spec:
  host: server
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: server}
spec:
  hosts: [server]
  http:
  - route: [{destination: {host: server, subset: v2}}]
";

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
        if !ran.ok() || ran.stdout.contains("server-v1") {
            return Err(format!("{ran:?}"));
        }
    }
    Ok(())
}

/// Processes called `name` in the cgroup of the pod with this UID.
fn processes(uid: &str, name: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let read = |file: &str| {
                let path = PathBuf::from(format!("/proc/{pid}/{file}"));
                // It may have ended since it was listed.
                fs::read_to_string(path).unwrap_or_default()
            };
            read("comm").trim_end() == name && read("cgroup").contains(uid)
        })
        .collect()
}

#[test]
fn traffic_goes_on_while_the_api_server_is_silent() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = routed(&cluster, "outage");
    let load = PodLoad::start(&namespace, "deployment/client", "http://server/", 4);
    thread::sleep(Duration::from_secs(2));
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
            Ok(()) => Err(mesh.describe()),
        }
    });
}

#[test]
fn an_agent_that_starts_without_the_api_server_works_from_disk() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = routed(&cluster, "from-disk");
    let agent = mesh.agent_on(&cluster.nodes()[0]);
    let uid_of = "jsonpath={.metadata.uid}";
    let uid = mesh.run(&["get", &agent, "--output", uid_of]).stdout;
    let client = namespace.ok(&[
        "get",
        "pods",
        "--selector=app=client",
        "--output=jsonpath={.items[0].metadata.uid}",
    ]);
    let address = namespace.ok(&[
        "get",
        "service",
        "server",
        "--output=jsonpath={.spec.clusterIP}",
    ]);
    let client = processes(&client, "applications")[0].to_string();
    // As the client would, without the API server's help.
    let ask = || -> Ran {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &client, "--"]);
        command.arg(format!("/proc/{client}/root/applications"));
        run(command.args(["get", &format!("http://{address}/"), "1"]))
    };
    let before = processes(&uid, "mesh-agent");
    assert_eq!(before.len(), 1, "{uid}: {before:?}");
    {
        let _silent = Silent::api_server(&cluster);
        run_ok(Command::new("kill").args(["-KILL", &before[0].to_string()]));
        wait::until("another agent", PATIENCE, || {
            match processes(&uid, "mesh-agent") {
                fresh if fresh.len() == 1 && fresh != before => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        wait::until("answers from the second version", PATIENCE, || {
            all_from_v2(ask)
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
