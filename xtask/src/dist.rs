//! `cargo xtask dist`: release builds that run on every distribution ([`crate::zig`]), for each architecture as packages
//! and as a tarball of the same files, in `target/dist`.
//!
//! ```text
//! agent, its own man pages and completions, packaging/, docs ─► tree (as it is installed) ─┬─► .tar.gz
//!                                                                   + a spec file (rpm.rs) ─┼─► .rpm
//!                                                                       + DEBIAN/ (deb.rs) ─┴─► .deb
//! Cargo.lock (sbom.rs) ────────────────────────────────────────────────────────────────────────► .cdx.json
//! ```
//!
//! The tools of the distributions, `tar`, `rpmbuild` and `dpkg-deb`, make the archives, and `SHA256SUMS` has their sums. All times are that of the last commit, or of
//! `SOURCE_DATE_EPOCH`, so that the same sources give the same bytes.

mod deb;
mod licences;
mod rpm;
mod sbom;

use std::{
    env, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{arch::Arch, build, exec, packages::Apt, paths, ui};

/// Packages that building the package needs in addition to a compiler, for `readelf`, `strip` and `rpmbuild`.
pub(crate) const PACKAGES: &[&str] = &["binutils", "rpm"];

/// The program's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Documents that are installed with the program, in the same folders as here, so that their links stay valid.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "SECURITY.md",
    "contrib/clickhouse/README.md",
    "contrib/clickhouse/functions.sql",
    "contrib/clickhouse/grafana-dashboard.json",
    "contrib/clickhouse/json.sql",
    "contrib/clickhouse/kafka.sql",
    "contrib/clickhouse/queries.sql",
    "contrib/clickhouse/tables.sql",
    "contrib/loki/README.md",
    "contrib/loki/otelcol.yaml",
    "contrib/loki/vector.toml",
    "contrib/otel/README.md",
    "contrib/otel/otelcol.yaml",
    "contrib/vector/README.md",
    "contrib/vector/dnstap-to-kafka.toml",
    "contrib/vector/json-to-clickhouse.toml",
    "docs/architecture.md",
    "docs/benchmarks/cpu.svg",
    "docs/benchmarks/instructions.md",
    "docs/benchmarks/profile.md",
    "docs/benchmarks/results.md",
    "docs/contributing.md",
    "docs/deploy.md",
    "docs/dnstap-agent.toml",
    "docs/dnstap-event.schema.json",
    "docs/dnstap-json.schema.json",
    "docs/events.md",
    "docs/fleet.md",
    "docs/glossary.md",
    "docs/grafana/dnstap-agent.json",
    "docs/kafka.md",
    "docs/kernel-support.md",
    "docs/odd-input.md",
    "docs/operations.md",
    "docs/parquet.md",
    "docs/passive-dns.md",
    "docs/probes.md",
    "docs/reliability.md",
    "docs/servers.md",
    "docs/soak.md",
    "docs/system-calls.md",
    "docs/types.md",
    "proto/dnstap.proto",
];

/// Output of the service until it is configured: its size is bounded, and a restart overwrites nothing.
const OUTPUT: &str = "file:/var/log/dnstap-agent/dns.fstrm,rotate-size=256M,keep=8";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Architectures of the program; both if none is named
    #[arg(long, value_enum)]
    arch: Vec<Arch>,
}

/// An agent to pack.
struct Agent<'a> {
    arch: Arch,
    path: &'a Path,
    /// An agent of this machine's architecture, which writes its man pages and completions.
    runs: &'a Path,
}

/// Builds the agents and all archives.
pub(crate) fn run(args: &Args) -> Result<()> {
    Apt::default().ensure(PACKAGES)?;
    let archs = match &args.arch[..] {
        [] => &[Arch::Amd64, Arch::Arm64],
        some => some,
    };
    let agents: Vec<_> = archs
        .iter()
        .map(|&arch| {
            Apt::default().ensure(&[arch.binutils_package()])?;
            Ok((arch, build::portable(arch)?))
        })
        .collect::<Result<_>>()?;
    let own = agents.iter().find(|(arch, _)| *arch == Arch::HOST);
    let runs = match own {
        Some((_, path)) => path.clone(),
        None => build::release()?,
    };
    let agents: Vec<_> = agents
        .iter()
        .map(|(arch, path)| Agent {
            arch: *arch,
            path,
            runs: &runs,
        })
        .collect();
    pack(&agents).map(drop)
}

/// Makes all archives of this agent, which is for this machine. Returns the Debian package's path.
pub(crate) fn of(agent: &Path) -> Result<PathBuf> {
    let made = pack(&[Agent {
        arch: Arch::HOST,
        path: agent,
        runs: agent,
    }])?;
    let package = made
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "deb"));
    package.context("no Debian package was made")
}

