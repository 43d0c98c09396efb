//! Checks a store before fjall opens it: whether it exists, and whether a part of it is missing.
//!
//! fjall (3.1, `Database::recover`) creates missing parts again, empty, without an error. So this module looks for them
//! first.

use std::{fs, io, io::Read as _, path::Path};

use super::StoreError;

/// File that fjall writes last when it creates a database.
pub(super) const COMPLETE: &str = "version";

/// Number of keyspace folders: fjall's own, which is `0`, and the three of the store.
const KEYSPACES: usize = 4;

/// File that each keyspace folder has once it is complete.
const CURRENT: &str = "current";

/// Returns `Ok` if the folder has a store, or else the reason why not.
pub(super) fn is_there(folder: &Path) -> Result<(), StoreError> {
    let io = |error| StoreError::Io(folder.to_path_buf(), error);
    // A file that cannot be checked may still exist, so this is an error.
    if folder.join(COMPLETE).try_exists().map_err(io)? {
        return Ok(());
    }
    match fs::read_dir(folder).map(|mut files| files.next().is_some()) {
        Ok(true) => Err(not_a_store(folder)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(error)),
        Ok(false) | Err(_) => Err(StoreError::None(folder.to_path_buf())),
    }
}

/// Returns the error for a folder that is not empty and has no complete store.
fn not_a_store(folder: &Path) -> StoreError {
    let folder = folder.to_path_buf();
    if folder.join("keyspaces").exists() && folder.join("0.jnl").exists() {
        let what = format!("its file `{COMPLETE}` is missing");
        return StoreError::Damaged(folder, what);
    }
    StoreError::Foreign(folder)
}

/// Returns the missing part of a store, if one is missing that fjall would create again.
pub(super) fn missing(folder: &Path) -> io::Result<Option<&'static str>> {
    let keyspaces = folder.join("keyspaces");
    if !keyspaces.try_exists()? {
        return Ok(Some("its folder keyspaces is missing"));
    }
    let Some(is_written) = is_written(folder)? else {
        return Ok(Some("its journal is missing"));
    };
    // If nothing was written, a process may have died while it created the store, before all keyspaces were there.
    if !is_written {
        return Ok(None);
    }
    let mut complete = 0;
    for entry in fs::read_dir(&keyspaces)? {
        complete += usize::from(entry?.path().join(CURRENT).try_exists()?);
    }
    let own = keyspaces.join("0").join(CURRENT);
    let is_whole = complete >= KEYSPACES && own.try_exists()?;
    Ok((!is_whole).then_some("a keyspace is missing"))
}

/// Returns whether the journal has, or once had, content; `None` if there is no journal.
fn is_written(folder: &Path) -> io::Result<Option<bool>> {
    let mut found = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "jnl") {
            continue;
        }
        // Preallocated space is zero. The first journal has the number 0; a later one shows that the first one had
        // content.
        let mut first = Vec::new();
        fs::File::open(&path)?.take(1).read_to_end(&mut first)?;
        let is_first = path.file_stem().is_some_and(|number| number == "0");
        found = Some(found == Some(true) || first.iter().any(|byte| *byte != 0) || !is_first);
    }
    Ok(found)
}
