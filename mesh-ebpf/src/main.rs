// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only

//! The kernel side.
#![no_std]
#![no_main]

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
