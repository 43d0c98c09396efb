//! The program of a process: the name of its executable, and whether it serves DNS.

use std::fs;

use dnstap_core::classify::profile::known_executable;

use super::OpenSocket;

/// Beginnings of the names of script interpreters.
const INTERPRETERS: [&str; 3] = ["python", "perl", "ruby"];

/// Returns the name of a process's executable without folders, [`printable`]. Returns `comm`, which
/// has at most 15 bytes, if the executable cannot be read, or if `comm` is that of a script with a
/// profile.
#[must_use]
pub fn executable_name(pid: u32, comm: &str) -> String {
    let path = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = path.file_name().map(|name| name.to_string_lossy());
    let name = name.as_deref().unwrap_or(comm);
    let is_script = INTERPRETERS.iter().any(|known| name.starts_with(known));
    if let Some(own) = known_executable(comm).filter(|_| is_script) {
        return own.to_owned();
    }
    // The kernel marks a file that was replaced, for example by an update.
    completed(name.strip_suffix(" (deleted)").unwrap_or(name))
}

/// Makes a name safe for the log and for systemd. Any user may have chosen the name; it must not
/// begin a new line.
#[must_use]
pub fn printable(name: &str) -> String {
    name.replace(char::is_control, "\u{fffd}")
}

/// Completes the name of an executable of which the kernel stores 15 bytes, if it has a profile;
/// [`printable`].
#[must_use]
pub fn completed(name: &str) -> String {
    printable(known_executable(name).unwrap_or(name))
}

/// Returns whether the process serves DNS: it listens on port 53, or on one of `dns_ports`.
#[must_use]
pub fn serves_dns(sockets: &[OpenSocket], dns_ports: &[u16]) -> bool {
    sockets.iter().any(|socket| {
        socket.listening && (socket.local.port() == 53 || dns_ports.contains(&socket.local.port()))
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn own_executable_is_found_and_a_cut_name_completed() {
        let own = executable_name(std::process::id(), "x");
        assert!(own.starts_with("dnstap_agent"), "{own}");
        assert_eq!(
            executable_name(u32::MAX, "systemd-resolve"),
            "systemd-resolved"
        );
    }

    #[test]
    fn a_script_is_known_by_its_own_name() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("python3.99");
        let copied = Command::new("cp").arg("/bin/sleep").arg(&program).status();
        assert!(copied.unwrap().success());
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        assert_eq!(executable_name(child.id(), "dnswalk"), "dnswalk");
        assert_eq!(executable_name(child.id(), "curl"), "python3.99");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A line end would begin a new line in the log, or in a message to systemd.
    #[test]
    fn a_name_of_several_lines_is_one_word() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("x\nWATCHDOG=trigger\ny\u{1b}[2J");
        let name = "x\u{fffd}WATCHDOG=trigger\u{fffd}y\u{fffd}[2J";
        // Another process copies the file. While other tests fork, a file written by this process
        // may be open in two processes and then cannot be executed.
        let copied = Command::new("cp").arg("/bin/sleep").arg(&program).status();
        assert!(copied.unwrap().success());
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        assert_eq!(executable_name(child.id(), "named"), name);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(executable_name(u32::MAX, "a\nb"), "a\u{fffd}b");
    }

    #[test]
    fn port_53_or_a_dns_port_makes_a_server() {
        let socket = |port, listening| OpenSocket {
            inode: 1,
            tcp: false,
            listening,
            local: ([127, 0, 0, 1], port).into(),
        };
        assert!(serves_dns(&[socket(53, true)], &[]));
        assert!(serves_dns(&[socket(5_300, true)], &[5_300]));
        assert!(!serves_dns(&[socket(40_000, true), socket(53, false)], &[]));
    }
}
