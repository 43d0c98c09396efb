//! fentry on `skb_consume_udp`: it stores the address to which a datagram was really sent.
//!
//! ```c
//! void skb_consume_udp(struct sock *sk, struct sk_buff *skb, int len);
//! ```
//!
//! The prototype is the same on 5.10, 6.1, 6.12, 6.18 and 7.x. `udp_recvmsg` and `udpv6_recvmsg` call it when they are
//! done with a packet, before `inet_recvmsg` returns, in the same thread. A wildcard socket (`0.0.0.0`, `::`) does not
//! know its local address, but the packet's header has it. The `fentry` hook also works without this program; messages
//! on wildcard sockets then have no real local address.

use aya_ebpf::{macros::fentry, programs::FEntryContext};
use dnstap_ebpf::{AF_INET, AF_INET6};

use crate::{
    kernel::{
        config::config,
        memory::{self, Reach},
        sock::Sock,
    },
    thread::{
        locals::Local,
        threads::{self, State},
    },
};

/// `ETH_P_IP` and `ETH_P_IPV6` (`include/uapi/linux/if_ether.h`).
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// Offsets of the destination address in the IPv4 and IPv6 headers (RFC 791 section 3.1, RFC 8200 section 3).
const IPV4_DESTINATION: usize = 16;
const IPV6_DESTINATION: usize = 24;

/// Runs when a packet of a UDP socket has been read or peeked at.
#[fentry(function = "skb_consume_udp")]
fn skb_consume_udp(ctx: FEntryContext) -> i32 {
    // Without a state the message is delivered with the wildcard address. The look-up of the state comes last because
    // it costs most.
    if let Some(key) = threads::possible()
        && Sock::at(ctx.arg(0), Reach::Typed).is_wildcard() == Ok(true)
        && let Some((_, Some(state))) = threads::tapped(key)
    {
        keep(state, ctx.arg(1));
    }
    0
}

/// Stores the destination address of the packet `skb`, if it is readable.
#[inline(always)]
fn keep(state: &mut State, skb: *const u8) {
    // SAFETY: pointers and integers.
    unsafe {
        let Ok(head) = memory::kernel::<*const u8>(skb, config!(offsets.skb_head)) else {
            return;
        };
        let Ok(offset) = memory::kernel::<u16>(skb, config!(offsets.skb_network_header)) else {
            return;
        };
        let Ok(protocol) = memory::kernel::<u16>(skb, config!(offsets.skb_protocol)) else {
            return;
        };
        let local = match u16::from_be(protocol) {
            ETH_P_IP => {
                let Ok(address) =
                    memory::kernel::<u32>(head, usize::from(offset) + IPV4_DESTINATION)
                else {
                    return;
                };
                Local {
                    address: [u64::from(address), 0],
                    family: u64::from(AF_INET),
                }
            }
            ETH_P_IPV6 => {
                let Ok(address) = memory::kernel(head, usize::from(offset) + IPV6_DESTINATION)
                else {
                    return;
                };
                Local {
                    address,
                    family: u64::from(AF_INET6),
                }
            }
            _ => return,
        };
        state.local = local;
    }
}
