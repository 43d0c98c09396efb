//! Options behind a file's path:
//! `,rotate-size=100M,rotate-time=1h,keep=24,compress=zstd,mode=0640,owner=USER:GROUP,exec=PROGRAM`.
//!
//! This module parses them and touches no file. A path cannot contain a comma.

use std::{path::PathBuf, time::Duration};

use super::names;
use crate::{
    host::units::{parse_bytes, parse_length},
    sinks::sink::Place,
};

/// Options for writing, rotating and deleting files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct FileOptions {
    /// `rotate-size=`: largest file, in bytes on the disk.
    pub(super) rotate_size: Option<u64>,
    /// `rotate-time=`: a new file begins at each multiple of this time since 1970, UTC.
    pub(super) rotate_time: Option<Duration>,
    /// `keep=`: number of old files that stay; older ones are deleted.
    pub(super) keep: Option<usize>,
    /// `compress=zstd`.
    pub(super) zstd: bool,
    /// `mode=`: permissions of new files. Without it 0640, reduced by the umask.
    pub(super) mode: Option<u32>,
    /// `owner=`: `USER`, `USER:GROUP` or `:GROUP`, names or numbers.
    pub(super) owner: Option<String>,
    /// `exec=`: program to run for each complete file, with its path as the only argument.
    pub(super) exec: Option<PathBuf>,
}

/// The options, for messages and help.
const VALID: &str = "valid are `rotate-size=BYTES` (with K, M, G), `rotate-time=TIME` (such as 90s, 15m, 1h, 1d), `keep=NUMBER`, \
     `compress=zstd`, `mode=OCTAL`, `owner=USER:GROUP` and `exec=PROGRAM`";

/// Standard output has no name, mode or owner, and never rotates.
const STDOUT: &str = "standard output takes no option but `compress=zstd`";

/// Error text for an unknown option, or one without a value.
fn unknown(option: &str) -> String {
    format!("`{option}` is no option of a file; {VALID}")
}

impl FileOptions {
    /// Parses the options in `text`, which follows the first comma, for a file at `place`.
    pub(super) fn parse(text: Option<&str>, place: &Place) -> Result<Self, String> {
        let mut options = Self::default();
        let mut seen = Vec::new();
        for option in text.into_iter().flat_map(|text| text.split(',')) {
            let (name, value) = option
                .split_once('=')
                .filter(|(_, value)| !value.is_empty())
                .ok_or_else(|| unknown(option))?;
            if seen.contains(&name) {
                return Err(format!("`{name}` is given twice"));
            }
            seen.push(name);
            options.set(name, value)?;
        }
        options.check(place)?;
        Ok(options)
    }

    /// Returns whether there is more than one file.
    pub(super) fn rotates(&self) -> bool {
        self.rotate_size.is_some() || self.rotate_time.is_some()
    }

    /// Returns whether `compress=zstd` is the only option. This option is allowed for pipes and
    /// standard output, too.
    pub(super) fn are_plain(&self) -> bool {
        let compressed_alone = Self {
            zstd: self.zstd,
            ..Self::default()
        };
        *self == compressed_alone
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let wrong = |problem: String| format!("`{name}={value}`: {problem}");
        match name {
            "rotate-size" => self.rotate_size = Some(parse_bytes(value).map_err(wrong)? as u64),
            "rotate-time" => self.rotate_time = Some(parse_time(value).map_err(wrong)?),
            "keep" => {
                let number = value
                    .parse()
                    .map_err(|_invalid| wrong("not a number of files".to_owned()))?;
                self.keep = Some(number);
            }
            "compress" if value == "zstd" => self.zstd = true,
            "compress" => return Err(wrong("only zstd is known".to_owned())),
            "mode" => {
                let mode = u32::from_str_radix(value, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o777);
                self.mode =
                    Some(mode.ok_or_else(|| wrong("not an octal mode such as 0640".to_owned()))?);
            }
            "owner" => self.owner = Some(value.to_owned()),
            "exec" => self.exec = Some(value.into()),
            _ => return Err(unknown(&format!("{name}={value}"))),
        }
        Ok(())
    }

    fn check(&self, place: &Place) -> Result<(), String> {
        let path = match place {
            Place::Path(path) => path,
            Place::Stdout => {
                return if self.are_plain() {
                    Ok(())
                } else {
                    Err(STDOUT.to_owned())
                };
            }
        };
        names::check(path)?;
        if !self.rotates() {
            let needs = [("keep", self.keep.is_some()), ("exec", self.exec.is_some())];
            if let Some((option, _)) = needs.iter().find(|(_, given)| *given) {
                return Err(format!(
                    "`{option}` needs `rotate-size` or `rotate-time`, or there are no old files"
                ));
            }
        }
        if self.keep.is_some() {
            names::check_known(path)?;
        }
        Ok(())
    }
}

