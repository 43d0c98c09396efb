//! The program's options from the environment, which tests within one process cannot set for themselves alone.

use std::process::{Command, Output};

fn agent(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dnstap-agent"))
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .expect("the agent starts")
}

#[test]
fn the_environment_is_behind_the_command_line_and_before_the_file() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("agent.toml");
    std::fs::write(
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
