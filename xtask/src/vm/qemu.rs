//! The virtual machines: QEMU with a kernel, a file system in memory, two serial ports, and nothing else. They use KVM
//! if it works, and are emulated otherwise.

use std::{
    fmt,
    fs::OpenOptions,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{arch::Arch, exec, ui};

/// Time limit for the plan `hello` on a machine with KVM.
const HELLO: Duration = Duration::from_secs(20);

/// Way in which the guest's instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acceleration {
    /// By the processor.
    Kvm,
    /// By QEMU, many times slower.
    Emulated,
    /// By QEMU, one in each nanosecond of the guest's clock. So the CPU time that a guest reports is a number of
    /// instructions, whatever else the host does. The guest has one processor.
    Counted,
}

impl fmt::Display for Acceleration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kvm => "KVM",
            Self::Emulated => "QEMU without KVM, an emulated processor",
            Self::Counted => "QEMU without KVM, whose clock counts instructions",
        })
    }
}

/// A machine to start.
pub(super) struct Machine<'a> {
    pub(super) arch: Arch,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// Name of the plan.
    pub(super) plan: &'a str,
    pub(super) acceleration: Acceleration,
    /// File for the output of the first serial port.
    pub(super) console: PathBuf,
}

/// End of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It powered off, or QEMU ended.
    Off,
    /// It was stopped because its time was up.
    TimeUp,
}

impl Machine<'_> {
    /// Runs the machine to its end, or for `limit`. Passes each line of the second serial port to `see`.
    pub(super) fn run(&self, limit: Duration, mut see: impl FnMut(&str)) -> Result<End> {
        // The signal is sent when the thread that waits here dies, so no machine outlives this program.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", &self.program()]);
        self.arguments(&mut command, "quiet");
        command
            .args(["-display", "none", "-monitor", "none", "-serial"])
            .arg(format!("file:{}", self.console.display()))
            .args(match self.arch {
                Arch::Amd64 => &["-serial", "stdio"][..],
                // The board has one serial port.
                Arch::Arm64 => &[
                    "-chardev",
                    "stdio,id=tests",
                    "-device",
                    "pci-serial,chardev=tests",
                ],
            })
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let line = exec::display(&command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run `{line}`"))?;
        let stdout = child
            .stdout
            .take()
            .context("standard output is not piped")?;
        let stderr = child.stderr.take().context("standard error is not piped")?;
        let (sender, lines) = mpsc::channel();
        let complaints = sender.clone();
        thread::spawn(move || pass_on(stdout, "", &sender));
        thread::spawn(move || pass_on(stderr, "qemu: ", &complaints));

        let deadline = Instant::now() + limit;
        let end = loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => see(&line),
                Err(RecvTimeoutError::Disconnected) => break End::Off,
                Err(RecvTimeoutError::Timeout) => {
                    child.kill().context("cannot stop QEMU")?;
                    break End::TimeUp;
                }
            }
        };
        child.wait().context("cannot wait for QEMU")?;
        Ok(end)
    }

    /// Runs the machine on this terminal.
    pub(super) fn shell(&self) -> Result<()> {
        let mut command = Command::new(self.program());
        self.arguments(&mut command, "quiet");
        command.args(["-nographic", "-serial", "mon:stdio"]);
        ui::note("the keys to stop the machine at once: Ctrl-A X");
        command.status().context("cannot run QEMU")?;
        Ok(())
    }

    fn program(&self) -> String {
        format!("qemu-system-{}", self.arch.rust())
    }

    fn arguments(&self, command: &mut Command, more: &str) {
        // The second port is for the tests.
        let (board, ports) = match self.arch {
            Arch::Amd64 => ("pc", ["ttyS0", "ttyS1"]),
            Arch::Arm64 => ("virt", ["ttyAMA0", "ttyS0"]),
        };
        let (accelerator, processor, processors) = match self.acceleration {
            Acceleration::Kvm => ("kvm", "host", "2"),
            // A processor of servers in the field. The model `max` has features that no such server has, and that a kernel
            // of 2020 does not start with.
            _ if self.arch == Arch::Arm64 => ("tcg,thread=single", "neoverse-n1", "2"),
            // Both processors run on one thread. With one thread each, a kernel that changes its own code (static keys,
            // at boot and when a hook attaches) sometimes hits its breakpoint and crashes ("Oops: int3").
            Acceleration::Emulated => ("tcg,thread=single", "max", "2"),
            // These processor extensions are off, because with them `rep movsb` copies memory and counts as one
            // instruction per byte.
            Acceleration::Counted => ("tcg,thread=single", "max,-erms,-fsrm", "1"),
        };
        if self.acceleration == Acceleration::Counted {
            // No time passes while the guest waits, and the host's clock and random numbers have no influence.
            command
                .args(["-icount", "shift=0,sleep=off", "-seed", "1"])
                .args(["-rtc", "base=2026-01-01,clock=vm"]);
        }
        command
            .args(["-machine", board])
            .args(["-nodefaults", "-no-reboot", "-m", "2048"])
            .args(["-smp", processors])
            .args(["-accel", accelerator, "-cpu", processor, "-kernel"])
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-append")
            // No huge pages: the hooks cannot read a page while the kernel moves it into a huge page (`user_fault`),
            // and small machines under much load do little else.
            .arg(format!(
                "console={} port={} panic=-1 transparent_hugepage=never plan={} {more}",
                ports[0], ports[1], self.plan
            ));
    }
}

/// Finds out whether a machine really runs with KVM here. The existence of the device is not enough on hosts that are
/// virtual themselves. `hello` is a plan that prints `@done` immediately.
pub(super) fn acceleration(
    arch: Arch,
    kernel: &Path,
    initramfs: &Path,
    hello: &str,
    console: PathBuf,
) -> Result<Acceleration> {
    if arch != Arch::HOST {
        return Ok(Acceleration::Emulated);
    }
    if OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(Acceleration::Emulated);
    }
    let machine = Machine {
        arch,
        kernel,
        initramfs,
        plan: hello,
        acceleration: Acceleration::Kvm,
        console,
    };
    let mut works = false;
    machine.run(HELLO, |line| works |= line == "@done")?;
    if works {
        return Ok(Acceleration::Kvm);
    }
    ui::note("there is /dev/kvm, but no machine starts with it");
    Ok(Acceleration::Emulated)
}

fn pass_on(from: impl std::io::Read, prefix: &str, to: &mpsc::Sender<String>) {
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        if to.send(format!("{prefix}{}", line.trim_end())).is_err() {
            break; // the receiver was dropped
        }
    }
}
