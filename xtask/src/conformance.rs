// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask conformance`: Gateway API's mesh conformance suite against the agent in a cluster.
//!
//! The suite is the published one (`tests/conformance` pins it) and is judged as it judges itself.
//! Knows nothing of what the tests ask. Invariants: the exit code is the core tests' of both mesh
//! profiles; tests of extended features are listed and never judged.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    artefacts,
    cluster::Cluster,
    command::{self, root, spell},
    image, programs,
    setup::{self, Lacking, Scope},
};

mod report;

use self::report::Tests;

const PROFILES: &[&str] = &["MESH-HTTP", "MESH-GRPC"];

const CORE: &[&str] = &["Mesh", "HTTPRoute", "GRPCRoute"];

const EXTENDED: &[&str] = &[
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteNamedRouteRule",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteParentRefPort",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
];

/// Namespaces that the suite waits for and does not make, whatever it is asked to test.
const EXPECTED: &[&str] = &[
    "gateway-conformance-app-backend",
    "gateway-conformance-web-backend",
];

/// How the command was typed.
struct Options<'a> {
    cluster: Cluster,
    extended: bool,
    agent: bool,
    keep: bool,
    /// For the suite itself.
    more: &'a [String],
}

/// The command itself.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let options = Options::parse(words)?;
    Lacking::unless_root("the suite runs against a cluster of network namespaces and containers")?;
    setup::ensure(&[Scope::Build, Scope::Cluster])?;
    let suite = programs::CONFORMANCE.get()?;
    let mut images = vec![image::echo()?];
    if options.agent {
        images.push(image::agent(artefacts::PROFILE)?);
    }
    let was_up = options.cluster.up()?;
    let result = prepare(&options, &images).and_then(|()| judge(&options, &suite));
    // What was up before goes on; what we brought up goes, unless it is to be looked at.
    if !was_up && !options.keep {
        options.cluster.down()?;
    }
    result
}

impl<'a> Options<'a> {
    fn parse(words: &'a [String]) -> Result<Self> {
        let (cluster, mut rest) = Cluster::chosen(words)?;
        let (mut extended, mut agent, mut keep) = (true, true, false);
        while let [word, after @ ..] = rest {
            match word.as_str() {
                "--skip-extended" => extended = false,
                "--bare" => agent = false,
                "--keep" => keep = true,
                "--" => break,
                other => {
                    return Err(Lacking::usage(format!(
                        "conformance does not know {other:?}: [--dir DIR] [--name NAME], then \
                         --skip-extended, --bare (without the agent), --keep, -- ARGUMENTS \
                         (for the suite)"
                    )));
                }
            }
            rest = after;
        }
        Ok(Self {
            cluster,
            extended,
            agent,
            keep,
            more: rest.get(1..).unwrap_or_default(),
        })
    }

    fn features(&self) -> String {
        let extended = if self.extended { EXTENDED } else { &[] };
        let all: Vec<&str> = CORE.iter().chain(extended).copied().collect();
        all.join(",")
    }
}

fn prepare(options: &Options<'_>, images: &[PathBuf]) -> Result<()> {
    let started = Instant::now();
    let cluster = &options.cluster;
    cluster.load(images)?;
    let module = programs::module_directory(&programs::CONFORMANCE, "sigs.k8s.io/gateway-api")?;
    kubectl(cluster, |kubectl| {
        kubectl.args(["apply", "--server-side", "-f"]);
        kubectl.arg(module.join("config/crd/standard"))
    })?;
    cluster.apply(&expected())?;
    if options.agent {
        install(cluster)?;
    }
    eprintln!("--- conformance: prepared, {}", spell(started.elapsed()));
    Ok(())
}

/// Installs the agent as `deploy/` says, and waits until it is there.
fn install(cluster: &Cluster) -> Result<()> {
    let manifests = root().join("deploy");
    ensure!(
        manifests.join("kustomization.yaml").is_file(),
        "there is no {}/kustomization.yaml to install the agent with",
        manifests.display()
    );
    kubectl(cluster, |kubectl| {
        kubectl
            .args(["apply", "--server-side", "-k"])
            .arg(&manifests)
    })?;
    for workload in ["deployment/mesh-agent-control", "daemonset/mesh-agent"] {
        kubectl(cluster, |kubectl| {
            kubectl.args(["--namespace", "mesh-system", "rollout", "status"]);
            kubectl.args([workload, "--timeout=180s"])
        })
        .with_context(|| describe(cluster))?;
    }
    Ok(())
}

