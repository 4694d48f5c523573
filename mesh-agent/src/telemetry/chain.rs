// SPDX-License-Identifier: Apache-2.0

//! How an error is written on one line.
//!
//! Invariant: a cause is written once, even where an error's own text repeats it.

use std::error::Error;

/// An error and what caused it, on one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        #[source]
        source: Option<Box<Layer>>,
    }

    #[track_caller]
    fn check(texts: &[&'static str], want: &str) {
        let layers = texts
            .iter()
            .rev()
            .fold(None, |source, text| Some(Box::new(Layer { text, source })));
        assert_eq!(chain(&*layers.expect("a text")), want);
    }

    #[test]
    fn causes_follow_in_their_order() {
        check(&["connecting"], "connecting");
        check(
            &["connecting", "TLS", "bad record"],
            "connecting: TLS: bad record",
        );
    }

    #[test]
    fn what_an_error_says_of_its_cause_is_not_repeated() {
        check(&["client: timed out", "timed out"], "client: timed out");
        check(&["a: b", "b", "c"], "a: b: c");
    }
}
