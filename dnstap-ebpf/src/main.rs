//! The eBPF programs of the tap: `hook -> sock (addresses) -> call (user buffer) -> emit (ring)`, with a counter for
//! every way out.
//!
//! A hook's entry function only turns its `Result` into a counter; the work is in a function below it. The programs run
//! in the thread of the tapped process, so the server pays for their cost: filters come first, the payload is copied
//! once, and no program waits.
#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "kernel memory, maps and helpers are raw pointers; the verifier checks every access before a program may run"
)]
#![expect(
    clippy::inline_always,
    reason = "a program is best one function: calls cost stack, of which there are 512 bytes, and the verifier walks through \
              a function anew at each call"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_lossless,
    reason = "registers and arguments come as 64 bits; a cast gives them the width of the kernel's type"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the program macros pass contexts by value"
)]
#![expect(
    clippy::let_underscore_must_use,
    reason = "where a map refuses, no caller can be told; each place says why"
)]
#![expect(
    clippy::map_err_ignore,
    reason = "what failed is the reason that is counted; the error number adds nothing"
)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod hooks;
mod kernel;
mod message;
mod thread;

/// Licence of the programs. The helpers for reading memory are GPL-only, and the kernel requires this form.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
