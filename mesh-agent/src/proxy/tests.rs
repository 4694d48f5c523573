// SPDX-License-Identifier: Apache-2.0

//! The whole proxy over loopback: real sockets and threads, hand-made snapshots, no kernel
//! programs. VIPs are further addresses of 127.0.0.0/8, so that a listener on the wildcard address
//! plays the captured pod's.

mod http;
mod http1;
mod http2;
mod local;
mod mesh;
mod tcp;
mod tunnel;
