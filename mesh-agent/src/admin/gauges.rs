// SPDX-License-Identifier: Apache-2.0

//! Reads from the views what the agent's own metrics show.

use std::{collections::BTreeMap, time::SystemTime};

use super::{pods, readiness, views::Views};
use crate::{
    datapath::FlowObservation,
    proxy::BudgetView,
    tasks::Tasks,
    telemetry::metrics::{AgentState, BudgetState, KindState, PodState, SourceState},
};

/// What is true now.
pub(super) fn read(views: &Views, tasks: &Tasks) -> AgentState {
    let snapshot = views.snapshot.borrow().clone();
    let report = views.report.borrow().clone();
    let (observation, proxy) = ((views.datapath)(), (views.proxy)());
    let mut problems: BTreeMap<&str, usize> = BTreeMap::new();
    for problem in &report.problems {
        *problems.entry(problem.severity.as_str()).or_default() += 1;
    }
    let pods = pods::enrolled(&snapshot).into_iter().map(|pod| {
        let observed = observation.pods.iter().find(|it| it.uid == pod.uid);
        PodState {
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
            captured: readiness::uncaptured(observed).is_none(),
            connections: Some(proxy.pods.get(&pod.uid).copied().unwrap_or(0)),
            budgets: budgets(proxy.budgets.get(&pod.uid)),
            kernel: observed.map(|it| owned(&it.counters)).unwrap_or_default(),
        }
    });
    AgentState {
        generation: snapshot.generation,
        applied_generation: proxy.applied_generation.min(observation.generation),
        config_age_seconds: SystemTime::now()
            .duration_since(report.loaded_at)
            .ok()
            .map(|age| age.as_secs_f64()),
        source: source(views),
        problems: problems
            .into_iter()
            .map(|(severity, count)| (severity.to_lowercase(), count))
            .collect(),
        certificates: views
            .identities
            .list()
            .into_iter()
            .filter_map(|certificate| {
                let since_1970 = certificate
                    .not_after?
                    .duration_since(SystemTime::UNIX_EPOCH);
                Some((certificate.identity.to_string(), since_1970.ok()?.as_secs()))
            })
            .collect(),
        pods: pods.collect(),
        kernel: owned(&observation.counters),
        missed: observation
            .missed
            .iter()
            .map(|((direction, reason), count)| {
                ([direction.name(), reason].map(str::to_owned), *count)
            })
            .collect(),
        round_trips: round_trips(&observation.flows),
        recent_retransmits: observation
            .flows
            .iter()
            .map(|it| u64::from(it.retransmits))
            .sum(),
        tasks: tasks.live(),
        task_panics: tasks.panics(),
        log_dropped: views.log.dropped(),
    }
}

fn budgets(views: Option<&Vec<BudgetView>>) -> Vec<BudgetState> {
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let state = |view: &BudgetView| BudgetState {
        budget: view.budget.as_str(),
        side: view.side,
        used: count(view.used),
        limit: count(view.limit),
        held_back: view.held_back,
        refused: view.refused,
    };
    views.into_iter().flatten().map(state).collect()
}

fn source(views: &Views) -> SourceState {
    let (source, now) = (views.source.borrow().clone(), SystemTime::now());
    let kinds = source.kinds.iter().map(|kind| KindState {
        kind: kind.kind,
        watching: kind.watching,
        objects: kind.objects,
        restarts: kind.restarts,
        errors: kind.errors,
    });
    SourceState {
        kind: source.kind.as_str(),
        synced: source.synced,
        from_disk_age_seconds: source.from_disk_age(now).map(|age| age.as_secs_f64()),
        last_event_age_seconds: source
            .last_event
            .map(|at| now.duration_since(at).unwrap_or_default().as_secs_f64()),
        disk_errors: source.disk_errors,
        kinds: kinds.collect(),
    }
}

fn owned(counters: &BTreeMap<&'static str, u64>) -> Vec<(String, u64)> {
    let counters = counters.iter();
    counters
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

/// Median and 99th percentile of the flows that closed last.
fn round_trips(flows: &[FlowObservation]) -> Vec<(String, f64)> {
    let mut micros: Vec<u32> = flows.iter().map(|flow| flow.rtt_us).collect();
    micros.sort_unstable();
    let at =
        |percent: usize| micros.get((micros.len() * percent / 100).min(micros.len().max(1) - 1));
    [("0.5", 50), ("0.99", 99)]
        .into_iter()
        .filter_map(|(name, percent)| {
            Some((name.to_owned(), f64::from(*at(percent)?) / 1_000_000.0))
        })
        .collect()
}
