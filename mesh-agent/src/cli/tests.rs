// SPDX-License-Identifier: Apache-2.0

//! What commands print, and what they say when there is no agent.
