// SPDX-License-Identifier: Apache-2.0

//! The admin socket, asked over real sockets.