/// Makes all archives of these agents, and returns their paths.
fn pack(agents: &[Agent<'_>]) -> Result<Vec<PathBuf>> {
    ui::step("packing");
    let time = time()?;
    let dist = paths::target().join("dist");
    if dist.exists() {
        fs::remove_dir_all(&dist).with_context(|| format!("cannot remove {}", dist.display()))?;
    }
    fs::create_dir_all(&dist).with_context(|| format!("cannot create {}", dist.display()))?;
    let mut all = Vec::new();
    for agent in agents {
        all.extend(archives(agent, &dist, &time)?);
    }
    all.extend(sbom::write(&dist, &time)?);
    for made in &all {
        let kib = fs::metadata(made)?.len().div_ceil(1024);
        ui::note(format_args!("{} ({kib} KiB)", made.display()));
    }
    let names = all.iter().filter_map(|path| path.file_name());
    let sums = exec::output(Command::new("sha256sum").current_dir(&dist).args(names))?;
    fs::write(dist.join("SHA256SUMS"), sums).context("cannot write SHA256SUMS")?;
    Ok(all)
}

/// Makes the archives of one agent, and returns their paths.
fn archives(agent: &Agent<'_>, dist: &Path, time: &str) -> Result<Vec<PathBuf>> {
    let arch = agent.arch;
    let name = format!("dnstap-agent-{VERSION}-{}", arch.rust());
    let tree = dist.join(&name);
    let generated = dist.join("generated");
    stage(agent, &generated, &tree)?;
    fs::remove_dir_all(&generated)
        .with_context(|| format!("cannot remove {}", generated.display()))?;

    let tarball = dist.join(format!("{name}.tar.gz"));
    exec::output(
        Command::new("tar")
            .current_dir(dist)
            .args(["--create", "--use-compress-program=gzip -9n"])
            .args(["--format=gnu", "--sort=name"])
            .args(["--owner=0", "--group=0", "--numeric-owner"])
            .arg(format!("--mtime=@{time}"))
            .arg("--file")
            .arg(&tarball)
            .arg(&name),
    )?;
    let rpm = rpm::build(&tree, dist, time, arch)?;
    let package = deb::build(&tree, dist, time, arch)?;
    Ok(vec![tarball, rpm, package])
}

/// Writes the files as they are installed.
fn stage(agent: &Agent<'_>, generated: &Path, tree: &Path) -> Result<()> {
    let packaging = paths::root().join("packaging");
    exec::output(Command::new(agent.runs).arg("generate").arg(generated))?;

    let program = place(agent.path, &tree.join("usr/bin/dnstap-agent"))?;
    exec::output(
        Command::new(agent.arch.binutils("strip"))
            .args(["--remove-section=.comment", "--remove-section=.note"])
            .arg(&program),
    )?;
    for (from, to) in [
        (
            "dnstap-agent.service",
            "usr/lib/systemd/system/dnstap-agent.service",
        ),
        (
            "dnstap-agent.sysusers",
            "usr/lib/sysusers.d/dnstap-agent.conf",
        ),
    ] {
        place(&packaging.join(from), &tree.join(to))?;
    }
    configure(&tree.join("etc/dnstap-agent/dnstap-agent.toml"))?;
    for (from, to) in [
        (
            "dnstap-agent.bash",
            "bash-completion/completions/dnstap-agent",
        ),
        ("_dnstap-agent", "zsh/vendor-completions/_dnstap-agent"),
        (
            "dnstap-agent.fish",
            "fish/vendor_completions.d/dnstap-agent.fish",
        ),
    ] {
        let from = generated.join("completions").join(from);
        place(&from, &tree.join("usr/share").join(to))?;
    }
    for page in fs::read_dir(generated.join("man")).context("no man pages")? {
        let page = page?;
        let to = tree.join("usr/share/man/man1").join(page.file_name());
        compress(&place(&page.path(), &to)?)?;
    }
    let documents = tree.join("usr/share/doc/dnstap-agent");
    for document in DOCUMENTS {
        place(&paths::root().join(document), &documents.join(document))?;
    }
    place(
        &packaging.join("debian/copyright"),
        &documents.join("copyright"),
    )?;
    compress(&place(
        &paths::root().join("CHANGELOG.md"),
        &documents.join("changelog"),
    )?)?;
    let licences = documents.join("third-party-licences");
    fs::write(&licences, licences::texts()?)?;
    compress(&licences)?;
    settle_modes(tree, &program)
}

/// Writes the service's configuration: the example with another output, because the service's standard output is the
/// journal.
fn configure(to: &Path) -> Result<()> {
    let from = paths::root().join("docs/dnstap-agent.toml");
    let example =
        fs::read_to_string(&from).with_context(|| format!("cannot read {}", from.display()))?;
    let text = example.replacen(
        "\noutput = [\"-\"]\n",
        &format!("\noutput = [\"{OUTPUT}\"]\n"),
        1,
    );
    ensure!(text != example, "{} has no such output", from.display());
    fs::create_dir_all(to.parent().context("a folder")?)?;
    fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))
}

/// Copies a file to the place where it is installed.
fn place(from: &Path, to: &Path) -> Result<PathBuf> {
    let what = || format!("cannot copy {} to {}", from.display(), to.display());
    let folder = to.parent().with_context(what)?;
    fs::create_dir_all(folder).with_context(what)?;
    fs::copy(from, to).with_context(what)?;
    Ok(to.to_owned())
}

/// Replaces a file by its compressed form.
fn compress(path: &Path) -> Result<()> {
    exec::output(Command::new("gzip").args(["--best", "--no-name"]).arg(path)).map(drop)
}

/// Sets modes that do not depend on the user and the umask of the build: all users may read the files and run the
/// program.
fn settle_modes(folder: &Path, program: &Path) -> Result<()> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry?.path();
        let runs = path.is_dir() || path == program;
        let mode = if runs { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        if path.is_dir() {
            settle_modes(&path, program)?;
        }
    }
    Ok(fs::set_permissions(
        folder,
        fs::Permissions::from_mode(0o755),
    )?)
}

/// Returns the time of all files in the archives, in seconds since 1970: that of the last commit, or of the lock file
/// if git does not know one (an unpacked archive, another user's tree).
fn time() -> Result<String> {
    if let Ok(time) = env::var("SOURCE_DATE_EPOCH") {
        return Ok(time);
    }
    let log = ["log", "-1", "--format=%ct"];
    if let Ok(time) = exec::output(Command::new("git").current_dir(paths::root()).args(log)) {
        return Ok(time.trim().to_owned());
    }
    let lock = fs::metadata(paths::root().join("Cargo.lock")).context("no Cargo.lock")?;
    Ok(lock.mtime().to_string())
}
