//! Values of options come from the command line, the environment, the configuration file, or the
//! default. The first source that has a value wins.
//!
//! An option is defined once, for the command line. The other sources follow from that: its
//! environment variable is `DNSTAP_AGENT_` and its name in capitals; the file has it under its long
//! name in the table of its command. Values from the file are put in front of the command line, for
//! options without a value there, and the whole is parsed as one command line. An option also
//! overrides the options that it excludes: those from a weaker source are ignored.

mod file;
mod mistakes;
mod print;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::PathBuf,
};

use clap::{
    Arg, ArgAction, ArgGroup, ArgMatches, Command, CommandFactory as _, FromArgMatches as _, Id,
    builder::OsStr, parser::ValueSource,
};

pub use self::{mistakes::Mistake, print::example};
use crate::cli::Cli;

/// Commands that can be configured by the environment and by a file.
pub const CONFIGURABLE: [&str; 2] = ["attach", "receive"];

/// Reasons why there is no command.
#[derive(Debug)]
pub enum Refused {
    /// The user asked for help or the version.
    Asked(clap::Error),
    /// Mistakes in the options; never empty.
    Mistakes(Vec<Mistake>),
}

/// Options from all sources.
#[derive(Debug)]
pub struct Resolved {
    /// The command and its options.
    pub cli: Cli,
    /// Text that `--print-config` prints.
    pub print: Option<String>,
    /// Sources of the options.
    pub origin: Origin,
}

/// Sources of options, to read them again.
#[derive(Clone, Debug)]
pub struct Origin {
    arguments: Vec<OsString>,
    /// Values of the options, by their long names.
    values: BTreeMap<String, Vec<OsString>>,
}

impl Origin {
    /// Reads the current options.
    ///
    /// # Errors
    ///
    /// Fails like [`resolve`].
    pub fn again(&self) -> Result<Resolved, Refused> {
        resolve(&self.arguments)
    }

    /// Returns the long names of the options whose values differ.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        let names: BTreeSet<_> = self.values.keys().chain(other.values.keys()).collect();
        names
            .into_iter()
            .filter(|name| self.values.get(*name) != other.values.get(*name))
            .map(String::as_str)
    }

    /// Returns the values of the option with this long name, if it has any.
    #[must_use]
    pub fn values(&self, name: &str) -> Option<&[OsString]> {
        self.values.get(name).map(Vec::as_slice)
    }

    /// Copies the values of these options.
    pub fn adopt(&mut self, other: &Self, names: &[&str]) {
        for name in names {
            match other.values.get(*name) {
                Some(values) => drop(self.values.insert((*name).to_owned(), values.clone())),
                None => drop(self.values.remove(*name)),
            }
        }
    }
}

/// Reads `arguments` (which begin with the program's name), the environment, and the configuration
/// file that they name. The result is valid; only the machine's state can still prevent it from
/// working.
///
/// # Errors
///
/// Returns all mistakes at once.
pub fn resolve(arguments: &[OsString]) -> Result<Resolved, Refused> {
    let command = command_without(&excluded(arguments));
    let (completed, filed, mut mistakes) = with_file(&command, arguments);
    let matches = match command.clone().try_get_matches_from(&completed) {
        Ok(matches) if mistakes.is_empty() => matches,
        Err(asked) if !asked.use_stderr() => return Err(Refused::Asked(asked)),
        tried => {
            mistakes.extend(mistakes::typed(&command, &completed, mistakes.is_empty()));
            if let (true, Err(error)) = (mistakes.is_empty(), tried) {
                mistakes.push(Mistake::Words(error));
            }
            return Err(Refused::Mistakes(mistakes));
        }
    };
    let cli = Cli::from_arg_matches(&matches);
    let cli = cli.map_err(|error| Refused::Mistakes(vec![Mistake::Words(error)]))?;
    let together: Vec<_> = cli.mistakes().into_iter().map(Mistake::new).collect();
    if !together.is_empty() {
        return Err(Refused::Mistakes(together));
    }
    let mut print = None;
    let mut values = BTreeMap::new();
    if let Some((name, options)) = matches.subcommand() {
        let definition = subcommand(name);
        values = print::values(&definition, options);
        if is_configurable(name) && options.get_flag("print_config") {
            print = Some(print::effective(&definition, options, &filed));
        }
    }
    Ok(Resolved {
        cli,
        print,
        origin: Origin {
            arguments: arguments.to_vec(),
            values,
        },
    })
}

