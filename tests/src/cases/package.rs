//! The Debian package, through its life in a root folder of its own: installed, its unit judged, its program run as the unit
//! runs it, installed again over it, and purged. Nothing of it touches the machine's own packages, users or services.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use tempfile::TempDir;

use super::{
    privileges::{capabilities_of, confined, expect_threads, maps, receiver, root},
    trial,
};
use crate::{
    environment::{self, tool},
    lab::{self, Lab, Wanted},
    load::dnsperf::{self, Load},
    process::{Running, Watch, output},
    record,
};

const UNIT: &str = "dnstap-agent.service";

/// The administrator's file.
const OPTIONS: &str = "etc/default/dnstap-agent";

/// Largest exposure that systemd may find, in tenths of its scale from 0 to 10.
const EXPOSURE: &str = "25";

/// Queries to the tapped server.
const QUERIES: usize = 200;

type Test = fn() -> Result<()>;

pub(super) fn trials() -> Vec<Trial> {
    let tests: [(&str, Test); 3] = [
        ("its unit is valid and exposes little", unit),
        (
            "installed, it runs as the unit says and ships to a collector",
            runs,
        ),
        (
            "installed again it keeps what was configured, purged it leaves nothing",
            purged,
        ),
    ];
    tests
        .map(|(name, test)| trial(format!("package: {name}"), test))
        .into()
}

fn unit() -> Result<()> {
    let host = Host::installed()?;
    // What every service is ordered by.
    for target in ["sysinit", "basic", "shutdown"] {
        let unit = format!("usr/lib/systemd/system/{target}.target");
        fs::write(host.path(&unit), "[Unit]\n")?;
    }
    for arguments in [
        &["verify", "--man=no"][..],
        &["security", "--offline=true", "--threshold", EXPOSURE],
    ] {
        let mut command = Command::new(tool("systemd-analyze")?);
        command.args(arguments);
        command.arg("--root").arg(host.folder.path()).arg(UNIT);
        let (_, complaints) = output(command)?;
        ensure!(complaints.is_empty(), "{complaints}");
    }
    let mut command = Command::new(tool("bash")?);
    command
        .arg("-n")
        .arg(host.path("usr/share/bash-completion/completions/dnstap-agent"));
    output(command).map(drop)
}

fn runs() -> Result<()> {
    let host = Host::installed()?;
    let lab = Lab::start(Wanted::default())?;
    let (user, group) = host.user()?;
    let logs = host.path("var/log/dnstap-agent");
    let runtime = host.path("run/dnstap-agent");
    // systemd's part: LogsDirectory=, RuntimeDirectory=.
    for folder in [&logs, &runtime] {
        fs::create_dir_all(folder)?;
        chown(folder, Some(user), Some(group))?;
    }
    let socket = format!("unix:{}", runtime.join("collector").display());
    let collected = lab.folder().join("collected.fstrm");
    let mut collector = receiver(&socket, &collected, &lab.folder().join("collected.json"))?;
    collector.wait_for("listening", |line| line.contains("listening on"))?;
    if let Some(path) = socket.strip_prefix("unix:") {
        chown(path, Some(user), Some(group))?;
    }
    let file = logs.join("dns.fstrm");
    let options = format!(
        "--pid {} --hook socket --output file:{} --output {socket}",
        lab.tapped.pid(),
        file.display()
    );
    fs::write(host.path(OPTIONS), format!("OPTIONS=\"{options}\"\n"))?;

    let mut agent = Running::start("the service", host.start()?, Watch::Stderr)?;
    agent.wait_for("attached", |line| line.contains("attached"))?;
    expect_threads(agent.pid(), maps()?)?;
    let load = Load {
        queries: QUERIES,
        rate: None,
        tcp: false,
        recursive: false,
    };
    dnsperf::run(lab.folder(), lab.server(false), &load)?;
    let ended = agent.stop(libc::SIGTERM)?;
    ensure!(ended.status.success(), "{}", ended.lines.join("\n"));
    collector.stop(libc::SIGTERM)?;
    for file in [&file, &collected] {
        let records = record::read(file)?.len();
        ensure!(
            records == 2 * QUERIES,
            "{}: {records} messages of {QUERIES} queries",
            file.display()
        );
    }
    Ok(())
}

