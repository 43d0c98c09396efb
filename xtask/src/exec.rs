//! Runs other programs. All commands are started here, so that every failure names the command that failed.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{paths, ui};

/// Interval at which a long silent command reports that it is still running.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// Number of lines of a failed command's log that are shown.
const LOG_TAIL: usize = 40;

/// Returns the cargo of the toolchain that runs this task.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // `cargo run` adds its toolchain's libraries, which must not leak into another toolchain's compiler.
    command
        .env_remove("LD_LIBRARY_PATH")
        .current_dir(paths::root());
    command
}

/// Runs a command whose output belongs on the terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = display(command);
    ui::command(&line);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs a command and returns its standard output; its standard error appears only in the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = display(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{line}`"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed: {}\n{}", output.status, stderr.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a long, noisy command. Its output goes to a log in the target folder; on failure the end of the log is shown.
pub(crate) fn logged(name: &str, command: &mut Command) -> Result<()> {
    let line = display(command);
    ui::command(&line);
    let path = paths::logs().join(format!("{name}.log"));
    fs::create_dir_all(paths::logs())
        .with_context(|| format!("cannot create {}", paths::logs().display()))?;
    let log = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stderr(log.try_clone().context("cannot share the log")?)
        .stdout(log)
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;

    let start = Instant::now();
    let mut reported = start;
    let status = loop {
        if let Some(status) = child
            .try_wait()
            .with_context(|| format!("cannot wait for `{line}`"))?
        {
            break status;
        }
        if reported.elapsed() >= HEARTBEAT {
            reported = Instant::now();
            ui::note(format_args!(
                "still at it after {} s",
                start.elapsed().as_secs()
            ));
        }
        thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        bail!(
            "`{line}` failed: {status}; the end of {}:\n{}",
            path.display(),
            tail(&path)
        );
    }
    Ok(())
}

/// Runs a command, forwards its standard output line by line, and passes each line to `see`. Returns whether it
/// succeeded.
pub(crate) fn watched(command: &mut Command, mut see: impl FnMut(&str)) -> Result<bool> {
    let line = display(command);
    ui::command(&line);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;
    let stdout = child
        .stdout
        .take()
        .context("the command's output is not piped")?;
    for text in BufReader::new(stdout).split(b'\n') {
        let text = text.with_context(|| format!("cannot read the output of `{line}`"))?;
        let text = String::from_utf8_lossy(&text);
        println!("{text}"); // no locked stdout: a test captures the output of this function
        see(&text);
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for `{line}`"))?;
    if !status.success() {
        ui::warn(format_args!("`{line}` failed: {status}"));
    }
    Ok(status.success())
}

/// Formats the command as it would be typed, with the environment that was set for it.
pub(crate) fn display(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let value = quote(&value.to_string_lossy());
            write!(line, "{}={value} ", name.to_string_lossy()).unwrap_or_default();
        }
    }
    line.push_str(&quote(&command.get_program().to_string_lossy()));
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&quote(&argument.to_string_lossy()));
    }
    line
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else if word.contains('\x1f') {
        // CARGO_ENCODED_RUSTFLAGS separates with the unit separator, which a terminal does not show.
        format!("$'{}'", word.replace('\x1f', "\\x1f"))
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_displayed_command_can_be_pasted_into_a_shell() {
        let mut command = Command::new("cargo");
        command.arg("it's").arg("").arg("a b").env("KEY", "x y");
        assert_eq!(display(&command), r"KEY='x y' cargo 'it'\''s' '' 'a b'");
    }

    #[test]
    fn a_failure_names_the_command_and_shows_its_complaint() {
        let error =
            output(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).expect_err("exit 3");
        let text = format!("{error:#}");
        assert!(
            text.contains("`sh -c 'echo broken >&2; exit 3'` failed: exit status: 3"),
            "{text}"
        );
        assert!(text.ends_with("\nbroken"), "{text}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = output(&mut Command::new("/nonexistent/program")).expect_err("no such program");
        assert!(format!("{error:#}").starts_with("cannot run `/nonexistent/program`"));
    }
}
