//! Where the running kernel keeps what the hooks read: [`KernelOffsets`] from its BTF.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use dnstap_ebpf::{Config, KernelOffsets, MISSING, Slot};

use super::btf::{Btf, BtfError};
use crate::exit::{Exit, ExitWith};

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

/// The configuration for this kernel, but for the transport.
pub fn config_from_btf(btf: &Btf<'_>) -> Result<Config, BtfError> {
    let has_separate_direction = btf.offset("iov_iter", &["iter_type"]).is_ok();
    Ok(Config {
        iter_iovec: btf.enumerator("ITER_IOVEC")?.unwrap_or(MISSING),
        iter_ubuf: btf.enumerator("ITER_UBUF")?.unwrap_or(MISSING),
        iter_type_mask: if has_separate_direction { 0xff } else { 0xfe },
        offsets: from_btf(btf)?,
        ..Config::default()
    })
}

/// Offset by the first of the slot's paths that exists; else the first path's error.
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

/// The configuration for the running kernel, but for the transport.
pub fn of_running_kernel() -> Result<Config> {
    let refuse = |message: String| ExitWith(Exit::NoPermission, message);
    let data = fs::read(Path::new(VMLINUX)).with_context(|| {
        refuse(format!("cannot read {VMLINUX}: the tap needs a kernel built with CONFIG_DEBUG_INFO_BTF=y (5.10 or later)"))
    })?;
    Btf::parse(&data)
        .and_then(|btf| config_from_btf(&btf))
        .with_context(|| {
            refuse(format!(
                "the kernel's structures in {VMLINUX} are not what the tap knows"
            ))
        })
}
