//! The configuration file: reads its settings, or returns everything that is wrong with it.
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

/// Options that are not allowed in a file.
const ELSEWHERE: [&str; 2] = ["config", "print_config"];

/// Options whose numbers are typed in octal.
const OCTAL: [&str; 1] = ["socket_mode"];

/// The file's setting for one option.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// Id of the option.
    pub(super) id: String,
    /// Arguments as they would be typed.
    pub(super) arguments: Vec<OsString>,
}

/// Reads the file's settings for the command of that `definition`. The parts that concern that
/// command are checked completely. Mistakes are returned in the order of lines.
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
    // After a syntax error, further mistakes would only confuse.
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
    /// Mistakes with their lines, from 1.
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

/// Returns whether the option is about the file itself, ends the program at once, or is short for
/// another one.
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

/// Returns the option as it would be typed, or its mistakes with their positions.
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

/// Converts an integer to the digits that would be typed: `port = 0x35` means 53, `socket-mode =
/// 0o660` means 660. Digits without a prefix are taken as typed, also in `socket-mode = 660`.
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

/// Returns the argument, if the option accepts that value.
fn checked(option: &Arg, name: &str, value: &str) -> Result<OsString, String> {
    match mistakes::wrong(option, value.as_ref()) {
        None => Ok(format!("--{name}={value}").into()),
        Some((value, problem)) => Err(format!("invalid value '{value}'{problem}")),
    }
}

/// Returns the option that was probably meant.
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
