//! Processor architectures for which the program is built, and their names in other systems.

use clap::ValueEnum;

/// An architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// x86-64
    #[value(alias = "x86_64")]
    Amd64,
    /// 64-bit Arm
    #[value(alias = "aarch64")]
    Arm64,
}

impl Arch {
    /// Architecture of this machine.
    pub(crate) const HOST: Self = if cfg!(target_arch = "aarch64") {
        Self::Arm64
    } else {
        Self::Amd64
    };

    /// Returns Debian's name.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Returns the name in Rust, in QEMU and in RPM.
    pub(crate) const fn rust(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// Returns Rust's name of Linux with the GNU C library on it.
    pub(crate) const fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Returns the name in folders of libraries, and in front of the programs of a cross-compiler.
    pub(crate) const fn multiarch(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }

    /// Returns the path of the dynamic loader.
    pub(crate) const fn loader(self) -> &'static str {
        match self {
            Self::Amd64 => "/lib64/ld-linux-x86-64.so.2",
            Self::Arm64 => "/lib/ld-linux-aarch64.so.1",
        }
    }

    /// Returns the program of binutils with this name that takes files of this architecture.
    pub(crate) fn binutils(self, name: &str) -> String {
        if self == Self::HOST {
            name.to_owned()
        } else {
            format!("{}-{name}", self.multiarch())
        }
    }

    /// Returns the package with these programs.
    pub(crate) const fn binutils_package(self) -> &'static str {
        match self {
            _ if self as u8 == Self::HOST as u8 => "binutils",
            Self::Amd64 => "binutils-x86-64-linux-gnu",
            Self::Arm64 => "binutils-aarch64-linux-gnu",
        }
    }
}
