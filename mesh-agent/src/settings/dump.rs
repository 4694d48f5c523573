// SPDX-License-Identifier: Apache-2.0

//! What of the configuration is printed, and for whom.

use clap::{Args, ValueEnum};

use super::ClientSettings;

/// Flags of `config dump`.
#[derive(Clone, Debug, Args)]
pub struct DumpSettings {
    /// Whose words to use.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = DumpFormat::Agent)]
    pub format: DumpFormat,

    /// Whom to ask and how to print.
    #[command(flatten)]
    pub client: ClientSettings,
}

/// Whose words a dump of the configuration uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DumpFormat {
    /// Our own.
    Agent,
    /// Those of Istio's ztunnel, for `istioctl ztunnel-config SUBCOMMAND --file`.
    Ztunnel,
}
