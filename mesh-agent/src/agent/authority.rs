// SPDX-License-Identifier: Apache-2.0

//! Starts identities with the certificate authority that the settings ask for.
//!
//! Knows nothing of certificates.

use anyhow::{Context, bail};

use crate::{
    identity::{CertificateAuthority, Identities},
    settings::RunSettings,
    tasks::Tasks,
};

/// Starts it.
///
/// # Errors
/// The authority's directory cannot be used.
pub(super) async fn start(settings: &RunSettings, tasks: &Tasks) -> anyhow::Result<Identities> {
    let flags = &settings.authority;
    if flags.ca_address.is_some() {
        bail!("--ca-address is not supported yet");
    }
    let authority = match &flags.ca_dir {
        Some(dir) => CertificateAuthority::open(dir, &flags.trust_domain)
            .with_context(|| format!("certificate authority in {}", dir.display()))?,
        None => {
            CertificateAuthority::in_memory(&flags.trust_domain).context("certificate authority")?
        }
    };
    Ok(Identities::new(authority, flags.cert_ttl, tasks.clone()))
}
