// SPDX-License-Identifier: Apache-2.0

//! A directory of manifests is followed.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout};

use super::fixture::{pod, service};
use crate::{
    config::{Index, IndexSettings, Report, analyze, file},
    model::Snapshot,
    tasks::Tasks,
};

/// A directory that is removed in the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = Path::new("/tmp").join(format!("mesh-config-{}-{name}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// What a directory's watcher publishes.
struct Watched {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    reports: watch::Receiver<Arc<Report>>,
    _tasks: Tasks,
}

impl Watched {
    fn new(path: &Path) -> Self {
        let index = Index::new(IndexSettings::default());
        let (mut snapshots, reports) = (index.subscribe(), index.report());
        let tasks = Tasks::new();
        file::watch(path, index, &tasks).unwrap();
        snapshots.mark_unchanged();
        Self {
            snapshots,
            reports,
            _tasks: tasks,
        }
    }

    /// Names of pods, sorted.
    fn pods(&self) -> Vec<String> {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let mut names: Vec<_> = snapshot
            .workloads
            .values()
            .map(|workload| workload.name.to_string())
            .collect();
        names.sort();
        names
    }

    /// Waits until a snapshot is published, and returns the pods in it.
    async fn next(&mut self) -> Vec<String> {
        timeout(Duration::from_secs(10), self.snapshots.changed())
            .await
            .expect("a snapshot in time")
            .unwrap();
        self.pods()
    }

    /// Waits for a report that holds an error with `text`.
    async fn error(&mut self, text: &str) {
        let has = |report: &Arc<Report>| {
            report
                .problems
                .iter()
                .any(|one| one.to_string().contains(text))
        };
        let found = timeout(Duration::from_secs(10), self.reports.wait_for(has))
            .await
            .is_ok();
        assert!(
            found,
            "no {text:?} in {:#?}",
            self.reports.borrow().problems
        );
    }
}

fn a() -> String {
    pod("a", "10.1.0.1", "")
}

fn b() -> String {
    pod("b", "10.1.0.2", "")
}

#[tokio::test]
async fn a_change_is_in_force_within_a_tenth_of_a_second_and_as_one_snapshot() {
    let directory = Directory::new("change");
    directory.write("a.yaml", &a());
    let mut watched = Watched::new(&directory.0);
    assert_eq!(watched.pods(), ["a"]);
    let start = Instant::now();
    directory.write("b.yaml", &b());
    directory.write("c.yaml", &pod("c", "10.1.0.3", ""));
    assert_eq!(watched.next().await, ["a", "b", "c"]);
    // The promise is 100 ms; the rest is for a machine that is busy with other tests.
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(
        watched.snapshots.borrow().generation,
        2,
        "both files came as one snapshot"
    );
    fs::remove_file(directory.0.join("b.yaml")).unwrap();
    assert_eq!(watched.next().await, ["a", "c"]);
}

#[tokio::test]
async fn a_file_that_is_renamed_over_is_a_change() {
    let directory = Directory::new("rename");
    directory.write("a.yaml", &a());
    let mut watched = Watched::new(&directory.0);
    directory.write(".a.yaml.swp", &(a() + &b()));
    fs::rename(directory.0.join(".a.yaml.swp"), directory.0.join("a.yaml")).unwrap();
    assert_eq!(watched.next().await, ["a", "b"]);
}

#[tokio::test]
async fn new_directories_are_followed_at_any_depth() {
    let directory = Directory::new("nested");
    let mut watched = Watched::new(&directory.0);
    let deep = directory.0.join("x/y");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("a.yaml"), a()).unwrap();
    assert_eq!(watched.next().await, ["a"]);
    fs::write(
        deep.join("b.json"),
        "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"b\"}}",
    )
    .unwrap();
    assert_eq!(watched.next().await, ["a", "b"]);
    fs::remove_dir_all(directory.0.join("x")).unwrap();
    while !watched.next().await.is_empty() {}
}

