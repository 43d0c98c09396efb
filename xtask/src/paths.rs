//! Paths: the tree, cargo's target folder, and the cache outside of the tree for downloads.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Returns the workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or_else(|| Path::new("."))
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// Returns the folder for the output of commands.
pub(crate) fn logs() -> PathBuf {
    target().join("xtask")
}

/// Returns the cache for tools and servers, which all checkouts share: `$XDG_CACHE_HOME/dnstap-agent`, else
/// `~/.cache/dnstap-agent`.
pub(crate) fn cache() -> Result<PathBuf> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME names a folder for the cache")?;
    Ok(base.join("dnstap-agent"))
}
