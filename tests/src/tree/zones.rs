//! Writes the tree's zones, signs them with their own keys, and connects them by DS records up to the trust anchor.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::Role;
use crate::{
    environment,
    lab::{self, zones::texts},
};

/// Names of `plain.lab` with large TXT records, and the number of their strings: one fills a response over UDP, others
/// need TCP.
const TEXTS: [(&str, usize); 3] = [("t3500", 13), ("t6000", 23), ("t60000", 228)];

/// The address in `signed.lab` that is changed after signing.
const SIGNED_ADDRESS: &str = "192.0.2.66";
const CHANGED_ADDRESS: &str = "192.0.2.67";

/// The zone files, and the root's key.
pub(super) struct Zones {
    folder: PathBuf,
    /// Flags, protocol, algorithm and key of the root's DNSKEY, in the form for `trust-anchors`.
    pub(super) anchor: String,
}

impl Zones {
    /// Returns the zones of which a server is the primary, each with its file.
    pub(super) fn of(&self, role: Role) -> Vec<(&'static str, PathBuf)> {
        let (names, end): (&[_], _) = match role {
            Role::Root => (&["."], ".signed"),
            Role::Tld => (&["lab"], ".signed"),
            Role::Zone => (&["plain.lab", "signed.lab", "big.lab", "dyn.lab"], ""),
            Role::Recursive | Role::Forwarder | Role::Secondary => (&[], ""),
        };
        let file = |zone: &str| {
            let end = if zone == "signed.lab" { ".signed" } else { end };
            self.folder.join(format!("{}{end}", file_name(zone)))
        };
        names.iter().map(|zone| (*zone, file(zone))).collect()
    }
}

/// Writes and signs the zones in `folder`. `big.lab` has `big_records` records.
pub(super) fn write(folder: &Path, big_records: usize) -> Result<Zones> {
    let folder = folder.join("zones");
    fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut plain = head(Role::Zone);
    for host in 0..200 {
        writeln!(
            plain,
            "h{host} A 192.0.2.{}\nh{host} AAAA 2001:db8::{host:x}",
            host + 1
        )?;
    }
    plain.push_str(
        "chain CNAME chain2\nchain2 CNAME chain3\nchain3 CNAME h1.signed.lab.\nloop CNAME loop\n",
    );
    for (name, strings) in TEXTS {
        texts(&mut plain, name, strings)?;
    }
    let mut big = head(Role::Zone);
    for host in 0..big_records {
        writeln!(big, "b{host} A 192.0.2.{}", host % 250 + 1)?;
    }
    let mut signed = head(Role::Zone);
    for host in 0..20 {
        writeln!(signed, "h{host} A 192.0.2.{}", host + 1)?;
    }
    writeln!(signed, "changed A {SIGNED_ADDRESS}")?;
    texts(&mut signed, "t3500", 13)?;
    for (zone, text) in [
        ("plain.lab", plain),
        ("big.lab", big),
        ("dyn.lab", head(Role::Zone)),
    ] {
        lab::write(&folder, zone, &text)?;
    }
    sign(&folder, "signed.lab", &signed)?;
    spoil(&folder.join("signed.lab.signed"))?;
    let mut tld = head(Role::Tld);
    for zone in ["plain", "signed", "big", "dyn"] {
        delegate(&mut tld, zone, Role::Zone)?;
    }
    tld.push_str(&fs::read_to_string(folder.join("dsset-signed.lab."))?);
    sign(&folder, "lab", &tld)?;
    let mut root = head(Role::Root);
    delegate(&mut root, "lab", Role::Tld)?;
    root.push_str(&fs::read_to_string(folder.join("dsset-lab."))?);
    let key = sign(&folder, ".", &root)?;
    Ok(Zones {
        anchor: anchor(&fs::read_to_string(key)?)?,
        folder,
    })
}

/// Returns the start of a zone that `role` serves.
fn head(role: Role) -> String {
    format!(
        "$TTL 3600\n@ SOA ns root 1 3600 900 86400 60\n@ NS ns\nns A {}\nns AAAA {}\n",
        role.address(false),
        role.address(true)
    )
}

/// Adds the delegation of `zone` to `role`.
fn delegate(text: &mut String, zone: &str, role: Role) -> Result<()> {
    let (ipv4, ipv6) = (role.address(false), role.address(true));
    writeln!(
        text,
        "{zone} NS ns.{zone}\nns.{zone} A {ipv4}\nns.{zone} AAAA {ipv6}"
    )?;
    Ok(())
}

/// Signs a zone with one new key. Writes `ZONE.signed` and `dsset-ZONE.`, and returns the key's file.
fn sign(folder: &Path, zone: &str, text: &str) -> Result<PathBuf> {
    let file = lab::write(folder, file_name(zone), text)?;
    let key = run(
        folder,
        "dnssec-keygen",
        &["-q", "-a", "ECDSAP256SHA256", "-f", "KSK", zone],
    )?;
    let signed = file.with_file_name(format!("{}.signed", file_name(zone)));
    let path = |path: &Path| path.display().to_string();
    run(
        folder,
        "dnssec-signzone",
        &[
            "-S",
            "-z",
            "-q",
            "-o",
            zone,
            "-f",
            &path(&signed),
            &path(&file),
        ],
    )?;
    Ok(folder.join(format!("{}.key", key.trim())))
}

/// Changes one signed record, which makes its signature wrong.
fn spoil(file: &Path) -> Result<()> {
    let text = fs::read_to_string(file)?;
    ensure!(
        text.contains(SIGNED_ADDRESS),
        "{} lacks a record",
        file.display()
    );
    fs::write(file, text.replace(SIGNED_ADDRESS, CHANGED_ADDRESS))?;
    Ok(())
}

/// Returns `FLAGS PROTOCOL ALGORITHM "KEY"` from the text of a key's file.
fn anchor(key: &str) -> Result<String> {
    let line = key.lines().find(|line| !line.starts_with(';'));
    let words: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
    let at = words.iter().position(|word| *word == "DNSKEY");
    match at.map(|at| &words[at + 1..]) {
        Some([flags, protocol, algorithm, key @ ..]) => Ok(format!(
            "{flags} {protocol} {algorithm} \"{}\"",
            key.concat()
        )),
        _ => anyhow::bail!("no DNSKEY in `{key}`"),
    }
}

fn run(folder: &Path, tool: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(environment::tool(tool)?);
    let output = command.current_dir(folder).args(arguments).output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn file_name(zone: &str) -> &str {
    if zone == "." { "root" } else { zone }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trust_anchor_is_read_from_the_key_s_file() {
        let file = "; This is a key-signing key\n. IN DNSKEY 257 3 13 ab+/ cd==\n";
        assert_eq!(anchor(file).unwrap(), "257 3 13 \"ab+/cd==\"");
        assert!(anchor("; nothing\n").is_err());
    }
}
