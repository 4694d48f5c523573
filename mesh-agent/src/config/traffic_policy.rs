// SPDX-License-Identifier: Apache-2.0

//! A `trafficPolicy`, checked and compiled, and which parts of which policy count at a port.
//!
//! Knows nothing of Services. A part that is not written is inherited by a subset, but not by the
//! settings of a port. Reference: Istio `pilot/pkg/networking/core/cluster_traffic_policy.go`,
//! `pilot/pkg/networking/util` (`MergeSubsetTrafficPolicy`, `GetPortLevelTrafficPolicy`).

use std::{sync::Arc, time::Duration};

use super::{
    balancer, budget, client_tls,
    facts::Findings,
    gaps,
    istio::{
        self, ConnectionPool, H2Upgrade, HttpSettings, LoadBalancer, OutlierDetection,
        ProxyProtocolVersion, RetryBudgetSettings, TcpKeepalive, TcpSettings, TrafficPolicy,
    },
    locality,
    problem::{Severity, code},
    resolve, warmup,
};
use crate::model::{
    Balancer, ClientTls, Limits, Outlier, Spread, UpstreamPolicy,
    proxy_protocol::ProxyProtocol,
    upstream::{Keepalive, RetryBudget, Spoken, Upkeep},
    warmup::Warmup,
};

/// A policy, and those of single ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PolicyFacts {
    parts: Parts,
    ports: Vec<(u16, Parts)>,
}

/// What a policy says; what it does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parts {
    load: Option<LoadFacts>,
    pool: Option<Pool>,
    outlier: Option<Outlier>,
    budget: Option<RetryBudget>,
    /// `Some(None)` is none by will.
    tls: Option<Option<Arc<ClientTls>>>,
    /// Ports have none of their own.
    proxy_protocol: Option<ProxyProtocol>,
}

/// What `connectionPool` says.
type Pool = (Limits, Option<Arc<Upkeep>>);

/// What `loadBalancer` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LoadFacts {
    balancer: Option<Balancer>,
    spread: Option<Spread>,
    warmup: Option<Warmup>,
}

impl PolicyFacts {
    /// What counts at `port`.
    fn at(&self, port: u16) -> (bool, &Parts) {
        let own = self.ports.iter().find(|(number, _)| *number == port);
        own.map_or((false, &self.parts), |(_, parts)| (true, parts))
    }
}

/// What counts at `port` for a subset with `own` policy in a rule with `general` policy; `None`
/// if that is nothing but the defaults.
pub(super) fn effective(
    general: Option<&PolicyFacts>,
    own: Option<&PolicyFacts>,
    port: u16,
) -> Option<UpstreamPolicy> {
    let none = Parts::default();
    let whole = [own, general].into_iter().flatten();
    let mut whole = whole.filter_map(|policy| policy.parts.proxy_protocol);
    let proxy_protocol = whole.next();
    let general = general.map_or(&none, |policy| policy.at(port).1);
    let (alone, own) = own.map_or((false, &none), |policy| policy.at(port));
    let general = if alone { &none } else { general };
    let load = own.load.clone().or_else(|| general.load.clone());
    let load = load.unwrap_or_default();
    let outlier = own.outlier.or(general.outlier);
    let pool = own.pool.as_ref().or(general.pool.as_ref());
    let (limits, upkeep) = pool.cloned().unwrap_or_default();
    let policy = UpstreamPolicy {
        balancer: load.balancer.unwrap_or_default(),
        limits: Limits {
            retry_budget: own.budget.or(general.budget),
            ..limits
        },
        outlier,
        warmup: load.warmup,
        // Without outlier detection an endpoint is never found unfit, and nothing fails over.
        spread: load.spread.map(|spread| match spread {
            Spread::Nearest(_) if outlier.is_none() => Spread::Anywhere,
            other => other,
        }),
        tls: own.tls.as_ref().or(general.tls.as_ref()).cloned().flatten(),
        proxy_protocol,
        upkeep,
    };
    (policy != UpstreamPolicy::default()).then_some(policy)
}

