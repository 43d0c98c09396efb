//! BIND's `named` from a scratch folder: configuration, start, readiness and a clean end.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use super::{Ports, Wanted, write, zones};
use crate::{
    environment,
    process::{Running, Watch},
    system,
};

pub(crate) use crate::process::Line;

/// Key of the lab's `rndc`; the control channel listens on loopback for the time of a test.
pub(super) const KEY: &str = "key lab { algorithm hmac-sha256; secret \"bGFiLWxhYi1sYWItbGFiLWxhYi1sYWItbGFiLWxhYg==\"; };\n";

/// Last line of a start-up: `named` answers now.
pub(crate) const RUNNING: Line = ("running", |line| line.ends_with(" running"));
/// A transfer of `moving.lab` into the server has succeeded. The first one may come before [`RUNNING`]: zones are
/// maintained while others are still being loaded.
const TRANSFERRED: Line = ("a transfer of moving.lab", |line| {
    line.contains("moving.lab/IN") && line.contains("Transfer status: success")
});

/// A running `named`.
pub(crate) struct Named {
    process: Running,
    rndc: Option<PathBuf>,
}

impl Named {
    /// Returns its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until the next transfer of `moving.lab` into this server has succeeded.
    pub(crate) fn wait_for_transfer(&mut self) -> Result<()> {
        let (what, transferred) = TRANSFERRED;
        self.process.wait_for(what, transferred)?;
        Ok(())
    }

    /// Waits for the next line of its log for which `wanted` holds.
    pub(crate) fn wait_for(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        self.process.wait_for(what, wanted)?;
        Ok(())
    }

    /// Runs an `rndc` command against this server.
    pub(crate) fn rndc(&self, arguments: &[&str]) -> Result<String> {
        let configuration = self
            .rndc
            .as_ref()
            .ok_or_else(|| anyhow::anyhow!("this named has no control channel"))?;
        let mut command = Command::new(environment::tool("rndc")?);
        command.arg("-c").arg(configuration).args(arguments);
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "rndc {arguments:?}: {text}");
        Ok(text)
    }

    /// Ends it regularly, so that it sends everything that its own dnstap has queued.
    pub(crate) fn stop(self) -> Result<()> {
        self.stop_with_log().map(drop)
    }

    /// Like [`Self::stop`]. Returns the lines of its log.
    pub(crate) fn stop_with_log(self) -> Result<Vec<String>> {
        let finished = self.process.stop(libc::SIGTERM)?;
        let tail = finished.lines[finished.lines.len().saturating_sub(5)..].join("\n");
        ensure!(
            finished.status.success(),
            "named ended with {}\n{tail}",
            finished.status
        );
        Ok(finished.lines)
    }
}

/// Starts the server that the tests tap. With an upstream, it has a copy of `moving.lab` from there.
pub(super) fn start_tapped(
    folder: &Path,
    ports: Ports,
    wanted: Wanted,
    dnstap: &Path,
) -> Result<Named> {
    let Ports {
        tapped,
        second,
        upstream,
        control,
    } = ports;
    let (mut text, rndc) = self::control(folder, "127.0.0.1", control)?;
    write!(
        text,
        "options {{\n{}\
         listen-on port {tapped} {{ 127.0.0.1; }};\n\
         listen-on port {second} {{ 127.0.0.1; }};\n\
         listen-on-v6 port {tapped} {{ ::1; }};\n\
         recursion yes;\nallow-recursion {{ any; }};\nallow-transfer {{ any; }};\n\
         max-udp-size 4096;\nedns-udp-size 1232;\n\
         notify explicit;\n",
        common(folder, upstream)?,
    )?;
    if wanted.reference {
        text.push_str(&own_dnstap(dnstap));
    }
    text.push_str("};\n");
    let hint = write(
        folder,
        "root.hint",
        ". 3600 NS ns.up.lab.\nns.up.lab. 3600 A 127.0.0.1\nns.up.lab. 3600 AAAA ::1\n",
    )?;
    writeln!(
        text,
        "zone \".\" {{ type hint; file \"{}\"; }};",
        hint.display()
    )?;
    for (zone, records) in zones::of_tapped()? {
        let file = write(folder, zone, &records)?;
        let more = match zone {
            "dyn.lab" => format!(
                "allow-update {{ any; }}; notify-delay 0; also-notify {{ 127.0.0.1 port {upstream}; }};"
            ),
            _ => String::new(),
        };
        writeln!(
            text,
            "zone \"{zone}\" {{ type primary; file \"{}\"; {more} }};",
            file.display()
        )?;
    }
    if wanted.upstream {
        writeln!(
            text,
            "zone \"moving.lab\" {{ type secondary; file \"moving.copy\"; primaries {{ 127.0.0.1 port {upstream}; }}; }};"
        )?;
    }
    let ready: &[Line] = if wanted.upstream {
        &[RUNNING, TRANSFERRED]
    } else {
        &[RUNNING]
    };
    let mut command = command(folder, "tapped", &text)?;
    if wanted.confined {
        system::confine(&mut command);
    }
    launch("tapped", command, Some(rndc), ready)
}

