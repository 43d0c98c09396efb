//! Owns who may read an output's files: `mode=` and `owner=`.
#![expect(
    unsafe_code,
    reason = "getpwnam_r, getgrnam_r: names of users and groups, which rustix does not look up"
)]

use std::{
    ffi::{CStr, CString},
    fs::{File, Permissions},
    io,
    mem::MaybeUninit,
    os::unix::fs::{PermissionsExt as _, fchown},
    ptr,
};

use super::options::FileOptions;

/// What new files get; `None` leaves what they have.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Access {
    mode: Option<u32>,
    user: Option<u32>,
    group: Option<u32>,
}

impl Access {
    /// Looks the names up; the error says which there is not.
    pub(super) fn new(options: &FileOptions) -> Result<Self, String> {
        let mut access = Self {
            mode: options.mode,
            ..Self::default()
        };
        if let Some(owner) = &options.owner {
            let (user, group) = owner.split_once(':').unwrap_or((owner, ""));
            if !user.is_empty() {
                access.user =
                    Some(id(user, user_id).ok_or_else(|| format!("there is no user {user}"))?);
            }
            if !group.is_empty() {
                access.group =
                    Some(id(group, group_id).ok_or_else(|| format!("there is no group {group}"))?);
            }
        }
        Ok(access)
    }

    /// Gives them to the file.
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

/// A number, or the number of a name.
fn id(name: &str, look_up: fn(&CStr, &mut [libc::c_char]) -> Option<u32>) -> Option<u32> {
    name.parse().ok().or_else(|| {
        // Room for the entry's strings; one that is longer counts as unknown.
        let mut strings = vec![0; 64 * 1024];
        look_up(&CString::new(name).ok()?, &mut strings)
    })
}

fn user_id(name: &CStr, strings: &mut [libc::c_char]) -> Option<u32> {
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut found = ptr::null_mut();
    // SAFETY: `name` ends with NUL; the buffer is as long as said; both results outlive the call.
    let error = unsafe {
        libc::getpwnam_r(
            name.as_ptr(),
            entry.as_mut_ptr(),
            strings.as_mut_ptr(),
            strings.len(),
            &raw mut found,
        )
    };
    // SAFETY: where one was found, `entry` was filled.
    (error == 0 && !found.is_null()).then(|| unsafe { entry.assume_init() }.pw_uid)
}

fn group_id(name: &CStr, strings: &mut [libc::c_char]) -> Option<u32> {
    let mut entry = MaybeUninit::<libc::group>::uninit();
    let mut found = ptr::null_mut();
    // SAFETY: `name` ends with NUL; the buffer is as long as said; both results outlive the call.
    let error = unsafe {
        libc::getgrnam_r(
            name.as_ptr(),
            entry.as_mut_ptr(),
            strings.as_mut_ptr(),
            strings.len(),
            &raw mut found,
        )
    };
    // SAFETY: where one was found, `entry` was filled.
    (error == 0 && !found.is_null()).then(|| unsafe { entry.assume_init() }.gr_gid)
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
