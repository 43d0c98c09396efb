//! Owns what can be told of a store before fjall opens it: whether it is there, and whether a part of it has gone.
//!
//! fjall (3.1, `Database::recover`) makes parts that are missing anew and empty, without a word. So they are looked for here first.

use std::{fs, io, io::Read as _, path::Path};

use super::StoreError;

/// What fjall writes last when it has made a folder its own.
pub(super) const COMPLETE: &str = "version";

/// Folders of keyspaces: fjall's own, which is `0`, and the store's three.
const KEYSPACES: usize = 4;

/// What each of these has once it is complete.
const CURRENT: &str = "current";

/// Whether a store is in the folder, or why there is none.
pub(super) fn is_there(folder: &Path) -> Result<(), StoreError> {
    let io = |error| StoreError::Io(folder.to_path_buf(), error);
    // What cannot be looked at is not known to be absent.
    if folder.join(COMPLETE).try_exists().map_err(io)? {
        return Ok(());
    }
    match fs::read_dir(folder).map(|mut files| files.next().is_some()) {
        Ok(true) => Err(not_a_store(folder)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(error)),
        Ok(false) | Err(_) => Err(StoreError::None(folder.to_path_buf())),
    }
}

/// Returns the error for a folder without a complete store that is not empty.
fn not_a_store(folder: &Path) -> StoreError {
    let folder = folder.to_path_buf();
    if folder.join("keyspaces").exists() && folder.join("0.jnl").exists() {
        let what = format!("its file `{COMPLETE}` is missing");
        return StoreError::Damaged(folder, what);
    }
    StoreError::Foreign(folder)
}

/// Which part of a store is missing, if one is that fjall would make anew.
pub(super) fn missing(folder: &Path) -> io::Result<Option<&'static str>> {
    let keyspaces = folder.join("keyspaces");
    if !keyspaces.try_exists()? {
        return Ok(Some("its folder keyspaces is missing"));
    }
    let Some(is_written) = is_written(folder)? else {
        return Ok(Some("its journal is missing"));
    };
    // A process that died while it made the store may have made some of them only.
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

/// Whether the journal has or had something; `None` if there is no journal.
fn is_written(folder: &Path) -> io::Result<Option<bool>> {
    let mut found = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "jnl") {
            continue;
        }
        // Room that was only reserved is zero, and the first journal has the number 0.
        let mut first = Vec::new();
        fs::File::open(&path)?.take(1).read_to_end(&mut first)?;
        let is_first = path.file_stem().is_some_and(|number| number == "0");
        found = Some(found == Some(true) || first.iter().any(|byte| *byte != 0) || !is_first);
    }
    Ok(found)
}
