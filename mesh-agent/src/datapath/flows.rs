// SPDX-License-Identifier: Apache-2.0

//! The flows that closed last, as the kernel measured them. A bounded memory, not an archive.

use std::{collections::VecDeque, net::SocketAddr};

use mesh_common::{Endpoint, FlowRecord, TagKind};

use super::observe::FlowObservation;

/// How many flows are remembered.
const REMEMBERED: usize = 1024;

/// The flows that closed last, the latest last.
#[derive(Debug, Default)]
pub(super) struct FlowLog {
    flows: VecDeque<FlowObservation>,
}

impl FlowLog {
    /// Remembers a flow, and forgets the oldest if there are too many.
    pub(super) fn push(&mut self, record: &FlowRecord) {
        if self.flows.len() == REMEMBERED {
            self.flows.pop_front();
        }
        self.flows.push_back(FlowObservation {
            kind: TagKind(record.kind).name(),
            local: address(&record.tuple.source),
            remote: address(&record.tuple.destination),
            rtt_us: record.srtt_us,
            retransmits: record.total_retrans,
            bytes_sent: record.bytes_acked,
            bytes_received: record.bytes_received,
        });
    }

    /// What is remembered.
    pub(super) fn latest(&self) -> Vec<FlowObservation> {
        self.flows.iter().cloned().collect()
    }
}

fn address(endpoint: &Endpoint) -> SocketAddr {
    let port = u16::try_from(endpoint.port).unwrap_or_default();
    SocketAddr::new(endpoint.address.into(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_flow_is_forgotten_first() {
        let mut log = FlowLog::default();
        for port in 0..=REMEMBERED {
            let mut record = FlowRecord {
                kind: TagKind::CAPTURED.0,
                ..FlowRecord::default()
            };
            record.tuple.source.port = port.try_into().expect("it is small");
            log.push(&record);
        }
        let flows = log.latest();
        assert_eq!(flows.len(), REMEMBERED);
        assert_eq!(flows[0].local.port(), 1);
        assert_eq!(flows[0].kind, "captured");
    }
}
