//! Raw tracepoint `skb_copy_datagram_iovec`, with BTF: it finds packets that hold several datagrams (`UDP_GRO`).
//!
//! ```c
//! void skb_copy_datagram_iovec(const struct sk_buff *skb, int len);
//! ```
//!
//! The prototype is the same on 5.10, 6.1, 6.12, 6.18 and 7.x. The tracepoint fires in the thread that receives, before
//! hooks `socket` and `fentry` see the message, for each packet that is not in one piece of memory. From 6.0 on,
//! several datagrams are never in one piece. The values in the packet are the same that the kernel passes to a process
//! that has room for control messages. Hook `syscall` reads the control messages instead, because one system call may
//! receive many packets.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use dnstap_ebpf::Counter;

use crate::{
    kernel::{
        config::config,
        memory::{self, Reach},
    },
    message::coalesced,
    thread::threads,
};

/// Runs when a packet is copied to a process.
#[btf_tracepoint(function = "skb_copy_datagram_iovec")]
fn skb_copy_datagram_iovec(ctx: BtfTracePointContext) -> i32 {
    run(&ctx);
    0
}

/// The second program; see [`crate::thread::once`]. Both store the same value.
#[btf_tracepoint(function = "skb_copy_datagram_iovec")]
fn skb_copy_datagram_iovec_second(ctx: BtfTracePointContext) -> i32 {
    run(&ctx);
    0
}

#[inline(always)]
fn run(ctx: &BtfTracePointContext) {
    if let Some((_, Some(state))) = threads::current()
        && let Ok((segment, length)) = datagrams(ctx.arg(0))
        && segment != 0
    {
        coalesced::keep(state, segment, length);
    }
}

/// Returns the size of each datagram except the last in the packet `skb`, and the size of all of them, in bytes. The
/// first number is 0 if the packet is one datagram or belongs to TCP.
#[inline(always)]
fn datagrams(skb: *const u8) -> Result<(u16, u32), Counter> {
    // SAFETY: pointers and integers; the verifier knows the packet's type, and the rest is read by helper.
    unsafe {
        let head: *const u8 = Reach::Typed.read(skb, config!(offsets.skb_head))?;
        let end: u32 = Reach::Typed.read(skb, config!(offsets.skb_end))?;
        let length: u32 = Reach::Typed.read(skb, config!(offsets.skb_len))?;
        let shared = head.wrapping_add(end as usize);
        let segment: u16 = memory::kernel(shared, config!(offsets.shared_gso_size))?;
        if segment == 0 {
            return Ok((0, 0));
        }
        let kind: u32 = memory::kernel(shared, config!(offsets.shared_gso_type))?;
        let is_several = kind as usize & config!(udp_gso_type) != 0;
        Ok((if is_several { segment } else { 0 }, length))
    }
}
