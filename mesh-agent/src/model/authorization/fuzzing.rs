// SPDX-License-Identifier: Apache-2.0

//! Paths and patterns, in all readings that a policy looks at.

use http::{HeaderMap, Method, Uri};

use super::{HostPattern, PathPattern, Pattern, RequestReading};

/// A path, and the pattern of a rule.
pub const READING_SEEDS: &[&[u8]] = &[
    b"/a/../b//c;x=1/..;y/%2e%2E/%c3%a9\\d\n/a/{*}/b",
    b"/a/b/c\n/a/{**}",
    b"/\n*",
];

/// The path as it came is one of its readings, and one that has a single reading is plain; every
/// reading begins with a slash, and every pattern can be asked about each.
pub fn request_reading(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (path, pattern) = text.split_once('\n').unwrap_or((&text, "/*"));
    let Ok(uri) = Uri::try_from(path) else {
        return;
    };
    let headers = HeaderMap::new();
    let reading = RequestReading::new(&Method::GET, &uri, &headers);
    let paths: Vec<&str> = reading.paths().collect();
    assert_eq!(paths.first(), Some(&uri.path()));
    if paths.len() == 1 {
        let is_plain = !["%", "\\", "//", "/."]
            .iter()
            .any(|odd| uri.path().contains(odd));
        assert!(is_plain, "{paths:?}");
    }
    // What is resolved without anything decoded has no dots left that a server would resolve.
    for resolved in paths.iter().skip(1) {
        assert!(resolved.starts_with('/'), "{resolved:?}");
        let mut segments = resolved.split('/');
        assert!(
            !segments.any(|segment| matches!(segment, "." | "..")),
            "{resolved:?}"
        );
    }
    let (plain, host) = (Pattern::new(pattern), HostPattern::new(pattern));
    for path in paths {
        // Only that none of these panics.
        let _: bool = plain.matches(path) | host.matches(path);
        if let Ok(template) = PathPattern::new(pattern) {
            let _: bool = template.matches(path);
        }
    }
}
