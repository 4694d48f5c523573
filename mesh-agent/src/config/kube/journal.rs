// SPDX-License-Identifier: Apache-2.0

//! The last good configuration on disk.
//!
//! A file of records that is only appended to: an object, pruned, or that it is gone. On start
//! everything is read back; whoever reads it must expect it to be of another day. A thread of its
//! own writes, so that a slow disk holds up nobody; records are on disk within a second or so.
//! When most records are overwritten by later ones, the file is written anew beside and renamed; so
//! it is at each start, which leaves an agent that is followed with a file of its own.
//!
//! Invariants: a record that is torn or damaged ends what is read, it never counts; a disk that
//! does not take records stops nothing: it is logged once, counted and tried again.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

use super::super::object::ObjectKey;

mod record;

use record::{Contents, Record};

/// How long records may be in the kernel's hands only.
const SYNC: Duration = Duration::from_secs(1);

/// How long a disk that failed is left alone.
const RETRY: Duration = Duration::from_secs(10);

/// What waits for a disk that failed; beyond that the file stays as it is until the next start.
const MOST_WAITING: usize = 8 << 20;

/// An agent that writes in our place for so long is our successor.
const FOLLOWED: Duration = Duration::from_secs(60);

/// A file with fewer records is not written anew.
const FEW_RECORDS: usize = 1000;

const FILE: &str = "config.journal";

/// Writes down what is good.
#[derive(Debug)]
pub(super) struct Journal {
    sender: Sender<Command>,
    errors: Arc<AtomicU64>,
}

/// What was written down before.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) objects: Vec<(ObjectKey, Value)>,
    /// When it was known to be true.
    pub(super) as_of: Option<SystemTime>,
}

#[derive(Debug)]
enum Command {
    Write(Vec<u8>),
    Alive,
}

impl Journal {
    /// Reads what is in `dir/node` and goes on writing there. Returns the work of writing, for a
    /// thread where it may block; it ends when the journal is dropped.
    pub(super) fn open(
        dir: &Path,
        node: &str,
    ) -> io::Result<(Self, Replay, impl FnOnce() + Send + 'static)> {
        let dir = dir.join(node);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
        let path = dir.join(FILE);
        let contents = read(&path, node)?;
        let replay = Replay {
            as_of: contents.as_ref().and_then(|_| modified(&path)),
            objects: contents.as_ref().map(Contents::objects).unwrap_or_default(),
        };
        let writer = match contents {
            Some(contents) => Writer::resume(path, node, &contents)?,
            None => Writer::begin(path, node)?,
        };
        let (sender, receiver) = mpsc::channel();
        let errors = Arc::clone(&writer.errors);
        let journal = Self { sender, errors };
        Ok((journal, replay, move || writer.run(&receiver)))
    }

    /// The new state of an object.
    pub(super) fn put(&self, key: &ObjectKey, value: &Value) {
        self.write(&Record::put(key, value));
    }

    /// The object is gone.
    pub(super) fn delete(&self, key: &ObjectKey) {
        self.write(&Record::delete(key));
    }

    /// What is written is true now.
    pub(super) fn alive(&self) {
        // The thread ends after this only.
        drop(self.sender.send(Command::Alive));
    }

    /// How often the disk did not do what it should.
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    fn write(&self, record: &Record) {
        drop(self.sender.send(Command::Write(record.to_bytes())));
    }
}

/// Whether somebody writes in `dir`.
pub(super) fn is_in_use(dir: &Path) -> bool {
    File::open(dir.join(FILE))
        .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// What the file holds; `None` if there is none of this node and version.
fn read(path: &Path, node: &str) -> io::Result<Option<Contents>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match Contents::parse(bytes, node) {
        Ok(contents) => Ok(Some(contents)),
        Err(reason) => {
            tracing::warn!(
                path = %path.display(),
                reason,
                "the last good configuration on disk is not used"
            );
            Ok(None)
        }
    }
}

/// Appends to the file.
struct Writer {
    path: PathBuf,
    node: String,
    file: File,
    /// Up to where the file is good.
    length: u64,
    records: usize,
    /// The file is written anew once it has so many.
    compact_at: usize,
    /// What could not be written yet.
    waiting: Vec<u8>,
    waiting_records: usize,
    failed_at: Option<Instant>,
    /// Records are missing: nothing more is written.
    given_up: bool,
    /// Since when another agent writes in our place.
    followed: Option<Instant>,
    dirty: bool,
    errors: Arc<AtomicU64>,
}

impl Writer {
    fn begin(path: PathBuf, node: &str) -> io::Result<Self> {
        let bytes = record::header(node);
        let file = replace(&path, |file| file.write_all(&bytes))?;
        Ok(Self::new(path, node, file, bytes.len(), 0))
    }

    fn resume(path: PathBuf, node: &str, contents: &Contents) -> io::Result<Self> {
        // Anew: an agent that we follow writes to the end of the file that it has open, and a torn
        // end would take what follows along. The time stays, as nothing is newer.
        let as_of = modified(&path);
        let (file, length) = rewrite(&path, node, contents)?;
        if let Some(as_of) = as_of {
            file.set_modified(as_of)?;
        }
        Ok(Self::new(path, node, file, length, contents.live()))
    }

    fn new(path: PathBuf, node: &str, file: File, length: usize, records: usize) -> Self {
        Self {
            path,
            node: node.to_owned(),
            file,
            length: length as u64,
            records,
            compact_at: compact_at(records),
            waiting: Vec::new(),
            waiting_records: 0,
            failed_at: None,
            given_up: false,
            followed: None,
            dirty: false,
            errors: Arc::default(),
        }
    }

