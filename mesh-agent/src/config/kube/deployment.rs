// SPDX-License-Identifier: Apache-2.0

//! What a cluster grants the agent, as `deploy/` asks for it: nothing that whoever takes the agent over could use beyond
//! its node.

use serde::Deserialize;
use serde_json::{Value, json};

/// The documents of a manifest.
fn documents(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

/// The words of a list.
#[track_caller]
fn words(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
}

#[test]
fn the_agent_may_read_no_secret_and_write_nothing() {
    let roles = documents(include_str!("../../../../deploy/agent-rbac.yaml"));
    let rules = roles.iter().filter_map(|role| role["rules"].as_array());
    let rules: Vec<&Value> = rules.flatten().collect();
    assert!(!rules.is_empty());
    for rule in rules {
        let mut resources = words(&rule["resources"]);
        assert!(
            !resources.any(|word| matches!(word, "*" | "secrets")),
            "{rule}"
        );
        let mut verbs = words(&rule["verbs"]);
        assert!(
            verbs.all(|word| matches!(word, "get" | "list" | "watch")),
            "{rule}"
        );
    }
}

#[test]
fn the_agents_container_can_neither_write_its_files_nor_gain_privileges() {
    let agent = &documents(include_str!("../../../../deploy/agent.yaml"))[0];
    let pod = &agent["spec"]["template"]["spec"];
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    assert!(pod["initContainers"].is_null());
    let containers = pod["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1, "there is no other");
    let want = json!({
        "runAsUser": 0,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"]},
    });
    assert_eq!(containers[0]["securityContext"], want);
    let probe = &containers[0]["readinessProbe"]["exec"]["command"];
    assert_eq!(
        words(probe).next(),
        Some("/mesh-agent"),
        "the image has no other program"
    );
}

#[test]
fn the_image_has_the_agent_a_c_library_and_no_shell() {
    let image = include_str!("../../../../deploy/Dockerfile");
    let (_, last) = image.rsplit_once("\nFROM ").unwrap();
    let steps: Vec<&str> = last.lines().filter(|line| !line.starts_with('#')).collect();
    let want = [
        "gcr.io/distroless/cc-debian12",
        "COPY --from=build /mesh-agent /mesh-agent",
        "ENTRYPOINT [\"/mesh-agent\"]",
    ];
    assert_eq!(steps, want);
}
