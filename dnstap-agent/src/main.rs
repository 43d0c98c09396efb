//! `dnstap-agent`: the command line.

use std::process::ExitCode;

use clap::Parser as _;
use dnstap_agent::{
    attach, check,
    cli::{Cli, Command},
    exit::Exit,
    generate, log, read, receive, sandbox, status,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
            // A closed terminal is no reason for another code.
            let _unprinted = error.print();
            return code.into();
        }
    };
    log::start(cli.log);
    sandbox::restrict_new_files();
    let done = match &cli.command {
        Command::Attach(options) => attach::run(options),
        Command::Check(options) => check::run(*options),
        Command::Generate(options) => generate::run(options),
        Command::Receive(options) => receive::run(options),
        Command::Status(options) => status::run(options),
        Command::Read(options) => read::run(options).map(|outcome| {
            if outcome.is_complete() {
                Exit::Ok
            } else {
                Exit::Data
            }
        }),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Exit::of(&error)
    })
    .into()
}
