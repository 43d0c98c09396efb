//! `cargo xtask build`: the eBPF object, then the agent with the object embedded.
//!
//! The object is compiled with the eBPF toolchain into its own target folder. It is copied to a stable path only if its
//! bytes have changed, so that the agent is not rebuilt without need. `dnstap-agent/build.rs` takes the path from the
//! environment variable `DNSTAP_EBPF_OBJECT`.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{arch::Arch, exec, packages::Apt, paths, toolchain, ui, zig};

/// Programs for a little-endian kernel, as all of [`Arch`] have.
const EBPF_TARGET: &str = "bpfel-unknown-none";

/// C library of the guests in which the tests of another architecture run (Debian 12). They call functions that the oldest
/// one does not have.
const TESTS_GLIBC: &str = "2.36";

/// Features of the agent that are off for unit tests, because they build C libraries for minutes.
pub(crate) const FEATURES: &str = "--features=kafka";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build the agent without optimisation, which is quicker
    #[arg(long)]
    debug: bool,
    /// Build the eBPF object alone
    #[arg(long, conflicts_with = "debug")]
    object: bool,
}

/// Profile of the agent. The eBPF object is always optimised, because the verifier needs that.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    Debug,
    Release,
}

/// Builds what the command line asks for.
pub(crate) fn run(args: &Args) -> Result<()> {
    let object = ebpf(Arch::HOST)?;
    if !args.object {
        agent(
            if args.debug {
                Profile::Debug
            } else {
                Profile::Release
            },
            &object,
        )?;
    }
    Ok(())
}

/// Builds both for use and returns the agent's path.
pub(crate) fn release() -> Result<PathBuf> {
    agent(Profile::Release, &ebpf(Arch::HOST)?)
}

/// Builds the release for `arch` and [`zig::GLIBC`], and returns the agent's path.
pub(crate) fn portable(arch: Arch) -> Result<PathBuf> {
    let object = ebpf(arch)?;
    ui::step(format_args!(
        "building the agent for {} and every C library from {} on",
        arch.debian(),
        zig::GLIBC
    ));
    let mut build = zig::build(arch, zig::GLIBC)?;
    build
        .args(["--release", "--package=dnstap-agent"])
        .env("DNSTAP_EBPF_OBJECT", object);
    // librdkafka's own script cannot compile for another architecture, so that agent has no Kafka.
    if arch == Arch::HOST {
        build.arg(FEATURES);
    }
    exec::run(&mut build)?;
    let agent = paths::target()
        .join(arch.target())
        .join("release/dnstap-agent");
    ui::note(agent.display());
    Ok(agent)
}

/// Builds the program of the integration tests and returns its path.
pub(crate) fn tests() -> Result<PathBuf> {
    // A test of the workspace is selected, too, so that the dependencies have the same features as for `cargo test`.
    let selection = ["--workspace", "--bin=dnstap-tests", "--test=program"];
    exec::run(exec::cargo().arg("build").args(selection))?;
    Ok(paths::target().join("debug/dnstap-tests"))
}

/// Builds the program of the integration tests for another architecture than this machine's, and returns its path.
pub(crate) fn foreign_tests(arch: Arch) -> Result<PathBuf> {
    exec::run(
        zig::build(arch, TESTS_GLIBC)?.args(["--package=dnstap-tests", "--bin=dnstap-tests"]),
    )?;
    Ok(paths::target()
        .join(arch.target())
        .join("debug/dnstap-tests"))
}

/// Compiles the eBPF programs for the kernels of `arch` and returns the object's path.
///
/// Each architecture has an object of its own. The agent that embeds it is of that architecture, too, and nothing has to
/// be looked up for each message that the compiler knows: places of registers and numbers of system calls.
fn ebpf(arch: Arch) -> Result<PathBuf> {
    ui::step(format_args!(
        "building the eBPF object for {}",
        arch.debian()
    ));
    let toolchain = toolchain::ensure(&mut Apt::default())?;
    let folder = paths::target().join("ebpf");
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", arch.rust()),
        "-Cdebuginfo=2".to_owned(), // the linker makes BTF from this
        "-Clink-arg=--btf".to_owned(),
    ];
    let build = [
        "build",
        "--package=dnstap-ebpf",
        "--bin=dnstap-ebpf",
        "--features=kernel",
        "--release",
    ];
    exec::run(
        toolchain
            .cargo()
            .args(build)
            .args(["-Zbuild-std=core", "--target", EBPF_TARGET, "--target-dir"])
            .arg(&folder)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    )?;

    let built = folder.join(EBPF_TARGET).join("release/dnstap-ebpf");
    let object = folder.join(if arch == Arch::HOST {
        "dnstap-ebpf".to_owned()
    } else {
        format!("dnstap-ebpf-{}", arch.debian())
    });
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(&object).ok().as_ref() != Some(&bytes) {
        fs::write(&object, &bytes).with_context(|| format!("cannot write {}", object.display()))?;
    }
    ui::note(format_args!(
        "{} ({} KiB)",
        object.display(),
        bytes.len().div_ceil(1024)
    ));
    Ok(object)
}

/// Compiles the agent around the object and returns its path.
fn agent(profile: Profile, object: &PathBuf) -> Result<PathBuf> {
    ui::step("building the agent");
    let mut build = exec::cargo();
    build
        .args(["build", "--package=dnstap-agent", FEATURES])
        .env("DNSTAP_EBPF_OBJECT", object);
    if profile == Profile::Release {
        build.arg("--release");
    }
    exec::run(&mut build)?;
    let folder = if profile == Profile::Release {
        "release"
    } else {
        "debug"
    };
    let agent = paths::target().join(folder).join("dnstap-agent");
    ui::note(agent.display());
    Ok(agent)
}
