// SPDX-License-Identifier: Apache-2.0

//! Records from the kernel's ring, of whatever length.

use super::{flows::FlowLog, maps};

/// A record is read or left out, and what is read can be shown.
pub fn flow_record(bytes: &[u8]) {
    let mut log = FlowLog::default();
    if let Some(record) = maps::read_record(bytes) {
        log.push(&record);
        let shown = format!("{:?}", log.latest());
        assert!(!shown.is_empty());
    }
}
