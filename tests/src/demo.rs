// SPDX-License-Identifier: Apache-2.0

//! The demo: the product's story in half a minute, with real programs and real numbers.
//!
//! Two nodes, an unmodified `curl` on one, unmodified nginx in two versions on the other, the
//! manifests people have. Knows nothing that a user could not know. Invariant: nothing in the
//! table is said by the agent about itself but the identity; everything else is counted at the
//! applications or on the wire.

mod act;
mod findings;
mod latency;
mod stage;

use std::time::Instant;

pub use self::findings::Findings;
use self::stage::Stage;

/// What was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// Leave everything running until Ctrl-C.
    pub keep: bool,
    /// One JSON object instead of the table.
    pub json: bool,
}

/// Says on standard error what is going on, with the time since the start.
struct Progress(Instant);

impl Progress {
    fn say(&self, what: &str) {
        eprintln!("[{:5.1} s] {what}", self.0.elapsed().as_secs_f64());
    }
}

/// Plays the demo, prints what was asked for, and says whether everything was as promised.
///
/// # Panics
/// When the stage cannot be set, or an application gets no answer where it must get one.
pub fn run(choice: Choice) -> bool {
    let progress = Progress(Instant::now());
    let mut findings = Findings::default();
    let mut stage = Stage::set(&progress);
    act::measure_direct(&stage, &progress, &mut findings);
    stage.start_agents(&progress);
    act::split_requests(&stage, &progress, &mut findings);
    act::canary(&stage, &progress, &mut findings);
    act::judge_plaintext(&stage, &progress, &mut findings);
    act::measure_mesh(&stage, &progress, &mut findings);
    let kept = findings.promises_kept();
    print(&if choice.json {
        findings.json()
    } else {
        findings.table()
    });
    if choice.keep {
        eprintln!("{}", stage.tour());
        // Ctrl-C ends the program and cleans up.
        loop {
            std::thread::park();
        }
    }
    progress.say("cleaning up");
    drop(stage);
    kept
}

#[allow(clippy::print_stdout, reason = "the result is what was asked for")]
fn print(text: &str) {
    println!("{text}");
}
