//! `dnstap-agent status`: asks running agents what they are doing.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use crate::{
    exit::{Exit, ExitWith},
    observe,
};

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Options of `status`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// One JSON object per agent, for machines
    #[arg(long)]
    pub json: bool,

    /// Ask the agent of this socket (its `--status-socket`) [default: all in /run/dnstap-agent, or in `$RUNTIME_DIRECTORY`]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Runs `status`: what each agent says goes to standard output.
pub fn run(args: &Args) -> Result<Exit> {
    let word = if args.json { "json" } else { "text" };
    let mut out = io::stdout().lock();
    if let Some(socket) = &args.socket {
        let said = ask(socket, word).map_err(|error| explain(socket, &error))?;
        out.write_all(said.as_bytes())?;
        return Ok(Exit::Ok);
    }
    let folder = observe::folder();
    let sockets = match observe::sockets(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        sockets => sockets.with_context(|| format!("cannot look into {}", folder.display()))?,
    };
    let mut told = 0;
    for socket in sockets {
        match ask(&socket, word) {
            Ok(said) => {
                if told > 0 && !args.json {
                    writeln!(out)?;
                }
                out.write_all(said.as_bytes())?;
                told += 1;
            }
            // Left behind by one that was killed.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::NotFound
                ) => {}
            Err(error) => return Err(explain(&socket, &error)),
        }
    }
    if told == 0 {
        return Err(anyhow!(ExitWith(
            Exit::NoTarget,
            format!(
                "no agent runs that has its status socket in {}; --socket names another one",
                folder.display()
            ),
        )));
    }
    Ok(Exit::Ok)
}

fn ask(socket: &Path, word: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{word}\n").as_bytes())?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    if said.is_empty() {
        return Err(ErrorKind::ConnectionReset.into());
    }
    Ok(said)
}

fn explain(socket: &Path, error: &io::Error) -> anyhow::Error {
    let (exit, why) = match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            (Exit::NoTarget, "no agent listens there".to_owned())
        }
        ErrorKind::ConnectionReset => (Exit::NoTarget, "the agent is ending".to_owned()),
        ErrorKind::PermissionDenied => (
            Exit::NoPermission,
            "only the user that runs the agent, and root, may ask it".to_owned(),
        ),
        ErrorKind::WouldBlock => (Exit::Failure, format!("no answer within {PATIENCE:?}")),
        _ => (Exit::Failure, error.to_string()),
    };
    anyhow!(ExitWith(
        exit,
        format!("cannot ask {}: {why}", socket.display())
    ))
}
