// SPDX-License-Identifier: Apache-2.0

//! Copies of requests that are sent elsewhere too, and whose answers nobody sees.
//!
//! Knows nothing of sending. Reference: Envoy `request_mirror_policies`, `ShadowWriterImpl`.

use std::sync::Arc;

use super::{service::Cluster, share::Share};

/// Where a share of a rule's requests is copied to.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Where to.
    pub cluster: Arc<Cluster>,
    /// Which requests.
    pub share: Share,
}

/// The host that a copy is sent to, so that logs tell it: `shop` is `shop-shadow`.
pub fn shadow(authority: &str) -> String {
    if authority.is_empty() || authority.starts_with('[') {
        return authority.to_owned();
    }
    match authority.split_once(':') {
        Some((host, port)) => format!("{host}-shadow:{port}"),
        None => format!("{authority}-shadow"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_a_shadow_of_the_host() {
        for (authority, want) in [
            ("shop", "shop-shadow"),
            ("shop.default:80", "shop.default-shadow:80"),
            ("[::1]:80", "[::1]:80"),
            ("", ""),
        ] {
            assert_eq!(shadow(authority), want);
        }
    }
}
