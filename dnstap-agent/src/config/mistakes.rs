//! Finds all mistakes in the options at once, each with its place.
//!
//! The parser stops at the first mistake. So the command line is parsed a second time with any text
//! allowed as a value, which finds mistakes in the combination of words. Then each value is parsed
//! by itself.

use std::{
    collections::HashSet,
    error::Error as _,
    ffi::{OsStr, OsString},
    fmt,
};

use clap::{
    Arg, ArgAction, ArgMatches, Command, Id,
    builder::{Resettable, ValueParser},
    error::ContextKind,
    error::ContextValue,
    error::ErrorKind,
    parser::ValueSource,
};

use super::subcommand;

/// One mistake.
#[derive(Debug)]
pub enum Mistake {
    /// Words that are unknown or missing, or that exclude each other.
    Words(clap::Error),
    /// Anything else.
    Other {
        /// Line of the mistake, if it is in a configuration file that could be read.
        line: Option<usize>,
        /// Place of the mistake, what is wrong, and what would be right.
        text: String,
    },
}

impl Mistake {
    pub(super) fn new(text: String) -> Self {
        Self::Other { line: None, text }
    }
}

/// Prints the mistake in one line.
impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(error) => {
                write!(formatter, "{}", error.kind())?;
                let named = [ContextKind::InvalidArg, ContextKind::PriorArg];
                let mut named = named.iter().filter_map(|kind| error.get(*kind));
                named.try_for_each(|value| write!(formatter, ": {value}"))
            }
            Self::Other { text, .. } => formatter.write_str(text),
        }
    }
}

/// Returns the mistakes in these words and in the environment for the command. If `complete` is
/// false, more words may be added, so a missing option is no mistake.
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
    let definition = subcommand(name);
    let options = definition
        .get_arguments()
        .flat_map(|option| values(option, options));
    mistakes.extend(options);
    mistakes
}

/// Parses the words as far as possible, with any text for a value.
pub(super) fn as_far_as_sound(command: &Command, arguments: &[OsString]) -> Option<ArgMatches> {
    words(&raw(command), arguments.to_vec()).1
}

/// Returns the command with any text allowed for a value.
fn raw(command: &Command) -> Command {
    let any = |option: Arg| match option.get_action() {
        ArgAction::Set | ArgAction::Append => option.value_parser(ValueParser::os_string()),
        _ => option,
    };
    let command = command.clone().mut_args(any);
    command.mut_subcommands(|command| command.mut_args(any))
}

/// Returns each mistake in the combination of words, and what the rest of the words says.
fn words(raw: &Command, mut arguments: Vec<OsString>) -> (Vec<clap::Error>, Option<ArgMatches>) {
    let mut raw = raw.clone();
    let mut errors: Vec<clap::Error> = Vec::new();
    let mut met = HashSet::new();
    loop {
        let error = match raw.clone().try_get_matches_from(&arguments) {
            Ok(matches) => return (errors, Some(matches)),
            Err(asked) if !asked.use_stderr() => return (errors, None),
            Err(error) => error,
        };
        // Each mistake is corrected, so that the parser finds the next one.
        let unknown = match (error.kind(), error.get(ContextKind::InvalidArg)) {
            (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) => Some(word.clone()),
            _ => None,
        };
        let is_it = |word: &OsString| {
            let name = word.to_str().and_then(|word| word.split('=').next());
            name.is_some() && name == unknown.as_deref()
        };
        let place = arguments.iter().rposition(is_it);
        let relaxed = relaxed(&raw, &error);
        // An error that occurs again was not corrected.
        let is_new = met.insert((arguments.len(), error.to_string()));
        // After an unknown option it is not certain what a word without dashes means, or what is
        // missing.
        let is_clear = match &unknown {
            Some(word) => errors.is_empty() || word.starts_with('-'),
            None => errors
                .iter()
                .all(|error| error.kind() != ErrorKind::UnknownArgument),
        };
        if is_clear && is_new {
            errors.push(error);
        }
        match (place, relaxed) {
            (Some(place), _) => drop(arguments.remove(place)),
            (None, Some(relaxed)) if is_new => raw = relaxed,
            (None, _) => {
                let rest = raw.ignore_errors(true);
                return (errors, rest.try_get_matches_from(&arguments).ok());
            }
        }
    }
}

