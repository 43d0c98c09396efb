//! Local addresses of datagrams received on wildcard sockets. They are stored when the kernel is done with the packet,
//! and used when the `fentry` hook sees the message. Both happen within one receive call of one thread.

use dnstap_ebpf::{AF_INET, AF_INET6, EventHeader};

use crate::kernel::sock::{self, Address, mapped_ipv4, set_local_address};

/// Destination of a packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Local {
    /// Address; IPv4 uses the first half of the first word.
    pub address: Address,
    /// `AF_INET` or `AF_INET6`; 0: no address is stored.
    pub family: u64,
}

/// Completes `header` with the destination of the datagram that the thread has just received.
#[inline(always)]
pub(crate) fn take(local: &mut Local, header: &mut EventHeader) {
    if local.family == u64::from(AF_INET6) {
        set_local_address(header, local.address);
    } else if local.family != 0 {
        let ipv4 = local.address[0] as u32;
        set_local_address(
            header,
            if header.family == AF_INET {
                sock::ipv4(ipv4)
            } else {
                mapped_ipv4(ipv4)
            },
        );
    }
    // The next receive of this thread on a wildcard socket overwrites the address, if the program runs. If it does not
    // run, that receive must not find this address.
    local.family = 0;
}
