//! Function `isc_log_write` of BIND's libisc: lines of the log about rate limits and zone transfers.
//!
//! ```c
//! void isc_log_write(isc_log_t *lctx, isc_logcategory_t *category, isc_logmodule_t *module, int level,
//!                    const char *format, ...);
//! ```
//!
//! BIND 9.16 to 9.20 have this function. They call it before they look at the configuration of the log, so `category ...
//! { null; }` hides nothing. Debug lines have levels above 0 and are left out first: a register tells them.
//!
//! The first arguments of the format are in registers (x86-64: one, arm64: three), the others are on the stack. The probe
//! may be behind the `sub` that makes room on the stack ([`dnstap_ebpf::Probed::log_stack`]). No format is parsed here: each argument that can be
//! read as a string is sent, and the agent knows which of them are strings.

use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use dnstap_ebpf::{
    Counter, Function, LOG_ARGUMENTS, LOG_QUERY_ERRORS, LOG_RATE_LIMIT, LOG_TRANSFER, LogNotice,
};

use super::call::{self, Call, read};
use crate::message::notice;

/// First eight bytes of the names of categories (lib/isc/include/isc/log.h: `name` is the first member).
const RATE_LIMIT: u64 = u64::from_le_bytes(*b"rate-lim");
const QUERY_ERRORS: u64 = u64::from_le_bytes(*b"query-er");
const XFER_IN: u64 = u64::from_le_bytes(*b"xfer-in\0");
const XFER_OUT: u64 = u64::from_le_bytes(*b"xfer-out");

/// Format of lines that were put together before. It has one argument.
const ALONE: u32 = u32::from_le_bytes(*b"%s\0\0");

#[uprobe]
fn isc_log_write(ctx: ProbeContext) -> u32 {
    if let Some(call) = call::enter() {
        call::leave(call, Function::LogWrite, try_log(&ctx, call));
    }
    0
}

#[inline(always)]
fn try_log(ctx: &ProbeContext, call: Call) -> Result<(), Counter> {
    let argument = |n| ctx.arg::<u64>(n).ok_or(Counter::ProbeFault);
    let level = argument(3)? as i32;
    if level >= 0 {
        return Err(Counter::ProbeUnwanted);
    }
    // SAFETY: an address.
    let name: u64 = unsafe { read(argument(1)?)? };
    // SAFETY: bytes.
    let name: u64 = unsafe { read(name)? };
    let category = match name {
        RATE_LIMIT => LOG_RATE_LIMIT,
        QUERY_ERRORS => LOG_QUERY_ERRORS,
        XFER_IN | XFER_OUT => LOG_TRANSFER,
        _ => return Err(Counter::ProbeUnwanted),
    };
    if category & call.probed.log_categories == 0 {
        return Err(Counter::ProbeUnwanted);
    }
    let format = argument(4)?;
    let notice = notice::begin(call.thread, size_of::<LogNotice>() as u64)?;
    let head = notice.head::<LogNotice>();
    // SAFETY: bytes.
    let start: u32 = unsafe { read(format)? };
    let is_alone = start & 0xff_ffff == ALONE;
    let format_len = notice.append_string(format);
    if format_len == 0 {
        return Err(Counter::ProbeFault);
    }
    // SAFETY: the payload begins with the head; all of its members are integers.
    unsafe {
        (&raw mut (*head).category).write(category);
        (&raw mut (*head).level).write(level);
        (&raw mut (*head).lengths[0]).write(format_len);
    }
    // Those that may be in registers are read before the loop: the verifier allows no place in the registers that is not
    // a constant.
    let grown = call.probed.log_stack;
    let passed = |n: usize| call::argument(ctx, 5 + n, grown).unwrap_or(0);
    let (first, second, third) = (passed(0), passed(1), passed(2));
    for n in 0..LOG_ARGUMENTS {
        let value = match n {
            0 => first,
            1 => second,
            2 => third,
            _ => call::on_stack(ctx, 5 + n, grown).unwrap_or(0),
        };
        let length = if is_alone && n > 0 {
            0
        } else {
            notice.append_string(value)
        };
        // SAFETY: as above; the number of the argument is below the limit.
        unsafe {
            (&raw mut (*head).arguments[n]).write(value);
            (&raw mut (*head).lengths[n + 1]).write(length);
        }
    }
    notice.send(ctx, Function::LogWrite)
}
