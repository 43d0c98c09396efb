//! Names of BIND (`dns_name_t`, lib/dns/include/dns/name.h).
//!
//! ```text
//! 9.16, 9.18, 9.20.0 to .4: magic u32 0, ndata 8, length u32 16, labels u32 20
//! 9.20.5 and later:         magic u32 0, length u8 4, labels u8 5, ndata 8
//! ```

use dnstap_ebpf::{Counter, MAX_NAME, NAMES_NARROW, NAMES_WIDE};

use super::call::read;

/// Magic number at the start of `dns_name_t`: `DNSn`.
pub(super) const NAME: u32 = 0x444e_536e;

/// Start of `dns_name_t`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Raw {
    magic: u32,
    narrow_length: u8,
    _narrow_labels: u8,
    _pad: u16,
    data: u64,
    wide_length: u32,
    _wide_labels: u32,
}

/// Returns address and length of the name's data. `names`: the layout.
#[inline(always)]
pub(super) fn find(name: u64, names: u32) -> Result<(u64, u64), Counter> {
    // SAFETY: integers.
    let raw: Raw = unsafe { read(name)? };
    let length = match names {
        NAMES_WIDE => u64::from(raw.wide_length),
        NAMES_NARROW => u64::from(raw.narrow_length),
        _ => 0,
    };
    if raw.magic != NAME || length == 0 || length > MAX_NAME as u64 {
        return Err(Counter::ProbeFault);
    }
    Ok((raw.data, length))
}
