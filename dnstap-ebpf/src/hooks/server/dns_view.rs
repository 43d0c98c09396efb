//! Functions of BIND's libdns that empty a cache at the operator's word (`rndc flush`, `flushname`, `flushtree`).
//!
//! ```c
//! isc_result_t dns_view_flushcache(dns_view_t *view, bool fixuponly);
//! isc_result_t dns_view_flushnode(dns_view_t *view, const dns_name_t *name, bool tree);
//! ```
//!
//! BIND 9.16 to 9.20 have them. With `fixuponly`, the view shares the cache of a view that was flushed before.
//!
//! The view's cache is at offset 72 (9.16, 9.18) or 80 (9.20) of the view. Both pointers are sent, and the agent knows
//! which one is a cache.

use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use dnstap_ebpf::{Counter, FlushNotice, Function};

use super::{
    call::{self, Call, read},
    names,
};
use crate::message::notice;

/// Magic number at the start of `dns_view_t`: `View`.
const VIEW: u32 = 0x5669_6577;
/// Offset of the name in `dns_view_t`.
const VIEW_NAME: u64 = 24;
/// Offset of the pointers of which one is to the cache.
const VIEW_CACHES: u64 = 72;

#[uprobe]
fn dns_view_flushcache(ctx: ProbeContext) -> u32 {
    if let Some(call) = call::enter() {
        call::leave(
            call,
            Function::FlushCache,
            try_flush(&ctx, call, Function::FlushCache),
        );
    }
    0
}

#[uprobe]
fn dns_view_flushnode(ctx: ProbeContext) -> u32 {
    if let Some(call) = call::enter() {
        call::leave(
            call,
            Function::FlushNode,
            try_flush(&ctx, call, Function::FlushNode),
        );
    }
    0
}

#[inline(always)]
fn try_flush(ctx: &ProbeContext, call: Call, function: Function) -> Result<(), Counter> {
    let argument = |n| ctx.arg::<u64>(n).ok_or(Counter::ProbeFault);
    let view = argument(0)?;
    // SAFETY: numbers.
    let magic: u32 = unsafe { read(view)? };
    if magic != VIEW {
        return Err(Counter::ProbeFault);
    }
    // SAFETY: as above.
    let (view_name, databases) = unsafe {
        (
            read::<u64>(view.wrapping_add(VIEW_NAME))?,
            read::<[u64; 2]>(view.wrapping_add(VIEW_CACHES))?,
        )
    };
    let notice = notice::begin(call.thread, size_of::<FlushNotice>() as u64)?;
    let head = notice.head::<FlushNotice>();
    let view_len = notice.append_string(view_name);
    let (mut name_len, mut tree) = (0, 0);
    if matches!(function, Function::FlushNode) {
        let (data, length) = names::find(argument(1)?, call.probed.names)?;
        if !notice.has_room(length) {
            return Err(Counter::ProbeFault);
        }
        notice.append(data, length)?;
        name_len = length as u16;
        tree = argument(2)? as u32 & 0xff;
    }
    // SAFETY: the payload begins with the head; all of its members are integers.
    unsafe {
        (&raw mut (*head).tree).write(tree);
        (&raw mut (*head).view_len).write(view_len);
        (&raw mut (*head).name_len).write(name_len);
        (&raw mut (*head).databases).write(databases);
    }
    notice.send(ctx, function)
}
