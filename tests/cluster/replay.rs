// SPDX-License-Identifier: Apache-2.0

//! Tokens of the API server in the wrong hands: what the authority gives a pod that shows another's.
//!
//! All of it is real: the tokens are made by the API server, and shown at the authority's own port, from a
//! pod that has nothing to do with them (`tests/go/authority.go`).

use mesh_tests::{
    command::feed,
    kube::{Cluster, Mesh, Namespace, PATIENCE, Workload, workload::IMAGE},
    wait,
};

/// What tokens for the authority are for.
const AUDIENCE: &str = "istio-ca";

const AUTHORITY: &str = "mesh-agent-ca.mesh-system.svc:15012";

/// The caller is not believed.
const NOBODY: &str = "refused Unauthenticated: request authenticate failure";

/// The caller is believed, and may not have what it asks for.
const NOT_THAT: &str = "refused Unauthenticated: request impersonation authentication failure";

/// How often what must not be is tried: both replicas of the control plane are to be asked.
const TRIES: u32 = 6;

fn granted(identity: &str) -> String {
    format!("granted {identity}")
}

/// Who runs code in a pod of its own and wants to be others.
struct Thief<'a> {
    namespace: &'a Namespace,
    roots: String,
}

impl<'a> Thief<'a> {
    /// Its pod runs on `node`, outside of the mesh.
    #[track_caller]
    fn start(mesh: &Mesh, namespace: &'a Namespace, node: &str) -> Self {
        namespace.account("thief");
        namespace.start(&[&Workload::new("thief").on(node).account("thief")]);
        let output = "--output=go-template={{index .data \"root-cert.pem\"}}";
        let roots = mesh.ok(&["get", "configmap", "mesh-agent-ca-roots", output]);
        Self { namespace, roots }
    }

    fn identity(&self, account: &str) -> String {
        identity(self.namespace.name(), account)
    }

    #[track_caller]
    fn ask(&self, how: &str, token: &str, identity: &str) -> String {
        let mut kubectl = self.namespace.kubectl();
        kubectl.args(["exec", "--stdin", "deployment/thief", "--"]);
        kubectl.args(["/applications", how, AUTHORITY, identity]);
        let input = format!("{}\n{}", token.trim(), self.roots);
        feed(&mut kubectl, &input).trim().to_owned()
    }

    /// Asks with a signing request that names `identity`.
    #[track_caller]
    fn requests(&self, token: &str, identity: &str) -> String {
        self.ask("certificate", token, identity)
    }

    /// Asks for `identity` as a node does.
    #[track_caller]
    fn impersonates(&self, token: &str, identity: &str) -> String {
        self.ask("impersonate", token, identity)
    }

    #[track_caller]
    fn gets_nothing(&self, token: &str, why: &str) {
        let thief = self.identity("thief");
        assert_eq!(self.requests(token, &thief), NOBODY, "{why}");
        assert_eq!(self.impersonates(token, &thief), NOBODY, "{why}");
    }
}

fn identity(namespace: &str, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}

/// A pod whose tokens are stolen, with a name that can be given again.
fn victim(node: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: victim}}
spec:
  nodeName: {node}
  serviceAccountName: victim
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: {IMAGE}
    imagePullPolicy: Never
    args: [serve, ':8080', victim]
"
    )
}

#[track_caller]
fn start_victim(namespace: &Namespace, node: &str) {
    namespace.apply(&victim(node));
    let words = ["wait", "--for=condition=Ready", "--timeout=120s"];
    namespace.ok(&[words.as_slice(), &["pod/victim"]].concat());
}

/// What the API server gives for `account`, with more options.
#[track_caller]
fn token(namespace: &str, cluster: &Cluster, account: &str, options: &[&str]) -> String {
    let words = ["--namespace", namespace, "create", "token", account];
    cluster.ok(&[&words, options].concat())
}

