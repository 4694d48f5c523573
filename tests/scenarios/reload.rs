// SPDX-License-Identifier: Apache-2.0

//! Manifests change under load; broken ones are named and do no harm.

use std::time::{Duration, Instant};

use mesh_tests::{App, Load, wait};

use crate::mesh::{Mesh, counts, split};

#[test]
fn weights_change_under_load_without_a_failure() {
    let mesh = Mesh::with("reload weights", &[], &split(100, 0));
    let address = mesh.service("recommendations", 80);
    let load = Load::start(&mesh.client, &address, "recommendations", "/", 4);
    for turn in 0..20 {
        load.wait_for(50);
        mesh.lab.apply(&if turn % 2 == 0 {
            split(0, 100)
        } else {
            split(100, 0)
        });
    }
    load.wait_for(50);
    let tally = load.stop();
    tally.assert_no_failures();
    assert!(tally.versions.len() == 2, "{:?}", tally.versions);
}

#[test]
fn endpoints_come_and_go_under_load_without_a_failure() {
    let mut mesh = Mesh::start("reload endpoints");
    let address = mesh.service("recommendations", 80);
    let load = Load::start(&mesh.client, &address, "recommendations", "/", 4);
    for _ in 0..10 {
        load.wait_for(50);
        mesh.v2.set_ready(false);
        load.wait_for(50);
        mesh.v2.set_ready(true);
    }
    // A new pod and its end, as a rollout does it: first out of the endpoints, then gone.
    let third = mesh
        .lab
        .pod("recommendations-v3")
        .on_b()
        .label("app", "recommendations");
    let mut third = third
        .label("version", "v3")
        .account("recommendations")
        .start();
    let app = App::http(&third, 8080);
    wait::until_true("the new pod to be used", wait::PATIENCE, || app.work() > 0);
    third.set_ready(false);
    mesh.settle();
    wait::until_true("the old pod to be idle", wait::PATIENCE, || {
        let before = app.work();
        load.wait_for(50);
        app.work() == before
    });
    drop(app);
    third.delete();
    load.wait_for(100);
    let tally = load.stop();
    tally.assert_no_failures();
}

#[test]
fn a_change_of_a_file_is_in_force_without_being_asked_for() {
    let mesh = Mesh::with("reload speed", &[], &split(100, 0));
    assert_eq!(mesh.get("/").field("version"), "v1");
    let mut times: Vec<Duration> = (0..10)
        .map(|turn| {
            let (manifests, wanted) = if turn % 2 == 0 {
                (split(0, 100), "v2")
            } else {
                (split(100, 0), "v1")
            };
            mesh.lab.apply(&manifests);
            let start = Instant::now();
            wait::until("the change", wait::PATIENCE, || {
                let seen = mesh.get("/").field("version");
                if seen == wanted { Ok(()) } else { Err(seen) }
            });
            start.elapsed()
        })
        .collect();
    times.sort();
    // The promise is 100 ms. What a busy machine makes of it is shown, not judged.
    println!("from file to request: median {:?}, all {times:?}", times[5]);
}

/// What is wrong, what the agent must say about it, and that traffic does not care.
const BROKEN: &[(&str, &str, &[&str])] = &[
    ("not YAML", "kind: [", &["broken.yaml"]),
    (
        "no kind",
        "apiVersion: v1\nmetadata: {name: x}\n",
        &["broken.yaml", "kind"],
    ),
    (
        "unknown field",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {name: z-other, namespace: default}\n\
         spec: {hosts: [other], htpp: []}\n",
        &["broken.yaml", "z-other", "htpp"],
    ),
    (
        "wrong type",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {name: z-other, namespace: default}\n\
         spec: {hosts: [recommendations], http: [{route: [{destination: {host: recommendations}, weight: many}]}]}\n",
        &["broken.yaml", "z-other", "weight"],
    ),
    (
        "dangling subset",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {name: z-other, namespace: default}\n\
         spec: {hosts: [other], http: [{route: [{destination: {host: recommendations, subset: v9}}]}]}\n",
        &["broken.yaml", "z-other", "v9"],
    ),
    (
        "conflicting hosts",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {name: z-other, namespace: default}\n\
         spec: {hosts: [recommendations], http: [{route: [{destination: {host: recommendations, subset: v2}}]}]}\n",
        &["broken.yaml", "z-other", "recommendations"],
    ),
];

#[test]
fn broken_manifests_are_named_by_agent_and_analyze_and_do_no_harm() {
    let mesh = Mesh::with("reload broken", &[], &split(90, 10));
    mesh.lab
        .service("other")
        .selector(&[("version", "v2")])
        .port("http", 80, 8080)
        .create();
    mesh.settle();
    let directory = mesh.lab.config_directory().to_owned();
    let directory = directory.to_str().unwrap();
    let clean = mesh.a.analyze(directory);
    assert!(clean.ok(), "{}{}", clean.stdout, clean.stderr);
    for (what, text, said) in BROKEN {
        mesh.lab.manifests.write("broken.yaml", text);
        wait::until(&format!("problems about: {what}"), wait::PATIENCE, || {
            let problems = mesh.a.admin("/problems").text();
            if said.iter().all(|word| problems.contains(word)) {
                Ok(())
            } else {
                Err(problems)
            }
        });
        let analyzed = mesh.a.analyze(directory);
        let shown = format!("{}{}", analyzed.stdout, analyzed.stderr);
        assert!(
            said.iter().all(|word| shown.contains(word)),
            "{what}: {shown}"
        );
        assert_eq!(mesh.get_many(100), counts(90, 10), "{what}");
        mesh.lab.manifests.remove("broken.yaml");
        mesh.settle();
    }
}

#[test]
fn the_last_good_state_of_a_broken_object_stays() {
    let mesh = Mesh::with("reload last good", &[], &split(90, 10));
    mesh.lab
        .manifests
        .write("virtualservice-default-recommendations.yaml", "kind: [");
    mesh.settle();
    assert_eq!(mesh.get_many(100), counts(90, 10));
    // Others still apply, and the object itself when it is mended.
    mesh.apply(&split(50, 50));
    assert_eq!(mesh.get_many(100), counts(50, 50));
}
