//! Makes the package for RPM from the tree, with `rpmbuild`.
//!
//! It has the same files as the Debian package, but for Debian's own changelog. `rpmbuild` finds out by itself which
//! versions of the C library the program needs.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::VERSION;
use crate::{arch::Arch, exec, paths};

/// Revision of the packaging, which is separate from the program's version.
const REVISION: u32 = 1;

/// Folders that belong to this package alone. The others belong to the distribution.
const OWN: [&str; 2] = ["/etc/dnstap-agent", "/usr/share/doc/dnstap-agent"];

/// Settings of `rpmbuild`: the files as they are, and the same bytes each time. `gzip` is known to every version of RPM.
const SETTINGS: [&str; 8] = [
    "__os_install_post %{nil}",
    "_build_id_links none",
    "_binary_payload w9.gzdio",
    "_buildhost localhost",
    "clamp_mtime_to_source_date_epoch 1",
    "debug_package %{nil}",
    "use_source_date_epoch_as_buildtime 1",
    "_rpmfilename %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm",
];

/// Packs `tree` into `dist`. `time` is the time of the files and of the build.
pub(super) fn build(tree: &Path, dist: &Path, time: &str, arch: Arch) -> Result<PathBuf> {
    let folder = dist.join("rpm");
    fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let spec = folder.join("dnstap-agent.spec");
    fs::write(&spec, text(tree)?).with_context(|| format!("cannot write {}", spec.display()))?;
    let mut rpmbuild = Command::new("rpmbuild");
    rpmbuild
        .args(["-bb", "--quiet", "--target", arch.rust()])
        .env("SOURCE_DATE_EPOCH", time);
    for setting in SETTINGS {
        rpmbuild.args(["--define", setting]);
    }
    for (name, path) in [
        ("_topdir", folder.as_path()),
        ("_rpmdir", dist),
        ("_dbpath", &folder.join("database")),
        ("tree", tree),
    ] {
        let setting = format!("{name} {}", path.display());
        rpmbuild.args(["--define", &setting]);
    }
    exec::output(rpmbuild.arg(&spec))?;
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    let name = format!("dnstap-agent-{VERSION}-{REVISION}.{}.rpm", arch.rust());
    Ok(dist.join(name))
}

/// Returns the specification of the package.
fn text(tree: &Path) -> Result<String> {
    let mut text = format!(
        "Name: dnstap-agent\n\
         Version: {VERSION}\n\
         Release: {REVISION}\n\
         Summary: dnstap of a DNS server that is already running\n\
         License: MIT OR Apache-2.0\n\
         Requires: systemd\n\
         Requires(post): systemd\n\
         \n\
         %description\n\
         Attaches to a running DNS server with eBPF and turns every message that it\n\
         receives and sends into dnstap: files, collectors, text. The server is neither\n\
         rebuilt nor reconfigured nor restarted, and never waits for a slow reader.\n\
         \n\
         %install\n\
         mkdir -p %{{buildroot}}\n\
         cp -a %{{tree}}/. %{{buildroot}}\n\
         \n\
         %files\n\
         %defattr(-, root, root, 0755)\n"
    );
    for folder in OWN {
        writeln!(text, "%dir {folder}")?;
    }
    let listed = exec::output(
        Command::new("find")
            .current_dir(tree)
            .args([".", "-not", "-type", "d", "-printf", "/%P\\n"])
            .args(["-or", "-path", "./usr/share/doc/dnstap-agent/*"])
            .args(["-printf", "%%dir /%P\\n"]),
    )?;
    let mut lines: Vec<_> = listed.lines().collect();
    lines.sort_unstable();
    for line in lines {
        let mark = if line.starts_with("/etc/") {
            "%config(noreplace) "
        } else {
            ""
        };
        writeln!(text, "{mark}{line}")?;
    }
    for script in ["post", "preun", "postun"] {
        let from = paths::root().join("packaging/rpm").join(script);
        let commands =
            fs::read_to_string(&from).with_context(|| format!("cannot read {}", from.display()))?;
        write!(text, "\n%{script}\n{commands}")?;
    }
    Ok(text)
}