/// Parses whole seconds, such as `90s`, `15m`, `1h`, `1d`.
fn parse_time(text: &str) -> Result<Duration, String> {
    parse_length(text)
        .filter(|time| !time.is_zero() && time.subsec_nanos() == 0)
        .ok_or_else(|| "not a time in whole seconds, such as 90s, 15m, 1h or 1d".to_owned())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn all_options_are_understood() {
        let text =
            "rotate-size=100M,rotate-time=1h,keep=24,compress=zstd,mode=0600,owner=a:b,exec=/bin/x";
        assert_eq!(
            parse(text),
            Ok(FileOptions {
                rotate_size: Some(100 << 20),
                rotate_time: Some(Duration::from_hours(1)),
                keep: Some(24),
                zstd: true,
                mode: Some(0o600),
                owner: Some("a:b".to_owned()),
                exec: Some("/bin/x".into()),
            })
        );
    }

    #[rstest]
    #[case("rotate-size=0", "`rotate-size=0`")]
    #[case("rotate-size=x", "`rotate-size=x`")]
    #[case("rotate-time=1", "`rotate-time=1`")]
    #[case("rotate-time=0h", "`rotate-time=0h`")]
    #[case("rotate-time=1y", "`rotate-time=1y`")]
    #[case("rotate-time=1500ms", "`rotate-time=1500ms`")]
    #[case("keep=-1,rotate-time=1h", "`keep=-1`")]
    #[case("keep=1", "`keep` needs")]
    #[case("exec=/x", "`exec` needs")]
    #[case("compress=gzip", "zstd")]
    #[case("mode=999", "`mode=999`")]
    #[case("mode=1777", "`mode=1777`")]
    #[case("mode=0600,mode=0640", "twice")]
    #[case("owner=", "`owner=` is no option")]
    #[case("rotate", "valid are `rotate-size=")]
    #[case("", "valid are `rotate-size=")]
    fn what_cannot_be_is_named(#[case] text: &str, #[case] part: &str) {
        let error = parse(text).expect_err("must be refused");
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn standard_output_can_be_compressed_and_nothing_else() {
        let stdout = |text| FileOptions::parse(Some(text), &Place::Stdout);
        assert!(stdout("compress=zstd").is_ok_and(|options| options.zstd));
        assert_eq!(stdout("mode=0640"), Err(STDOUT.to_owned()));
    }

    #[rstest]
    #[case("/tmp/%Y/a")]
    #[case("/tmp/%&")]
    fn a_pattern_that_cannot_be_is_refused(#[case] path: &str) {
        let refused = FileOptions::parse(None, &Place::Path(path.into()));
        assert!(refused.is_err_and(|error| error.contains('%')));
    }

    #[rstest]
    fn a_pattern_that_cannot_be_read_back_is_refused_where_old_files_are_to_be_known(
        #[values("%Z", "%c", "%r", "%x", "%X", "%q", "%-m%-d")] conversion: &str,
    ) {
        let with = |options| {
            let path = format!("/tmp/q-%Y-{conversion}");
            FileOptions::parse(Some(options), &Place::Path(path.into()))
        };
        with("rotate-time=1h").expect("it is not read back");
        let error = with("rotate-time=1h,keep=1").expect_err("must be refused");
        assert!(
            error.contains("read back") && error.contains("UTC"),
            "{error}"
        );
    }

    #[rstest]
    #[case("q.fstrm")]
    #[case("q-%Y%m%d-%H%M%S.fstrm")]
    #[case("q-%Y%m%dT%H%M%SUTC.fstrm")]
    #[case("q-%F-%T.fstrm")]
    #[case("%G-W%V-%u_%H.fstrm")]
    #[case("%A %-d. %B %Y %-I %p %M.fstrm")]
    #[case("q-%j-%s-100%%.fstrm")]
    fn old_files_of_ordinary_patterns_are_known(#[case] name: &str) {
        let path = Place::Path(format!("/tmp/{name}").into());
        FileOptions::parse(Some("rotate-time=1h,keep=1"), &path).expect("valid");
    }

    fn parse(text: &str) -> Result<FileOptions, String> {
        FileOptions::parse(Some(text), &Place::Path("/tmp/a".into()))
    }
}
