//! Where the running kernel keeps what the hooks read: [`KernelOffsets`] from its BTF.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use dnstap_ebpf::KernelOffsets;

use super::btf::{Btf, BtfError};
use crate::exit::{Exit, ExitWith};

/// BTF of the running kernel.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Looks up every slot of the table. The error names the structure and the member.
pub fn from_btf(btf: &Btf<'_>) -> Result<KernelOffsets, BtfError> {
    let mut slots = [0; KernelOffsets::TABLE.len()];
    for (slot, (structure, path)) in slots.iter_mut().zip(KernelOffsets::TABLE) {
        *slot = btf.offset(structure, path)?;
    }
    Ok(KernelOffsets::from_slots(&slots))
}

/// Offsets of the running kernel.
pub fn of_running_kernel() -> Result<KernelOffsets> {
    let refuse = |message: String| ExitWith(Exit::NoPermission, message);
    let data = fs::read(Path::new(VMLINUX)).with_context(|| {
        refuse(format!("cannot read {VMLINUX}: the tap needs a kernel built with CONFIG_DEBUG_INFO_BTF=y (5.10 or later)"))
    })?;
    Btf::parse(&data)
        .and_then(|btf| from_btf(&btf))
        .with_context(|| {
            refuse(format!(
                "the kernel's structures in {VMLINUX} are not what the tap knows"
            ))
        })
}
