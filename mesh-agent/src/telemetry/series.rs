// SPDX-License-Identifier: Apache-2.0

//! Series of one set of labels, and how a record finds its own without composing labels.
//!
//! A record's key is a handful of pointers and small numbers. Each thread keeps a table from keys
//! to series, so that the usual record costs one hash and a few atomic additions; labels are
//! composed only when a thread meets a key for the first time.
//!
//! Knows nothing of names. Invariants: a pointer in a key stays valid while the key is in a table,
//! because the table holds the value too; the number of series is bounded.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::LocalKey,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;

use super::record::{Flow, Reporter};
use crate::model::{SpiffeId, Workload, WorkloadUid};

/// More than this many label sets share one series, labelled as overflow.
const SERIES_MAX: usize = 10_000;

/// A thread's table starts anew beyond this; it also lets go of workloads that are gone.
const TABLE_MAX: usize = 4_096;

/// Upper bounds in thousandths: Envoy's default buckets, for milliseconds and for bytes.
pub(super) const BOUNDS: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// Counts values by size. Values are thousandths of the unit.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// The last one is for what is above all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, thousandths: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < thousandths);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(thousandths, Ordering::Relaxed);
    }

    /// How many values there were in each bucket, not cumulated.
    pub(super) fn counts(&self) -> [u64; BOUNDS.len() + 1] {
        std::array::from_fn(|index| self.buckets[index].load(Ordering::Relaxed))
    }

    /// The sum of all values, in thousandths.
    pub(super) fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }
}

/// What is counted about requests with the same labels.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) total: AtomicU64,
    pub(super) duration: Histogram,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
}

/// What is counted about connections with the same labels.
#[derive(Debug, Default)]
pub(super) struct Connections {
    pub(super) opened: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    pub(super) received_bytes: AtomicU64,
}

impl Connections {
    /// Whether any of these connections was opened; those that failed have labels of their own.
    pub(super) fn has_opened(&self) -> bool {
        self.opened.load(Ordering::Relaxed) > 0
    }

    /// Whether any of these connections has ended.
    pub(super) fn has_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed) > 0
    }
}

/// Says whether anything was counted since the last look.
pub(super) trait Activity {
    /// Grows whenever something is counted.
    fn activity(&self) -> u64;
}

impl Activity for Requests {
    fn activity(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

impl Activity for Connections {
    fn activity(&self) -> u64 {
        self.opened.load(Ordering::Relaxed) + self.closed.load(Ordering::Relaxed)
    }
}

/// One set of labels and its values.
#[derive(Debug)]
pub(super) struct Series<V> {
    /// `name="value",...`, escaped.
    pub(super) labels: String,
    pub(super) values: V,
    workloads: [Option<WorkloadUid>; 2],
    /// No longer shown: what is counted now belongs to a new series.
    forgotten: AtomicBool,
    /// The activity at the last look, and when it last changed.
    seen: Mutex<(u64, Option<Instant>)>,
}

/// All series of one kind.
#[derive(Debug)]
pub(super) struct Family<V> {
    series: Mutex<BTreeMap<String, Arc<Series<V>>>>,
    /// How often labels were composed: far below the number of records.
    composed: AtomicU64,
    overflowed: AtomicU64,
}

impl<V: Default + Activity> Family<V> {
    pub(super) fn new() -> Self {
        Self {
            series: Mutex::default(),
            composed: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
        }
    }

    /// All series, sorted by labels.
    pub(super) fn all(&self) -> Arc<[Arc<Series<V>>]> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.values().cloned().collect()
    }

    /// How often labels were composed.
    pub(super) fn composed(&self) -> u64 {
        self.composed.load(Ordering::Relaxed)
    }

    /// How often a record found all series taken.
    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// The series of `labels`; that of `overflow` if there are too many.
    fn find(
        &self,
        flow: &Flow<'_>,
        labels: String,
        overflow: impl Fn() -> String,
    ) -> Arc<Series<V>> {
        self.composed.fetch_add(1, Ordering::Relaxed);
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let full = series.len() >= SERIES_MAX;
        let mut workloads = [flow.source, flow.destination]
            .map(|workload| workload.map(|workload| workload.uid.clone()));
        let labels = if full && !series.contains_key(&labels) {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            workloads = [None, None];
            overflow()
        } else {
            labels
        };
        let found = series.entry(labels.clone()).or_insert_with(|| {
            Arc::new(Series {
                labels,
                values: V::default(),
                workloads,
                forgotten: AtomicBool::new(false),
                seen: Mutex::new((0, None)),
            })
        });
        Arc::clone(found)
    }

    /// Drops the series of workloads that are `gone` and had no activity for `after`.
    pub(super) fn forget(
        &self,
        gone: impl Fn(&WorkloadUid) -> bool,
        after: Duration,
        now: Instant,
    ) {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.retain(|_, series| {
            if !series.workloads.iter().flatten().any(&gone) {
                return true;
            }
            let mut seen = series.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let activity = series.values.activity();
            let since = match *seen {
                (last, Some(since)) if last == activity => since,
                _ => now,
            };
            *seen = (activity, Some(since));
            let keep = now.saturating_duration_since(since) < after;
            series.forgotten.store(!keep, Ordering::Relaxed);
            keep
        });
    }
}

/// Whose identity a label shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Principal {
    Unknown,
    /// The one that the workload has by configuration.
    Workload,
    /// Another one, as a certificate said it.
    Other(SpiffeId),
}

