//! Contenders, which run next to the server or inside of it, and the number of messages that they deliver.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{count, process::wait_until, server::Server};
use crate::{
    child::{Child, Log},
    named,
};

/// Longest time for a start, and for an end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Options of the taps with probes. Events go nowhere, so that only making and encoding them is measured.
const PROBES: [&[&str]; 6] = [
    &["--probe", "zone"],
    &["--probe", "encrypted"],
    &[EVENTS, "rate-limit,transfer", NOWHERE, NULL],
    &[EVENTS, "purge", NOWHERE, NULL],
    &[EVENTS, "cache,ns-change,expiry", NOWHERE, NULL],
    &["--probe", "zone,encrypted", EVENTS, "all", NOWHERE, NULL],
];
const EVENTS: &str = "--events";
const NOWHERE: &str = "--events-output";
const NULL: &str = "file:/dev/null";

/// One way to get the server's messages.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Contender {
    /// Nothing: the others are compared with this.
    Untapped,
    /// The server's own dnstap, over a unix socket to `fstrm_capture`.
    OwnDnstap,
    /// The tap, to a file.
    Tap {
        hook: String,
        ring: &'static str,
        options: &'static [&'static str],
    },
    /// `tcpdump -w`.
    Tcpdump,
    /// `dnscap -w`.
    Dnscap,
}

/// Result of a contender.
#[derive(Default)]
pub(super) struct Delivery {
    /// Number of messages, if it writes messages.
    pub(super) messages: Option<u64>,
    /// Nanoseconds from the message in the kernel to its frame in the file: median and 99th percentile.
    pub(super) delay_ns: Option<[u64; 2]>,
}

impl Contender {
    pub(super) fn tap(hook: &str, ring: &'static str) -> Self {
        Self::Tap {
            hook: hook.to_owned(),
            ring,
            options: &[],
        }
    }

    /// Returns the tap with all options for short delays.
    pub(super) fn low_latency(hook: &str) -> Self {
        Self::with(hook, &["--interval", "1"])
    }

    /// Returns the taps with each probe alone, and with all probes together.
    pub(super) fn probes(hook: &str) -> impl Iterator<Item = Self> {
        PROBES.iter().map(move |options| Self::with(hook, options))
    }

    fn with(hook: &str, options: &'static [&'static str]) -> Self {
        Self::Tap {
            hook: hook.to_owned(),
            ring: "bpf",
            options,
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Untapped => "untapped".to_owned(),
            Self::OwnDnstap => "own dnstap".to_owned(),
            Self::Tap {
                hook,
                ring,
                options,
            } => format!("tap {hook}/{ring} {}", options.join(" "))
                .trim_end()
                .to_owned(),
            Self::Tcpdump => "tcpdump".to_owned(),
            Self::Dnscap => "dnscap".to_owned(),
        }
    }

    /// Returns whether all others are compared with this one.
    pub(super) fn is_reference(&self) -> bool {
        matches!(self, Self::Untapped | Self::OwnDnstap)
    }
}

/// A running contender on one server.
pub(super) struct Helper {
    child: Child,
    /// Output file.
    pub(super) output: PathBuf,
    /// Time from its start until it is ready.
    pub(super) start: Duration,
}

/// Resources for starting helpers.
pub(super) struct Surroundings<'a> {
    pub(super) agent: &'a Path,
    pub(super) folder: &'a Path,
    pub(super) cpu: Option<usize>,
}

