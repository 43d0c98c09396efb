//! The Debian package, through its life in a root folder of its own: it is installed, its unit is checked, its program
//! is run as the unit runs it, it is installed again, and purged. It does not touch the machine's own packages, users
//! or services.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::{chown, symlink},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use tempfile::TempDir;

use super::{
    collectors,
    privileges::{capabilities_of, confined, expect_threads, maps, receiver, root},
    trial,
};
use crate::{
    environment::{self, tool},
    lab::{self, Lab, Wanted, free_port, named::RUNNING},
    load::dnsperf::{self, Load},
    process::{PATIENCE, Running, Watch, output},
    record,
};

const UNIT: &str = "dnstap-agent.service";

/// The administrator's file.
const CONFIGURATION: &str = "etc/dnstap-agent/dnstap-agent.toml";

/// Largest exposure that systemd may find, in tenths of its scale from 0 to 10.
const EXPOSURE: &str = "25";

/// Number of queries to the tapped server.
const QUERIES: usize = 200;

type Test = fn() -> Result<()>;

pub(super) fn trials() -> Vec<Trial> {
    let tests: [(&str, Test); 5] = [
        ("its unit is valid and exposes little", unit),
        (
            "its documents are where they say that others are",
            documents,
        ),
        (
            "installed, it runs as the unit says and ships to a collector",
            runs,
        ),
        (
            "from the installation to the purge everything is as README says",
            as_told,
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
    // These exist on every host: the units that services are ordered by, and the program that reloads them.
    let kill = host.path("bin/kill");
    fs::create_dir_all(host.path("bin"))?;
    fs::copy("/bin/true", kill)?;
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

/// Checks the links within the documents and in the unit. The package has the licences in `copyright`, and the
/// changelog compressed.
fn documents() -> Result<()> {
    let host = Host::installed()?;
    let folder = host.path("usr/share/doc/dnstap-agent");
    let unit = fs::read_to_string(host.path("usr/lib/systemd/system").join(UNIT))?;
    let told = unit
        .lines()
        .find_map(|line| line.strip_prefix("Documentation=file:///"))
        .context("the unit names no document")?;
    ensure!(host.path(told).exists(), "{told} is not there");
    let mut paths = BTreeSet::new();
    files(&folder, Path::new(""), &mut paths)?;
    ensure!(
        paths.contains(Path::new("docs/grafana/dnstap-agent.json")),
        "no dashboard in {paths:?}"
    );
    let elsewhere = ["LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md"];
    for path in paths
        .iter()
        .filter(|path| path.extension() == Some("md".as_ref()))
    {
        let text = fs::read_to_string(folder.join(path))?;
        for link in text.split("](").skip(1) {
            let link = link.split([')', '#']).next().unwrap_or_default();
            if link.is_empty() || link.contains("://") || elsewhere.contains(&link) {
                continue;
            }
            let target = folder.join(path).with_file_name(link);
            ensure!(target.exists(), "{}: {link} is not there", path.display());
        }
    }
    Ok(())
}

fn runs() -> Result<()> {
    let host = Host::installed()?;
    let lab = Lab::start(Wanted::default())?;
    let (user, group) = host.user()?;
    let [logs, runtime] = host.folders()?;
    let socket = format!("unix:{}", runtime.join("collector").display());
    let collected = lab.folder().join("collected.fstrm");
    let mut collector = receiver(&socket, &collected, &lab.folder().join("collected.json"))?;
    collector.wait_for("listening", |line| line.contains("listening on"))?;
    if let Some(path) = socket.strip_prefix("unix:") {
        chown(path, Some(user), Some(group))?;
    }
    let file = logs.join("dns.fstrm");
    host.configure(&[
        ("#pid", &format!("[{}]", lab.tapped.pid())),
        ("hook", "'socket'"),
        (
            "output",
            &format!("['file:{}', '{socket}']", file.display()),
        ),
    ])?;

    let mut agent = Running::start("the service", host.start()?, Watch::Stderr)?;
    agent.wait_for("attached", |line| line.contains("attached"))?;
    expect_threads(agent.pid(), maps()?)?;
    dnsperf::run(lab.folder(), lab.server(false), &load())?;
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
    let mine = "[attach]\npid = 1\n";
    fs::write(host.path(CONFIGURATION), mine)?;
    for folder in ["var/log/dnstap-agent", "var/lib/dnstap-agent"] {
        fs::create_dir_all(host.path(folder))?;
        fs::write(host.path(folder).join("dns.fstrm"), "")?;
    }
    let package = environment::package()?;
    host.dpkg(&["--force-confold", "--install"], &package)?;
    ensure!(
        fs::read_to_string(host.path(CONFIGURATION))? == mine,
        "the configuration is lost"
    );
    host.dpkg(&["--remove"], Path::new("dnstap-agent"))?;
    ensure!(
        host.path(CONFIGURATION).exists(),
        "removal takes the configuration with it"
    );
    ensure!(
        !host.path("usr/bin/dnstap-agent").exists(),
        "the program stays"
    );
    host.dpkg(&["--purge"], Path::new("dnstap-agent"))?;
    host.expect_empty()
}

/// Follows README and `--help` from the installation to the removal of the package. The test does systemd's part
/// itself.
fn as_told() -> Result<()> {
    let host = Host::installed()?;
    let lab = Lab::start(Wanted::default())?;
    let (folder, server) = (lab.folder().to_owned(), lab.server(false));
    lab.tapped.stop()?;
    let [logs, runtime] = host.folders()?;

    collectors::certificates(&folder)?;
    let at = |name: &str| folder.join(name).display().to_string();
    let (collect, metrics) = (free_port()?, free_port()?);
    let collected = folder.join("collected.fstrm");
    let listen = format!(
        "tls:127.0.0.1:{collect},cert={},key={}",
        at("server.pem"),
        at("server.key")
    );
    let mut collector = receiver(&listen, &collected, &folder.join("collected.json"))?;
    collector.wait_for("listening", |line| line.contains("listening on"))?;

    // The name is unique: the test must not tap other servers of this machine.
    let name = format!("named-{}", std::process::id());
    let program = folder.join(&name);
    symlink(environment::named()?, &program)?;
    let file = logs.join("dns.fstrm");
    let ship = format!(
        "tls:127.0.0.1:{collect},ca={},name=collector.test",
        at("ca.pem")
    );
    let outputs = format!(
        "'file:{},rotate-size=256M,keep=8', '{ship}'",
        file.display()
    );
    host.configure(&[
        ("#name", &format!("['{name}']")),
        ("follow", "true"),
        // A server that starts asks for the root once or several times.
        ("#only", "['client']"),
        ("output", &format!("[{outputs}]")),
        ("#metrics", &format!("'127.0.0.1:{metrics}'")),
    ])?;
    let mut agent = Running::start("the service", host.start()?, Watch::Stderr)?;
    agent.wait_for("waiting", |line| line.contains("attached and waiting"))?;

    let mut rounds = 0;
    let mut ask = || {
        rounds += 1;
        dnsperf::run(&folder, server, &load())
    };
    let named = serve(&program, &folder)?;
    ask()?;
    let shipped = format!(
        "dnstap_agent_output_written_messages_total{{output=\"{ship}\"}} {}",
        2 * QUERIES
    );
    scrape_until(metrics, |line| line == shipped)?;
    let mut status = Command::new(host.path("usr/bin/dnstap-agent"));
    status.arg("status").env("RUNTIME_DIRECTORY", &runtime);
    let (said, _) = output(status)?;
    ensure!(said.contains("unaccounted: 0\n"), "{said}");

    // This is what logrotate does.
    fs::rename(&file, logs.join("dns.fstrm.old"))?;
    agent.signal(libc::SIGHUP)?;
    let deadline = Instant::now() + PATIENCE;
    while !file.exists() {
        ensure!(Instant::now() < deadline, "no new file");
        thread::sleep(Duration::from_millis(10));
    }
    ask()?;

    let lines = logs.join("dns.json");
    let more = format!("[{outputs}, 'json:{}']", lines.display());
    host.configure(&[("output", &more)])?;
    agent.signal(libc::SIGHUP)?;
    agent.wait_for("reloaded", |line| {
        line.contains("has changed added=\"json:")
    })?;
    named.stop(libc::SIGTERM)?;
    let named = serve(&program, &folder)?;
    ask()?;

    let package = environment::package()?;
    host.dpkg(&["--force-confold", "--install"], &package)?;
    ensure!(
        agent.stop(libc::SIGTERM)?.status.success(),
        "it ended badly"
    );
    let as_json = fs::read_to_string(&lines)?.lines().count();
    let mut agent = Running::start("the new service", host.start()?, Watch::Stderr)?;
    agent.wait_for("attached", |line| line.contains("attached to"))?;
    ask()?;
    let ended = agent.stop(libc::SIGTERM)?;
    ensure!(ended.status.success(), "{}", ended.lines.join("\n"));
    collector.stop(libc::SIGTERM)?;
    named.stop(libc::SIGTERM)?;

    let all = 2 * QUERIES * rounds;
    let mut filed = 0;
    for entry in fs::read_dir(&logs)? {
        let path = entry?.path();
        if path != lines {
            filed += record::read(&path)?.len();
        }
    }
    let collected = record::read(&collected)?.len();
    ensure!(
        (filed, collected, as_json) == (all, all, 2 * QUERIES),
        "of {all} messages, {filed} are in files, {collected} with the collector; {as_json} as JSON"
    );
    host.dpkg(&["--purge"], Path::new("dnstap-agent"))?;
    host.expect_empty()
}

fn load() -> Load {
    Load {
        queries: QUERIES,
        rate: None,
        tcp: false,
        recursive: false,
    }
}

/// Starts the lab's server under another name.
fn serve(program: &Path, folder: &Path) -> Result<Running> {
    let mut command = Command::new(program);
    command
        .args(["-g", "-n", "2", "-c"])
        .arg(folder.join("tapped.conf"));
    let mut server = Running::start("named", command, Watch::Stderr)?;
    server.wait_for_each(&[RUNNING])?;
    Ok(server)
}

/// Reads the metrics until one of their lines is wanted.
fn scrape_until(port: u16, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.lines().any(&wanted) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not among the metrics\n{answer}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Collects the files below a folder, by their paths in it.
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

    /// Runs `dpkg` in this root. The machine provides the packages that ours depends on.
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

    /// Returns the user and the group that the installation has created.
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

    /// Makes the folders that systemd makes: for logs and for sockets.
    fn folders(&self) -> Result<[PathBuf; 2]> {
        let (user, group) = self.user()?;
        let folders = ["var/log/dnstap-agent", "run/dnstap-agent"].map(|path| self.path(path));
        for folder in &folders {
            fs::create_dir_all(folder)?;
            chown(folder, Some(user), Some(group))?;
        }
        Ok(folders)
    }

    /// Edits the configuration: sets the values of keys that are in the file.
    fn configure(&self, settings: &[(&str, &str)]) -> Result<()> {
        let path = self.path(CONFIGURATION);
        let mut lines: Vec<_> = fs::read_to_string(&path)?
            .lines()
            .map(str::to_owned)
            .collect();
        for (key, value) in settings {
            let key = format!("{key} = ");
            // The first one belongs to `attach`.
            let line = lines.iter_mut().find(|line| line.starts_with(&key));
            let line = line.with_context(|| format!("no {key} in {}", path.display()))?;
            *line = format!("{}{value}", key.trim_start_matches('#'));
        }
        Ok(fs::write(path, lines.join("\n") + "\n")?)
    }

    /// Checks that nothing of the package is left.
    fn expect_empty(&self) -> Result<()> {
        // Users stay, as always on Debian, and so do dpkg's own files.
        let mut left = BTreeSet::new();
        files(self.folder.path(), Path::new(""), &mut left)?;
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

    /// Returns the command of the unit, as the unit runs it.
    fn start(&self) -> Result<Command> {
        let unit = fs::read_to_string(self.path("usr/lib/systemd/system").join(UNIT))?;
        let setting = |name: &str| {
            let found = unit.lines().find_map(|line| line.strip_prefix(name));
            found.with_context(|| format!("no {name} in the unit"))
        };
        let mut command = confined(self.user()?, &capabilities_of(&unit)?)?;
        command.env("RUNTIME_DIRECTORY", self.path("run/dnstap-agent"));
        for word in setting("ExecStart=/")?.split(' ') {
            match word {
                program if program.starts_with("usr/") => command.arg(self.path(program)),
                word => match word.strip_prefix('/') {
                    Some(path) => command.arg(self.path(path)),
                    None => command.arg(word),
                },
            };
        }
        Ok(command)
    }
}
