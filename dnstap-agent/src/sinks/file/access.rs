//! Permissions and owner of an output's files: `mode=` and `owner=`.

use std::{
    fs::{File, Permissions},
    io,
    os::unix::fs::{PermissionsExt as _, fchown},
};

use uzers::{get_group_by_name, get_user_by_name};

use super::options::FileOptions;

/// Mode and owner of new files; `None` leaves them as they are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Access {
    mode: Option<u32>,
    user: Option<u32>,
    group: Option<u32>,
}

impl Access {
    /// Looks the names up. The error names the one that does not exist.
    pub(super) fn new(options: &FileOptions) -> Result<Self, String> {
        let mut access = Self {
            mode: options.mode,
            ..Self::default()
        };
        let (user, group) = match &options.owner {
            Some(owner) => owner.split_once(':').unwrap_or((owner, "")),
            None => ("", ""),
        };
        let known = |name: &str| get_user_by_name(name).map(|user| user.uid());
        access.user = id("user", user, known)?;
        let known = |name: &str| get_group_by_name(name).map(|group| group.gid());
        access.group = id("group", group, known)?;
        Ok(access)
    }

    /// Applies mode and owner to the file.
    pub(super) fn apply(&self, file: &File) -> io::Result<()> {
        if self.user.is_some() || self.group.is_some() {
            fchown(file, self.user, self.group)?;
        }
        match self.mode {
            Some(mode) => file.set_permissions(Permissions::from_mode(mode)),
            None => Ok(()),
        }
    }
}

/// Parses a number or looks up a name. Returns `None` for an empty text.
fn id(kind: &str, name: &str, known: impl Fn(&str) -> Option<u32>) -> Result<Option<u32>, String> {
    if name.is_empty() {
        return Ok(None);
    }
    let id = name.parse().ok().or_else(|| known(name));
    id.map(Some)
        .ok_or_else(|| format!("there is no {kind} {name}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn names_and_numbers_are_looked_up_and_unknown_ones_named() {
        let access = |owner: &str| {
            Access::new(&FileOptions {
                owner: Some(owner.to_owned()),
                ..FileOptions::default()
            })
            .map(|access| (access.user, access.group))
        };
        assert_eq!(access("root:7"), Ok((Some(0), Some(7))));
        assert_eq!(access(":root"), Ok((None, Some(0))));
        assert_eq!(access("12"), Ok((Some(12), None)));
        assert!(access("no-such-user:0").is_err_and(|error| error.contains("no-such-user")));
        assert!(access("0:no-such-group").is_err_and(|error| error.contains("no-such-group")));
    }

    #[test]
    fn the_mode_is_the_one_given_whatever_the_umask() {
        let file = tempfile::tempfile().expect("a file");
        let options = FileOptions {
            mode: Some(0o666),
            ..FileOptions::default()
        };
        Access::new(&options)
            .and_then(|access| access.apply(&file).map_err(|error| error.to_string()))
            .expect("ours");
        assert_eq!(file.metadata().expect("open").mode() & 0o7777, 0o666);
    }
}