impl Principal {
    fn new(identity: Option<&SpiffeId>, workload: Option<&Arc<Workload>>) -> Self {
        match (identity, workload) {
            (None, _) => Self::Unknown,
            (Some(identity), Some(workload)) if *identity == workload.identity => Self::Workload,
            (Some(identity), _) => Self::Other(identity.clone()),
        }
    }
}

/// The part of a record that its labels depend on, besides the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind<'a> {
    /// Response flags.
    pub(super) flags: &'a str,
    /// HTTP status; 0 for connections.
    pub(super) status: u16,
    /// gRPC status, if there is one.
    pub(super) grpc: Option<u32>,
    /// Whether it is gRPC.
    pub(super) is_grpc: bool,
}

/// Longest flags that are told apart: five of Envoy's with commas.
const FLAGS_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    family: usize,
    reporter: Reporter,
    mutual_tls: bool,
    source: usize,
    destination: usize,
    service: usize,
    principals: [Principal; 2],
    status: u16,
    grpc: Option<u32>,
    is_grpc: bool,
    flags: [u8; FLAGS_MAX],
}

impl Key {
    fn new(family: usize, flow: &Flow<'_>, kind: Kind<'_>) -> Self {
        let pointer =
            |workload: Option<&Arc<Workload>>| workload.map_or(0, |arc| Arc::as_ptr(arc).addr());
        let mut flags = [0; FLAGS_MAX];
        for (to, from) in flags.iter_mut().zip(kind.flags.bytes()) {
            *to = from;
        }
        Self {
            family,
            reporter: flow.reporter,
            mutual_tls: flow.mutual_tls,
            source: pointer(flow.source),
            destination: pointer(flow.destination),
            service: flow
                .service
                .map_or(0, |service| Arc::as_ptr(&service.hostname).addr()),
            principals: [
                Principal::new(flow.source_identity, flow.source),
                Principal::new(flow.destination_identity, flow.destination),
            ],
            status: kind.status,
            grpc: kind.grpc,
            is_grpc: kind.is_grpc,
            flags,
        }
    }
}

/// A series, and what the pointers in its key point to.
#[derive(Debug)]
struct Entry<V> {
    series: Arc<Series<V>>,
    /// Keeps the address of the family from being used again.
    _family: Arc<Family<V>>,
    _workloads: [Option<Arc<Workload>>; 2],
    _hostname: Option<Arc<str>>,
}

/// A thread's table.
#[derive(Debug)]
pub(super) struct Table<V>(HashMap<Key, Entry<V>, RandomState>);

impl<V> Table<V> {
    pub(super) fn new() -> Self {
        Self(HashMap::default())
    }
}

/// How a kind of series composes its labels.
pub(super) trait Compose: Sized + 'static {
    /// The labels of a record.
    fn labels(flow: &Flow<'_>, kind: Kind<'_>) -> String;
    /// The labels of everything that has no series of its own.
    fn overflow(reporter: Reporter) -> String;
    /// The calling thread's table.
    fn table() -> &'static LocalKey<RefCell<Table<Self>>>;
}

/// Counts something in the series of `flow` and `kind`.
pub(super) fn count<V: Compose + Default + Activity>(
    family: &Arc<Family<V>>,
    flow: &Flow<'_>,
    kind: Kind<'_>,
    add: impl FnOnce(&V),
) {
    V::table().with_borrow_mut(|Table(table)| {
        let key = Key::new(Arc::as_ptr(family).addr(), flow, kind);
        if let Some(entry) = table.get(&key)
            && !entry.series.forgotten.load(Ordering::Relaxed)
        {
            add(&entry.series.values);
            return;
        }
        let series = family.find(flow, V::labels(flow, kind), || V::overflow(flow.reporter));
        add(&series.values);
        if table.len() >= TABLE_MAX {
            table.clear();
        }
        table.insert(
            key,
            Entry {
                series,
                _family: Arc::clone(family),
                _workloads: [flow.source.cloned(), flow.destination.cloned()],
                _hostname: flow.service.map(|service| Arc::clone(&service.hostname)),
            },
        );
    });
}
