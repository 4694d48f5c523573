// SPDX-License-Identifier: Apache-2.0

//! Builds the kernel programs.
fn main() {}