fn purged() -> Result<()> {
    let host = Host::installed()?;
    let mine = "OPTIONS=\"--pid 1\"\n";
    fs::write(host.path(OPTIONS), mine)?;
    for folder in ["var/log/dnstap-agent", "var/lib/dnstap-agent"] {
        fs::create_dir_all(host.path(folder))?;
        fs::write(host.path(folder).join("dns.fstrm"), "")?;
    }
    let package = environment::package()?;
    host.dpkg(&["--force-confold", "--install"], &package)?;
    ensure!(
        fs::read_to_string(host.path(OPTIONS))? == mine,
        "the configuration is lost"
    );
    host.dpkg(&["--remove"], Path::new("dnstap-agent"))?;
    ensure!(
        host.path(OPTIONS).exists(),
        "removal takes the configuration with it"
    );
    ensure!(
        !host.path("usr/bin/dnstap-agent").exists(),
        "the program stays"
    );
    host.dpkg(&["--purge"], Path::new("dnstap-agent"))?;

    // Users stay, as everywhere on Debian; and dpkg's own notes.
    let mut left = BTreeSet::new();
    files(host.folder.path(), Path::new(""), &mut left)?;
    let ours = |path: &&PathBuf| {
        let users = [
            "etc/passwd",
            "etc/group",
            "etc/shadow",
            "etc/gshadow",
            "etc/.pwd.lock",
        ];
        !path.starts_with("var/lib/dpkg")
            && !users
                .iter()
                .any(|name| path.to_string_lossy().trim_end_matches('-') == *name)
    };
    let left: Vec<_> = left.iter().filter(ours).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// Files below a folder, by their paths in it.
fn files(root: &Path, folder: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            files(root, &path, found)?;
        } else {
            found.insert(path);
        }
    }
    Ok(())
}

/// A root folder with a package database and this package in it.
struct Host {
    folder: TempDir,
}

impl Host {
    fn installed() -> Result<Self> {
        root()?;
        let package = environment::package()?;
        for program in ["deb-systemd-helper", "systemd-sysusers"] {
            tool(program)?;
        }
        let host = Self {
            folder: lab::scratch()?,
        };
        for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"] {
            fs::create_dir_all(host.path(folder))?;
        }
        for file in ["var/lib/dpkg/status", "var/lib/dpkg/available"] {
            fs::write(host.path(file), "")?;
        }
        host.dpkg(&["--install"], &package)?;
        Ok(host)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// `dpkg` in this root; the packages that ours depends on are the machine's.
    fn dpkg(&self, action: &[&str], what: &Path) -> Result<()> {
        let mut command = Command::new(tool("dpkg")?);
        command
            .arg("--root")
            .arg(self.folder.path())
            .args([
                "--force-script-chrootless",
                "--force-depends",
                "--log=/dev/null",
            ])
            .args(action)
            .arg(what);
        output(command).map(drop)
    }

    /// User and group that the installation has made.
    fn user(&self) -> Result<(u32, u32)> {
        let users = fs::read_to_string(self.path("etc/passwd"))?;
        let entry = users
            .lines()
            .find_map(|line| line.strip_prefix("dnstap-agent:"))
            .context("no user dnstap-agent")?;
        let mut members = entry.split(':').skip(1).map(str::parse);
        match (members.next(), members.next()) {
            (Some(user), Some(group)) => Ok((user?, group?)),
            _ => anyhow::bail!("no ids in {entry}"),
        }
    }

    /// What the unit starts, as the unit starts it.
    fn start(&self) -> Result<Command> {
        let unit = fs::read_to_string(self.path("usr/lib/systemd/system").join(UNIT))?;
        let setting = |name: &str| {
            let found = unit.lines().find_map(|line| line.strip_prefix(name));
            found.with_context(|| format!("no {name} in the unit"))
        };
        let file = setting("EnvironmentFile=/")?;
        let environment = fs::read_to_string(self.path(file))?;
        let options = environment
            .lines()
            .find_map(|line| line.strip_prefix("OPTIONS=\"")?.strip_suffix('"'))
            .with_context(|| format!("no OPTIONS in {environment}"))?;
        let mut command = confined(self.user()?, &capabilities_of(&unit)?)?;
        command.env("RUNTIME_DIRECTORY", self.path("run/dnstap-agent"));
        for word in setting("ExecStart=/")?.split(' ') {
            match word {
                "$OPTIONS" => command.args(options.split(' ')),
                program if program.starts_with("usr/") => command.arg(self.path(program)),
                word => command.arg(word),
            };
        }
        Ok(command)
    }
}