/// A token of `account` that is bound to a pod, as those in projected volumes are.
#[track_caller]
fn bound(cluster: &Cluster, namespace: &str, account: &str, pod: &str, audience: &str) -> String {
    let pod = pod.trim_start_matches("pod/");
    let uid = ["--namespace", namespace, "get", "pod", pod];
    let uid = cluster.ok(&[uid.as_slice(), &["--output=jsonpath={.metadata.uid}"]].concat());
    let options = [
        format!("--audience={audience}"),
        "--bound-object-kind=Pod".to_owned(),
        format!("--bound-object-name={pod}"),
        format!("--bound-object-uid={uid}"),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    token(namespace, cluster, account, &options)
}

#[test]
fn a_token_of_another_pod_is_good_for_that_pods_identity_alone_and_as_long_as_it_lives() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = Namespace::create(&cluster, "replayed");
    let nodes = cluster.nodes();
    namespace.account("victim");
    start_victim(&namespace, &nodes[0]);
    let thief = Thief::start(&mesh, &namespace, &nodes[1]);
    let stolen = bound(&cluster, namespace.name(), "victim", "victim", AUDIENCE);

    let of_victim = granted(&thief.identity("victim"));
    for _ in 0..TRIES {
        // What the signing request says is nobody's word.
        assert_eq!(thief.requests(&stolen, &thief.identity("thief")), of_victim);
    }
    for wanted in [
        thief.identity("thief"),
        identity("mesh-system", "mesh-agent"),
        identity("mesh-system", "mesh-agent-control"),
        "spiffe://elsewhere/ns/replayed/sa/victim".to_owned(),
    ] {
        assert_eq!(thief.impersonates(&stolen, &wanted), NOT_THAT, "{wanted}");
    }

    namespace.ok(&["delete", "pod", "victim", "--wait"]);
    let refused = || match thief.requests(&stolen, &thief.identity("victim")) {
        answer if answer == NOBODY => Ok(()),
        answer => Err(answer),
    };
    // Each replica hears of it by its own watch.
    wait::until("the pod's token to be worthless", PATIENCE, || {
        (0..TRIES).try_for_each(|_| refused())
    });
    start_victim(&namespace, &nodes[0]);
    thief.gets_nothing(&stolen, "a pod of the same name is another pod");
    let fresh = bound(&cluster, namespace.name(), "victim", "victim", AUDIENCE);
    assert_eq!(
        thief.requests(&fresh, &thief.identity("victim")),
        of_victim,
        "a token of the pod that is there now"
    );
}

#[test]
fn tokens_that_are_not_for_the_authority_are_good_for_nothing() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = Namespace::create(&cluster, "unproven");
    let nodes = cluster.nodes();
    namespace.account("victim");
    start_victim(&namespace, &nodes[0]);
    let thief = Thief::start(&mesh, &namespace, &nodes[1]);
    let of_account = |options: &[&str]| token(namespace.name(), &cluster, "victim", options);

    thief.gets_nothing("", "no token");
    thief.gets_nothing(
        "c2VjcmV0LXRva2VuLW9mLW5vYm9keQ",
        "no token of the API server's",
    );
    thief.gets_nothing(
        &of_account(&[]),
        "as pods have it by default: for the API server",
    );
    let elsewhere = bound(&cluster, namespace.name(), "victim", "victim", "vault");
    thief.gets_nothing(&elsewhere, "bound to the pod, and for somebody else");
    let unbound = of_account(&["--audience=istio-ca"]);
    thief.gets_nothing(&unbound, "for the authority, and of no pod");
}

#[test]
fn an_agents_token_of_another_node_is_good_for_that_nodes_pods_alone() {
    let cluster = Cluster::here();
    let mesh = Mesh::on(&cluster);
    let namespace = Namespace::create(&cluster, "othernode");
    let nodes = cluster.nodes();
    namespace.account("victim");
    start_victim(&namespace, &nodes[0]);
    let thief = Thief::start(&mesh, &namespace, &nodes[1]);
    let agents: Vec<String> = nodes
        .iter()
        .map(|node| {
            let pod = mesh.agent_on(node);
            bound(&cluster, "mesh-system", "mesh-agent", &pod, AUDIENCE)
        })
        .collect();

    let (victim, own) = (thief.identity("victim"), thief.identity("thief"));
    assert_eq!(thief.impersonates(&agents[0], &victim), granted(&victim));
    assert_eq!(thief.impersonates(&agents[1], &own), granted(&own));
    for _ in 0..TRIES {
        assert_eq!(thief.impersonates(&agents[1], &victim), NOT_THAT);
        assert_eq!(thief.impersonates(&agents[0], &own), NOT_THAT);
    }
    let nobody = thief.identity("default");
    assert_eq!(thief.impersonates(&agents[0], &nobody), NOT_THAT);
    let control = identity("mesh-system", "mesh-agent-control");
    let runs_control = |node: &String| {
        let on = format!("--field-selector=spec.nodeName={node}");
        let selector = "--selector=app.kubernetes.io/name=mesh-agent-control";
        !mesh
            .ok(&["get", "pods", selector, &on, "--output=name"])
            .is_empty()
    };
    // A node's account is every account that runs there: that is what a node is trusted for.
    for (node, agent) in nodes.iter().zip(&agents) {
        let want = match runs_control(node) {
            true => granted(&control),
            false => NOT_THAT.to_owned(),
        };
        assert_eq!(thief.impersonates(agent, &control), want, "{node}");
    }
}
