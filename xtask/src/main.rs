// SPDX-License-Identifier: Apache-2.0

//! Project chores.
fn main() {}
