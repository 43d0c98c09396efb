//! Input of operators: any text is accepted, or refused with a message. A value that is printed is accepted again as
//! the same value.
//!
//! The input is a byte that selects the parser, and the text. Each line is one word of the command line; a
//! configuration file is the whole text.

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
/// If a check fails.
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

/// Checks that a configuration file is accepted or refused, and that each mistake has a line in the file.
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

/// Checks that an accepted value is printed, and accepted again as the same value.
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

/// Like [`again`], for an output, which is printed without its options: only its name must be the same.
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

/// Checks that a refused value gives an error with a text.
fn refused<T: FromStr<Err: Display>>(text: &str) {
    if let Err(error) = text.parse::<T>() {
        assert!(!error.to_string().is_empty());
    }
}
