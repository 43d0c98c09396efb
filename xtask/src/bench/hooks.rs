//! Finds the hooks that this kernel accepts, from the output of `dnstap-agent check`. A hook that it refuses would end
//! the benchmark at its first run.

use std::{fmt, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::exec;

/// Names of hooks, in the order in which `attach` tries them.
pub(super) struct Hooks {
    pub(super) accepted: Vec<String>,
    /// Refused hooks with the kernel's reason.
    refused: Vec<(String, String)>,
}

impl Hooks {
    /// Asks the agent, which fails if no hook is accepted.
    pub(super) fn of(agent: &Path) -> Result<Self> {
        Self::parse(&exec::output(
            Command::new(agent).args(["check", "--json"]),
        )?)
    }

    fn parse(json: &str) -> Result<Self> {
        let checked: Value = serde_json::from_str(json)?;
        let findings = checked["findings"].as_array();
        let (mut accepted, mut refused) = (Vec::new(), Vec::new());
        for finding in findings.context("`dnstap-agent check` found nothing")? {
            let text = |field| finding[field].as_str().unwrap_or_default();
            match text("name").strip_prefix("hook ") {
                Some(hook) if finding["ok"] == true => accepted.push(hook.to_owned()),
                Some(hook) => refused.push((hook.to_owned(), text("detail").to_owned())),
                None => {}
            }
        }
        Ok(Self { accepted, refused })
    }
}

impl fmt::Display for Hooks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.accepted.join(", "))?;
        self.refused.iter().try_for_each(|(hook, reason)| {
            write!(
                formatter,
                "; not {hook}, which the kernel refuses: {reason}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_told_apart_by_what_the_kernel_says() {
        let checked = r#"{"kernel": "6.1", "findings": [
            {"name": "CAP_BPF", "ok": true, "required": true, "detail": "to load programs", "remedy": ""},
            {"name": "hook fentry", "ok": true, "required": false, "detail": "loads and attaches", "remedy": ""},
            {"name": "hook socket", "ok": false, "required": false, "detail": "no such function", "remedy": "Linux 6.3"},
            {"name": "hook syscall", "ok": true, "required": false, "detail": "loads and attaches", "remedy": ""}],
            "hook": "fentry", "ring": "bpf"}"#;
        let hooks = Hooks::parse(checked).expect("sound");
        assert_eq!(hooks.accepted, ["fentry", "syscall"]);
        assert_eq!(
            hooks.to_string(),
            "fentry, syscall; not socket, which the kernel refuses: no such function"
        );
        assert!(Hooks::parse("{}").is_err());
    }
}