/// Compiles a policy.
pub(super) fn read(policy: &TrafficPolicy, path: &str, findings: &mut Findings) -> PolicyFacts {
    findings.gaps(path, &[(gaps::TUNNEL, policy.tunnel)]);
    let mut ports = Vec::new();
    for (index, of_port) in policy.port_level_settings.iter().enumerate() {
        let path = format!("{path}.portLevelSettings[{index}]");
        let Some(port) = &of_port.port else {
            findings.reject(format!("{path}.port"), "must be set", "name a port");
            continue;
        };
        let mut reader = Reader { path, findings };
        let parts = Parts {
            load: reader.load(of_port.load_balancer.as_ref()),
            pool: reader.pool(of_port.connection_pool.as_ref()),
            outlier: reader.outlier(of_port.outlier_detection.as_ref()),
            budget: None,
            tls: reader.tls(of_port.tls.as_ref()),
            proxy_protocol: None,
        };
        ports.push((port.number, parts));
    }
    let mut reader = Reader {
        path: path.to_owned(),
        findings,
    };
    let parts = Parts {
        load: reader.load(policy.load_balancer.as_ref()),
        pool: reader.pool(policy.connection_pool.as_ref()),
        outlier: reader.outlier(policy.outlier_detection.as_ref()),
        budget: reader.budget(policy.retry_budget.as_ref()),
        tls: reader.tls(policy.tls.as_ref()),
        proxy_protocol: policy.proxy_protocol.as_ref().map(|it| match it.version {
            ProxyProtocolVersion::V1 => ProxyProtocol::V1,
            ProxyProtocolVersion::V2 => ProxyProtocol::V2,
        }),
    };
    PolicyFacts { parts, ports }
}

/// What the kernel takes.
const MOST_PROBES: u32 = 127;
const MOST_SECONDS: Duration = Duration::from_secs(32_767);

/// Whether a time is written that is not 0, which is as if none were: for ever.
fn is_some_time(text: &&String) -> bool {
    resolve::duration(text) != Some(Duration::ZERO)
}