/// What there is to see of an installation that does not come up.
fn describe(cluster: &Cluster) -> String {
    let mut text = String::new();
    for words in [
        "get pods --output wide",
        "get events --sort-by=.lastTimestamp",
        "logs daemonset/mesh-agent --tail=20",
        "logs deployment/mesh-agent-control --tail=20",
    ] {
        let mut kubectl = cluster.kubectl();
        kubectl.args(["--namespace", "mesh-system"]);
        kubectl.args(words.split(' '));
        let said = command::output(&mut kubectl).unwrap_or_default();
        text.push_str(&format!("$ kubectl {words}\n{said}"));
    }
    text
}

/// Runs the suite, shows its report, and fails unless every core test passed.
#[allow(
    clippy::print_stdout,
    reason = "report and result of the suite go to standard output"
)]
fn judge(options: &Options<'_>, suite: &Path) -> Result<()> {
    let started = Instant::now();
    let place = command::target().join("conformance");
    fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
    let (report, log) = (place.join("report.yaml"), place.join("log"));
    if report.exists() {
        fs::remove_file(&report).with_context(|| format!("remove {}", report.display()))?;
    }
    let output = fs::File::create(&log).with_context(|| format!("write {}", log.display()))?;
    let errors = output.try_clone().context("share the log")?;
    let mut test = options
        .cluster
        .inside(&options.cluster.control_plane(), suite);
    test.args(["-test.v", "-test.run=TestConformance", "-test.timeout=60m"]);
    test.arg(format!("--conformance-profiles={}", PROFILES.join(",")));
    test.arg(format!("--supported-features={}", options.features()));
    test.args([
        "--gateway-class=",
        "--namespace-labels=istio-injection=enabled",
    ]);
    test.arg(format!("--report-output={}", report.display()));
    test.args(["--organization=mesh-agent", "--project=mesh-agent"]);
    test.args(["--url=https://mesh-agent.io", "--contact=@mesh-agent"]);
    test.arg(format!("--version={}", env!("CARGO_PKG_VERSION")));
    test.args(options.more);
    test.env("KUBECONFIG", options.cluster.kubeconfig());
    test.stdin(Stdio::null()).stdout(output).stderr(errors);
    eprintln!(
        "--- conformance: the suite runs; its log is {}",
        log.display()
    );
    let status = test.status().context("start the suite")?;
    let log_text = fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
    let report_text = fs::read_to_string(&report).unwrap_or_default();
    println!("{report_text}");
    let tests = Tests::in_log(&log_text);
    print!("{tests}");
    let verdicts = report::core_verdicts(&report_text);
    let lost: Vec<&str> = PROFILES
        .iter()
        .filter(|profile| verdicts.get(**profile).map(String::as_str) != Some("success"))
        .copied()
        .collect();
    println!(
        "{} passed, {} failed ({} not asked for), {}",
        tests.passed.len(),
        tests.failed.len(),
        tests.skipped,
        spell(started.elapsed())
    );
    if lost.is_empty() {
        return Ok(());
    }
    bail!(
        "the core tests of {} did not all pass (the suite ended with {status}); see {}",
        lost.join(" and "),
        log.display()
    )
}

/// The namespaces of [`EXPECTED`], each with a pod, since the suite waits for one.
fn expected() -> String {
    let one = |name: &&str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{name: idle, namespace: {name}}}\n\
             spec: {{containers: [{{name: idle, image: \"{}\", imagePullPolicy: Never, \
             args: [--port=8080]}}]}}\n",
            image::ECHO
        )
    };
    EXPECTED.iter().map(one).collect::<Vec<_>>().join("---\n")
}

fn kubectl(cluster: &Cluster, words: impl FnOnce(&mut Command) -> &mut Command) -> Result<()> {
    let mut kubectl = cluster.kubectl();
    words(&mut kubectl);
    command::run_aside(&mut kubectl)
}
