//! `cargo xtask vm`: runs the integration tests on other kernels than this machine's, each in a virtual machine.
//!
//! ```text
//! releases ─► kernels, BINDs ─┐
//! build ────► agent, tests ───┼─► initramfs ─► qemu (one machine per kernel) ─► outcome ─► report
//! plan ─────► what runs where ┘
//! ```
//!
//! It needs neither root nor KVM, changes nothing on the machine, and stores downloads in the cache. The last line of
//! standard output is `N passed, N failed, N skipped`.

pub(crate) mod counting;
mod cpio;
mod initramfs;
mod outcome;
mod page;
mod plan;
mod qemu;
mod releases;
mod report;

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::{
    outcome::{Outcome, Verdict},
    qemu::{Acceleration, Machine},
    releases::{BINDS, KernelSource},
    report::Row,
};
use crate::{
    arch::Arch, archive::Mirrors, build, exec, packages::Apt, paths, results::Results,
    tally::Tally, ui, workers,
};

/// Packages of this machine that the virtual machines need.
pub(crate) const PACKAGES: &[&str] = &[
    "binutils",
    "busybox-static",
    "debian-archive-keyring",
    "qemu-system-x86",
];
/// Package with the emulator of arm64.
const EMULATOR: &str = "qemu-system-arm";
/// File of the report if the whole matrix ran.
const PAGE: &str = "docs/kernel-support.md";
/// Time limit of a machine in seconds, and that of one of another architecture, whose plan is one phase after the other
/// with every hook and ring.
const TIMEOUT: u64 = 900;
const FOREIGN_TIMEOUT: u64 = 2_700;
/// Plan that only reports that the machine runs.
const HELLO: &str = "hello";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernels to boot: 5.10, 6.1, 6.12, newest; for arm64: 6.1, 6.12; all if none is named
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Architecture of the kernels and programs; another than this machine's is always emulated
    #[arg(long, value_enum, default_value_t = Arch::HOST)]
    arch: Arch,
    /// Run the tests with this in their name, with every hook and ring, instead of the matrix; empty: all tests
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// BIND's version for --filter: 9.16, 9.18 or 9.20
    #[arg(long, value_name = "VERSION", default_value = plan::BIND, requires = "filter")]
    bind: String,
    /// Time that each machine may take, in seconds [default: 900; arm64: 2700]
    #[arg(long, value_name = "SECS")]
    timeout: Option<u64>,
    /// Give a shell in the machine instead of running tests
    #[arg(long)]
    shell: bool,
    /// Keep the machines' output also when nothing failed
    #[arg(long)]
    keep: bool,
}

/// Runs what the command line asks for.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let kernels = select(args.arch, &args.kernels)?;
    let bind = BINDS
        .iter()
        .map(|bind| bind.name)
        .find(|name| *name == args.bind)
        .with_context(|| {
            format!(
                "no BIND {}: there are {}",
                args.bind,
                BINDS.map(|bind| bind.name).join(", ")
            )
        })?;
    let plan_of = |kernel: &KernelSource| match &args.filter {
        Some(filter) => plan::chosen(kernel, bind, filter),
        None => plan::matrix(kernel),
    };
    let prepared = Prepared::new(args.arch, &kernels, &plan_of)?;
    if args.shell {
        let [(_, Ok(kernel))] = &prepared.kernels[..] else {
            bail!("name the one kernel whose shell you want");
        };
        prepared.machine(kernel, "shell")?.shell()?;
        return Ok(ExitCode::SUCCESS);
    }
    let usual = if args.arch == Arch::HOST {
        TIMEOUT
    } else {
        FOREIGN_TIMEOUT
    };
    let limit = Duration::from_secs(args.timeout.unwrap_or(usual));
    let rows = prepared.boot(&plan_of, limit, args.keep)?;
    let sum = report(&rows);
    if args.filter.is_none() && kernels.len() == releases::kernels(args.arch).len() {
        prepared.document(&rows)?;
    }
    println!("{sum}");
    Ok(if sum.failed > 0 || sum.passed == 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Runs the whole matrix, as a part of `cargo xtask test`: prints the table, and does not change the page.
pub(crate) fn matrix() -> Result<Results> {
    let kernels = select(Arch::Amd64, &[])?;
    let prepared = Prepared::new(Arch::Amd64, &kernels, &plan::matrix)?;
    let rows = prepared.boot(&plan::matrix, Duration::from_secs(TIMEOUT), false)?;
    Ok(Results {
        tally: report(&rows),
        failures: rows.iter().flat_map(Row::failures).collect(),
    })
}

/// Returns the reason if this machine cannot run the matrix at all.
pub(crate) fn impossible() -> Option<&'static str> {
    if Arch::HOST != Arch::Amd64 {
        return Some("the virtual machines are made on x86-64, and this machine is another one");
    }
    if exec::output(Command::new("apt-get").arg("--version")).is_err() {
        return Some("the kernels come from Debian's archive, and this machine has no apt-get");
    }
    None
}