struct Reader<'a> {
    path: String,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    fn load(&mut self, written: Option<&LoadBalancer>) -> Option<LoadFacts> {
        let written = written?;
        let path = format!("{}.loadBalancer", self.path);
        let setting = written.locality_lb_setting.as_ref();
        let spread = setting.and_then(|setting| {
            let path = format!("{path}.localityLbSetting");
            locality::read(setting, &path, self.findings)
        });
        let balancer = balancer::read(written, &path, self.findings);
        Some(LoadFacts {
            warmup: warmup::read(written, balancer.as_ref(), &path, self.findings),
            balancer,
            spread,
        })
    }

    fn budget(&mut self, written: Option<&RetryBudgetSettings>) -> Option<RetryBudget> {
        budget::read(written?, &self.path, self.findings)
    }

    fn pool(&mut self, written: Option<&ConnectionPool>) -> Option<Pool> {
        let written = written?;
        let tcp = written.tcp.clone().unwrap_or_default();
        let http = written.http.clone().unwrap_or_default();
        let path = format!("{}.connectionPool", self.path);
        self.unheeded(&path, &http);
        let mut count = |number: Option<i32>, field: &str| {
            let number = number.filter(|number| *number != 0)?;
            let count = u32::try_from(number).ok();
            if count.is_none() {
                let text = format!("{number} is less than nothing");
                self.findings
                    .reject(format!("{path}.{field}"), text, "correct it");
            }
            count
        };
        let limits = Limits {
            connections: count(tcp.max_connections, "tcp.maxConnections"),
            pending: count(
                http.http1_max_pending_requests,
                "http.http1MaxPendingRequests",
            ),
            requests: count(http.http2_max_requests, "http.http2MaxRequests"),
            retries: count(http.max_retries, "http.maxRetries"),
            requests_per_connection: count(
                http.max_requests_per_connection,
                "http.maxRequestsPerConnection",
            ),
            spoken: match (http.use_client_protocol, http.h2_upgrade_policy) {
                (true, _) => Spoken::Clients,
                (false, Some(H2Upgrade::Upgrade)) => Spoken::Http2,
                (false, Some(H2Upgrade::Default | H2Upgrade::DoNotUpgrade) | None) => {
                    Spoken::Declared
                }
            },
            ..Limits::default()
        };
        let mut duration = |text: &Option<String>, field: &str| {
            let text = text.as_deref()?;
            self.duration(text, &format!("connectionPool.tcp.{field}"))
        };
        let idle = tcp.idle_timeout.clone().filter(|text| is_some_time(&text));
        let limits = Limits {
            connect_timeout: duration(&tcp.connect_timeout, "connectTimeout"),
            idle: duration(&idle, "idleTimeout"),
            lifetime: duration(&tcp.max_connection_duration, "maxConnectionDuration"),
            ..limits
        };
        let upkeep = self.upkeep(&tcp, &http);
        let said = (upkeep != Upkeep::default()).then(|| Arc::new(upkeep));
        Some((limits, said))
    }

    /// What means nothing here.
    fn unheeded(&mut self, path: &str, http: &HttpSettings) {
        let fields = [
            (gaps::CONCURRENT_STREAMS, http.max_concurrent_streams),
            (gaps::HTTP2_KEEPALIVE, http.http2_keep_alive),
        ];
        self.findings.gaps(&format!("{path}.http"), &fields);
    }

    /// How connections are kept while nothing is sent over them.
    fn upkeep(&mut self, tcp: &TcpSettings, http: &HttpSettings) -> Upkeep {
        let idle = http.idle_timeout.as_ref().filter(is_some_time);
        let field = "connectionPool.http.idleTimeout";
        Upkeep {
            idle: idle.and_then(|text| self.duration(text, field)),
            keepalive: tcp.tcp_keepalive.as_ref().map(|it| self.keepalive(it)),
        }
    }

    fn keepalive(&mut self, written: &TcpKeepalive) -> Keepalive {
        let path = "connectionPool.tcp.tcpKeepalive";
        let probes = written.probes.filter(|probes| *probes > 0);
        if probes.is_some_and(|probes| probes > MOST_PROBES) {
            let field = format!("{}.{path}.probes", self.path);
            self.findings
                .reject(field, "the kernel takes up to 127", "lower it");
        }
        let mut seconds = |text: &Option<String>, field: &str| {
            let text = text.as_ref().filter(is_some_time)?;
            let field = format!("{path}.{field}");
            let length = self.duration(text, &field)?;
            let fits = (Duration::from_secs(1)..=MOST_SECONDS).contains(&length);
            if !fits {
                let field = format!("{}.{field}", self.path);
                let said = "the kernel takes 1s up to 32767s";
                self.findings.reject(field, said, "correct it");
            }
            fits.then_some(length)
        };
        Keepalive {
            probes,
            time: seconds(&written.time, "time"),
            interval: seconds(&written.interval, "interval"),
        }
    }

    fn outlier(&mut self, written: Option<&OutlierDetection>) -> Option<Outlier> {
        let written = written?;
        let path = "outlierDetection";
        if written.consecutive_errors.0 {
            self.findings.add(
                Severity::Warning,
                code::DEPRECATED,
                format!("{}.{path}.consecutiveErrors", self.path),
                "Istio no longer has the field: this has no effect",
                "use consecutive5xxErrors",
            );
        }
        let mut duration = |text: &Option<String>, field: &str, unwritten: u64| match text {
            None => Some(Duration::from_secs(unwritten)),
            Some(text) => self.duration(text, &format!("{path}.{field}")),
        };
        let interval = duration(&written.interval, "interval", 10)?;
        let base_ejection = duration(&written.base_ejection_time, "baseEjectionTime", 30)?;
        for (field, percent) in [
            ("maxEjectionPercent", written.max_ejection_percent),
            ("minHealthPercent", written.min_health_percent),
        ] {
            if percent.is_some_and(|percent| percent > 100) {
                let field = format!("{}.{path}.{field}", self.path);
                self.findings
                    .reject(field, "more than 100 percent", "use 0 to 100");
                return None;
            }
        }
        Some(Outlier {
            server_errors: written.consecutive_server_errors.unwrap_or(5),
            gateway_errors: written.consecutive_gateway_errors.unwrap_or(0),
            local_failures: written
                .split_external_local_origin_errors
                .then(|| written.consecutive_local_origin_failures.unwrap_or(5)),
            interval,
            base_ejection,
            max_ejected_percent: written.max_ejection_percent.unwrap_or(10),
            min_health_percent: written.min_health_percent.unwrap_or(0),
        })
    }

    fn tls(&mut self, written: Option<&istio::ClientTls>) -> Option<Option<Arc<ClientTls>>> {
        client_tls::read(written, &format!("{}.tls", self.path), self.findings)
    }

    fn duration(&mut self, text: &str, field: &str) -> Option<Duration> {
        let parsed = resolve::duration(text).filter(|length| *length >= Duration::from_millis(1));
        if parsed.is_none() {
            let said = format!("{text:?} is not a duration of at least 1ms");
            let field = format!("{}.{field}", self.path);
            self.findings.reject(field, said, "write it as 30s");
        }
        parsed
    }
}
