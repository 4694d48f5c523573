// SPDX-License-Identifier: Apache-2.0

//! How long one request after the other takes on one connection.
//!
//! A sequential client measures the path and not the load on the machine. Knows nothing of the
//! mesh: only the address differs.

use std::time::Instant;

use crate::{Http1, Pod};

const WARM_UP: usize = 200;
const SAMPLES: usize = 2000;

/// Quantiles, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latency {
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
}

/// Measures requests from `client` to `address` (`ip:port`).
///
/// # Panics
/// When a request is not answered with 200.
#[track_caller]
pub(super) fn measure(client: &Pod, address: &str) -> Latency {
    let mut samples = client.run(|| {
        let mut http =
            Http1::connect(address, "recommendations").expect("the server takes connections");
        let mut samples = Vec::with_capacity(SAMPLES);
        for index in 0..WARM_UP + SAMPLES {
            let start = Instant::now();
            let answer = http.get("/").expect("the request is answered");
            let took = start.elapsed();
            assert_eq!(answer.status, 200, "{}", answer.text());
            if index >= WARM_UP {
                samples.push(u64::try_from(took.as_micros()).expect("below the client's time-out"));
            }
        }
        samples
    });
    samples.sort_unstable();
    Latency {
        p50_us: samples[SAMPLES / 2],
        p99_us: samples[SAMPLES * 99 / 100],
    }
}