/// Returns the ids of options that an option on the command line excludes. The environment is
/// ignored for them: to the parser its values are like typed ones, so it would refuse both
/// together.
fn excluded(arguments: &[OsString]) -> Vec<Id> {
    let Some(matches) = mistakes::as_far_as_sound(&Cli::command(), arguments) else {
        return Vec::new();
    };
    let Some((name, options)) = matches.subcommand() else {
        return Vec::new();
    };
    let definition = subcommand(name);
    let ids = || definition.get_arguments().map(Arg::get_id);
    let is_typed = |id: &&Id| options.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    let typed: Vec<_> = ids().filter(is_typed).collect();
    let is_excluded = |id: &&Id| {
        typed
            .iter()
            .any(|other| are_exclusive(&definition, id.as_str(), other.as_str()))
    };
    ids().filter(is_excluded).cloned().collect()
}

/// Returns the arguments with those from the configuration file, the ids of the options that the
/// file sets, and the mistakes in the file.
fn with_file(
    command: &Command,
    arguments: &[OsString],
) -> (Vec<OsString>, Vec<String>, Vec<Mistake>) {
    let mut arguments = arguments.to_vec();
    let typed = mistakes::as_far_as_sound(command, &arguments);
    let typed = typed.as_ref().and_then(ArgMatches::subcommand);
    let configured = typed.filter(|(name, _)| is_configurable(name));
    let path = |options: &ArgMatches| Some(PathBuf::from(options.get_raw("config")?.next()?));
    let Some((name, options, path)) =
        configured.and_then(|(name, options)| Some((name, options, path(options)?)))
    else {
        return (arguments, Vec::new(), Vec::new());
    };
    let definition = subcommand(name);
    let settings = match file::read(&path, &definition) {
        Ok(settings) => settings,
        Err(mistakes) => return (arguments, Vec::new(), mistakes),
    };
    let (ids, given): (Vec<_>, Vec<_>) = settings
        .into_iter()
        .filter(|setting| !is_decided(&definition, options, &setting.id))
        .map(|setting| (setting.id, setting.arguments))
        .unzip();
    let place = arguments.iter().position(|argument| argument == name);
    let behind = place.map_or(arguments.len(), |place| place + 1);
    arguments.splice(behind..behind, given.into_iter().flatten());
    (arguments, ids, Vec::new())
}

/// Returns whether the command line or the environment sets the option, or another one that
/// excludes it.
fn is_decided(definition: &Command, options: &ArgMatches, id: &str) -> bool {
    let is_typed = |id: &str| {
        matches!(
            options.value_source(id),
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        )
    };
    definition
        .get_arguments()
        .map(Arg::get_id)
        .filter(|other| *other == id || are_exclusive(definition, id, other.as_str()))
        .any(|other| is_typed(other.as_str()))
}

/// Returns whether the command accepts only one of the two options, because of their group or
/// because one excludes the other.
fn are_exclusive(definition: &Command, one: &str, other: &str) -> bool {
    let excludes = |one: &str, other: &str| {
        definition
            .get_arguments()
            .filter(|option| option.get_id() == one)
            .flat_map(|option| definition.get_arg_conflicts_with(option))
            .any(|conflicting| conflicting.get_id() == other)
    };
    let together = |group: &ArgGroup| {
        [one, other]
            .iter()
            .all(|id| group.get_args().any(|member| member == id))
    };
    definition
        .get_groups()
        .any(|group| together(group) && !group.clone().is_multiple())
        || excludes(one, other)
        || excludes(other, one)
}

fn is_configurable(name: &str) -> bool {
    CONFIGURABLE.contains(&name)
}

