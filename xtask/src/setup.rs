//! `cargo xtask setup`: prepares the machine to build, test and show the project. It checks first, reports what it
//! installs, and does nothing if nothing is missing. Downloads are stored outside of the tree.

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::{dist, exec, packages::Apt, servers, toolchain, ui, vm, zig};

/// The demo's tools: `dig` and `dnstap-read`.
const DEMO_PACKAGES: &[&str] = &["bind9-dnsutils", "bind9-utils"];
/// The tests' tools: load, independent readers of dnstap, of packets, of passive DNS and of zstd, a browser,
/// private network namespaces, and a checker of the service's unit.
const TEST_PACKAGES: &[&str] = &[
    "bind9-dnsutils",
    "bind9-utils",
    "chromium",
    "curl",
    "dnsdbq",
    "dnsperf",
    "dnstap-ldns",
    "fstrm-bin",
    "golang-github-dnstap-golang-dnstap-cli",
    "iproute2",
    "systemd",
    "tshark",
    "zstd",
];

/// Kafka's tests: the broker is a Java program, and Maven fetches it.
pub(crate) const KAFKA_PACKAGES: &[&str] = &[
    "maven",
    "openjdk-17-jre-headless",
    "python3",
    "python3-venv",
];

/// What builds librdkafka and OpenSSL, besides a C compiler.
pub(crate) const BUILD_PACKAGES: &[&str] = &["g++", "make", "perl"];

/// The benchmark's other programs, and its load.
const BENCH_PACKAGES: &[&str] = &[
    "bind9-dnsutils",
    "dnscap",
    "dnsperf",
    "fstrm-bin",
    "golang-github-dnstap-golang-dnstap-cli",
    "tcpdump",
    "valgrind",
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Purpose for which packages and tools are installed
    #[arg(long = "for", value_name = "PURPOSE", value_enum, default_value_t = Purpose::All)]
    pub(crate) purpose: Purpose,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Compile the eBPF object and the agent
    Build,
    /// Run every test
    Test,
    /// Run the demo
    Demo,
    /// Run the benchmark
    Bench,
    /// All of these
    All,
}

/// Installs the missing packages and tools that `purpose` needs.
pub(crate) fn run(purpose: Purpose) -> Result<()> {
    let mut apt = Apt::default();
    if matches!(purpose, Purpose::Test | Purpose::All) {
        ensure_cargo_tools()?;
        ensure_cxx()?;
        apt.ensure(TEST_PACKAGES)?;
        apt.ensure(dist::PACKAGES)?;
        apt.ensure(KAFKA_PACKAGES)?;
        zig::ensure()?;
        apt.ensure(vm::PACKAGES)?;
        servers::ensure_promtool(&mut apt)?;
        servers::ensure_others(&mut apt)?;
    }
    if matches!(purpose, Purpose::Demo | Purpose::All) {
        apt.ensure(DEMO_PACKAGES)?;
    }
    if matches!(purpose, Purpose::Bench | Purpose::All) {
        apt.ensure(BENCH_PACKAGES)?;
    }
    if purpose != Purpose::Build {
        let named = servers::ensure_bind9(&mut apt)?;
        ui::note(format_args!("named: {}", named.display()));
    }
    apt.ensure(BUILD_PACKAGES)?;
    let toolchain = toolchain::ensure(&mut apt)?;
    ui::note(format_args!("eBPF toolchain: {toolchain}"));
    Ok(())
}

/// Makes sure that there is a C++ compiler: libFuzzer is C++.
pub(crate) fn ensure_cxx() -> Result<()> {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    match exec::output(std::process::Command::new(compiler).arg("--version")) {
        Ok(_) => Ok(()),
        Err(_) => Apt::default().ensure(&["g++"]),
    }
}

/// Makes sure that `cargo fmt` and `cargo clippy` are installed, which are separate parts of a toolchain.
pub(crate) fn ensure_cargo_tools() -> Result<()> {
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if exec::output(exec::cargo().args([tool, "--version"])).is_err() {
            ui::step(format_args!("installing {component}"));
            exec::run(std::process::Command::new("rustup").args(["component", "add", component]))
                .with_context(|| {
                format!("`cargo {tool}` is missing; install {component} for this toolchain")
            })?;
        }
    }
    Ok(())
}