/// Returns the command without the rule that this error is about, if the rule says that options
/// exclude each other or are required.
fn relaxed(command: &Command, error: &clap::Error) -> Option<Command> {
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(name)) => vec![name.clone()],
        Some(ContextValue::Strings(names)) => names.clone(),
        _ => Vec::new(),
    };
    match error.kind() {
        ErrorKind::ArgumentConflict => {
            let pair = [named(ContextKind::InvalidArg), named(ContextKind::PriorArg)];
            if pair[0] == pair[1] {
                // The option was given twice.
                return Some(command.clone().args_override_self(true));
            }
            let mut built = command.clone();
            built.build();
            let relaxed = together(command.clone(), &built, &pair);
            Some(relaxed.mut_subcommands(|subcommand| {
                match built.find_subcommand(subcommand.get_name()) {
                    Some(built) => together(subcommand, built, &pair),
                    None => subcommand,
                }
            }))
        }
        ErrorKind::MissingRequiredArgument => Some(command.clone().mut_subcommands(optional)),
        _ => None,
    }
}

/// Returns the command in which options of the first names and of the second no longer exclude each
/// other. `built` is the same command, built.
fn together(command: Command, built: &Command, [ones, others]: &[Vec<String>; 2]) -> Command {
    let is_one_of = |option: &Arg, names: &[String]| names.contains(&option.to_string());
    built.get_arguments().fold(command, |command, option| {
        let against = match (is_one_of(option, ones), is_one_of(option, others)) {
            (true, _) => others,
            (_, true) => ones,
            _ => return command,
        };
        let id = option.get_id();
        if command.get_arguments().all(|own| own.get_id() != id) {
            return command;
        }
        let kept = built.get_arg_conflicts_with(option).into_iter();
        let kept = kept.filter(|other| !is_one_of(other, against));
        let kept: Vec<Id> = kept.map(|other| other.get_id().clone()).collect();
        command.mut_arg(id.clone(), |option| {
            option
                .conflicts_with(Resettable::Reset)
                .conflicts_with_all(kept)
        })
    })
}

/// Returns the command with all required options made optional.
fn optional(command: Command) -> Command {
    let command = command.mut_args(|option| option.required(false).requires(Resettable::Reset));
    let groups = command.get_groups().map(|group| group.get_id().clone());
    let groups: Vec<Id> = groups.collect();
    groups.into_iter().fold(command, |command, id| {
        command.mut_group(id, |group| group.required(false))
    })
}

/// Returns the mistakes in the values of an option.
fn values(option: &Arg, options: &ArgMatches) -> Vec<Mistake> {
    let id = option.get_id().as_str();
    let place = match (options.value_source(id), option.get_env()) {
        _ if !option.get_action().takes_values() => return Vec::new(),
        (Some(ValueSource::CommandLine), _) => String::new(),
        (Some(ValueSource::EnvVariable), Some(name)) => format!("{}: ", name.display()),
        _ => return Vec::new(),
    };
    let values = options.get_raw(id).into_iter().flatten();
    let problems = values.filter_map(|value| wrong(option, value));
    problems
        .map(|(value, problem)| format!("{place}invalid value '{value}' for '{option}'{problem}"))
        .map(Mistake::new)
        .collect()
}

/// Returns why the option does not accept that value: the wrong value, and the reason with the text
/// in front of it.
pub(super) fn wrong(option: &Arg, value: &OsStr) -> Option<(String, String)> {
    // The option is parsed alone. Its relation to others is checked with the whole command line.
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