#[tokio::test]
async fn a_mounted_config_map_is_swapped_as_a_whole() {
    let directory = Directory::new("configmap");
    let version = |name: &str, text: &str| {
        fs::create_dir(directory.0.join(name)).unwrap();
        directory.write(&format!("{name}/pods.yaml"), text);
    };
    version("..1", &a());
    symlink("..1", directory.0.join("..data")).unwrap();
    symlink("..data/pods.yaml", directory.0.join("pods.yaml")).unwrap();
    let mut watched = Watched::new(&directory.0);
    assert_eq!(watched.pods(), ["a"]);
    version("..2", &b());
    symlink("..2", directory.0.join("..data_tmp")).unwrap();
    fs::rename(directory.0.join("..data_tmp"), directory.0.join("..data")).unwrap();
    fs::remove_dir_all(directory.0.join("..1")).unwrap();
    assert_eq!(watched.next().await, ["b"]);
}

#[tokio::test]
async fn a_broken_file_keeps_what_it_had_and_hides_nothing_else() {
    let directory = Directory::new("broken");
    directory.write("a.yaml", &(a() + &b()));
    let mut watched = Watched::new(&directory.0);
    // Syntax: what was read before stays, all of it.
    directory.write("a.yaml", &format!("{}---\nkind: [", a()));
    watched.error("a.yaml:").await;
    assert_eq!(watched.pods(), ["a", "b"]);
    // A field: that object stays, the other is gone, and other files go on.
    directory.write("a.yaml", &b().replace("spec:", "speck:"));
    directory.write("c.yaml", &pod("c", "10.1.0.3", ""));
    assert_eq!(watched.next().await, ["b", "c"]);
    watched.error("speck: unknown field").await;
    directory.write("a.yaml", &a());
    assert_eq!(watched.next().await, ["a", "c"]);
    assert_eq!(watched.reports.borrow().errors(), 0);
}

#[tokio::test]
async fn an_object_in_two_files_is_taken_from_the_first() {
    let directory = Directory::new("conflict");
    directory.write("1.yaml", &a());
    directory.write("2.yaml", &pod("a", "10.1.0.9", ""));
    let mut watched = Watched::new(&directory.0);
    let address = |watched: &Watched| {
        let snapshot = Arc::clone(&watched.snapshots.borrow());
        let workload = snapshot.workloads.values().next().cloned();
        workload.expect("one pod").addresses[0].to_string()
    };
    assert_eq!(address(&watched), "10.1.0.1");
    watched.error("Error [MESH0002] (Pod default/a").await;
    fs::remove_file(directory.0.join("1.yaml")).unwrap();
    watched.next().await;
    assert_eq!(address(&watched), "10.1.0.9");
    assert_eq!(watched.reports.borrow().errors(), 0);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_keeps_what_it_had() {
    let directory = Directory::new("unreadable");
    directory.write("a.yaml", &a());
    let mut watched = Watched::new(&directory.0);
    fs::write(directory.0.join("a.yaml"), [0xff, 0xfe]).unwrap();
    watched.error("MESH0001").await;
    assert_eq!(watched.pods(), ["a"]);
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_not_read() {
    let directory = Directory::new("half");
    directory.write("a.yaml", &(a() + &b()));
    let mut watched = Watched::new(&directory.0);
    let mut file = fs::File::create(directory.0.join("a.yaml")).unwrap();
    std::io::Write::write_all(&mut file, a().as_bytes()).unwrap();
    // Longer than the quiet time and the impatience, shorter than the limit for half-written files.
    let early = timeout(Duration::from_millis(150), watched.snapshots.changed()).await;
    assert!(early.is_err(), "a snapshot of a half-written file");
    std::io::Write::write_all(&mut file, pod("c", "10.1.0.3", "").as_bytes()).unwrap();
    drop(file);
    assert_eq!(watched.next().await, ["a", "c"]);
}

#[test]
fn analyze_reports_without_running() {
    let directory = Directory::new("analyze");
    directory.write("a.yaml", &(service("web", "10.0.0.1") + "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x}\nspec: {hosts: [web], http: [{route: [{destination: {host: nobody}}]}]}\n"));
    let report = analyze(&directory.0, IndexSettings::default());
    assert_eq!((report.errors(), report.objects), (1, 2));
    let gone = analyze(&directory.0.join("nowhere"), IndexSettings::default());
    assert!(
        gone.problems[0].to_string().contains("cannot be read"),
        "{:?}",
        gone.problems
    );
}
