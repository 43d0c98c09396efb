//! Virtual machines whose clock counts instructions. The CPU time of a process that a guest reports is the number of
//! instructions that the process has executed. This number does not depend on the load of the host.
//!
//! A machine has the agent, one BIND, the tools that its plan needs, and that plan.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    PACKAGES, impossible, initramfs, lock, logs, plan,
    qemu::{Acceleration, End, Machine},
    releases, select,
};
use crate::{arch::Arch, archive::Mirrors, packages::Apt, scratch::Scratch, ui};

/// Line that a guest prints at the end of its plan.
const DONE: &str = "@done";

/// Kernels, and a file system that all of them boot.
pub(crate) struct Guests {
    images: Vec<(&'static str, PathBuf)>,
    initramfs: PathBuf,
    _folder: Scratch,
}

/// Content of the file system.
pub(crate) struct Contents<'a> {
    pub(crate) agent: &'a Path,
    /// Programs of this machine, and the packages that have them.
    pub(crate) tools: &'a [&'static str],
    pub(crate) packages: &'a [&'static str],
    /// Path and text of each file. `plans/NAME` is a plan: a part of the script of the guest's first process.
    pub(crate) texts: &'a [(String, String)],
}

/// Returns the kernels with these names, oldest first, and the hooks that each accepts.
pub(crate) fn hooks(names: &[String]) -> Result<Vec<(&'static str, &'static [&'static str])>> {
    let kernels = select(Arch::Amd64, names)?;
    Ok(kernels
        .iter()
        .map(|kernel| (kernel.name, kernel.hooks))
        .collect())
}

impl Guests {
    /// Fetches the kernels and makes the file system.
    pub(crate) fn new(kernels: &[&str], contents: &Contents<'_>) -> Result<Self> {
        if let Some(why) = impossible() {
            bail!(why);
        }
        let names: Vec<_> = kernels.iter().map(|&name| name.to_owned()).collect();
        let sources = select(Arch::Amd64, &names)?;
        // The lock only protects the cache: other work of the host does not change the counts of the machines.
        let lock = lock()?;
        Apt::default().ensure(&[PACKAGES, contents.packages].concat())?;
        ui::step("kernels and servers");
        let mirrors = Mirrors::of_this_machine()?;
        let images = sources
            .iter()
            .map(|source| Ok((source.name, releases::kernel(&mirrors, source)?)))
            .collect::<Result<_>>()?;
        let bind = releases::BINDS
            .iter()
            .find(|bind| bind.name == plan::BIND)
            .context("the matrix has no such BIND")?;
        let (folder, _) = releases::bind(&mirrors, bind, Arch::Amd64)?;
        let scratch = Scratch::create(logs().join(format!("counting-{}", std::process::id())))?;
        let contents = initramfs::Contents {
            arch: Arch::Amd64,
            unpacked: None,
            programs: &[("dnstap-agent", contents.agent)],
            tools: contents.tools,
            binds: &[(bind.name, folder)],
            texts: contents.texts,
        };
        let initramfs = initramfs::build(&contents, scratch.path())?;
        drop(lock);
        Ok(Self {
            images,
            initramfs,
            _folder: scratch,
        })
    }

    /// Runs a plan on a kernel, and passes each line of its output to `see`.
    pub(crate) fn run(
        &self,
        kernel: &str,
        plan: &str,
        limit: Duration,
        mut see: impl FnMut(&str),
    ) -> Result<()> {
        let image = self.images.iter().find(|(name, _)| *name == kernel);
        let (_, image) = image.with_context(|| format!("no kernel {kernel} was fetched"))?;
        let console = logs().join(format!("counting-{kernel}-{plan}.console"));
        let machine = Machine {
            arch: Arch::Amd64,
            kernel: image,
            initramfs: &self.initramfs,
            plan,
            acceleration: Acceleration::Counted,
            console,
        };
        let mut done = false;
        let end = machine.run(limit, |line| {
            done |= line == DONE;
            see(line);
        })?;
        let said = || format!("its kernel's words are in {}", machine.console.display());
        ensure!(
            end == End::Off,
            "the machine did not end in {} s; {}",
            limit.as_secs(),
            said()
        );
        ensure!(done, "the machine ended before its plan; {}", said());
        Ok(())
    }
}