/// Returns the folder of an unpacked BIND of the matrix with all its dependencies, including the C library. It takes
/// the existing one, even if the archive has a newer version by now; the next run of the machines updates it.
pub(crate) fn bind(name: &str) -> Result<PathBuf> {
    let source = BINDS.iter().find(|bind| bind.name == name);
    let source = source.with_context(|| format!("no BIND {name} in the matrix"))?;
    if let Some(folder) = releases::unpacked(source)? {
        return Ok(folder);
    }
    let _lock = lock()?;
    Ok(releases::bind(&Mirrors::of_this_machine()?, source, Arch::HOST)?.0)
}

/// Everything that the machines need.
struct Prepared {
    arch: Arch,
    /// The image of each kernel, or the reason why there is none.
    kernels: Vec<(&'static KernelSource, Result<PathBuf>)>,
    binds: BTreeMap<&'static str, String>,
    initramfs: PathBuf,
    acceleration: Acceleration,
    /// Lock that is held to the end: two runs would change each other's cache and file system, and each would be half
    /// as fast.
    _lock: File,
}

impl Prepared {
    fn new(
        arch: Arch,
        kernels: &[&'static KernelSource],
        plan_of: &dyn Fn(&KernelSource) -> Vec<plan::Phase>,
    ) -> Result<Self> {
        if let Some(why) = impossible() {
            bail!(why);
        }
        let lock = lock()?;
        Apt::default().ensure(PACKAGES)?;
        let (agent, tests) = if arch == Arch::HOST {
            (build::release()?, build::tests()?)
        } else {
            Apt::default().ensure(&[EMULATOR, arch.binutils_package()])?;
            (build::portable(arch)?, build::foreign_tests(arch)?)
        };

        ui::step("kernels and servers");
        let mirrors = Mirrors::of_this_machine()?;
        let images: Vec<_> = kernels
            .iter()
            .map(|source| (*source, releases::kernel(&mirrors, source)))
            .collect();
        let mut binds = BTreeMap::new();
        let mut folders = Vec::new();
        for source in &BINDS {
            let (folder, version) = releases::bind(&mirrors, source, arch)?;
            binds.insert(source.name, version);
            folders.push((source.name, folder));
        }
        let mut plans: Vec<_> = kernels
            .iter()
            .map(|source| (plan_path(source.name), plan::script(&plan_of(source))))
            .collect();
        plans.push((plan_path(HELLO), String::new()));
        let unpacked = if arch == Arch::HOST {
            None
        } else {
            Some(releases::tools(&mirrors, arch)?)
        };
        let contents = initramfs::Contents {
            arch,
            unpacked: unpacked.as_deref(),
            programs: &[("dnstap-agent", &agent), ("dnstap-tests", &tests)],
            tools: &initramfs::TOOLS,
            binds: &folders,
            texts: &plans,
        };
        fs::create_dir_all(logs())
            .with_context(|| format!("cannot create {}", logs().display()))?;
        let initramfs = initramfs::build(&contents, &logs())?;
        let first = images
            .iter()
            .find_map(|(_, image)| image.as_ref().ok())
            .context("no kernel could be had")?;
        let acceleration =
            qemu::acceleration(arch, first, &initramfs, HELLO, logs().join("hello.console"))?;
        ui::note(format_args!("virtual machines: {acceleration}"));
        Ok(Self {
            arch,
            kernels: images,
            binds,
            initramfs,
            acceleration,
            _lock: lock,
        })
    }

    fn machine<'a>(&'a self, kernel: &'a Path, plan: &'a str) -> Result<Machine<'a>> {
        ensure!(
            self.initramfs.exists(),
            "{} is gone",
            self.initramfs.display()
        );
        Ok(Machine {
            arch: self.arch,
            kernel,
            initramfs: &self.initramfs,
            plan,
            acceleration: self.acceleration,
            console: logs().join(format!("{plan}.console")),
        })
    }

