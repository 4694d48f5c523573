// SPDX-License-Identifier: Apache-2.0

//! The demo's stage: nodes, pods, nginx, agents, and the manifests they start with.
//!
//! Knows nothing of what is shown on it.

use super::Progress;
use crate::{Agent, Lab, Pod, foreign};

/// Two subsets by the label `version`, and 90/10 over them.
const SPLIT: &str = include_str!("../../seeds/01-recommendations.yaml");

/// Everything the demo is played on.
pub(super) struct Stage {
    pub(super) agents: Vec<Agent>,
    /// In the mesh, on node a.
    pub(super) client: Pod,
    /// Not in the mesh, on node a.
    pub(super) outsider: Pod,
    /// In the mesh, on node b; version v1, then v2.
    pub(super) servers: [Pod; 2],
    _nginx: [foreign::Server; 2],
    pub(super) lab: Lab,
}

impl Stage {
    #[track_caller]
    pub(super) fn set(progress: &Progress) -> Self {
        progress
            .say("two nodes: network namespaces joined by a link, pods as a CNI plugin makes them");
        let lab = Lab::new("demo");
        let client = lab.pod("client").start();
        let outsider = lab.pod("outsider").outside().start();
        let servers = ["v1", "v2"].map(|version| {
            let pod = lab.pod(&format!("recommendations-{version}")).on_b();
            pod.label("app", "recommendations")
                .label("version", version)
                .account("recommendations")
                .start()
        });
        lab.service("recommendations")
            .port("http", 80, 8080)
            .create();
        progress
            .say("applications: curl on node a, nginx in two versions on node b, all unmodified");
        let nginx = [&servers[0], &servers[1]].map(|pod| foreign::nginx(&lab, pod, 8080));
        Self {
            agents: Vec::new(),
            client,
            outsider,
            servers,
            _nginx: nginx,
            lab,
        }
    }

    #[track_caller]
    pub(super) fn start_agents(&mut self, progress: &Progress) {
        progress.say("one agent per node; it captures pods that run already, by a namespace label");
        self.lab.apply(SPLIT);
        let flags = ["--access-log", "json", "--on-agent-death", "closed"];
        let launched = [&self.lab.a, &self.lab.b].map(|node| node.launch_agent(&flags));
        self.agents.extend(launched);
        for agent in &self.agents {
            agent.wait_ready();
        }
        self.settle();
    }

    /// Waits until both agents work with the manifests as they are now.
    #[track_caller]
    pub(super) fn settle(&self) {
        self.lab.settle(&self.agents.iter().collect::<Vec<_>>());
    }

    /// Commands to look around with while everything runs.
    pub(super) fn tour(&self) -> String {
        let agent = crate::agent::binary();
        let agent = agent.display();
        let socket = self.agents[0].socket().display();
        let client = self.client.netns.path();
        let manifests = self.lab.config_directory().display();
        let hosts = self.lab.hosts_file();
        format!(
            "\nEverything is still running. In another terminal, as root:\n\
             \n  export MESH_AGENT_SOCKET={socket}\n\
             \n  {agent} status\
             \n  {agent} proxy-status\
             \n  {agent} proxy-config routes client.default\
             \n  {agent} proxy-config endpoints client.default --port 80\
             \n  {agent} analyze {manifests}\n\
             \n  a shell in the client's pod:\
             \n  nsenter --net={client} unshare -m sh -c 'mount --bind {hosts} /etc/hosts; exec bash'\
             \n  curl http://recommendations/\n\
             \n  the manifests, read again when they change: {manifests}\n\
             \nCtrl-C ends it and cleans up.",
            client = client.display(),
            hosts = hosts.display(),
        )
    }
}
