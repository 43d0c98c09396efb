//! Prints options as a configuration file: the current ones, and the commented example.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt::Write as _,
};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use toml::Value;

use super::{CONFIGURABLE, file::is_elsewhere, subcommand};

/// Prints every option of the command with its current value, and its source in a comment. Options
/// with the ids `filed` come from the file.
pub(super) fn effective(definition: &Command, options: &ArgMatches, filed: &[String]) -> String {
    let mut text = format!("[{}]\n", definition.get_name());
    for option in configurable(definition) {
        let id = option.get_id().as_str();
        let name = option.get_long().unwrap_or_default();
        let source = match options.value_source(id) {
            None => {
                let _infallible = writeln!(text, "#{name} =  # not set");
                continue;
            }
            Some(ValueSource::DefaultValue) => "default",
            Some(ValueSource::EnvVariable) => "environment",
            Some(_) if filed.iter().any(|filed| filed == id) => "file",
            Some(_) => "command line",
        };
        let values = options.get_raw(id).into_iter().flatten();
        let value = value(
            option,
            values.map(|value| value.to_string_lossy().into_owned()),
        );
        let _infallible = writeln!(text, "{name} = {value}  # {source}");
    }
    text
}

/// Returns the values of all options that have any, by their long names.
pub(super) fn values(
    definition: &Command,
    options: &ArgMatches,
) -> BTreeMap<String, Vec<OsString>> {
    let values = |option: &Arg| {
        let values = options.get_raw(option.get_id().as_str())?;
        let name = option.get_long()?.to_owned();
        Some((name, values.map(OsStr::to_owned).collect()))
    };
    configurable(definition).filter_map(values).collect()
}

/// Returns a configuration file with the defaults: each option with its help. An option without
/// default is commented out.
#[must_use]
pub fn example() -> String {
    let mut text = EXAMPLE.to_owned();
    for name in CONFIGURABLE {
        let definition = subcommand(name);
        let about = definition.get_about().map(ToString::to_string);
        let _infallible = write!(text, "\n# {}\n[{name}]\n", about.unwrap_or_default());
        for option in configurable(&definition) {
            describe(option, &mut text);
        }
    }
    text
}

/// Head of the example.
const EXAMPLE: &str = "\
# Configuration of dnstap-agent, for `dnstap-agent attach --config FILE` and `dnstap-agent receive --config FILE`.
#
# Every option of the command line is here, under its long name. What stands here is overruled by the environment, that by the
# command line. The values are the defaults; an option without one is commented out.
";

fn describe(option: &Arg, text: &mut String) {
    let name = option.get_long().unwrap_or_default();
    let help = option
        .get_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    text.push('\n');
    for line in wrapped(&help) {
        let _infallible = writeln!(text, "# {line}");
    }
    let values = option.get_possible_values();
    if !values.is_empty() && !matches!(option.get_action(), ArgAction::SetTrue) {
        let names: Vec<_> = values
            .iter()
            .map(clap::builder::PossibleValue::get_name)
            .collect();
        let _infallible = writeln!(text, "# One of: {}", names.join(", "));
    }
    let defaults: Vec<_> = option
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    let _infallible = match option.get_action() {
        ArgAction::SetTrue => writeln!(text, "{name} = false"),
        _ if defaults.is_empty() => {
            let placeholder = option.get_value_names().and_then(<[_]>::first);
            let placeholder = placeholder
                .map_or("", clap::builder::Str::as_str)
                .to_owned();
            writeln!(
                text,
                "#{name} = {}",
                value(option, [placeholder].into_iter())
            )
        }
        _ => writeln!(text, "{name} = {}", value(option, defaults.into_iter())),
    };
}

/// Returns the options that a file may have, in the order of the help.
fn configurable(definition: &Command) -> impl Iterator<Item = &Arg> {
    definition.get_arguments().filter(|option| {
        option.get_long().is_some() && !is_elsewhere(option) && !option.is_hide_set()
    })
}

/// Returns the option's value as TOML. It is a number only if it prints as the same text again,
/// which `007` does not.
fn value(option: &Arg, mut values: impl Iterator<Item = String>) -> Value {
    let scalar = |text: String| match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => Value::Integer(number),
        _ => Value::String(text),
    };
    match option.get_action() {
        ArgAction::SetTrue => Value::Boolean(values.next().is_some_and(|value| value == "true")),
        ArgAction::Append => Value::Array(values.map(scalar).collect()),
        _ => scalar(values.next().unwrap_or_default()),
    }
}

/// Wraps text into lines of up to 110 characters.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always one");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= 110 {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
