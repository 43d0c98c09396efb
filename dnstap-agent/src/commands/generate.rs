//! `dnstap-agent generate` (hidden): man pages and completions from the definition of the command
//! line, so that they always match the program.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap_complete::Shell;

use crate::cli::Generate;
use crate::{config, host::exit::Exit};

/// Writes man pages and completions.
pub(super) fn run(args: &Generate) -> Result<Exit> {
    let man = made(&args.folder.join("man"))?;
    clap_mangen::generate_to(config::command(), man).context("cannot write the man pages")?;
    let completions = made(&args.folder.join("completions"))?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut config::command(), "dnstap-agent", &completions)
            .with_context(|| format!("cannot write the completions for {shell}"))?;
    }
    Ok(Exit::Ok)
}

fn made(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_shown_has_a_page_and_every_shell_its_completions() {
        let folder = tempfile::tempdir().expect("a folder");
        run(&Generate {
            folder: folder.path().to_owned(),
        })
        .expect("written");
        let read = |name: &str| fs::read_to_string(folder.path().join(name));
        for command in config::command().get_subcommands() {
            let page = read(&format!("man/dnstap-agent-{}.1", command.get_name()));
            assert_eq!(
                page.is_ok(),
                !command.is_hide_set(),
                "{}",
                command.get_name()
            );
        }
        let page = read("man/dnstap-agent-attach.1").expect("a page");
        assert!(
            page.contains("hook") && page.contains("Exit codes"),
            "{page}"
        );
        for name in ["dnstap-agent.bash", "dnstap-agent.fish", "_dnstap-agent"] {
            let text = read(&format!("completions/{name}")).expect("completions");
            assert!(text.contains("receive"), "{name}");
        }
    }
}
