//! Finds the test environment: the agent and the servers under test, the tools on the path, the hooks and rings to try.
//! If something is missing, the test is a [`Skip`] with a reason, never a silent pass.

use std::{
    env, fmt, io,
    num::ParseIntError,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::system;

/// The reason for which a test cannot run here.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl fmt::Display for Skip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// One way to attach: which hooks see the messages and which ring carries them.
#[derive(Clone, Debug)]
pub(crate) struct Combination {
    /// `--hook`.
    pub(crate) hook: String,
    /// `--ring`.
    pub(crate) ring: String,
}

impl fmt::Display for Combination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "hook={} ring={}", self.hook, self.ring)
    }
}

/// Returns all hooks (`DNSTAP_HOOKS`, default `socket,syscall`) with all rings (`DNSTAP_RINGS`, default `bpf,perf`).
pub(crate) fn combinations() -> Vec<Combination> {
    let hooks = list("DNSTAP_HOOKS", "socket,syscall");
    let rings = list("DNSTAP_RINGS", "bpf,perf");
    hooks
        .iter()
        .flat_map(|hook| {
            rings.iter().map(|ring| Combination {
                hook: hook.clone(),
                ring: ring.clone(),
            })
        })
        .collect()
}

/// Returns the agent: `DNSTAP_AGENT`, else `dnstap-agent` in the folder of this program. The agent is the subject of
/// the tests, so without it they fail and are not skipped.
pub(crate) fn agent() -> Result<PathBuf> {
    let path = env::var_os("DNSTAP_AGENT").map(PathBuf::from);
    let path = match path {
        Some(path) => path,
        None => env::current_exe()?.with_file_name("dnstap-agent"),
    };
    ensure!(
        path.is_file(),
        "no agent at {}: build it, and set DNSTAP_AGENT",
        path.display()
    );
    Ok(path)
}

/// Returns the Debian package: `DNSTAP_PACKAGE`.
pub(crate) fn package() -> Result<PathBuf> {
    let missing = "no package: set DNSTAP_PACKAGE to what `cargo xtask dist` makes";
    let path = env::var_os("DNSTAP_PACKAGE").ok_or_else(|| Skip(missing.into()))?;
    existing(PathBuf::from(path), "DNSTAP_PACKAGE")
}

/// Finds BIND's `named`: `NAMED`, else on the path, else where `cargo xtask setup` unpacks it.
pub(crate) fn named() -> Result<PathBuf> {
    server("NAMED", "bind9", "named")
}

/// Finds a server's program: from this variable, else on the path, else where `cargo xtask setup` unpacks it.
pub(crate) fn server(variable: &str, folder: &str, program: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        return existing(PathBuf::from(path), variable);
    }
    if let Ok(path) = tool(program) {
        return Ok(path);
    }
    let path = server_folder(folder)?.join("usr/sbin").join(program);
    if !path.is_file() {
        let missing = format!("no {program}: set {variable} or run `cargo xtask setup`");
        return Err(Skip(missing).into());
    }
    Ok(path)
}

/// Returns the folder into which `cargo xtask setup` unpacks a server.
pub(crate) fn server_folder(folder: &str) -> Result<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .ok_or_else(|| Skip("no HOME, so no cache of servers".into()))?;
    Ok(cache.join("dnstap-agent/servers").join(folder))
}

/// Finds Prometheus' `promtool`: `PROMTOOL`, else on the path.
pub(crate) fn promtool() -> Result<PathBuf> {
    match env::var_os("PROMTOOL") {
        Some(path) => existing(path.into(), "PROMTOOL"),
        None => tool("promtool"),
    }
}

/// Returns the version of that `named`: major and minor number.
pub(crate) fn named_version() -> Result<(u32, u32)> {
    let output = Command::new(named()?).arg("-v").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |word: Option<&str>| word.and_then(|word| word.parse().ok());
    let mut numbers = text.trim_start_matches("BIND ").split('.');
    match (number(numbers.next()), number(numbers.next())) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => bail!("which version is `{text}`?"),
    }
}

