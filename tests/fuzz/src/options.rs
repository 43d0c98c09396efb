//! What operators type: any text is taken or refused with a message; what is printed back is taken again, as the same.
//!
//! The input is a byte that says which parser, and the text. The command line's words are its lines; a configuration file is the whole.

use std::{cell::RefCell, ffi::OsString, fmt::Display, fs, str::FromStr};

use clap::Parser as _;
use dnstap_agent::{
    cli::{Cli, Mimic},
    config::{self, Mistake, Refused},
    host::net::Address,
    sinks::OutputSpec,
};
use dnstap_core::{
    classify::{bind::BindRules, profile::ProfileChoice},
    encode::ExtraField,
    model::{Subject, TypeSet},
};

/// Runs the target.
///
/// # Panics
///
/// If something does not hold.
pub fn run(bytes: &[u8]) {
    let Some((choice, text)) = bytes.split_first() else {
        return;
    };
    let text = &*String::from_utf8_lossy(text);
    match choice % 10 {
        0 => named(text),
        1 => again::<Address>(text),
        2 => again::<ProfileChoice>(text),
        3 => refused::<Mimic>(text),
        4 => refused::<TypeSet>(text),
        5 => refused::<Subject>(text),
        6 => refused::<ExtraField>(text),
        7 => {
            assert_eq!(BindRules::of_version(text), BindRules::of_version(text));
        }
        9 => configuration(text),
        _ => {
            let words = ["dnstap-agent"].into_iter().chain(text.lines());
            if let Err(error) = Cli::try_parse_from(words) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
}

thread_local! {
    /// The file that configurations are written to.
    static FILE: RefCell<Option<tempfile::NamedTempFile>> = const { RefCell::new(None) };
}

/// A configuration file is taken or refused, and each mistake is on one of its lines.
fn configuration(text: &str) {
    FILE.with_borrow_mut(|file| {
        let file = file.get_or_insert_with(|| tempfile::NamedTempFile::new().expect("a file"));
        fs::write(file.path(), text).expect("a file that can be written");
        let words = ["dnstap-agent", "attach", "--print-config", "--config"];
        let mut words = words.map(OsString::from).to_vec();
        words.push(file.path().into());
        match config::resolve(&words) {
            Ok(resolved) => assert!(resolved.print.is_some_and(|text| !text.is_empty())),
            Err(Refused::Asked(help)) => panic!("nobody asked for {help}"),
            Err(Refused::Mistakes(mistakes)) => {
                let lines = 1 + text.matches('\n').count();
                assert!(!mistakes.is_empty());
                for mistake in mistakes {
                    assert!(!mistake.to_string().is_empty());
                    if let Mistake::Other {
                        line: Some(line), ..
                    } = mistake
                    {
                        assert!((1..=lines).contains(&line));
                    }
                }
            }
        }
    });
}

/// What is taken is printed, and taken again as the same.
fn again<T>(text: &str)
where
    T: FromStr<Err: Display> + Display + PartialEq + std::fmt::Debug,
{
    match text.parse::<T>() {
        Ok(value) => {
            let printed = value.to_string();
            match printed.parse::<T>() {
                Ok(read) => assert_eq!(read, value, "printed as {printed:?}"),
                Err(error) => panic!("{value:?} is printed as {printed:?}: {error}"),
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// As [`again`], but an output is printed without its options: its name alone is the same.
fn named(text: &str) {
    match text.parse::<OutputSpec>() {
        Ok(value) => {
            let name = value.to_string();
            let read: OutputSpec = name.parse().expect("a name is an output");
            assert!(read.to_string() == name && value == value.clone());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What is refused is refused with words.
fn refused<T: FromStr<Err: Display>>(text: &str) {
    if let Err(error) = text.parse::<T>() {
        assert!(!error.to_string().is_empty());
    }
}
