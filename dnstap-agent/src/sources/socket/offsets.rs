//! Offsets of kernel members that the hooks read: [`KernelOffsets`] from the running kernel's BTF.

use std::{fs, io::ErrorKind, path::PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use dnstap_ebpf::{Config, KernelOffsets, MISSING, Slot, UDP_WINDOW};

use super::btf::{Btf, BtfError};
use crate::host::exit::{Exit, ExitWith};

/// BTF of the running kernel.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Looks up every slot of the table. The error names the structure and the member.
pub fn from_btf(btf: &Btf<'_>) -> Result<KernelOffsets, BtfError> {
    let mut slots = [MISSING; KernelOffsets::TABLE.len()];
    for (value, slot) in slots.iter_mut().zip(KernelOffsets::TABLE) {
        match first_offset(btf, slot) {
            Ok(offset) => *value = offset,
            Err(BtfError::NoMember { .. }) if slot.optional => {}
            Err(error) => return Err(error),
        }
    }
    Ok(KernelOffsets::from_slots(&slots))
}

/// Returns the configuration for this kernel, without the transport.
pub fn config_from_btf(btf: &Btf<'_>) -> Result<Config, BtfError> {
    let has_separate_direction = btf.offset("iov_iter", &["iter_type"]).is_ok();
    Ok(Config {
        iter_iovec: btf.enumerator("ITER_IOVEC")?.unwrap_or(MISSING),
        iter_ubuf: btf.enumerator("ITER_UBUF")?.unwrap_or(MISSING),
        udp_gso_type: btf.enumerator("SKB_GSO_UDP_L4")?.unwrap_or(0),
        iter_type_mask: if has_separate_direction { 0xff } else { 0xfe },
        offsets: from_btf(btf)?,
        ..udp_window(btf)?
    })
}

/// Returns the members of `struct udp_sock` that connect calls with datagrams. The programs read
/// them as one window over all of them.
fn udp_window(btf: &Btf<'_>) -> Result<Config, BtfError> {
    let pending = btf.offset("udp_sock", &["pending"])?;
    let gso_size = btf.offset("udp_sock", &["gso_size"])?;
    // Since 6.7 these are numbered bits of an `unsigned long`; before, they were members.
    let flags = btf.bits("udp_sock", &["udp_flags"]).ok();
    let bit = |enumerator: &str, member: &str| match flags {
        Some(flags) => {
            let number = btf.enumerator(enumerator)?;
            let missing = || BtfError::NoMember {
                structure: "udp_sock".to_owned(),
                member: enumerator.to_owned(),
            };
            Ok(flags + number.ok_or_else(missing)?)
        }
        None => btf.bits("udp_sock", &[member]),
    };
    let cork = bit("UDP_FLAGS_CORK", "corkflag")?;
    let gro = bit("UDP_FLAGS_GRO_ENABLED", "gro_enabled")?;
    let places = [pending, gso_size, cork / 8, gro / 8];
    let first = places.into_iter().min().unwrap_or_default() & !7;
    let last = places.into_iter().max().unwrap_or_default();
    if (last - first) as usize + size_of::<u64>() > UDP_WINDOW {
        return Ok(Config {
            udp_window: MISSING,
            ..Config::default()
        });
    }
    Ok(Config {
        udp_window: first,
        udp_pending: pending - first,
        udp_gso_size: gso_size - first,
        udp_cork: cork / 8 - first,
        udp_cork_mask: 1 << (cork % 8),
        udp_gro: gro / 8 - first,
        udp_gro_mask: 1 << (gro % 8),
        ..Config::default()
    })
}

/// Returns the offset of the first of the slot's paths that exists, otherwise the first path's
/// error.
fn first_offset(btf: &Btf<'_>, slot: &Slot) -> Result<u32, BtfError> {
    let mut offsets = slot
        .paths
        .iter()
        .map(|path| btf.offset(slot.structure, path));
    let first = offsets
        .next()
        .unwrap_or_else(|| Err(BtfError::NoStruct(slot.structure.to_owned())));
    first.or_else(|error| offsets.find_map(Result::ok).ok_or(error))
}

/// BTF of the running kernel.
pub struct KernelTypes {
    data: Vec<u8>,
    path: PathBuf,
}

impl KernelTypes {
    /// Reads the BTF from [`VMLINUX`], or from the file in the environment variable
    /// `DNSTAP_AGENT_BTF` (for kernels whose BTF is in a separate file).
    pub fn read() -> Result<Self> {
        let path =
            std::env::var_os("DNSTAP_AGENT_BTF").map_or_else(|| VMLINUX.into(), PathBuf::from);
        let data = fs::read(&path).map_err(|error| {
            let remedy = match error.kind() {
                ErrorKind::NotFound => {
                    ": the tap needs a kernel built with CONFIG_DEBUG_INFO_BTF=y (5.10 or later)"
                }
                _ => "",
            };
            anyhow!(error).context(ExitWith(
                Exit::NoPermission,
                format!("cannot read {}{remedy}", path.display()),
            ))
        })?;
        Ok(Self { data, path })
    }

    /// Parses the tables.
    pub fn parse(&self) -> Result<Btf<'_>> {
        Btf::parse(&self.data).with_context(|| self.refused())
    }

    /// Returns the configuration for the running kernel, without the transport.
    pub fn config(&self, btf: &Btf<'_>) -> Result<Config> {
        config_from_btf(btf).with_context(|| self.refused())
    }

    fn refused(&self) -> ExitWith {
        let path = self.path.display();
        ExitWith(
            Exit::NoPermission,
            format!("the kernel's structures in {path} are not what the tap knows"),
        )
    }
}

