//! Starts the servers: writes the configuration of each into a folder of its own, and returns its command.
//!
//! A package that is only unpacked is mounted over `/usr`, in a mount namespace of the server's own, so that programs
//! find their modules at the usual place.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Result;

use super::{
    places::{HTTPS, OWN, TLS, UPSTREAM, name_of_restarts},
    toys,
};
use crate::{
    environment,
    lab::{Ports, foreign, named, write, zones},
    process::output,
    toy,
};

const PORTS: Ports = Ports {
    tapped: OWN,
    second: 0,
    upstream: UPSTREAM,
    control: 0,
};

/// Returns the command of a program: from the path, else from the folder where `cargo xtask referee` unpacks it.
fn program(folder: &str, name: &str) -> Result<Command> {
    let unpacked = environment::server_folder(folder)?.join("usr");
    let there = ["sbin", "bin"].map(|part| unpacked.join(part).join(name));
    if !there.iter().any(|path| path.exists()) {
        return Ok(Command::new(environment::tool(name)?));
    }
    let mut command = Command::new(environment::tool("unshare")?);
    let lay = r#"mount -t overlay overlay -o "lowerdir=$0:/usr" /usr && exec "$@""#;
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", lay])
        .arg(unpacked)
        .arg(name)
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
    Ok(command)
}

fn started(
    program: PathBuf,
    words: &[&str],
    folder: &Path,
    file: &str,
    text: &str,
) -> Result<Command> {
    own_zones(folder, |_| true)?;
    let mut command = Command::new(program);
    command
        .args(words)
        .arg("-c")
        .arg(write(folder, file, text)?);
    Ok(command)
}

/// Writes the zone files of `auth.lab`, `big.lab` and `dyn.lab`, with the lines for which `keep` is true.
fn own_zones(folder: &Path, keep: impl Fn(&str) -> bool) -> Result<()> {
    for (zone, records) in zones::of_tapped()? {
        let lines: Vec<_> = records.lines().filter(|line| keep(line)).collect();
        write(folder, zone, &(lines.join("\n") + "\n"))?;
    }
    Ok(())
}

pub(super) fn bind(folder: &Path) -> Result<Command> {
    own_zones(folder, |_| true)?;
    let zone = |name| format!("zone \"{name}\" {{ type primary; file \"{name}\"; }};\n");
    let text = format!(
        "controls {{ }};\noptions {{\n{}listen-on port {OWN} {{ 127.0.0.1; }};\nlisten-on-v6 port {OWN} {{ ::1; }};\n\
         recursion yes;\nallow-recursion {{ any; }};\nallow-transfer {{ any; }};\nmax-udp-size 1232;\nnotify no;\n}};\n{}{}\
         zone \"up.lab\" {{ type static-stub; server-addresses {{ 127.0.0.1; }}; }};\n\
         zone \"moving.lab\" {{ type secondary; file \"moving.copy\"; primaries {{ 127.0.0.1 port {UPSTREAM}; }}; }};\n",
        named::common(folder, UPSTREAM)?,
        zone("auth.lab"),
        zone("big.lab"),
    );
    let mut command = Command::new(environment::named()?);
    command
        .args(["-g", "-n", "2", "-c"])
        .arg(write(folder, "named.conf", &text)?);
    Ok(command)
}

pub(super) fn renamed_bind(folder: &Path) -> Result<Command> {
    let own = bind(folder)?;
    // The copy has a name that no other process has.
    let copy = folder.join(name_of_restarts());
    fs::copy(own.get_program(), &copy)?;
    let mut command = Command::new(copy);
    command.args(own.get_args());
    Ok(command)
}

pub(super) fn unbound(folder: &Path) -> Result<Command> {
    let program = environment::server("UNBOUND", "unbound", "unbound")?;
    let text = foreign::unbound(folder, PORTS, None);
    started(program, &["-dd"], folder, "unbound.conf", &text)
}

pub(super) fn knot(folder: &Path) -> Result<Command> {
    let program = environment::server("KNOTD", "knot", "knotd")?;
    let text = foreign::knot(folder, PORTS, None);
    started(program, &[], folder, "knot.conf", &text)
}

