//! What is wrong with the options, wherever they come from: everything at once, each with its place.
//!
//! The parser ends at the first mistake. So the command line is read a second time, with any text for a value: that finds how the
//! words go together. Then each value is read by itself.

use std::{
    error::Error as _,
    ffi::{OsStr, OsString},
    fmt,
    path::PathBuf,
};

use clap::{
    Arg, ArgAction, ArgMatches, Command, builder::ValueParser, error::ContextKind,
    error::ContextValue, error::ErrorKind, parser::ValueSource,
};

/// One mistake.
#[derive(Debug)]
pub enum Mistake {
    /// Words that are unknown, missing, or do not go together.
    Words(clap::Error),
    /// Anything else.
    Other {
        /// Where.
        place: Place,
        /// What is wrong, and what would be right.
        text: String,
    },
}

/// Where a mistake is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the command line, or in how all options go together.
    CommandLine,
    /// In this environment variable.
    Variable(String),
    /// In a configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// From 1; none if the file cannot be read.
        line: Option<usize>,
    },
}

impl Mistake {
    /// One that concerns all options together.
    pub(super) fn of_all(text: String) -> Self {
        let place = Place::CommandLine;
        Self::Other { place, text }
    }
}

/// In one line.
impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(error) => {
                write!(formatter, "{}", error.kind())?;
                let named = [ContextKind::InvalidArg, ContextKind::PriorArg];
                for value in named.iter().filter_map(|kind| error.get(*kind)) {
                    write!(formatter, ": {value}")?;
                }
                Ok(())
            }
            Self::Other { place, text } => match place {
                Place::CommandLine => formatter.write_str(text),
                Place::Variable(name) => write!(formatter, "{name}: {text}"),
                Place::File { path, line: None } => write!(formatter, "{}: {text}", path.display()),
                Place::File {
                    path,
                    line: Some(line),
                } => write!(formatter, "{}:{line}: {text}", path.display()),
            },
        }
    }
}

/// What is wrong with these words, and with the environment, for the command. `complete` says whether nothing is to be added to them:
/// else what is missing is no mistake.
pub(super) fn typed(command: &Command, arguments: &[OsString], complete: bool) -> Vec<Mistake> {
    let (errors, matches) = words(&raw(command), arguments.to_vec());
    let missing = |error: &clap::Error| error.kind() == ErrorKind::MissingRequiredArgument;
    let errors = errors
        .into_iter()
        .filter(|error| complete || !missing(error));
    let mut mistakes: Vec<_> = errors.map(Mistake::Words).collect();
    let Some((name, options)) = matches.as_ref().and_then(ArgMatches::subcommand) else {
        return mistakes;
    };
    // It has the options of all commands, too.
    let mut built = command.clone();
    built.build();
    for option in built
        .find_subcommand(name)
        .into_iter()
        .flat_map(Command::get_arguments)
    {
        mistakes.extend(values(option, options));
    }
    mistakes
}

/// What can be told of the words, with any text for a value.
pub(super) fn as_far_as_sound(command: &Command, arguments: &[OsString]) -> Option<ArgMatches> {
    words(&raw(command), arguments.to_vec()).1
}

/// The command with any text for a value.
fn raw(command: &Command) -> Command {
    let any = |option: Arg| match option.get_action() {
        ArgAction::Set | ArgAction::Append => option.value_parser(ValueParser::os_string()),
        _ => option,
    };
    let names: Vec<_> = command
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    names
        .iter()
        .fold(command.clone().mut_args(any), |command, name| {
            command.mut_subcommand(name, |command| command.mut_args(any))
        })
}

/// Each option that is unknown, or else the first other mistake; and what the rest of the words says.
fn words(raw: &Command, mut arguments: Vec<OsString>) -> (Vec<clap::Error>, Option<ArgMatches>) {
    let mut errors: Vec<clap::Error> = Vec::new();
    loop {
        let error = match raw.clone().try_get_matches_from(&arguments) {
            Ok(matches) => return (errors, Some(matches)),
            Err(asked) if !asked.use_stderr() => return (errors, None),
            Err(error) => error,
        };
        let unknown = match (error.kind(), error.get(ContextKind::InvalidArg)) {
            (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) => Some(word.clone()),
            _ => None,
        };
        // Behind an unknown option nobody knows what a word without dashes is, or what is missing.
        if errors.is_empty() || unknown.as_ref().is_some_and(|word| word.starts_with('-')) {
            errors.push(error);
        }
        let is_it = |word: &OsString| {
            let (word, unknown) = (word.to_str(), unknown.as_deref());
            word.zip(unknown)
                .is_some_and(|(word, unknown)| word.split('=').next() == Some(unknown))
        };
        let Some(place) = arguments.iter().position(is_it) else {
            let rest = raw.clone().ignore_errors(true);
            return (errors, rest.try_get_matches_from(&arguments).ok());
        };
        arguments.remove(place);
    }
}

/// What is wrong with the values of an option.
fn values(option: &Arg, options: &ArgMatches) -> Vec<Mistake> {
    let id = option.get_id().as_str();
    let place = match (options.value_source(id), option.get_env()) {
        (Some(ValueSource::CommandLine), _) => Place::CommandLine,
        (Some(ValueSource::EnvVariable), Some(name)) => {
            Place::Variable(name.to_string_lossy().into_owned())
        }
        _ => return Vec::new(),
    };
    let values = options.get_raw(id).into_iter().flatten();
    let problems = values.filter_map(|value| wrong(option, value));
    problems
        .map(|(value, problem)| Mistake::Other {
            place: place.clone(),
            text: format!("invalid value '{value}' for '{option}'{problem}"),
        })
        .collect()
}

/// Why the option does not take that value: the value that is wrong, and the reason with what stands in front of it.
pub(super) fn wrong(option: &Arg, value: &OsStr) -> Option<(String, String)> {
    // The option alone: what it says about others is seen with the whole command line.
    let mut alone = Arg::new("option")
        .long("option")
        .value_parser(option.get_value_parser().clone())
        .action(option.get_action().clone());
    if let Some(delimiter) = option.get_value_delimiter() {
        alone = alone.value_delimiter(delimiter);
    }
    let mut argument = OsString::from("--option=");
    argument.push(value);
    let error = Command::new("alone")
        .no_binary_name(true)
        .arg(alone)
        .try_get_matches_from([argument])
        .err()?;
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.clone(),
        _ => value.to_string_lossy().into_owned(),
    };
    let problem = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => format!(": {source}"),
        (None, Some(ContextValue::Strings(valid))) => {
            format!(" [possible values: {}]", valid.join(", "))
        }
        _ => format!(": {}", error.kind()),
    };
    Some((value, problem))
}
