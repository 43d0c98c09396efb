//! `dnstap-agent status`: asks running agents for their state.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use crate::cli::Status;
use crate::{
    host::exit::{Exit, ExitWith},
    observe,
};

/// Time that an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `status`: prints each agent's answer to standard output.
pub(super) fn run(args: &Status) -> Result<Exit> {
    let folder = observe::folder();
    let sockets = match &args.socket {
        Some(socket) => vec![socket.clone()],
        None => match observe::sockets(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            sockets => sockets.with_context(|| format!("cannot look into {}", folder.display()))?,
        },
    };
    let answers = ask_all(&sockets, if args.json { "json" } else { "text" });
    if args.socket.is_none() && answers.iter().all(is_left_behind) {
        return Err(anyhow!(ExitWith(
            Exit::NoTarget,
            format!(
                "no agent runs that has its status socket in {}; --socket names another one",
                folder.display()
            ),
        )));
    }
    let gap = if args.json { "" } else { "\n" };
    match tell(&answers, gap, &mut io::stdout().lock()) {
        // The reader of the output went away, which is no error.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Exit::Ok),
        told => told?,
    }
    // An agent that does not answer is reported after the answers of the others.
    let silent = |answer: &&Answer| args.socket.is_some() || !is_left_behind(answer);
    for (socket, said) in answers.iter().filter(silent) {
        if let Err(error) = said {
            return Err(explain(socket, error));
        }
    }
    Ok(Exit::Ok)
}

/// Answer from a socket.
type Answer = (PathBuf, io::Result<String>);

fn ask_all(sockets: &[PathBuf], word: &str) -> Vec<Answer> {
    let answer = |socket: &PathBuf| (socket.clone(), ask(socket, word));
    sockets.iter().map(answer).collect()
}

/// Returns whether the socket belongs to an agent that was killed.
fn is_left_behind((_, said): &Answer) -> bool {
    matches!(said, Err(error) if matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::NotFound
    ))
}

/// Writes the answers, with a gap between two.
fn tell(answers: &[Answer], gap: &str, out: &mut impl io::Write) -> io::Result<()> {
    let mut before = "";
    for said in answers.iter().filter_map(|(_, said)| said.as_ref().ok()) {
        write!(out, "{before}{said}")?;
        before = gap;
    }
    out.flush()
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

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    #[test]
    fn an_agent_that_ends_without_an_answer_hides_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = |name: &str| {
            let path = folder.path().join(name);
            (UnixListener::bind(&path).expect("bound"), path)
        };
        let ((mute, first), (well, second)) = (listener("1"), listener("2"));
        let (killed, third) = listener("3");
        drop(killed);
        let agents = thread::spawn(move || {
            drop(mute.accept().expect("asked"));
            let (mut stream, _) = well.accept().expect("asked");
            stream.read_exact(&mut [0; "text\n".len()]).expect("heard");
            stream.write_all(b"well\n").expect("told");
        });
        let answers = ask_all(&[first, second, third, folder.path().join("4")], "text");
        agents.join().expect("no panic");
        let mut said = Vec::new();
        tell(&answers, "\n", &mut said).expect("written");
        assert_eq!(said, b"well\n");
        let left_behind: Vec<_> = answers.iter().map(is_left_behind).collect();
        assert_eq!(left_behind, [false, false, true, true]);
    }
}