/// Starts the upstream server: the root, `up.lab`, and the primary of `moving.lab`. Its own dnstap goes to `dnstap`.
pub(super) fn start_upstream(folder: &Path, ports: Ports, dnstap: Option<&Path>) -> Result<Named> {
    let Ports {
        tapped, upstream, ..
    } = ports;
    let mut text = format!(
        "controls {{ }};\noptions {{\n{}\
         listen-on port {upstream} {{ 127.0.0.1; }};\nlisten-on-v6 port {upstream} {{ ::1; }};\n\
         recursion no;\nallow-transfer {{ any; }};\n\
         notify explicit;\n{}}};\n",
        common(folder, upstream)?,
        dnstap.map_or(String::new(), own_dnstap)
    );
    for (zone, records) in zones::of_upstream()? {
        let name = if zone == "." { "root" } else { zone };
        let file = write(folder, name, &records)?;
        let more = match zone {
            "moving.lab" => {
                format!(
                    "allow-update {{ any; }}; notify-delay 0; also-notify {{ 127.0.0.1 port {tapped}; }};"
                )
            }
            _ => String::new(),
        };
        writeln!(
            text,
            "zone \"{zone}\" {{ type primary; file \"{}\"; {more} }};",
            file.display()
        )?;
    }
    start(folder, "upstream", &text, None, &[RUNNING])
}

/// Returns the options for named's own dnstap. The input queue is the largest possible, so that named itself loses
/// nothing at the rate of the tests.
pub(super) fn own_dnstap(socket: &Path) -> String {
    format!(
        "dnstap {{ all; }};\ndnstap-output unix \"{}\";\n\
         fstrm-set-input-queue-size 16384;\nfstrm-set-output-queue-size 1024;\n\
         fstrm-set-flush-timeout 1;\n",
        socket.display()
    )
}

/// Returns options for all servers of the lab: all files below the scratch folder, no background traffic.
pub(crate) fn common(folder: &Path, upstream: u16) -> Result<String> {
    Ok(format!(
        "{}port {upstream};\ndnssec-validation no;\n",
        basics(folder)?
    ))
}

/// Returns options for any server of a test: all files below its folder.
pub(crate) fn basics(folder: &Path) -> Result<String> {
    // The default is a file in /run. BIND 9.20 has neither the file nor the option any more.
    let lock = if environment::named_version()? < (9, 20) {
        "lock-file none;\n"
    } else {
        ""
    };
    Ok(format!(
        "directory \"{}\";\npid-file none;\n{lock}session-keyfile none;\nempty-zones-enable no;\n",
        folder.display()
    ))
}

/// Returns the statements that allow `rndc`, and the configuration file for `rndc` in `folder`.
pub(crate) fn control(folder: &Path, address: &str, port: u16) -> Result<(String, PathBuf)> {
    let rndc = write(
        folder,
        "rndc.conf",
        &format!(
            "{KEY}options {{ default-key lab; default-server {address}; default-port {port}; }};\n"
        ),
    )?;
    let text = format!(
        "{KEY}controls {{ inet {address} port {port} allow {{ any; }} keys {{ lab; }}; }};\n"
    );
    Ok((text, rndc))
}

/// Starts a `named` and waits for lines of its log.
pub(crate) fn start(
    folder: &Path,
    name: &str,
    configuration: &str,
    rndc: Option<PathBuf>,
    ready: &[Line],
) -> Result<Named> {
    launch(name, command(folder, name, configuration)?, rndc, ready)
}

fn command(folder: &Path, name: &str, configuration: &str) -> Result<Command> {
    let file = write(folder, &format!("{name}.conf"), configuration)?;
    let mut command = Command::new(environment::named()?);
    // There are two workers on any machine, so that a message may come from either.
    command.args(["-g", "-n", "2", "-c"]).arg(file);
    Ok(command)
}

fn launch(name: &str, command: Command, rndc: Option<PathBuf>, ready: &[Line]) -> Result<Named> {
    let mut process = Running::start(&format!("named ({name})"), command, Watch::Stderr)?;
    process.wait_for_each(ready)?;
    Ok(Named { process, rndc })
}