pub(super) fn nsd(folder: &Path) -> Result<Command> {
    let program = environment::server("NSD", "nsd", "nsd")?;
    let text = foreign::nsd(folder, PORTS);
    started(program, &["-d"], folder, "nsd.conf", &text)
}

pub(super) fn pdns(folder: &Path, more: &[&str]) -> Result<Command> {
    own_zones(folder, |_| true)?;
    let zone = |name| {
        format!(
            "zone \"{name}\" {{ type master; file \"{}/{name}\"; }};\n",
            folder.display()
        )
    };
    let text = format!(
        "options {{ directory \"{}\"; }};\n{}{}\
         zone \"moving.lab\" {{ type slave; file \"{}/moving.copy\"; masters {{ 127.0.0.1:{UPSTREAM}; }}; }};\n",
        folder.display(),
        zone("auth.lab"),
        zone("big.lab"),
        folder.display()
    );
    let file = write(folder, "pdns-zones.conf", &text)?;
    let mut command = program("pdns", "pdns_server")?;
    command
        .args([
            "--daemon=no",
            "--guardian=no",
            "--launch=bind",
            "--local-address=127.0.0.1,::1",
            "--secondary=yes",
            "--allow-axfr-ips=127.0.0.0/8,::1",
            "--allow-notify-from=127.0.0.0/8",
            "--receiver-threads=2",
            "--distributor-threads=2",
        ])
        .args(more)
        .arg(format!("--local-port={OWN}"))
        .arg(format!("--config-dir={}", folder.display()))
        .arg(format!("--socket-dir={}", folder.display()))
        .arg(format!("--bind-config={}", file.display()));
    Ok(command)
}

pub(super) fn recursor(folder: &Path) -> Result<Command> {
    let mut command = program("pdns-recursor", "pdns_recursor")?;
    command
        .args([
            "--daemon=no",
            "--local-address=127.0.0.1,::1",
            "--dnssec=off",
            "--allow-from=127.0.0.0/8,::1",
            "--dont-query=",
            "--threads=2",
        ])
        .arg(format!("--local-port={OWN}"))
        .arg(format!("--forward-zones=up.lab=127.0.0.1:{UPSTREAM}"))
        .arg(format!(
            "--forward-zones-recurse=moving.lab=127.0.0.1:{UPSTREAM}"
        ))
        .arg(format!("--config-dir={}", folder.display()))
        .arg(format!("--socket-dir={}", folder.display()));
    Ok(command)
}

pub(super) fn dnsdist(folder: &Path, proxy: bool) -> Result<Command> {
    let mut text = format!(
        "setLocal(\"127.0.0.1:{OWN}\")\naddLocal(\"[::1]:{OWN}\")\nsetACL({{\"127.0.0.0/8\", \"::1/128\"}})\n\
         newServer({{address=\"127.0.0.1:{UPSTREAM}\", useProxyProtocol={proxy}, checkInterval=1, retries=0}})\n"
    );
    if !proxy {
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        let mut command = Command::new(environment::tool("openssl")?);
        command
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-subj",
                "/CN=referee",
                "-keyout",
            ])
            .arg(&key)
            .arg("-out")
            .arg(&certificate);
        output(command)?;
        let pair = format!("\"{}\", \"{}\"", certificate.display(), key.display());
        write!(
            text,
            "addTLSLocal(\"127.0.0.1:{TLS}\", {pair})\naddDOHLocal(\"127.0.0.1:{HTTPS}\", {pair}, \"/dns-query\")\n"
        )?;
    }
    let mut command = program("dnsdist", "dnsdist")?;
    command
        .args(["--supervised", "--disable-syslog", "-C"])
        .arg(write(folder, "dnsdist.conf", &text)?);
    Ok(command)
}

pub(super) fn dnsmasq(folder: &Path) -> Result<Command> {
    let mut command = program("dnsmasq", "dnsmasq")?;
    command
        .args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--listen-address=127.0.0.1,::1",
            "--bind-interfaces",
            "--user=root",
            "--cache-size=0",
            "--log-facility=-",
        ])
        .arg(format!("--server=127.0.0.1#{UPSTREAM}"))
        .arg(format!("--port={OWN}"))
        .arg(format!(
            "--pid-file={}",
            folder.join("dnsmasq.pid").display()
        ))
        .arg(format!(
            "--conf-file={}",
            write(folder, "dnsmasq.conf", "")?.display()
        ));
    Ok(command)
}