/// Returns the command line's definition, with environment variables.
#[must_use]
pub fn command() -> Command {
    command_without(&[])
}

/// Like [`command`], but without environment variables for the options with these ids.
fn command_without(ids: &[Id]) -> Command {
    let with_variable = |option: Arg| {
        if ids.contains(option.get_id()) {
            option
        } else {
            with_variable(option)
        }
    };
    // Options of all commands are defined here; clap copies them to each command when it is built.
    let mut command = Cli::command().mut_args(with_variable);
    for name in CONFIGURABLE {
        command = command.mut_subcommand(name, |command| {
            let exits = command.get_after_help().map(ToString::to_string);
            let after = format!("{ENVIRONMENT}\n\n{}", exits.unwrap_or_default());
            command.mut_args(with_variable).after_long_help(after)
        });
    }
    command
}

/// Adds the environment variable to the option.
fn with_variable(option: Arg) -> Arg {
    match option.get_long().map(variable) {
        Some(name) if !matches!(option.get_action(), ArgAction::Count) => {
            option.env(OsStr::from(name)).hide_env(true)
        }
        _ => option,
    }
}

/// Text for the long help.
const ENVIRONMENT: &str = "\
Each option can also be set by the environment, --ring-size by DNSTAP_AGENT_RING_SIZE and so on, or in a file, see --config. The command \
line overrules the environment, the environment overrules the file.";

/// Returns the environment variable of an option.
fn variable(option: &str) -> String {
    format!(
        "DNSTAP_AGENT_{}",
        option.replace('-', "_").to_ascii_uppercase()
    )
}

/// Returns the definition of a command, including the options that all commands have.
fn subcommand(name: &str) -> Command {
    let mut command = command();
    command.build();
    command
        .find_subcommand(name)
        .cloned()
        .unwrap_or_else(|| Command::new("none"))
}

#[cfg(test)]
mod tests {
    use std::{fs, num::NonZeroU32};

    use rstest::rstest;

    use super::*;
    use crate::{cli, host::log::LogFormat};

    fn arguments(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    /// Resolves the command line with that configuration file.
    fn with(file: &str, line: &str) -> Result<Resolved, Refused> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        fs::write(&path, file).unwrap();
        resolve(&arguments(&format!(
            "dnstap-agent {line} --config {}",
            path.display()
        )))
    }

    fn attach(resolved: Resolved) -> cli::Attach {
        match resolved.cli.command {
            cli::Command::Attach(options) => *options,
            other => panic!("not attach: {other:?}"),
        }
    }

    /// Returns the mistakes in the file: lines and texts.
    fn mistakes(refused: Refused) -> Vec<(usize, String)> {
        let Refused::Mistakes(mistakes) = refused else {
            panic!("no mistakes: {refused:?}")
        };
        let of_file = |mistake| match mistake {
            Mistake::Other {
                line: Some(line),
                text,
            } => (line, text),
            other => panic!("no mistake of the file: {other:?}"),
        };
        mistakes.into_iter().map(of_file).collect()
    }

    #[test]
    fn mistakes_of_file_and_command_line_come_at_once_and_each_names_its_place() {
        let file = "[attach]\nring-size = 'huge'\n";
        let line =
            "attach --unsolicited --colour red --pid x --duration 5q --no-such=1 --port 53,y";
        let Err(Refused::Mistakes(mistakes)) = with(file, line) else {
            panic!("taken")
        };
        let told: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        let parts = [
            ".toml:2: ring-size: invalid value 'huge'",
            "--colour",
            "--no-such",
            "'x' for '--pid <PID>'",
            "'y' for '--port",
            "'5q' for '--duration <TIME>'",
        ];
        assert_eq!(told.len(), parts.len(), "{told:#?}");
        for part in parts {
            assert!(
                told.iter().any(|told| told.contains(part)),
                "{part}: {told:#?}"
            );
        }
    }

