//! The eBPF toolchain: a compiler that comes with the source of `core` (no compiled `core` is published for eBPF), and a
//! `bpf-linker` that reads that compiler's bitcode, which means the same major version of LLVM.
//!
//! There are two ways to get it: a rustup nightly with `rust-src`, or Debian's `rustc-web` with `rust-web-src`.
//! Compiling `core` is an unstable feature of cargo; Debian's stable compiler allows it with `RUSTC_BOOTSTRAP=1`.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{exec, packages::Apt, paths, ui};

/// Oldest compiler for the workspace (`rust-version`).
const MIN_RUSTC: (u32, u32) = (1, 95);
/// Version of bpf-linker, and the LLVM versions for which it has features.
const BPF_LINKER: &str = "0.13.0";
const BPF_LINKER_LLVM: [u32; 3] = [21, 22, 23];
/// Debian's compiler and its source.
pub(crate) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "rust-web-src"];
/// Environment variable with the path of a bpf-linker to use instead of the one that this module installs.
const LINKER_OVERRIDE: &str = "BPF_LINKER";

const REMEDIES: &str = "no eBPF toolchain: it takes a Rust compiler (1.95 or newer, LLVM 21 to 23) with the source of `core`. Either
    1. rustup toolchain install nightly --profile minimal --component rust-src
    2. on Debian, as root: apt-get install rustc-web rust-web-src
and then `cargo xtask setup` again";

/// Everything that is needed to compile for eBPF.
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

impl Toolchain {
    /// Returns a cargo command that compiles with this toolchain.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = match self.compiler.way {
            Way::Nightly => {
                let mut command = Command::new("rustup");
                command
                    .args(["run", "nightly", "cargo"])
                    .current_dir(paths::root());
                for inherited in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"] {
                    command.env_remove(inherited);
                }
                command
            }
            Way::Debian => {
                let mut command = exec::cargo();
                command
                    .env("RUSTC", DEBIAN_RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        command.env("CARGO_TARGET_BPFEB_UNKNOWN_NONE_LINKER", &self.linker);
        command
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version { release, llvm, .. } = &self.compiler.version;
        write!(
            f,
            "{} {release} (LLVM {llvm}), {}",
            self.compiler.way,
            self.linker.display()
        )
    }
}

/// Finds the toolchain, or installs its missing parts.
pub(crate) fn ensure(apt: &mut Apt) -> Result<Toolchain> {
    let compiler = match choose(probe()) {
        Some(compiler) => compiler,
        None if DEBIAN_PACKAGES.iter().all(|package| apt.offers(package)) => {
            apt.ensure(DEBIAN_PACKAGES)?;
            choose(probe()).context(REMEDIES)?
        }
        None => bail!(REMEDIES),
    };
    let linker = ensure_linker(&compiler, apt)?;
    Ok(Toolchain { compiler, linker })
}

/// A compiler that has the source of `core`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Compiler {
    way: Way,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Nightly,
    Debian,
}

impl Way {
    fn rustc(self) -> Command {
        let mut rustc = match self {
            Self::Nightly => {
                let mut rustup = Command::new("rustup");
                rustup
                    .env("RUSTUP_AUTO_INSTALL", "0")
                    .args(["run", "nightly", "rustc"]);
                rustup
            }
            Self::Debian => Command::new(DEBIAN_RUSTC),
        };
        rustc.env_remove("LD_LIBRARY_PATH");
        rustc
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nightly => "rustup's nightly",
            Self::Debian => "Debian's rustc",
        })
    }
}

/// Output of `rustc -vV` for a compiler.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    release: String,
    rust: (u32, u32),
    llvm: u32,
}

/// Returns the available compilers that have the source of `core`, the preferred one first.
fn probe() -> Vec<Compiler> {
    [Way::Nightly, Way::Debian]
        .into_iter()
        .filter_map(|way| {
            let sysroot = exec::output(way.rustc().arg("--print=sysroot")).ok()?;
            let core = Path::new(sysroot.trim_end()).join("lib/rustlib/src/rust/library/core");
            let version = parse_version(&exec::output(way.rustc().arg("-vV")).ok()?)?;
            core.exists().then_some(Compiler { way, version })
        })
        .collect()
}

/// Returns the first compiler that is new enough and whose LLVM bpf-linker supports.
fn choose(compilers: Vec<Compiler>) -> Option<Compiler> {
    compilers.into_iter().find(|compiler| {
        compiler.version.rust >= MIN_RUSTC && BPF_LINKER_LLVM.contains(&compiler.version.llvm)
    })
}