/// Measures how far named's clock is behind while a load runs. The clock moves with the kernel's tick
/// (`CLOCK_REALTIME_COARSE`), and ticks are late on a busy or an emulated machine.
pub(crate) struct ClockWatch {
    tick: Duration,
    ended: Arc<AtomicBool>,
    furthest: JoinHandle<io::Result<Duration>>,
}

impl ClockWatch {
    pub(crate) fn start() -> Result<Self> {
        let tick = system::resolution(libc::CLOCK_REALTIME_COARSE)?;
        let ended = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ended);
        let furthest = thread::spawn(move || {
            let mut furthest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let coarse = system::time(libc::CLOCK_REALTIME_COARSE)?;
                let now = system::time(libc::CLOCK_REALTIME)?;
                furthest = furthest.max(now.saturating_sub(coarse));
                thread::sleep(tick / 8);
            }
            Ok(furthest)
        });
        Ok(Self {
            tick,
            ended,
            furthest,
        })
    }

    /// Returns the largest lag of the clock: the largest measured lag (at least a tick), and one tick more, because a
    /// tick may leave a remainder for the next one. An emulated machine is measured too seldom for this; it sets
    /// `DNSTAP_LAG_MS`.
    pub(crate) fn lag(self) -> Result<Duration> {
        self.ended.store(true, Ordering::Relaxed);
        let furthest = self.furthest.join();
        let furthest = furthest.map_err(|_panic| anyhow!("the clock's thread panicked"))??;
        let lag = furthest.max(self.tick) + self.tick;
        let lag = number("DNSTAP_LAG_MS", &lag.as_millis().to_string())?;
        Ok(Duration::from_millis(lag))
    }
}

/// Finds a program on the path, or in the administrator's folders, which `PATH` may leave out.
pub(crate) fn tool(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // BIND's own tools are next to a `named` that was unpacked and not installed.
    let named = env::var_os("NAMED").map(PathBuf::from);
    let beside_named = named.and_then(|named| Some(named.parent()?.parent()?.join("bin")));
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .chain(beside_named)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Skip(format!("no program `{name}` on the path")).into())
}

/// Returns the number of queries of the steady load and their rate per second (`DNSTAP_QUERIES`, default 100000;
/// `DNSTAP_RATE`, default 20000). An emulated machine cannot answer as many.
pub(crate) fn steady_load() -> Result<(usize, u32)> {
    Ok((
        number("DNSTAP_QUERIES", "100000")?,
        number("DNSTAP_RATE", "20000")?,
    ))
}

/// Returns the number of records of the large zone (`DNSTAP_ZONE_RECORDS`, default 100000). An emulated machine needs a
/// long time for as many.
pub(crate) fn big_records() -> Result<usize> {
    number("DNSTAP_ZONE_RECORDS", "100000")
}

fn number<T: FromStr<Err = ParseIntError>>(variable: &str, default: &str) -> Result<T> {
    let value = env::var(variable).unwrap_or_else(|_| default.to_owned());
    value.parse().with_context(|| format!("{variable}={value}"))
}

/// Returns a [`Skip`] unless the machine belongs to the tests (`DNSTAP_OWN_MACHINE`), so that its clock may be set.
pub(crate) fn own_machine() -> Result<()> {
    if env::var_os("DNSTAP_OWN_MACHINE").is_none() {
        let others = "it sets the clock of the whole machine: run `cargo xtask vm --filter`";
        return Err(Skip(others.into()).into());
    }
    Ok(())
}

/// Returns whether scratch folders are kept after the test (`DNSTAP_TESTS_KEEP`).
pub(crate) fn keep_scratch() -> bool {
    env::var_os("DNSTAP_TESTS_KEEP").is_some()
}

fn list(variable: &str, default: &str) -> Vec<String> {
    let value = env::var(variable).unwrap_or_else(|_| default.to_owned());
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

fn existing(path: PathBuf, variable: &str) -> Result<PathBuf> {
    if path.is_file() {
        Ok(path)
    } else {
        Err(Skip(format!("{variable}={} is not a file", path.display())).into())
    }
}