    /// Boots all kernels, as many at a time as there are processors, and returns their results in order.
    fn boot(
        &self,
        plan_of: &(dyn Fn(&KernelSource) -> Vec<plan::Phase> + Sync),
        limit: Duration,
        keep: bool,
    ) -> Result<Vec<Row>> {
        ui::step(format_args!(
            "{} kernels, {} at a time",
            self.kernels.len(),
            workers::number(self.kernels.len())
        ));
        // The newest kernels have the longest plans; they go first.
        let newest_first: Vec<_> = self.kernels.iter().rev().collect();
        let mut rows = workers::each(&newest_first, |(source, image)| match image {
            Ok(image) => self.one(source, image, plan_of(source), limit, keep),
            Err(error) => Ok(Row::unavailable(source, format!("{error:#}"))),
        })?;
        rows.reverse();
        Ok(rows)
    }

    /// Boots one kernel and shows its tests when they end.
    fn one(
        &self,
        source: &'static KernelSource,
        image: &Path,
        phases: Vec<plan::Phase>,
        limit: Duration,
        keep: bool,
    ) -> Result<Row> {
        let start = Instant::now();
        let machine = self.machine(image, source.name)?;
        let mut outcome = Outcome::default();
        let end = machine.run(limit, |line| {
            let bind = phases
                .get(outcome.phases.len().saturating_sub(1))
                .map_or("", |phase| phase.bind);
            if let Some(test) = outcome.line(line) {
                let verdict = match test.verdict {
                    Verdict::Passed => "ok",
                    Verdict::Failed => "FAILED",
                    Verdict::Skipped => "skip",
                };
                println!(
                    "{verdict:>6} {:>4} s  {:<6} BIND {bind}  {}",
                    start.elapsed().as_secs(),
                    source.name,
                    test.name
                );
            }
        })?;
        let row = Row::new(source, phases, outcome, end, start.elapsed().as_secs());
        let log = machine.console.with_extension("log");
        if row.tally().failed > 0 || keep {
            fs::write(&log, &row.outcome.log)
                .with_context(|| format!("cannot write {}", log.display()))?;
            println!("{}", row.outcome.explanations().whole().trim_end());
            println!(
                "{}: the kernel's words are in {}, the tests' in {}",
                source.name,
                machine.console.display(),
                log.display()
            );
        } else {
            fs::remove_file(&machine.console).context("cannot remove the console's log")?;
        }
        Ok(row)
    }

    /// Writes the page of the documentation.
    fn document(&self, rows: &[Row]) -> Result<()> {
        let date = exec::output(Command::new("date").args(["-u", "+%F"]))?;
        let path = paths::root().join(PAGE);
        let old =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let run = page::Run {
            arch: self.arch,
            rows,
            binds: &self.binds,
            acceleration: self.acceleration,
            date: date.trim(),
        };
        let page = page::page(&old, &run);
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
        ui::note(format_args!("wrote {PAGE}"));
        Ok(())
    }
}

/// Prints the table and returns the sum.
fn report(rows: &[Row]) -> Tally {
    println!("{}", report::table(rows));
    let mut sum = Tally::default();
    for row in rows {
        sum += row.tally();
    }
    sum
}

/// Returns the kernels with these names, or all.
fn select(arch: Arch, names: &[String]) -> Result<Vec<&'static KernelSource>> {
    let all = releases::kernels(arch);
    let known: Vec<_> = all.iter().map(|kernel| kernel.name).collect();
    for name in names {
        ensure!(
            known.contains(&name.as_str()),
            "no kernel {name}: there are {}",
            known.join(", ")
        );
    }
    let wanted =
        |kernel: &&KernelSource| names.is_empty() || names.iter().any(|name| name == kernel.name);
    Ok(all.iter().filter(wanted).collect())
}

/// Waits until no other run is active.
fn lock() -> Result<File> {
    let folder = paths::cache()?.join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => ui::note("waiting for another `cargo xtask vm` to end"),
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Returns the path at which a guest looks for a plan.
fn plan_path(name: &str) -> String {
    format!("plans/{name}")
}

fn logs() -> PathBuf {
    paths::logs().join("vm")
}