fn parse_version(text: &str) -> Option<Version> {
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name));
    let release = field("release: ")?;
    let mut parts = release.split(['.', '-']).map(str::parse);
    let rust = (parts.next()?.ok()?, parts.next()?.ok()?);
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some(Version {
        release: release.to_owned(),
        rust,
        llvm,
    })
}

/// Returns the path of a bpf-linker that runs and has the compiler's LLVM. Each pair of versions has its own folder in
/// the cache, so the user's own bpf-linker is neither used nor replaced.
fn ensure_linker(compiler: &Compiler, apt: &mut Apt) -> Result<PathBuf> {
    if let Some(path) = env::var_os(LINKER_OVERRIDE).map(PathBuf::from) {
        exec::output(Command::new(&path).arg("--version"))
            .with_context(|| format!("{LINKER_OVERRIDE} names no bpf-linker that runs"))?;
        return Ok(path);
    }
    let llvm = compiler.version.llvm;
    let folder = paths::cache()?.join(format!("bpf-linker-{BPF_LINKER}-llvm{llvm}"));
    let linker = folder.join("bin/bpf-linker");
    if linker.exists() && exec::output(Command::new(&linker).arg("--version")).is_ok() {
        return Ok(linker);
    }

    let prefix = llvm_prefix(llvm, apt)?;
    ui::step(format_args!(
        "installing bpf-linker {BPF_LINKER} for LLVM {llvm} into the cache (about a minute)"
    ));
    exec::logged(
        "bpf-linker",
        exec::cargo()
            .args([
                "install",
                "bpf-linker",
                "--version",
                BPF_LINKER,
                "--locked",
                "--force",
            ])
            .args([
                "--no-default-features",
                "--features",
                &format!("llvm-{llvm}"),
                "--root",
            ])
            .arg(&folder)
            .env("LLVM_PREFIX", prefix),
    )?;
    exec::output(Command::new(&linker).arg("--version"))
        .context("the new bpf-linker does not run")?;
    Ok(linker)
}

/// Returns the folder of LLVM's headers and library: `LLVM_PREFIX` if set, else Debian's folder.
fn llvm_prefix(llvm: u32, apt: &mut Apt) -> Result<PathBuf> {
    if let Some(prefix) = env::var_os("LLVM_PREFIX") {
        return Ok(prefix.into());
    }
    let package = format!("llvm-{llvm}-dev");
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    if !prefix.join("include/llvm-c").exists() && !apt.offers(&package) {
        bail!(
            "bpf-linker needs LLVM {llvm}, and there is no package {package}. Either set LLVM_PREFIX to an LLVM {llvm}, \
             or set {LINKER_OVERRIDE} to a released bpf-linker for LLVM {llvm}"
        );
    }
    apt.ensure(&[&package])?;
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                          host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    fn compiler(way: Way, rust: (u32, u32), llvm: u32) -> Compiler {
        Compiler {
            way,
            version: Version {
                release: format!("{}.{}.0", rust.0, rust.1),
                rust,
                llvm,
            },
        }
    }

    #[test]
    fn the_version_is_read_from_a_stable_compiler() {
        let version = Version {
            release: "1.96.0".into(),
            rust: (1, 96),
            llvm: 22,
        };
        assert_eq!(parse_version(STABLE), Some(version));
    }

    #[test]
    fn the_version_is_read_from_a_nightly() {
        let text =
            "rustc 1.97.0-nightly (0 2026-05-01)\nrelease: 1.97.0-nightly\nLLVM version: 23.0\n";
        let version = Version {
            release: "1.97.0-nightly".into(),
            rust: (1, 97),
            llvm: 23,
        };
        assert_eq!(parse_version(text), Some(version));
    }

    #[test]
    fn a_compiler_without_llvm_is_not_understood() {
        assert_eq!(
            parse_version("release: 1.96.0\nhost: x86_64-unknown-linux-gnu\n"),
            None
        );
    }

    #[test]
    fn a_nightly_with_source_is_preferred() {
        let nightly = compiler(Way::Nightly, (1, 97), 22);
        let debian = compiler(Way::Debian, (1, 96), 22);
        assert_eq!(choose(vec![nightly.clone(), debian]), Some(nightly));
    }

    #[test]
    fn a_nightly_whose_llvm_no_linker_reads_is_passed_over() {
        let nightly = compiler(Way::Nightly, (1, 99), 24);
        let debian = compiler(Way::Debian, (1, 96), 22);
        assert_eq!(choose(vec![nightly, debian.clone()]), Some(debian));
    }

    #[test]
    fn an_old_compiler_is_no_toolchain() {
        assert_eq!(choose(vec![compiler(Way::Debian, (1, 85), 22)]), None);
        assert_eq!(choose(Vec::new()), None);
    }
}
