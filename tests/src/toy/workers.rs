//! The workers: a process that forks workers. They share its socket, as in servers with several processes, and each
//! makes one step at a time.
//!
//! ```text
//! test ── "fork" | "answer 0" | "exec 0 PATH" | "end 0" ──► workers
//!      ◄─ "ok WORDS" ──────────────────────────────────────
//! ```
//!
//! A worker that executes another file continues as before, with its descriptors: the file is this program under
//! another name.
#![expect(unsafe_code, reason = "fork(2) and wait(2), as servers do it")]

use std::{
    env,
    ffi::CString,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, UdpSocket},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{self, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{WORKERS, program};
use crate::process::{PATIENCE, Running, Watch};

/// A running first process with its workers. Workers are numbered in the order of their forks.
pub(crate) struct Workers {
    process: Running,
    /// Address on which its workers answer.
    pub(crate) address: SocketAddr,
}

impl Workers {
    /// Starts the first process without workers.
    pub(crate) fn start() -> Result<Self> {
        Self::start_as(Path::new(program()))
    }

    /// Like [`Self::start`], by a link to this program.
    pub(crate) fn start_as(program: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg(WORKERS).stdin(Stdio::piped());
        let mut process = Running::start("workers", command, Watch::Stdout)?;
        let line = process.wait_for("its address", |_| true)?;
        Ok(Self {
            process,
            address: line.parse()?,
        })
    }

    /// Returns the id of the first process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Forks a worker. Returns its process id.
    pub(crate) fn fork(&mut self) -> Result<u32> {
        Ok(self.call("fork")?.parse()?)
    }

    /// Makes worker `number` answer one query.
    pub(crate) fn answer(&mut self, number: usize) -> Result<()> {
        self.call(&format!("answer {number}")).map(drop)
    }

    /// Makes worker `number` execute a file.
    pub(crate) fn exec(&mut self, number: usize, program: &Path) -> Result<()> {
        self.call(&format!("exec {number} {}", program.display()))
            .map(drop)
    }

    /// Ends the first process and its workers.
    pub(crate) fn stop(self) -> Result<()> {
        let finished = self.process.finish(PATIENCE)?;
        ensure!(
            finished.status.success(),
            "it ended with {}",
            finished.status
        );
        Ok(())
    }

    fn call(&mut self, command: &str) -> Result<String> {
        self.process.tell(command)?;
        let line = self
            .process
            .wait_for("its reply", |line| line.starts_with("ok "))?;
        Ok(line["ok ".len()..].to_owned())
    }
}

/// The first process: makes the socket and forks, until its input ends.
pub(crate) fn raise() -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    println!("{}", socket.local_addr()?);
    let mut workers: Vec<UnixStream> = Vec::new();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<_> = line.split(' ').collect();
        let reply = match words[..] {
            ["fork"] => {
                let (ours, theirs) = UnixStream::pair()?;
                let pid = fork(&socket, theirs, &ours)?;
                workers.push(ours);
                pid.to_string()
            }
            [_, number, ..] => {
                let number: usize = number.parse()?;
                let worker = workers.get(number).context("no such worker")?;
                writeln!(&*worker, "{line}")?;
                let mut done = [0];
                (&*worker)
                    .read_exact(&mut done)
                    .context("the worker is gone")?;
                "done".to_owned()
            }
            _ => bail!("unknown command: {line}"),
        };
        println!("ok {reply}");
    }
    drop(workers);
    // SAFETY: takes only a null pointer. It waits for all workers, which have no commander any more.
    while unsafe { libc::wait(std::ptr::null_mut()) } > 0 {}
    Ok(())
}

fn fork(socket: &UdpSocket, control: UnixStream, commander: &UnixStream) -> Result<i32> {
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            // Otherwise the worker would never see the end of its commands.
            // SAFETY: the child's copy, which the child does not use.
            unsafe { libc::close(commander.as_raw_fd()) };
            let done = work(socket.as_raw_fd(), control.into_raw_fd());
            process::exit(i32::from(done.is_err()));
        }
        -1 => Err(io::Error::last_os_error().into()),
        pid => Ok(pid),
    }
}

/// Continues a worker after an exec. The words are its descriptors.
pub(crate) fn go_on(words: &[String]) -> Result<()> {
    let [socket, control] = words else {
        bail!("which descriptors?")
    };
    let control: RawFd = control.parse()?;
    // SAFETY: this descriptor was inherited for this purpose.
    let ours = unsafe { UnixStream::from_raw_fd(control) };
    (&ours).write_all(b".")?;
    work(socket.parse()?, ours.into_raw_fd())
}

fn work(socket: RawFd, control: RawFd) -> Result<()> {
    // SAFETY: both are this process's own.
    let (socket, control) = unsafe {
        (
            UdpSocket::from_raw_fd(socket),
            UnixStream::from_raw_fd(control),
        )
    };
    let mut buffer = [0; 4_096];
    for line in BufReader::new(&control).lines() {
        match line?.split(' ').collect::<Vec<_>>()[..] {
            ["answer", _] => {
                let (length, client) = socket.recv_from(&mut buffer)?;
                buffer[2] |= 0x80;
                socket.send_to(&buffer[..length], client)?;
            }
            ["exec", _, path] => execute(path, &socket, &control)?,
            _ => return Ok(()),
        }
        (&control).write_all(b".")?;
    }
    Ok(())
}

/// Executes `path` in this process, which keeps its descriptors.
fn execute(path: &str, socket: &UdpSocket, control: &UnixStream) -> Result<()> {
    let keep = |descriptor: RawFd| {
        // SAFETY: takes no pointers.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) };
        descriptor.to_string()
    };
    let words = [
        path.to_owned(),
        super::WORKER.to_owned(),
        keep(socket.as_raw_fd()),
        keep(control.as_raw_fd()),
    ];
    let words = words.map(CString::new);
    let [path, worker, socket, control] = words;
    let words = [path?, worker?, socket?, control?];
    let pointers = [
        words[0].as_ptr(),
        words[1].as_ptr(),
        words[2].as_ptr(),
        words[3].as_ptr(),
        std::ptr::null(),
    ];
    // SAFETY: zero-terminated strings and a null pointer behind them.
    unsafe { libc::execv(pointers[0], pointers.as_ptr()) };
    Err(io::Error::last_os_error().into())
}

/// Makes a link by which this program can be started under another name.
pub(crate) fn link(folder: &Path, name: &str) -> Result<std::path::PathBuf> {
    let path = folder.join(name);
    std::os::unix::fs::symlink(env::current_exe()?, &path)?;
    Ok(path)
}