pub(super) fn kresd(folder: &Path) -> Result<Command> {
    let text = format!(
        "net.listen('127.0.0.1', {OWN}, {{ kind = 'dns' }})\nnet.listen('::1', {OWN}, {{ kind = 'dns' }})\n\
         trust_anchors.remove('.')\nmodules = {{ 'policy' }}\ncache.size = 10 * MB\n\
         policy.add(policy.all(policy.STUB({{ '127.0.0.1@{UPSTREAM}' }})))\n"
    );
    let mut command = program("kresd", "kresd")?;
    command
        .args(["-n", "-c"])
        .arg(write(folder, "kresd.conf", &text)?)
        .arg(folder);
    Ok(command)
}

pub(super) fn gdnsd(folder: &Path) -> Result<Command> {
    // Responses must fit into 16 KiB.
    own_zones(folder, |line| {
        !line.starts_with("t20000") && !line.starts_with("t60000")
    })?;
    for part in ["gdnsd/zones", "gdnsd/run", "gdnsd/state"] {
        fs::create_dir_all(folder.join(part))?;
    }
    fs::copy(folder.join("auth.lab"), folder.join("gdnsd/zones/auth.lab"))?;
    let at = folder.join("gdnsd");
    let text = format!(
        "options => {{\n listen => [ \"127.0.0.1:{OWN}\", \"[::1]:{OWN}\" ]\n run_dir => \"{0}/run\"\n state_dir => \"{0}/state\"\n}}\n",
        at.display()
    );
    write(&at, "config", &text)?;
    let mut command = program("gdnsd", "gdnsd")?;
    command.arg("-c").arg(at).arg("start");
    Ok(command)
}

pub(super) fn yadifa(folder: &Path) -> Result<Command> {
    own_zones(folder, |_| true)?;
    let zone = |name| {
        format!(
            "<zone>\n type primary\n domain {name}\n file {name}\n allow-transfer any\n</zone>\n"
        )
    };
    let text = format!(
        "<main>\n server-port {OWN}\n listen 127.0.0.1, ::1\n daemon off\n chroot off\n uid root\n gid root\n\
         \x20allow-query any\n allow-transfer any\n data-path \"{0}\"\n log-path \"{0}\"\n keys-path \"{0}\"\n xfr-path \"{0}\"\n\
         \x20pid-file \"{0}/yadifad.pid\"\n</main>\n{1}{2}",
        folder.display(),
        zone("auth.lab"),
        zone("big.lab")
    );
    let mut command = program("yadifa", "yadifad")?;
    command.arg("-c").arg(write(folder, "yadifad.conf", &text)?);
    Ok(command)
}

pub(super) fn go(_: &Path) -> Result<Command> {
    let program = environment::server_folder("referee-go")?.join("server");
    if !program.is_file() {
        let missing = "the server in Go is not built: run `cargo xtask referee`";
        return Err(environment::Skip(missing.into()).into());
    }
    let mut command = Command::new(program);
    command
        .arg(OWN.to_string())
        .arg(format!("127.0.0.1:{UPSTREAM}"));
    Ok(command)
}

pub(super) fn python(folder: &Path, file: &str, text: &str) -> Result<Command> {
    write(
        folder,
        "answers.py",
        include_str!("../../referee/answers.py"),
    )?;
    script("referee-python", "python3", folder, file, text)
}

pub(super) fn script(
    package: &str,
    name: &str,
    folder: &Path,
    file: &str,
    text: &str,
) -> Result<Command> {
    let mut command = program(package, name)?;
    command.arg(write(folder, file, text)?).arg(OWN.to_string());
    Ok(command)
}

pub(super) fn toy(manner: &str) -> Command {
    let mut command = Command::new(toy::program());
    command
        .args([toys::ARGUMENT, manner, &OWN.to_string()])
        .stdin(Stdio::null());
    command
}
