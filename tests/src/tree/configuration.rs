//! `named.conf` of each role.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;

use super::{HTTPS_PORT, PROXY_PORT, Role, TLS_PORT, zones::Zones};
use crate::lab::{
    self,
    named::{self, Line, Named, RUNNING},
};

/// The file of a server's own dnstap, in its folder.
pub(super) const DNSTAP: &str = "named.fstrm";
/// The key that signs queries and updates (TSIG), in the form for `dig -y`.
pub(crate) const KEY: &str = "hmac-sha256:client:Y2xpZW50Y2xpZW50Y2xpZW50Y2xpZW50Y2xpZW50Y2w=";

const BIG_TRANSFERRED: Line = ("a transfer of big.lab", |line| transferred(line, "big.lab"));
const DYN_TRANSFERRED: Line = ("a transfer of dyn.lab", |line| transferred(line, "dyn.lab"));

fn transferred(line: &str, zone: &str) -> bool {
    line.contains(zone) && line.contains("Transfer status: success")
}

/// Starts a server in its folder and waits until it answers and has its copies of zones.
pub(super) fn start(role: Role, folder: &Path, zones: &Zones) -> Result<Named> {
    let (control, rndc) = match role {
        Role::Secondary => {
            let (control, rndc) = named::control(folder, &role.address(false).to_string(), 953)?;
            (control, Some(rndc))
        }
        _ => ("controls { };\n".to_owned(), None),
    };
    let text = control + &text(role, folder, zones)?;
    let ready: &[Line] = match role {
        Role::Secondary => &[RUNNING, BIG_TRANSFERRED, DYN_TRANSFERRED],
        _ => &[RUNNING],
    };
    named::start(folder, role.name(), &text, rndc, ready)
}

fn text(role: Role, folder: &Path, zones: &Zones) -> Result<String> {
    let (ipv4, ipv6) = (role.address(false), role.address(true));
    let recursion = match role {
        Role::Recursive | Role::Forwarder => "recursion yes;\nallow-recursion { any; };\n",
        _ => "recursion no;\n",
    };
    let (algorithm, key) = KEY.split_once(':').unwrap_or_default();
    let (name, secret) = key.split_once(':').unwrap_or_default();
    let mut text = format!(
        "key {name} {{ algorithm {algorithm}; secret \"{secret}\"; }};\noptions {{\n{}{recursion}\
         listen-on {{ {ipv4}; }};\nlisten-on-v6 {{ {ipv6}; }};\n\
         query-source address {ipv4};\nquery-source-v6 address {ipv6};\n\
         notify-source {ipv4};\ntransfer-source {ipv4};\n\
         notify explicit;\nnotify-delay 0;\nmax-udp-size 4096;\nedns-udp-size 1232;\n\
         dnstap {{ all; }};\ndnstap-output file \"{DNSTAP}\";\n\
         fstrm-set-input-queue-size 16384;\nfstrm-set-flush-timeout 1;\n",
        named::basics(folder)?
    );
    let upstream = |role: Role| format!("{{ {}; {}; }}", role.address(false), role.address(true));
    match role {
        Role::Recursive => write!(
            text,
            "dnssec-validation yes;\n\
             listen-on port {TLS_PORT} tls ephemeral {{ {ipv4}; }};\n\
             listen-on-v6 port {TLS_PORT} tls ephemeral {{ {ipv6}; }};\n\
             listen-on port {HTTPS_PORT} tls ephemeral http default {{ {ipv4}; }};\n\
             listen-on-v6 port {HTTPS_PORT} tls ephemeral http default {{ {ipv6}; }};\n\
             }};\ntrust-anchors {{ \".\" static-key {}; }};\n",
            zones.anchor
        )?,
        Role::Forwarder => write!(
            text,
            "dnssec-validation no;\nforward only;\nforwarders {};\n}};\n",
            upstream(Role::Recursive)
        )?,
        _ => {
            for server in role.proxy_servers()? {
                let family = if server.is_ipv6() { "-v6" } else { "" };
                writeln!(
                    text,
                    "listen-on{family} port {PROXY_PORT} proxy plain {{ {}; }};",
                    server.ip()
                )?;
            }
            text.push_str("dnssec-validation no;\nallow-transfer { any; };\n");
            if !role.proxy_servers()?.is_empty() {
                text.push_str("allow-proxy { any; };\nallow-proxy-on { any; };\n");
            }
            text.push_str("};\n");
        }
    }
    if role == Role::Recursive {
        let (ipv4, ipv6) = (Role::Root.address(false), Role::Root.address(true));
        let hints = format!(". 3600 NS ns.\nns. 3600 A {ipv4}\nns. 3600 AAAA {ipv6}\n");
        let hints = lab::write(folder, "root.hint", &hints)?;
        writeln!(
            text,
            "zone \".\" {{ type hint; file \"{}\"; }};",
            hints.display()
        )?;
    }
    for (zone, file) in zones.of(role) {
        let secondary = Role::Secondary.address(false);
        let more = match zone {
            "dyn.lab" | "big.lab" => {
                format!("allow-update {{ any; }}; also-notify {{ {secondary}; }};")
            }
            _ => String::new(),
        };
        writeln!(
            text,
            "zone \"{zone}\" {{ type primary; file \"{}\"; {more} }};",
            file.display()
        )?;
    }
    if role == Role::Secondary {
        let primary = Role::Zone.address(false);
        for zone in ["big.lab", "dyn.lab"] {
            writeln!(
                text,
                "zone \"{zone}\" {{ type secondary; file \"{zone}.copy\"; primaries {{ {primary}; }}; \
                 allow-update-forwarding {{ any; }}; }};"
            )?;
        }
    }
    Ok(text)
}
