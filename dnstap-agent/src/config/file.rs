//! The configuration file: what it sets, or everything that is wrong with it.
//!
//! ```toml
//! [attach]
//! name = ["named"]
//! output = ["file:/var/log/dnstap/named.fstrm", "tls:collector.example:6000"]
//! ring-size = "16M"
//! follow = true
//! ```

use std::{ffi::OsString, fs, path::Path};

use clap::{Arg, ArgAction, Command, error::ContextKind, error::ContextValue};
use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use super::{
    CONFIGURABLE,
    mistakes::{self, Mistake},
};

/// Options that make no sense in a file.
const ELSEWHERE: [&str; 2] = ["config", "print_config"];

/// Options whose numbers are typed in octal.
const OCTAL: [&str; 1] = ["socket_mode"];

/// What a file says about one option.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The option's id.
    pub(super) id: String,
    /// As it would be typed.
    pub(super) arguments: Vec<OsString>,
}

/// Reads what the file sets for the command of that `definition`. All of the file is checked, as far as it concerns that command:
/// the mistakes come in the order of lines.
pub(super) fn read(path: &Path, definition: &Command) -> Result<Vec<Setting>, Vec<Mistake>> {
    let name = path.display();
    let unreadable = |error| Mistake::new(format!("cannot read the configuration {name}: {error}"));
    let text = fs::read_to_string(path).map_err(|error| vec![unreadable(error)])?;
    let mut checked = Checked {
        text: &text,
        definition,
        settings: Vec::new(),
        mistakes: Vec::new(),
    };
    let (document, errors) = DeTable::parse_recoverable(&text);
    for error in errors {
        let start = error.span().map_or(0, |span| span.start);
        checked.wrong(start, error.message().to_owned());
    }
    // What follows from broken syntax is no help.
    if checked.mistakes.is_empty() {
        checked.document(document.get_ref());
    }
    if checked.mistakes.is_empty() {
        return Ok(checked.settings);
    }
    checked.mistakes.sort_by_key(|(line, _)| *line);
    let mistake = |(line, text)| Mistake::Other {
        line: Some(line),
        text: format!("{name}:{line}: {text}"),
    };
    let mistakes = checked.mistakes.into_iter();
    Err(mistakes.map(mistake).collect())
}

struct Checked<'a> {
    text: &'a str,
    definition: &'a Command,
    settings: Vec<Setting>,
    /// With their lines, from 1.
    mistakes: Vec<(usize, String)>,
}

impl Checked<'_> {
    fn wrong(&mut self, at: usize, text: String) {
        let before = self.text.as_bytes().iter().take(at);
        let line = 1 + before.filter(|&&byte| byte == b'\n').count();
        self.mistakes.push((line, text));
    }

    fn document(&mut self, document: &DeTable<'_>) {
        for (key, value) in document {
            let (name, at) = (key.get_ref().as_ref(), key.span().start);
            if !CONFIGURABLE.contains(&name) {
                let tables = CONFIGURABLE.map(|name| format!("[{name}]")).join(" and ");
                self.wrong(at, format!("{name:?} is nothing that can be configured here; there are the tables {tables}"));
            } else if let DeValue::Table(options) = value.get_ref() {
                if name == self.definition.get_name() {
                    self.options(options);
                }
            } else {
                self.wrong(at, format!("{name:?} is a table: [{name}]"));
            }
        }
    }

    fn options(&mut self, options: &DeTable<'_>) {
        for (key, value) in options {
            let (name, at) = (key.get_ref().as_ref(), key.span().start);
            let definition = self.definition;
            let option = definition
                .get_arguments()
                .find(|option| option.get_long() == Some(name))
                .filter(|option| !is_elsewhere(option));
            let Some(option) = option else {
                let tip = similar(definition, name)
                    .map_or_else(String::new, |tip| format!("; there is {tip:?}"));
                let command = definition.get_name();
                self.wrong(at, format!("{command} has no option {name:?}{tip}"));
                continue;
            };
            match arguments(option, name, value) {
                Ok(arguments) => self.settings.push(Setting {
                    id: option.get_id().to_string(),
                    arguments,
                }),
                Err(problems) => {
                    for (at, problem) in problems {
                        self.wrong(at, format!("{name}: {problem}"));
                    }
                }
            }
        }
    }
}

/// Whether the option is about the file itself, ends the program at once, or is short for another one.
pub(super) fn is_elsewhere(option: &Arg) -> bool {
    ELSEWHERE.contains(&option.get_id().as_str())
        || matches!(
            option.get_action(),
            ArgAction::Count
                | ArgAction::Help
                | ArgAction::HelpShort
                | ArgAction::HelpLong
                | ArgAction::Version
        )
}

/// The option as it would be typed, or what is wrong with it and where.
fn arguments(
    option: &Arg,
    name: &str,
    value: &Spanned<DeValue<'_>>,
) -> Result<Vec<OsString>, Vec<(usize, String)>> {
    let at = value.span().start;
    let mut typed = Vec::new();
    match (option.get_action(), value.get_ref()) {
        (ArgAction::SetTrue, DeValue::Boolean(set)) => {
            typed.extend(set.then(|| format!("--{name}").into()));
            return Ok(typed);
        }
        (ArgAction::SetTrue, other) => {
            return Err(vec![(
                at,
                format!("true or false, not {}", other.type_str()),
            )]);
        }
        (ArgAction::Append, DeValue::Array(values)) => {
            let mut problems = Vec::new();
            for value in values {
                match scalar(option, value).and_then(|text| checked(option, name, &text)) {
                    Ok(argument) => typed.push(argument),
                    Err(problem) => problems.push((value.span().start, problem)),
                }
            }
            if !problems.is_empty() {
                return Err(problems);
            }
        }
        _ => {
            let argument = scalar(option, value).and_then(|text| checked(option, name, &text));
            typed.push(argument.map_err(|problem| vec![(at, problem)])?);
        }
    }
    Ok(typed)
}

fn scalar(option: &Arg, value: &Spanned<DeValue<'_>>) -> Result<String, String> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => integer(option, number),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(set) => Ok(set.to_string()),
        other => Err(format!("one value, not {}", other.type_str())),
    }
}

/// As the option has it typed: `port = 0x35` means 53, `socket-mode = 0o660` means 660. Without a prefix the digits are those that would
/// be typed, also of `socket-mode = 660`.
fn integer(option: &Arg, number: &DeInteger<'_>) -> Result<String, String> {
    let digits = number.as_str();
    if number.radix() == 10 {
        return Ok(digits.to_owned());
    }
    let value = u64::from_str_radix(digits, number.radix())
        .map_err(|error| format!("{number}: {error}"))?;
    Ok(if OCTAL.contains(&option.get_id().as_str()) {
        format!("{value:o}")
    } else {
        value.to_string()
    })
}

/// The argument, if the option takes that value.
fn checked(option: &Arg, name: &str, value: &str) -> Result<OsString, String> {
    match mistakes::wrong(option, value.as_ref()) {
        None => Ok(format!("--{name}={value}").into()),
        Some((value, problem)) => Err(format!("invalid value '{value}'{problem}")),
    }
}

/// The option that was probably meant.
fn similar(definition: &Command, name: &str) -> Option<String> {
    let error = definition
        .clone()
        .no_binary_name(true)
        .try_get_matches_from([format!("--{name}")])
        .err()?;
    match error.get(ContextKind::SuggestedArg)? {
        ContextValue::String(option) => Some(option.trim_start_matches("--").to_owned()),
        _ => None,
    }
}
