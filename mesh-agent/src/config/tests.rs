// SPDX-License-Identifier: Apache-2.0

//! Manifests in, decisions and problems out.

mod fixture;
mod seeds;
