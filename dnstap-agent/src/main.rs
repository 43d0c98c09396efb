//! `dnstap-agent`: the command line.

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use dnstap_agent::{
    cli::Command,
    commands::{attach, check, generate, pdns, read, receive, report, status, top},
    config::{self, Mistake, Refused, Resolved},
    host::{exit::Exit, log, sandbox},
};

/// Gives back what a queue held while its collector was away. See [`dnstap_agent::host::memory`], too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
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
