//! Tests that need a process of their own, because they set its environment or its standard error.

use std::{
    fs::{self, File, OpenOptions},
    io::Read as _,
    os::unix::net::UnixStream,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use dnstap_proto::frame_streams::{DNSTAP_CONTENT_TYPE, Writer};
use rustix::process::{Pid, Signal, kill_process};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_dnstap-agent"))
}

fn agent(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    program()
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .expect("the agent starts")
}

/// Opens a file that accepts nothing, like a full disk or a pipe without reader.
fn full() -> File {
    let full = OpenOptions::new().write(true).open("/dev/full");
    full.expect("every Linux has it")
}

#[test]
fn the_environment_is_behind_the_command_line_and_before_the_file() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("agent.toml");
    fs::write(
        &path,
        "[attach]\nring = 'bpf'\nhook = 'socket'\nring-size = '2M'\n",
    )
    .expect("a file");
    let path = path.to_str().expect("UTF-8");
    let environment = [
        ("DNSTAP_AGENT_PID", "1"),
        ("DNSTAP_AGENT_RING", "perf"),
        ("DNSTAP_AGENT_HOOK", "syscall"),
        ("DNSTAP_AGENT_CONFIG", path),
    ];
    let done = agent(
        &["attach", "--hook", "fentry", "--print-config"],
        &environment,
    );
    let printed = String::from_utf8_lossy(&done.stdout);
    for line in [
        "hook = \"fentry\"  # command line",
        "ring = \"perf\"  # environment",
        "ring-size = \"2M\"  # file",
        "kernel-log = false  # default",
    ] {
        assert!(printed.lines().any(|has| has == line), "{line}: {done:?}");
    }
}

#[test]
fn a_wrong_value_in_the_environment_is_a_wrong_command_line() {
    let done = agent(
        &["attach", "--pid", "1", "--print-config"],
        &[("DNSTAP_AGENT_RING_SIZE", "large")],
    );
    assert_eq!(done.status.code(), Some(64), "{done:?}");
}

#[test]
fn the_command_line_overrules_what_it_excludes_in_the_environment() {
    let environment = [
        ("DNSTAP_AGENT_LOG_LEVEL", "info"),
        ("DNSTAP_AGENT_LOG_FORMAT", "json"),
    ];
    for arguments in [
        ["attach", "-v", "--pid=1", "--print-config"],
        ["-q", "attach", "--pid=1", "--print-config"],
    ] {
        let done = agent(&arguments, &environment);
        let printed = String::from_utf8_lossy(&done.stdout);
        for line in [
            "#log-level =  # not set",
            "log-format = \"json\"  # environment",
        ] {
            assert!(printed.lines().any(|has| has == line), "{line}: {done:?}");
        }
    }
    for arguments in [
        ["read", "-v", "/nonexistent"],
        ["-q", "read", "/nonexistent"],
    ] {
        let done = agent(&arguments, &environment);
        assert_eq!(done.status.code(), Some(66), "{done:?}");
    }
    // The findings of `check` depend on the machine. The command line must be valid in any case.
    let done = agent(&["check", "--quiet"], &environment);
    assert_ne!(done.status.code(), Some(64), "{done:?}");
    let done = agent(&["check", "-v", "--log-level=info"], &environment);
    assert_eq!(done.status.code(), Some(64), "{done:?}");
}

#[test]
fn an_error_that_nobody_can_be_told_has_its_exit_code_all_the_same() {
    for (arguments, code) in [
        (["read", "/nonexistent"], 66),
        (["receive", "--config=/nonexistent"], 64),
    ] {
        let status = program().args(arguments).stderr(full()).status();
        assert_eq!(status.expect("it starts").code(), Some(code));
    }
}

#[test]
fn a_second_signal_ends_a_reader_whose_output_nobody_takes() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("file");
    // A Dnstap of type MESSAGE with a message of type CLIENT_QUERY. The text is far longer than a
    // pipe can hold.
    let frame = [0, 0, 0, 6, 0x72, 2, 8, 5, 0x78, 1];
    let mut writer = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE).expect("memory");
    writer.write_frames(&frame.repeat(50_000)).expect("memory");
    fs::write(&path, writer.finish().expect("memory")).expect("written");
    let mut reader = program()
        .args(["read", "--follow"])
        .arg(path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut output = reader.stdout.take().expect("a pipe");
    output.read_exact(&mut [0]).expect("it has begun");
    let patience = Instant::now() + Duration::from_secs(20);
    while matches!(reader.try_wait(), Ok(None)) && Instant::now() < patience {
        kill_process(Pid::from_child(&reader), Signal::TERM).ok();
        thread::sleep(Duration::from_millis(10));
    }
    // Only needed if the program would otherwise wait for ever.
    reader.kill().ok();
    let status = reader.wait().expect("a child");
    assert_eq!(status.code(), Some(74), "{status}");
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let [socket, file, summary] =
        ["socket", "file", "summary"].map(|name| folder.path().join(name));
    let mut receiver = program()
        .arg("receive")
        .arg(format!("--listen=unix:{}", socket.display()))
        .arg(format!("--output=file:{}", file.display()))
        .arg(format!("--summary-json={}", summary.display()))
        .stderr(full())
        .spawn()
        .expect("it starts");
    let patience = Instant::now() + Duration::from_secs(20);
    // By then it has logged that it listens. It also logs that a sender disconnects without a word.
    let mut connected = false;
    while !connected && Instant::now() < patience && matches!(receiver.try_wait(), Ok(None)) {
        thread::sleep(Duration::from_millis(10));
        connected = UnixStream::connect(&socket).is_ok();
    }
    kill_process(Pid::from_child(&receiver), Signal::TERM).ok();
    let status = receiver.wait().expect("a child");
    assert!(connected, "it does not listen: {status}");
    assert_eq!(status.code(), Some(0), "{status}");
    let summary = fs::read_to_string(summary).expect("a summary");
    assert!(summary.contains("\"outputs\""), "{summary}");
}