    fn run(mut self, receiver: &Receiver<Command>) {
        loop {
            match receiver.recv_timeout(SYNC) {
                Ok(command) => {
                    self.take(command);
                    for command in receiver.try_iter() {
                        self.take(command);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.flush();
            if self.dirty {
                // Records that come in the meantime are synced with the next ones.
                std::thread::sleep(SYNC / 10);
                for command in receiver.try_iter() {
                    self.take(command);
                }
                self.flush();
                self.sync();
            }
        }
        self.failed_at = None;
        self.flush();
        self.sync();
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Write(_) if self.given_up => {}
            Command::Write(bytes) if self.waiting.len() + bytes.len() > MOST_WAITING => {
                // Too much for what is waiting: let it go first.
                self.flush();
                if self.waiting.is_empty() {
                    self.waiting = bytes;
                    self.waiting_records = 1;
                } else {
                    self.given_up = true;
                    self.waiting = Vec::new();
                    tracing::error!(
                        path = %self.path.display(),
                        "the configuration on disk stays as it is until the next start: too much could not be written"
                    );
                }
            }
            Command::Write(bytes) => {
                self.waiting.extend_from_slice(&bytes);
                self.waiting_records += 1;
            }
            Command::Alive => {
                // Without it the configuration only seems older than it is.
                drop(self.file.set_modified(SystemTime::now()));
            }
        }
    }

    fn flush(&mut self) {
        let too_early = self.failed_at.is_some_and(|at| at.elapsed() < RETRY);
        if self.waiting.is_empty() || too_early {
            return;
        }
        if !self.is_ours() && !self.take_back() {
            return;
        }
        if let Err(error) = self.append() {
            self.failed("write", &error);
            return;
        }
        if self.failed_at.take().is_some() {
            tracing::info!(path = %self.path.display(), "the configuration is written to disk again");
        }
        if self.records >= self.compact_at
            && let Err(error) = self.compact()
        {
            self.compact_at = self.records * 2;
            self.failed("rewrite", &error);
        }
    }

    fn append(&mut self) -> io::Result<()> {
        if self.failed_at.is_some() {
            // A part may be there from last time: it must not be in the way of what follows.
            self.file.set_len(self.length)?;
        }
        self.file.write_all(&self.waiting)?;
        self.length += self.waiting.len() as u64;
        self.records += self.waiting_records;
        self.waiting.clear();
        self.waiting.shrink_to(1 << 16);
        self.waiting_records = 0;
        self.dirty = true;
        Ok(())
    }

    fn sync(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        if let Err(error) = self.file.sync_data() {
            self.failed("sync", &error);
        }
    }

    /// Writes the file anew, with the last record of each object only.
    fn compact(&mut self) -> io::Result<()> {
        let bytes = fs::read(&self.path)?;
        let contents = Contents::parse(bytes, &self.node).map_err(io::Error::other)?;
        let (file, length) = rewrite(&self.path, &self.node, &contents)?;
        self.file = file;
        self.length = length as u64;
        self.records = contents.live();
        self.compact_at = compact_at(self.records);
        Ok(())
    }

    /// Whether what we write is what the next start reads: a successor begins a file of its own.
    fn is_ours(&self) -> bool {
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(open), Ok(named)) => open.ino() == named.ino() && open.dev() == named.dev(),
            (Err(_), _) | (_, Err(_)) => false,
        }
    }

    /// Another agent has begun a file. If it has gone again, it is ours to go on with; if it stays,
    /// we stop writing.
    fn take_back(&mut self) -> bool {
        let named = File::open(&self.path);
        if named.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock))) {
            if self.followed.get_or_insert_with(Instant::now).elapsed() > FOLLOWED {
                tracing::info!(path = %self.path.display(), "our successor keeps the configuration");
                self.given_up = true;
                self.waiting = Vec::new();
            }
            return false;
        }
        self.followed = None;
        let again = read(&self.path, &self.node).and_then(|contents| match contents {
            Some(contents) => Self::resume(self.path.clone(), &self.node, &contents),
            None => Self::begin(self.path.clone(), &self.node),
        });
        match again {
            Ok(again) => {
                self.file = again.file;
                (self.length, self.records) = (again.length, again.records);
                self.compact_at = again.compact_at;
                true
            }
            Err(error) => {
                self.failed("go on with", &error);
                false
            }
        }
    }

    fn failed(&mut self, what: &str, error: &io::Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        if self.failed_at.is_none() {
            tracing::error!(
                path = %self.path.display(),
                error = %error,
                "cannot {what} the last good configuration: after a restart without the API server this node has an older one"
            );
        }
        self.failed_at = Some(Instant::now());
    }
}

/// The last record of each object, in a new file in the place of `path`; that file and its length.
fn rewrite(path: &Path, node: &str, contents: &Contents) -> io::Result<(File, usize)> {
    let header = record::header(node);
    let mut length = header.len();
    let file = replace(path, |file| {
        let mut file = io::BufWriter::new(file);
        file.write_all(&header)?;
        for record in contents.latest() {
            file.write_all(record)?;
            length += record.len();
        }
        file.flush()
    })?;
    Ok((file, length))
}

fn compact_at(live: usize) -> usize {
    (live * 2).max(FEW_RECORDS)
}

/// Puts a new file in the place of `path` once it is complete; returns it for appending.
fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    write(&mut file)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    let file = OpenOptions::new().append(true).open(path)?;
    // Tells others that somebody writes here. Without it they take the file over, which is no harm.
    drop(file.try_lock());
    Ok(file)
}

#[cfg(test)]
mod tests;