    #[rstest]
    #[case::missing_and_exclusive("read --count --format json", &["--count", "<FILE>"])]
    #[case::pairs("top --listen unix:/a --pid 1 --sample 2 f", &[": --listen", ": --pid <PID>: [FILE]", ": --sample <N>: [FILE]"])]
    #[case::of_all_commands("read -v -q", &["--verbose", "<FILE>"])]
    #[case::given_twice("read --count --count", &["--count", "<FILE>"])]
    #[case::unknown_first("read --no-such --count --count f", &["--no-such"])]
    #[case::unknown_and_exclusive("read --no-such -v -q f", &["--no-such"])]
    #[case::unknown_and_twice("attach --no-such --ring perf --ring perf --pid 1", &["--no-such"])]
    #[case::values_too("read --count --format jsno", &["--count", "<FILE>", "'jsno'"])]
    fn mistakes_of_the_words_come_at_once(#[case] line: &str, #[case] parts: &[&str]) {
        let Err(Refused::Mistakes(mistakes)) = resolve(&arguments(&format!("dnstap-agent {line}")))
        else {
            panic!("taken")
        };
        let told: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), parts.len(), "{told:#?}");
        for part in parts {
            assert!(
                told.iter().any(|told| told.contains(part)),
                "{part}: {told:#?}"
            );
        }
    }

    #[rstest]
    #[case::anonymise("--anonymise cryptopan", "needs --anonymise-key")]
    #[case::key("--anonymise truncate:24,48 --anonymise-key /k", "has no key")]
    #[case::outputs(
        "-o text:- -o json:-",
        "output json:-: standard output is already taken"
    )]
    #[case::events("--unanswered-events -", "already taken")]
    fn what_does_not_go_together_is_refused(#[case] options: &str, #[case] part: &str) {
        let line = format!("dnstap-agent attach --pid 1 {options}");
        let Err(Refused::Mistakes(mistakes)) = resolve(&arguments(&line)) else {
            panic!("taken")
        };
        assert!(mistakes[0].to_string().contains(part), "{mistakes:?}");
    }

    #[test]
    fn the_file_fills_in_what_the_command_line_leaves_open() {
        let file = "[attach]\npid = 7\nring-size = '1M'\nkernel-log = true\noutput = ['-', 'json:a']\nduration = 2.5\n";
        let options = attach(with(file, "attach --ring-size 64K").unwrap());
        assert_eq!(options.tapping.ring_size, 65_536);
        assert!(options.tapping.kernel_log);
        assert_eq!(options.outputs.len(), 2);
        assert_eq!(options.duration.unwrap().as_millis(), 2_500);
    }

    #[test]
    fn numbers_with_a_prefix_are_what_they_say() {
        let file =
            "[attach]\npid = [0x7, 0b11]\nport = [0x35]\nsample = 0o12\nring-size = 65_536\n";
        let options = attach(with(file, "attach").unwrap());
        assert_eq!(options.target.pids, [7, 3]);
        assert_eq!(options.tapping.ring_size, 65_536);
        let filters = options.messages.filters;
        assert_eq!(
            (filters.ports, filters.sample),
            (vec![53], NonZeroU32::new(10))
        );
    }

    #[rstest]
    #[case("0o660")]
    #[case("0x1b0")]
    #[case("660")]
    #[case("'0660'")]
    fn modes_are_octal_however_they_are_written(#[case] mode: &str) {
        let file = format!("[receive]\nlisten = 'unix:/tmp/s'\nsocket-mode = {mode}\n");
        match with(&file, "receive").unwrap().cli.command {
            cli::Command::Receive(options) => {
                assert_eq!(options.connections.socket_mode, 0o660);
            }
            other => panic!("not receive: {other:?}"),
        }
    }

    #[rstest]
    #[case::behind_the_command("attach -v")]
    #[case::before_the_command("-v attach")]
    fn what_excludes_an_option_of_the_file_overrules_it(#[case] line: &str) {
        let file = "[attach]\npid = 7\nlog-level = 'info'\nlog-format = 'json'\n";
        let log = with(file, line).unwrap().cli.log;
        assert_eq!((log.log_level, log.verbose), (None, 1));
        assert_eq!(log.log_format, LogFormat::Json);
    }

    #[test]
    fn a_list_on_the_command_line_replaces_that_of_the_file() {
        let file = "[attach]\npid = 7\noutput = ['-', 'json:-']\n";
        let options = attach(with(file, "attach -o file:/tmp/a").unwrap());
        assert_eq!(options.outputs.len(), 1);
    }

    #[test]
    fn all_mistakes_come_at_once_with_their_lines() {
        let file = "[attach]\nrign-size = '1M'\nduration = 'long'\nkernel-log = 'yes'\noutput = ['-', 'fil:x']\n\n[atach]\npid = 1\n";
        let mistakes = mistakes(with(file, "attach").unwrap_err());
        let lines: Vec<_> = mistakes.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 7], "{mistakes:?}");
        assert!(
            mistakes[0].1.contains("there is \"ring-size\""),
            "{mistakes:?}"
        );
        assert!(
            mistakes[1].1.contains("\"long\" is no length of time"),
            "{mistakes:?}"
        );
        assert!(mistakes[2].1.contains("true or false"), "{mistakes:?}");
    }

    #[test]
    fn a_broken_line_of_toml_is_named() {
        let mistakes = mistakes(with("[attach]\npid = \n", "attach").unwrap_err());
        assert_eq!(mistakes[0].0, 2, "{mistakes:?}");
    }

    #[rstest]
    #[case::of_the_file_itself("config = 'other.toml'")]
    #[case::help("help = true")]
    fn options_about_the_file_are_not_in_the_file(#[case] line: &str) {
        assert_eq!(
            mistakes(with(&format!("[attach]\n{line}\n"), "attach").unwrap_err()).len(),
            1
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let line = "dnstap-agent attach --config /nonexistent.toml";
        let Err(Refused::Mistakes(mistakes)) = resolve(&arguments(line)) else {
            panic!("taken")
        };
        let [mistake] = &mistakes[..] else {
            panic!("{mistakes:?}")
        };
        assert!(mistake.to_string().contains("/nonexistent.toml"));
    }

    #[rstest]
    #[case("attach", "--pid 1")]
    #[case("receive", "--listen unix:/tmp/s")]
    fn the_example_says_what_the_defaults_are(#[case] command: &str, #[case] needed: &str) {
        let line = format!("{command} {needed}");
        let defaults = resolve(&arguments(&format!("dnstap-agent {line}"))).unwrap();
        let example = with(&example(), &line).unwrap();
        let told = format!("{:?}", example.cli);
        let (before, after) = told.split_once("config: Some(").unwrap();
        let (_path, after) = after.split_once("\")").unwrap();
        assert_eq!(
            format!("{before}config: None{after}"),
            format!("{:?}", defaults.cli)
        );
    }

    #[test]
    fn what_is_printed_reads_the_same_again() {
        let file =
            "[attach]\npid = 7\noutput = ['json:-']\nidentity = '007'\nserver-version = '+5'\n";
        let line = "attach --ring perf --print-config";
        let printed = with(file, line).unwrap().print.unwrap();
        assert!(
            printed.contains("\nring = \"perf\"  # command line\n"),
            "{printed}"
        );
        assert!(
            printed.contains("\noutput = [\"json:-\"]  # file\n"),
            "{printed}"
        );
        assert!(
            printed.contains("\nidentity = \"007\"  # file\n"),
            "{printed}"
        );
        assert!(
            printed.contains("\nhook = \"auto\"  # default\n"),
            "{printed}"
        );
        let again = with(&printed, "attach --print-config")
            .unwrap()
            .print
            .unwrap();
        let values = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines
                .map(|line| line.split("  # ").next().unwrap().to_owned())
                .collect()
        };
        assert_eq!(values(&again), values(&printed));
    }

    #[test]
    fn the_committed_example_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/dnstap-agent.toml");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(path, example()).unwrap();
        }
        assert!(
            fs::read_to_string(path).unwrap() == example(),
            "docs/dnstap-agent.toml is behind the options. Write it again:\n\
             UPDATE_EXPECT=1 cargo test -p dnstap-agent --lib the_committed_example"
        );
    }
}
