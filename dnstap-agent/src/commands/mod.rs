//! The commands.

mod attach;
mod check;
mod generate;
mod pdns;
mod progress;
mod read;
mod receive;
mod reload;
mod report;
mod status;
mod top;

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use crate::{
    cli::Command,
    config::{self, Mistake, Refused, Resolved},
    host::{exit::Exit, log, sandbox},
};

/// Does what the command line asks for, and reports each mistake on standard error. Returns the exit code of
/// `docs/operations.md`.
#[must_use]
pub fn run() -> ExitCode {
    let arguments: Vec<_> = env::args_os().collect();
    let (cli, origin) = match config::resolve(&arguments) {
        Ok(Resolved {
            print: None,
            cli,
            origin,
        }) => (cli, origin),
        Ok(Resolved {
            print: Some(text), ..
        }) => {
            // A closed pipe has seen enough.
            let _unprinted = io::stdout().write_all(text.as_bytes());
            return Exit::Ok.into();
        }
        Err(refused) => return refuse(&refused).into(),
    };
    log::start(cli.log);
    sandbox::restrict_new_files();
    let done = match &cli.command {
        Command::Attach(options) => attach::run(options, &origin),
        Command::Check(options) => check::run(*options),
        Command::Generate(options) => generate::run(options),
        Command::Pdns(options) => pdns::run(options),
        Command::Receive(options) => receive::run(options, &origin),
        Command::Status(options) => status::run(options),
        Command::Top(options) => top::run(options, &origin),
        Command::Read(options) => read::run(options).map(|outcome| outcome.exit()),
        Command::Report(options) => report::run(options, &origin).map(|outcome| outcome.exit()),
    };
    done.unwrap_or_else(|error| {
        log::say(format_args!("error: {error:#}\n"));
        Exit::of(&error)
    })
    .into()
}

/// Says what is wrong with the options, or prints the help that was asked for.
fn refuse(refused: &Refused) -> Exit {
    // A closed terminal is no reason for another code.
    let mistakes = match refused {
        Refused::Asked(text) => {
            let _unprinted = text.print();
            return Exit::Ok;
        }
        Refused::Mistakes(mistakes) => mistakes,
    };
    for mistake in mistakes {
        match mistake {
            Mistake::Words(error) => {
                let _unprinted = error.print();
            }
            Mistake::Other { .. } => log::say(format_args!("error: {mistake}\n")),
        }
    }
    Exit::Usage
}
