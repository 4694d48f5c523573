// SPDX-License-Identifier: Apache-2.0

//! The names of all metrics and labels, and Prometheus' text format.
//!
//! `istio_*` are Istio's standard metrics with its labels in ztunnel's order, so that dashboards
//! work; `mesh_agent_*` are our own. Invariant: every line is valid in text format 0.0.4, one
//! `HELP` and `TYPE` per name, samples of a name together.

use std::{cell::RefCell, thread::LocalKey};

use super::{
    exposition::{Exposition, Labels},
    record::{Flow, Reporter},
    series::{Compose, Connections, Family, Kind, Requests, Table},
};
use crate::model::{SpiffeId, Workload};

mod budgets;
mod capture;
mod policies;
mod state;

pub use self::state::{AgentState, BudgetState, KindState, PodState, SourceState};

const UNKNOWN: &str = "unknown";
/// Istio's name of a cluster that was given none.
const CLUSTER: &str = "Kubernetes";
/// Codes from 17 on are not defined; the application chooses them, so they share one label.
const GRPC_STATUS_MAX: u32 = 16;

thread_local! {
    static REQUESTS: RefCell<Table<Requests>> = RefCell::new(Table::new());
    static CONNECTIONS: RefCell<Table<Connections>> = RefCell::new(Table::new());
}

impl Compose for Requests {
    fn labels(flow: &Flow<'_>, kind: Kind<'_>) -> String {
        let mut labels = Labels::default();
        labels.flow(flow);
        labels.add(
            "request_protocol",
            if kind.is_grpc { "grpc" } else { "http" },
        );
        labels.add("response_code", kind.status);
        match kind.grpc {
            Some(code) if code <= GRPC_STATUS_MAX => labels.add("grpc_response_status", code),
            Some(_undefined) => labels.add("grpc_response_status", UNKNOWN),
            None => labels.add("grpc_response_status", ""),
        }
        labels.end(flow, kind);
        labels.into_string()
    }

    fn overflow(reporter: Reporter) -> String {
        overflow(reporter)
    }

    fn table() -> &'static LocalKey<RefCell<Table<Self>>> {
        &REQUESTS
    }
}

impl Compose for Connections {
    fn labels(flow: &Flow<'_>, kind: Kind<'_>) -> String {
        let mut labels = Labels::default();
        labels.flow(flow);
        labels.add("request_protocol", "tcp");
        labels.end(flow, kind);
        labels.into_string()
    }

    fn overflow(reporter: Reporter) -> String {
        overflow(reporter)
    }

    fn table() -> &'static LocalKey<RefCell<Table<Self>>> {
        &CONNECTIONS
    }
}

fn overflow(reporter: Reporter) -> String {
    let mut labels = Labels::default();
    labels.add("reporter", reporter.as_str());
    labels.add("source_workload", "overflow");
    labels.add("destination_workload", "overflow");
    labels.into_string()
}

impl Labels {
    /// The labels that requests and connections have in common.
    fn flow(&mut self, flow: &Flow<'_>) {
        self.add("reporter", flow.reporter.as_str());
        self.workload(
            "source",
            flow.source.map(AsRef::as_ref),
            flow.source_identity,
        );
        let service = flow.service;
        self.add(
            "destination_service",
            service.map_or(UNKNOWN, |it| &it.hostname),
        );
        self.add(
            "destination_service_namespace",
            service.map_or(UNKNOWN, |it| &it.name.namespace),
        );
        self.add(
            "destination_service_name",
            service.map_or(UNKNOWN, |it| &it.name.name),
        );
        self.workload(
            "destination",
            flow.destination.map(AsRef::as_ref),
            flow.destination_identity,
        );
    }

    fn workload(&mut self, side: &str, workload: Option<&Workload>, identity: Option<&SpiffeId>) {
        let label = |name: &str| {
            workload
                .and_then(|it| it.labels.get(name))
                .map_or(UNKNOWN, |value| value.as_str())
        };
        let field = |read: fn(&Workload) -> &str| workload.map_or(UNKNOWN, read);
        let cluster = workload.map_or(UNKNOWN, |_| CLUSTER);
        let values: [(&str, &str); 8] = [
            ("workload", field(|it| &it.owner)),
            ("canonical_service", field(|it| &it.canonical_service)),
            ("canonical_revision", field(|it| &it.canonical_revision)),
            ("workload_namespace", field(|it| &it.namespace)),
            ("principal", identity.map_or(UNKNOWN, SpiffeId::as_str)),
            ("app", label("app")),
            ("version", label("version")),
            ("cluster", cluster),
        ];
        for (name, value) in values {
            let value = if value.is_empty() { UNKNOWN } else { value };
            self.add(&format!("{side}_{name}"), value);
        }
    }