impl Surroundings<'_> {
    /// Returns the socket for the server's own dnstap.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("dnstap.sock")
    }

    fn summary(&self) -> PathBuf {
        self.folder.join("summary.json")
    }

    /// Starts the receiver of the server's own dnstap, which must run before the server.
    pub(super) fn receiver(&self) -> Result<Helper> {
        let (socket, output) = (self.socket(), self.folder.join("own.fstrm"));
        let mut capture = named::on_cpu(self.cpu, Path::new("fstrm_capture"));
        capture
            .args(["-t", "protobuf:dnstap.Dnstap", "-u"])
            .arg(&socket)
            .arg("-w")
            .arg(&output);
        let started = Instant::now();
        let child = Child::spawn(&capture, Log::Kept)?;
        wait_until("fstrm_capture makes its socket", PATIENCE, || {
            socket.exists()
        })?;
        Ok(Helper {
            child,
            output,
            start: started.elapsed(),
        })
    }

    /// Starts a contender that comes after the server, and returns when it is ready.
    pub(super) fn start(&self, contender: &Contender, server: &Server) -> Result<Option<Helper>> {
        let output = self.folder.join("output");
        let (mut command, ready) = match contender {
            Contender::Untapped | Contender::OwnDnstap => return Ok(None),
            Contender::Tap {
                hook,
                ring,
                options,
            } => {
                let mut attach = named::on_cpu(self.cpu, self.agent);
                attach
                    .args(["attach", "--hook", hook, "--ring", ring, "--pid"])
                    .arg(server.named.id().to_string())
                    .args(*options)
                    .arg("--summary-json")
                    .arg(self.summary())
                    .arg("-o")
                    .arg(format!("file:{}", output.display()));
                (attach, "attached to ")
            }
            Contender::Tcpdump => {
                let mut tcpdump = named::on_cpu(self.cpu, Path::new("tcpdump"));
                tcpdump
                    .args(["-i", "lo", "-s", "0", "-Z", "root", "-w"])
                    .arg(&output);
                (tcpdump, "listening on ")
            }
            Contender::Dnscap => {
                let mut dnscap = named::on_cpu(self.cpu, Path::new("dnscap"));
                dnscap
                    .args([
                        "-N", // without this it may not write here
                        "-i",
                        "lo",
                        "-s",
                        "ir",
                        "-T",
                        "-u",
                        &server.port.to_string(),
                        "-w",
                    ])
                    .arg(&output);
                (dnscap, "")
            }
        };
        if *contender == Contender::Tcpdump {
            command.arg(format!("port {}", server.port));
        }
        let started = Instant::now();
        let packet_sockets = || fs::read("/proc/net/packet").map_or(0, |text| text.len());
        let before = packet_sockets();
        let mut child = Child::spawn(&command, Log::Kept)?;
        if ready.is_empty() {
            // It prints nothing, and creates its file with the first packet.
            wait_until("dnscap opens its packet socket", PATIENCE, || {
                packet_sockets() > before
            })?;
        } else {
            child.wait_for(ready, PATIENCE, |line| line.contains(ready))?;
        }
        Ok(Some(Helper {
            child,
            output,
            start: started.elapsed(),
        }))
    }

    /// Ends it and counts the messages that it has delivered.
    pub(super) fn end(&self, contender: &Contender, helper: Helper) -> Result<Delivery> {
        let Helper { child, output, .. } = helper;
        child.signal("INT")?;
        child.finish(PATIENCE)?;
        Ok(match contender {
            Contender::Untapped => Delivery::default(),
            Contender::OwnDnstap => Delivery {
                messages: Some(count::frames(self.agent, &output)?),
                delay_ns: None,
            },
            Contender::Tap { .. } => {
                let text = fs::read(self.summary()).context("the agent wrote no summary")?;
                let summary: Value = serde_json::from_slice(&text)?;
                let delay = &summary["outputs"][0]["delay_ns"];
                Delivery {
                    messages: Some(count::frames(self.agent, &output)?),
                    delay_ns: delay["p50"]
                        .as_u64()
                        .zip(delay["p99"].as_u64())
                        .map(<[u64; 2]>::from),
                }
            }
            Contender::Tcpdump => Delivery {
                messages: Some(count::packets(&output)?),
                delay_ns: None,
            },
            Contender::Dnscap => Delivery {
                messages: written_by_dnscap(&output)
                    .map(|file| count::packets(&file))
                    .transpose()?,
                delay_ns: None,
            },
        })
    }
}

impl Helper {
    /// Returns its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }
}

/// Finds the output of `dnscap -w BASE`: `BASE.` with the time, and while it writes `.part`.
fn written_by_dnscap(base: &Path) -> Option<PathBuf> {
    let name = base.file_name()?.to_str()?;
    fs::read_dir(base.parent()?)
        .ok()?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .and_then(|found| found.to_str()?.strip_prefix(name)?.strip_prefix('.'))
                .is_some()
        })
}
