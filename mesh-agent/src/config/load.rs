// SPDX-License-Identifier: Apache-2.0

//! Keeps an index in step with the manifest files of a directory.
//!
//! Invariants: an object is in force as its first file by path has it; a document that is broken
//! keeps the last good state of its object, and one that does not even tell its object keeps all
//! that came from its file; everything else follows the files.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

use super::{
    index::Index,
    object::{Object, ObjectKey},
    problem::{Origin, Problem, Severity, code},
    read::{self, Entry, Format},
    tree::Tree,
};

/// What is known of a directory.
#[derive(Debug)]
pub(super) struct Loader {
    root: PathBuf,
    files: BTreeMap<PathBuf, Known>,
    /// Which file's which state each object in the index comes from.
    applied: HashMap<ObjectKey, (PathBuf, u64)>,
}

/// What is known of a file.
#[derive(Debug, Default)]
struct Known {
    /// Of its text; 0 if it could not be read.
    hash: u64,
    objects: Vec<(ObjectKey, Origin)>,
    /// Documents that are broken, by object if it could be told.
    broken: Vec<Option<ObjectKey>>,
    problems: Vec<Problem>,
}

/// The objects of files that were parsed in this turn.
type Fresh = HashMap<PathBuf, HashMap<ObjectKey, (Object, Origin)>>;

impl Loader {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            files: BTreeMap::new(),
            applied: HashMap::new(),
        }
    }

    /// Reads what changed and hands it to `index`, without publishing it. Returns the tree, without
    /// the texts. Fails, and changes nothing, if the root cannot be read.
    pub(super) fn load(&mut self, index: &mut Index) -> io::Result<Tree> {
        let mut tree = Tree::read(&self.root)?;
        let files = std::mem::take(&mut tree.files);
        self.files.retain(|path, _| files.contains_key(path));
        let mut fresh = Fresh::new();
        for (path, text) in &files {
            self.file(path, text, &mut fresh);
        }
        let (desired, mut problems) = self.desired();
        for known in self.files.values() {
            problems.extend(known.problems.iter().cloned());
        }
        self.delete(&desired, index);
        self.apply(&desired, &files, fresh, index);
        index.set_front_end_problems(problems);
        Ok(tree)
    }

    fn file(&mut self, path: &Path, text: &io::Result<String>, fresh: &mut Fresh) {
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                let known = self.files.entry(path.to_owned()).or_default();
                known.hash = 0;
                known.broken = vec![None];
                known.problems = vec![unreadable(path, error)];
                return;
            }
        };
        let hash = hash(text);
        if self.files.get(path).is_some_and(|known| known.hash == hash) {
            return;
        }
        let (known, objects) = parse(path, text, hash);
        self.files.insert(path.to_owned(), known);
        fresh.insert(path.to_owned(), objects);
    }

    /// Which file each object is to be taken from, and the conflicts.
    fn desired(&self) -> (HashMap<ObjectKey, PathBuf>, Vec<Problem>) {
        let mut desired: HashMap<ObjectKey, (&Path, &Origin)> = HashMap::new();
        let mut problems = Vec::new();
        for (path, known) in &self.files {
            for (key, origin) in &known.objects {
                let (_, first) = *desired.entry(key.clone()).or_insert((path, origin));
                if first != origin {
                    problems.push(Problem {
                        severity: Severity::Error,
                        code: code::DUPLICATE,
                        object: Some(key.to_ref()),
                        origin: origin.clone(),
                        field: String::new(),
                        text: format!("the object is in {first} too, and that is in force"),
                        fix: "remove one of them".to_owned(),
                    });
                }
            }
        }
        let paths = desired
            .into_iter()
            .map(|(key, (path, _))| (key, path.to_owned()))
            .collect();
        (paths, problems)
    }

    fn delete(&self, desired: &HashMap<ObjectKey, PathBuf>, index: &mut Index) {
        let mut kept: HashSet<&ObjectKey> = HashSet::new();
        let mut kept_files: HashSet<&Path> = HashSet::new();
        for (path, known) in &self.files {
            for broken in &known.broken {
                match broken {
                    Some(key) => drop(kept.insert(key)),
                    None => drop(kept_files.insert(path)),
                }
            }
        }
        for (key, (path, _)) in &self.applied {
            let stays = kept.contains(key) || kept_files.contains(path.as_path());
            if !desired.contains_key(key) && !stays {
                index.delete(key);
            }
        }
    }

    fn apply(
        &mut self,
        desired: &HashMap<ObjectKey, PathBuf>,
        files: &BTreeMap<PathBuf, io::Result<String>>,
        mut fresh: Fresh,
        index: &mut Index,
    ) {
        let mut applied = HashMap::with_capacity(desired.len());
        let mut last = std::mem::take(&mut self.applied);
        for (key, path) in desired {
            let hash = self.files.get(path).map_or(0, |known| known.hash);
            let state = (path.clone(), hash);
            if last.remove(key).as_ref() != Some(&state) {
                let objects = fresh
                    .entry(state.0.clone())
                    .or_insert_with(|| again(path, files));
                if let Some((object, origin)) = objects.remove(key) {
                    index.apply(object, origin);
                }
            }
            applied.insert(key.clone(), state);
        }
        // What is neither wanted nor deleted is a last good state.
        let broken_files: HashSet<&PathBuf> = self
            .files
            .iter()
            .filter(|(_, known)| known.broken.contains(&None))
            .map(|(path, _)| path)
            .collect();
        let broken: HashSet<&ObjectKey> = self
            .files
            .values()
            .flat_map(|known| known.broken.iter().flatten())
            .collect();
        last.retain(|key, (path, _)| broken.contains(key) || broken_files.contains(path));
        applied.extend(last);
        self.applied = applied;
    }
}

/// Parses a file once more, to take an object from it that another file had until now.
fn again(
    path: &Path,
    files: &BTreeMap<PathBuf, io::Result<String>>,
) -> HashMap<ObjectKey, (Object, Origin)> {
    match files.get(path) {
        Some(Ok(text)) => parse(path, text, 0).1,
        _ => HashMap::new(),
    }
}

fn parse(path: &Path, text: &str, hash: u64) -> (Known, HashMap<ObjectKey, (Object, Origin)>) {
    let is_json = path
        .extension()
        .is_some_and(|extension| extension == "json");
    let format = if is_json { Format::Json } else { Format::Yaml };
    let mut known = Known {
        hash,
        ..Known::default()
    };
    let mut objects = HashMap::new();
    for entry in read::read(&path.to_string_lossy(), text, format) {
        match entry {
            Entry::Good(object, origin) => {
                let key = object.key();
                known.objects.push((key.clone(), origin.clone()));
                objects.entry(key).or_insert((object, origin));
            }
            Entry::Broken(key, problems) => {
                known.broken.push(key);
                known.problems.extend(problems);
            }
            Entry::Foreign(problem) => known.problems.push(problem),
        }
    }
    (known, objects)
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish().max(1)
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem {
        severity: Severity::Error,
        code: code::UNREADABLE,
        object: None,
        origin: Origin {
            place: path.to_string_lossy().into(),
            line: None,
        },
        field: String::new(),
        text: format!("{error}; what was read from it before stays in force"),
        fix: "make it a readable UTF-8 file".to_owned(),
    }
}