    fn end(&mut self, flow: &Flow<'_>, kind: Kind<'_>) {
        self.add("response_flags", kind.flags);
        let policy = if flow.mutual_tls {
            "mutual_tls"
        } else {
            "none"
        };
        self.add("connection_security_policy", policy);
    }
}

impl Exposition {
    /// Istio's metrics.
    pub(super) fn traffic(&mut self, requests: &Family<Requests>, tcp: &Family<Connections>) {
        self.requests(requests);
        self.connections(tcp);
        self.list(
            ("istio_build", "gauge", "Which program this is."),
            ["component", "tag"],
            [(
                ["mesh-agent", env!("CARGO_PKG_VERSION")].map(str::to_owned),
                1,
            )],
        );
    }

    fn requests(&mut self, requests: &Family<Requests>) {
        let all = requests.all();
        self.counters(
            ("istio_requests_total", "Requests that have ended."),
            &all,
            |it| Some(&it.total),
        );
        self.histograms(
            (
                "istio_request_duration_milliseconds",
                "Time from a request's head to the end of its answer.",
            ),
            &all,
            |it| &it.duration,
        );
        self.histograms(
            ("istio_request_bytes", "Size of request bodies."),
            &all,
            |it| &it.request_bytes,
        );
        self.histograms(
            ("istio_response_bytes", "Size of answers' bodies."),
            &all,
            |it| &it.response_bytes,
        );
    }

    fn connections(&mut self, tcp: &Family<Connections>) {
        let all = tcp.all();
        self.counters(
            (
                "istio_tcp_connections_opened_total",
                "Connections that were accepted.",
            ),
            &all,
            |it| it.has_opened().then_some(&it.opened),
        );
        self.counters(
            (
                "istio_tcp_connections_closed_total",
                "Connections that have ended.",
            ),
            &all,
            |it| it.has_closed().then_some(&it.closed),
        );
        self.counters(
            ("istio_tcp_sent_bytes_total", "Bytes that clients received."),
            &all,
            |it| it.has_closed().then_some(&it.sent_bytes),
        );
        self.counters(
            ("istio_tcp_received_bytes_total", "Bytes that clients sent."),
            &all,
            |it| it.has_closed().then_some(&it.received_bytes),
        );
    }

    /// What telemetry tells about itself.
    pub(super) fn own(&mut self, composed: u64, overflowed: u64, access_log_dropped: u64) {
        self.single(
            (
                "mesh_agent_metric_labels_composed_total",
                "counter",
                "Records whose series a thread did not know yet.",
            ),
            composed,
        );
        self.single(
            (
                "mesh_agent_metric_series_overflow_total",
                "counter",
                "Records counted without labels because there were too many label sets.",
            ),
            overflowed,
        );
        self.single(
            (
                "mesh_agent_access_log_dropped_total",
                "counter",
                "Access log lines dropped because they could not be written in time.",
            ),
            access_log_dropped,
        );
    }

    /// What was read from the rest of the agent.
    pub fn agent(&mut self, state: &AgentState) {
        self.agent_config(state);
        self.agent_source(&state.source);
        self.agent_identity(state);
        self.agent_traffic(state);
        self.agent_budgets(state);
        self.agent_flows(state);
        self.list(
            ("mesh_agent_tasks", "gauge", "Live tasks of the agent."),
            ["task"],
            state
                .tasks
                .iter()
                .map(|(name, live)| ([(*name).to_owned()], live)),
        );
        self.single(
            (
                "mesh_agent_task_panics_total",
                "counter",
                "Tasks of the agent that panicked.",
            ),
            state.task_panics,
        );
        self.single(
            (
                "mesh_agent_log_dropped_total",
                "counter",
                "Lines of the agent's log dropped because they could not be written in time.",
            ),
            state.log_dropped,
        );
    }

    fn agent_config(&mut self, state: &AgentState) {
        self.single(
            (
                "mesh_agent_config_generation",
                "gauge",
                "Newest configuration that is known.",
            ),
            state.generation,
        );
        self.single(
            (
                "mesh_agent_config_applied_generation",
                "gauge",
                "Newest configuration that the kernel and all data threads work with.",
            ),
            state.applied_generation,
        );
        if let Some(seconds) = state.config_age_seconds {
            self.single(
                (
                    "mesh_agent_config_age_seconds",
                    "gauge",
                    "Time since configuration was loaded.",
                ),
                seconds,
            );
        }
        self.list(
            (
                "mesh_agent_config_problems",
                "gauge",
                "What is wrong with the configuration.",
            ),
            ["severity"],
            state
                .problems
                .iter()
                .map(|(severity, count)| ([severity.clone()], count)),
        );
    }

