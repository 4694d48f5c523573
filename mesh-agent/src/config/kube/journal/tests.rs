// SPDX-License-Identifier: Apache-2.0

//! What is written comes back, and what is damaged does not count.

use std::{os::unix::fs::symlink, thread, time::Duration};

use serde_json::json;

use super::{super::super::object::Kind, *};

/// A directory, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let name = format!("mesh-journal-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        drop(fs::remove_dir_all(&dir));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn file(&self) -> PathBuf {
        self.0.join("node-a").join(FILE)
    }

    /// Writes by `work` and waits until all is on disk.
    fn write(&self, work: impl FnOnce(&Journal)) -> Replay {
        let (journal, replay, writer) = Journal::open(&self.0, "node-a").unwrap();
        let thread = thread::spawn(writer);
        work(&journal);
        drop(journal);
        thread.join().unwrap();
        replay
    }

    /// Names of the Services that are there.
    fn names(&self) -> Vec<String> {
        let replay = self.write(|_| {});
        let objects = replay.objects.into_iter();
        let mut names: Vec<String> = objects.map(|(key, _)| key.name).collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey {
        kind: Kind::Service,
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    }
}

#[test]
fn what_is_written_comes_back() {
    let dir = Dir::new("back");
    let replay = dir.write(|journal| {
        journal.put(&key("a"), &json!({"spec": 1}));
        journal.put(&key("b"), &json!({"spec": 1}));
        journal.put(&key("a"), &json!({"spec": 2}));
        journal.delete(&key("b"));
    });
    assert!(replay.objects.is_empty() && replay.as_of.is_none());
    let replay = dir.write(|_| {});
    assert_eq!(replay.objects, [(key("a"), json!({"spec": 2}))]);
    let age = replay.as_of.unwrap().elapsed().unwrap();
    assert!(age < Duration::from_secs(60), "{age:?}");
}

#[test]
fn nobody_else_can_read_it() {
    let dir = Dir::new("mode");
    dir.write(|journal| journal.put(&key("a"), &json!({})));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.file()), 0o600);
    assert_eq!(mode(dir.file().parent().unwrap()), 0o700);
}

#[test]
fn a_torn_end_is_dropped_and_written_over() {
    let dir = Dir::new("torn");
    dir.write(|journal| {
        journal.put(&key("a"), &json!({}));
        journal.put(&key("b"), &json!({}));
    });
    let file = OpenOptions::new().append(true).open(dir.file()).unwrap();
    file.set_len(file.metadata().unwrap().len() - 3).unwrap();
    assert_eq!(dir.names(), ["a"]);
    dir.write(|journal| journal.put(&key("c"), &json!({})));
    assert_eq!(dir.names(), ["a", "c"]);
}

#[test]
fn a_damaged_record_ends_what_is_read() {
    let dir = Dir::new("damaged");
    dir.write(|journal| {
        for name in ["a", "b", "c"] {
            journal.put(&key(name), &json!({}));
        }
    });
    let mut bytes = fs::read(dir.file()).unwrap();
    let record = (bytes.len() - record::header("node-a").len()) / 3;
    let middle = bytes.len() - record - record / 2;
    bytes[middle] ^= 1;
    fs::write(dir.file(), bytes).unwrap();
    assert_eq!(dir.names(), ["a"]);
}

#[test]
fn a_file_of_another_node_or_no_journal_is_begun_anew() {
    let dir = Dir::new("foreign");
    dir.write(|journal| journal.put(&key("a"), &json!({})));
    fs::create_dir_all(dir.0.join("node-b")).unwrap();
    fs::copy(dir.file(), dir.0.join("node-b").join(FILE)).unwrap();
    let (_journal, replay, _writer) = Journal::open(&dir.0, "node-b").unwrap();
    assert!(replay.objects.is_empty());
    fs::write(dir.file(), "nonsense").unwrap();
    assert!(dir.names().is_empty());
}

#[test]
fn a_file_of_mostly_old_records_is_written_anew() {
    let dir = Dir::new("compact");
    dir.write(|journal| {
        for round in 0..FEW_RECORDS {
            for name in ["a", "b"] {
                journal.put(&key(name), &json!({ "spec": round }));
            }
        }
    });
    let length = fs::metadata(dir.file()).unwrap().len();
    // What came after the last time may still be there, as much as is not worth it.
    let record = Record::put(&key("a"), &json!({ "spec": FEW_RECORDS })).to_bytes();
    let worth_it = record::header("node-a").len() + FEW_RECORDS * record.len();
    assert!(length <= worth_it as u64, "{length} bytes");
    assert_eq!(dir.names(), ["a", "b"]);
    // And a start leaves nothing of it.
    let length = fs::metadata(dir.file()).unwrap().len();
    assert!(length < 1000, "{length} bytes");
}

#[test]
fn a_disk_that_fails_is_counted_and_stops_nothing() {
    let dir = Dir::new("full");
    let (journal, _replay, _writer) = Journal::open(&dir.0, "node-a").unwrap();
    drop(journal);
    let mut writer = Writer::begin(dir.file(), "node-a").unwrap();
    // The path names it, too: another file there would be a successor's.
    let aside = dir.file().with_extension("aside");
    fs::rename(dir.file(), &aside).unwrap();
    symlink("/dev/full", dir.file()).unwrap();
    writer.file = OpenOptions::new().write(true).open(dir.file()).unwrap();
    writer.take(Command::Write(
        Record::put(&key("a"), &json!({})).to_bytes(),
    ));
    writer.flush();
    writer.flush();
    assert_eq!(writer.errors.load(Ordering::Relaxed), 1);
    fs::rename(&aside, dir.file()).unwrap();
    writer.file = OpenOptions::new().append(true).open(dir.file()).unwrap();
    writer.failed_at = Instant::now().checked_sub(RETRY);
    writer.flush();
    assert_eq!(dir.names(), ["a"]);
}

#[test]
fn two_agents_of_a_node_do_not_write_into_one_file() {
    let dir = Dir::new("two");
    let (old, _, old_writer) = Journal::open(&dir.0, "node-a").unwrap();
    let old_thread = thread::spawn(old_writer);
    old.put(&key("a"), &json!({}));
    // Until it is on disk.
    while fs::metadata(dir.file()).unwrap().len() <= record::header("node-a").len() as u64 {
        thread::yield_now();
    }
    let (new, replay, new_writer) = Journal::open(&dir.0, "node-a").unwrap();
    assert_eq!(replay.objects.len(), 1);
    let new_thread = thread::spawn(new_writer);
    old.put(&key("old"), &json!({}));
    new.put(&key("new"), &json!({}));
    // The new one did not get further: the node is still the old one's.
    drop(new);
    new_thread.join().unwrap();
    old.put(&key("late"), &json!({}));
    drop(old);
    old_thread.join().unwrap();
    assert_eq!(dir.names(), ["a", "late", "new", "old"]);
}
