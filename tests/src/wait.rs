// SPDX-License-Identifier: Apache-2.0

//! Waiting for something to become true, with a deadline.
//!
//! Knows nothing of what is waited for. Invariant: nobody waits a fixed time; a wait that runs
//! out says what it waited for and what it saw last.

use std::{
    fmt::Debug,
    thread,
    time::{Duration, Instant},
};

/// How long most things may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks; short beside everything that is waited for.
const INTERVAL: Duration = Duration::from_millis(5);

/// Looks until `look` answers `Ok`, and returns what it answered.
///
/// # Panics
/// When `deadline` is over, with `what` and the last `Err`.
#[track_caller]
pub fn until<T, E: Debug>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if start.elapsed() > deadline => {
                panic!("waited {deadline:?} for {what}; last seen: {seen:?}")
            }
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}

/// Looks until `look` answers `true`.
///
/// # Panics
/// When `deadline` is over.
#[track_caller]
pub fn until_true(what: &str, deadline: Duration, mut look: impl FnMut() -> bool) {
    until(
        what,
        deadline,
        || if look() { Ok(()) } else { Err("not yet") },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_as_soon_as_the_answer_is_there() {
        let mut looks = 0;
        let found = until("the third look", PATIENCE, || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(looks) }
        });
        assert_eq!(found, 3);
    }

    #[test]
    #[should_panic(expected = "for the impossible; last seen: \"nothing\"")]
    fn a_wait_that_runs_out_says_what_it_saw() {
        until::<(), _>("the impossible", Duration::ZERO, || Err("nothing"));
    }
}