    fn agent_source(&mut self, source: &SourceState) {
        self.list(
            (
                "mesh_agent_config_synced",
                "gauge",
                "Whether every change of the source of configuration arrives.",
            ),
            ["source"],
            [([source.kind.to_owned()], u8::from(source.synced))],
        );
        if let Some(seconds) = source.from_disk_age_seconds {
            self.single(
                (
                    "mesh_agent_config_from_disk_age_seconds",
                    "gauge",
                    "Age of the configuration while it is only that from disk.",
                ),
                seconds,
            );
        }
        if let Some(seconds) = source.last_event_age_seconds {
            self.single(
                (
                    "mesh_agent_config_last_event_age_seconds",
                    "gauge",
                    "Time since the source of configuration was last heard of.",
                ),
                seconds,
            );
        }
        self.single(
            (
                "mesh_agent_config_disk_errors_total",
                "counter",
                "Times that the last good configuration could not be written to disk.",
            ),
            source.disk_errors,
        );
        self.agent_kinds(&source.kinds);
    }

    fn agent_kinds(&mut self, kinds: &[KindState]) {
        let of_kinds = |value: fn(&KindState) -> u64| {
            let kinds = kinds.iter();
            kinds.map(move |kind| ([kind.kind.to_owned()], value(kind)))
        };
        self.list(
            (
                "mesh_agent_config_objects",
                "gauge",
                "Objects in force that were read from the Kubernetes API.",
            ),
            ["kind"],
            of_kinds(|kind| u64::try_from(kind.objects).unwrap_or(u64::MAX)),
        );
        self.list(
            (
                "mesh_agent_config_watching",
                "gauge",
                "Whether changes of a kind arrive from the Kubernetes API.",
            ),
            ["kind"],
            of_kinds(|kind| u64::from(kind.watching)),
        );
        self.list(
            (
                "mesh_agent_config_watch_restarts_total",
                "counter",
                "Watches of the Kubernetes API that ended and began again.",
            ),
            ["kind"],
            of_kinds(|kind| kind.restarts),
        );
        self.list(
            (
                "mesh_agent_config_watch_errors_total",
                "counter",
                "Requests to the Kubernetes API that went wrong.",
            ),
            ["kind"],
            of_kinds(|kind| kind.errors),
        );
    }

    fn agent_identity(&mut self, state: &AgentState) {
        self.list(
            (
                "mesh_agent_certificate_expiry_timestamp_seconds",
                "gauge",
                "When the live certificate of an identity expires.",
            ),
            ["identity"],
            state
                .certificates
                .iter()
                .map(|(identity, expiry)| ([identity.clone()], expiry)),
        );
    }

    fn agent_traffic(&mut self, state: &AgentState) {
        self.list(
            (
                "mesh_agent_connections",
                "gauge",
                "Live connections of a pod's captured traffic.",
            ),
            ["namespace", "pod"],
            state
                .pods
                .iter()
                .filter_map(|pod| Some((pod.labels(), pod.connections?))),
        );
        self.list(
            (
                "mesh_agent_captured",
                "gauge",
                "Whether the kernel captures a pod's traffic.",
            ),
            ["namespace", "pod"],
            state
                .pods
                .iter()
                .map(|pod| (pod.labels(), u8::from(pod.captured))),
        );
        let by_pod = state.pods.iter().flat_map(|pod| {
            pod.kernel.iter().map(|(name, count)| {
                let [namespace, name_of_pod] = pod.labels();
                ([name.clone(), namespace, name_of_pod], *count)
            })
        });
        let by_node = state
            .kernel
            .iter()
            .map(|(name, count)| ([name.clone(), String::new(), String::new()], *count));
        self.list(
            (
                "mesh_agent_kernel_events_total",
                "counter",
                "Verdicts and failures of the kernel programs.",
            ),
            ["event", "namespace", "pod"],
            by_node.chain(by_pod),
        );
        self.missed(&state.missed);
    }

    fn agent_flows(&mut self, state: &AgentState) {
        self.list(
            (
                "mesh_agent_flow_round_trip_seconds",
                "gauge",
                "Smoothed round-trip time of captured connections, by quantile, as the kernel told at their end.",
            ),
            ["quantile"],
            state.round_trips.iter().map(|(quantile, seconds)| ([quantile.clone()], seconds)),
        );
        self.single(
            (
                "mesh_agent_flow_recent_retransmits",
                "gauge",
                "Segments sent again, of the captured connections that closed last.",
            ),
            state.recent_retransmits,
        );
    }
}

#[cfg(test)]
mod tests;
