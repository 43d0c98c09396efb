//! Options that select the processes to tap.

use clap::{ArgGroup, Args};

use crate::sources::processes::{Selection, Unit};

/// Options that name processes.
#[derive(Debug, Args)]
#[group(id = "targets", multiple = true)]
#[command(group = ArgGroup::new("recurring").args(["names", "units"]).multiple(true))]
pub struct Target {
    /// Process to tap, with its present and future children that run the same executable; may be given several times
    #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pids: Vec<u32>,

    /// Tap all processes whose executable has this name, such as `named`; may be given several times
    #[arg(long = "name", value_name = "NAME", value_parser = parse_name)]
    pub names: Vec<String>,

    /// Tap all processes of a systemd unit (`named.service`) or of a cgroup (`/system.slice/named.service`); may be
    /// given several times
    #[arg(long = "unit", value_name = "UNIT")]
    pub units: Vec<Unit>,

    /// Wait for processes of --name and --unit if there are none; when they end, wait for new ones
    #[arg(long, requires = "recurring")]
    pub follow: bool,
}

impl Target {
    /// Returns the selection.
    #[must_use]
    pub fn selection(&self) -> Selection {
        Selection {
            pids: self.pids.clone(),
            names: self.names.clone(),
            units: self.units.clone(),
            follow: self.follow,
        }
    }
}

/// Parses a file name; a path would never be found.
fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('/') {
        return Err("an executable's name without folders is needed, such as named".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{Parser as _, error::ErrorKind};
    use rstest::rstest;

    use super::*;
    use crate::cli::{Cli, Command};

    fn target(line: &str) -> Result<Target, ErrorKind> {
        let words = format!("dnstap-agent attach {line}");
        match Cli::try_parse_from(words.split_whitespace()) {
            Ok(cli) => match cli.command {
                Command::Attach(options) => Ok(options.target),
                other => panic!("{other:?}"),
            },
            Err(error) => Err(error.kind()),
        }
    }

    #[test]
    fn all_ways_to_name_processes_go_together_and_several_times() {
        let line = "--pid 1 --pid 2 --name nsd --name knotd --unit a.service --unit /b --follow";
        let selection = target(line).unwrap().selection();
        assert_eq!(selection.pids, [1, 2]);
        assert_eq!(selection.names, ["nsd", "knotd"]);
        assert_eq!(selection.units.len(), 2);
        assert!(selection.follow);
    }

    #[rstest]
    #[case::nothing_is_named("", ErrorKind::MissingRequiredArgument)]
    #[case::a_pid_does_not_come_back("--pid 1 --follow", ErrorKind::MissingRequiredArgument)]
    #[case::no_process_is_zero("--pid 0", ErrorKind::ValueValidation)]
    #[case::a_path_is_no_name("--name /usr/sbin/named", ErrorKind::ValueValidation)]
    fn what_cannot_be_tapped_is_refused(#[case] line: &str, #[case] kind: ErrorKind) {
        assert_eq!(target(line).unwrap_err(), kind);
    }
}
