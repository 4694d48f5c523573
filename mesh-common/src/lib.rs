// SPDX-License-Identifier: Apache-2.0

//! What the kernel programs and the agent share.
#![no_std]