/// Functions that the `fentry` hook traces, with the number of parameters that its programs expect.
pub const TRACED: [(&str, usize); 5] = [
    ("inet_sendmsg", 3),
    ("inet6_sendmsg", 3),
    ("inet_recvmsg", 4),
    ("inet6_recvmsg", 4),
    ("skb_consume_udp", 3),
];

/// Fails if one of the kernel's functions has another number of parameters: its result would be
/// read from the wrong place.
pub fn check_prototypes(btf: &Btf<'_>) -> Result<()> {
    for (function, expected) in TRACED {
        match btf.parameters(function)? {
            Some(parameters) if parameters != expected => {
                bail!("this kernel's {function} has {parameters} parameters instead of {expected}")
            }
            // If the function does not exist, attaching reports that best.
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// BTF of real kernels; see `assets/btf/README.md`.
    macro_rules! blob {
        ($kernel:literal) => {
            include_bytes!(concat!("../../../assets/btf/", $kernel, ".btf"))
        };
    }

    /// Values of `iov_iter`, known from these kernels' sources.
    #[rstest]
    #[case::linux_5_10(blob!("5.10"), 4, MISSING, 0xfe, [0, 16, 24], None)]
    #[case::linux_6_1(blob!("6.1"), 0, 6, 0xff, [0, 16, 24], Some(24))]
    #[case::linux_6_12(blob!("6.12"), 1, 0, 0xff, [0, 24, 16], Some(16))]
    #[case::linux_6_18(blob!("6.18"), 1, 0, 0xff, [0, 24, 16], Some(16))]
    #[case::linux_7_2(blob!("7.2"), 1, 0, 0xff, [0, 24, 16], Some(16))]
    fn every_kernel_has_all_that_the_hooks_read(
        #[case] blob: &[u8],
        #[case] iovec: u32,
        #[case] ubuf: u32,
        #[case] mask: u32,
        #[case] fields: [u32; 3],
        #[case] ubuf_offset: Option<u32>,
    ) {
        let config = config_from_btf(&Btf::parse(blob).unwrap()).unwrap();
        assert_eq!(
            (config.iter_iovec, config.iter_ubuf, config.iter_type_mask),
            (iovec, ubuf, mask)
        );
        let offsets = config.offsets;
        let [kind, count, iov] = fields;
        assert_eq!(
            (offsets.iter_type, offsets.iter_count, offsets.iter_iov),
            (kind, count, iov)
        );
        assert_eq!(offsets.iter_ubuf, ubuf_offset.unwrap_or(MISSING));
        // include/net/sock.h: the address pair is at the start of struct sock_common, which is at
        // the start of struct sock.
        assert_eq!(
            (
                offsets.sock_daddr,
                offsets.sock_rcv_saddr,
                offsets.sock_family
            ),
            (0, 4, 16)
        );
    }

    /// `gso_size`, and byte and mask of `UDP_CORK` and `UDP_GRO`, relative to `pending`. In old
    /// kernels the last two are members behind it, in newer ones bits of the word in front of it.
    #[rstest]
    #[case::linux_5_10(blob!("5.10"), 12, (4, 1), (9, 8))]
    #[case::linux_6_1(blob!("6.1"), 8, (-8, 1), (-8, 8))]
    #[case::linux_6_12(blob!("6.12"), 8, (-8, 1), (-8, 8))]
    #[case::linux_6_18(blob!("6.18"), 26, (-8, 1), (-8, 8))]
    #[case::linux_7_2(blob!("7.2"), 26, (-8, 1), (-8, 8))]
    fn every_kernel_tells_how_calls_and_datagrams_belong_together(
        #[case] blob: &[u8],
        #[case] gso_size: i64,
        #[case] cork: (i64, u32),
        #[case] gro: (i64, u32),
    ) {
        let config = config_from_btf(&Btf::parse(blob).unwrap()).unwrap();
        let behind = |place: u32| i64::from(place) - i64::from(config.udp_pending);
        assert_ne!(config.udp_window, MISSING);
        assert!(config.udp_window.is_multiple_of(8) && config.udp_pending.is_multiple_of(4));
        assert_eq!(behind(config.udp_gso_size), gso_size);
        assert_eq!((behind(config.udp_cork), config.udp_cork_mask), cork);
        assert_eq!((behind(config.udp_gro), config.udp_gro_mask), gro);
    }

    #[rstest]
    #[case::a_required_member("skc_dport", "struct sock has no member __sk_common.skc_dport")]
    #[case::a_structure("tcp_sock", "no struct tcp_sock")]
    #[case::a_member_by_both_names("iov_offset", "struct iov_iter has no member iov_offset")]
    fn what_a_kernel_lacks_is_named(#[case] renamed: &str, #[case] message: &str) {
        let mut blob = blob!("6.12").to_vec();
        let at = blob
            .windows(renamed.len() + 2)
            .position(|window| {
                window[0] == 0
                    && &window[1..=renamed.len()] == renamed.as_bytes()
                    && window[renamed.len() + 1] == 0
            })
            .unwrap();
        blob[at + 1] = b'X';
        let error = config_from_btf(&Btf::parse(&blob).unwrap()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }

    #[test]
    fn every_hooked_function_has_the_parameters_that_the_programs_expect() {
        for blob in [
            &blob!("5.10")[..],
            blob!("6.1"),
            blob!("6.12"),
            blob!("6.18"),
            blob!("7.2"),
        ] {
            let btf = Btf::parse(blob).unwrap();
            for (function, parameters) in TRACED {
                assert_eq!(btf.parameters(function), Ok(Some(parameters)), "{function}");
            }
        }
    }
}
