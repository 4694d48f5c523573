// SPDX-License-Identifier: Apache-2.0

//! The `mesh-agent` command.

fn main() {}
