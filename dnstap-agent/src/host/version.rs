//! Version of a server, read from its executable, which is never run.
//!
//! Servers have the text that they print for `-V` among their constants (`unbound 1.17.1`, `NSD
//! 4.6.1`), as a zero-terminated string in the file. BIND does not always have it, but the names of
//! its libraries contain the version, and the executable lists the libraries that it needs:
//! `libisc-9.18.49-1~deb12u3-Debian.so`. BIND's own dnstap says `BIND 9.18.49-...`, and this module
//! returns the same.

use std::{
    fs::File,
    io::{self, Read},
};

/// Most bytes of an executable that are searched. The servers below have a few MiB. There is a
/// limit, because any program can have the name of a server, and the search runs on the thread that
/// reads the ring.
const LARGEST: u64 = 64 << 20;

/// Longest text in front of a version, and longest version.
const LONGEST: usize = 64;

/// Executable, text in front of the version in it, and text that replaces this in dnstap.
const MARKS: &[(&str, &str, &str)] = &[
    ("named", "libisc-", "BIND "),
    ("unbound", "unbound ", "unbound "),
    ("knotd", "Knot DNS ", "Knot DNS "),
    ("nsd", "NSD ", "NSD "),
    ("pdns_recursor", "pdns-recursor ", "PowerDNS Recursor "),
    ("pdns_server", "pdns ", "PowerDNS Authoritative Server "),
    ("dnsdist", "dnsdist ", "dnsdist "),
    ("systemd-resolved", "libsystemd-shared-", "systemd "),
];

/// Returns product and version of the server that process `pid` runs, by the name of its
/// executable. Returns `None` if the executable is not known, or has no version.
#[must_use]
pub fn server_version(pid: u32, executable: &str) -> Option<String> {
    let (_, mark, product) = MARKS.iter().find(|(name, _, _)| *name == executable)?;
    let file = File::open(format!("/proc/{pid}/exe")).ok()?;
    let version = search(file, mark.as_bytes()).ok()??;
    Some(format!("{product}{version}"))
}

/// Returns the version behind the first string that begins with `mark`.
fn search(file: impl Read, mark: &[u8]) -> io::Result<Option<String>> {
    let mut file = file.take(LARGEST);
    let mut buffer = vec![0; 1 << 20];
    // A string must follow a zero byte. The buffer begins with one, so that the beginning of the
    // file counts, too.
    let mut held = 1;
    loop {
        let read = file.read(&mut buffer[held..])?;
        let filled = held + read;
        let bytes = &buffer[..filled];
        // The last bytes are searched again, together with the bytes that follow them.
        let sure = if read == 0 {
            filled
        } else {
            filled.saturating_sub(LONGEST)
        };
        let found = bytes[..sure]
            .split_inclusive(|byte| *byte == 0)
            .scan(0, |end, part| {
                *end += part.len();
                Some(*end)
            })
            .filter(|end| bytes[end - 1] == 0)
            .find_map(|start| version(bytes[start..].strip_prefix(mark)?));
        if found.is_some() || read == 0 {
            return Ok(found);
        }
        // Keep the bytes from `sure` on and the one before, which may end a string.
        let keep = sure.saturating_sub(1);
        buffer.copy_within(keep..filled, 0);
        held = filled - keep;
    }
}

/// Returns the version. It must begin with a digit and fill the string, except for the ending of a
/// library's name.
fn version(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().take(LONGEST).position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let text = text.strip_suffix(".so").unwrap_or(text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-+~:_".contains(&byte);
    (text.starts_with(|first: char| first.is_ascii_digit()) && text.bytes().all(plain))
        .then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::library(
        b"\x7fELF\0libisc-9.18.49-1~deb12u3-Debian.so\0x",
        Some("9.18.49-1~deb12u3-Debian")
    )]
    #[case::at_the_end(b"\0libisc-9.16.50\0", Some("9.16.50"))]
    #[case::second(b"\0libisc-old\0libisc-9.20.1.so\0", Some("9.20.1"))]
    #[case::within_a_text(b"\0see libisc-9.18.1\0", None)]
    #[case::with_text_behind(b"\0libisc-9.18.1 or later\0", None)]
    #[case::not_ended(b"\0libisc-9.18.1", None)]
    #[case::nothing(b"", None)]
    fn version_is_a_string_of_its_own(#[case] file: &[u8], #[case] expected: Option<&str>) {
        assert_eq!(search(file, b"libisc-").unwrap().as_deref(), expected);
    }

    #[test]
    fn version_is_found_across_the_borders_of_reads() {
        for before in (1 << 20) - 90..(1 << 20) + 10 {
            let mut file = vec![b'x'; before];
            file.extend_from_slice(b"\0NSD 4.6.1\0and so on");
            let found = search(&file[..], b"NSD ").unwrap();
            assert_eq!(found.as_deref(), Some("4.6.1"), "{before}");
        }
    }

    #[test]
    fn version_far_into_a_huge_file_is_not_searched_for() {
        let found = |before| {
            let file = io::repeat(b'x').take(before).chain(&b"\0NSD 4.6.1\0"[..]);
            search(file, b"NSD ").unwrap()
        };
        assert_eq!(found(60 << 20).as_deref(), Some("4.6.1"));
        assert_eq!(found(64 << 20), None);
    }

    #[test]
    fn process_of_an_unknown_program_has_no_version() {
        assert_eq!(server_version(std::process::id(), "cat"), None);
        assert_eq!(server_version(std::process::id(), "knotd"), None);
    }
}
