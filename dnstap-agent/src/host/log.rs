//! The log: lines or JSON objects on standard error, for people, log collectors and the journal.
//!
//! Names and addresses from DNS messages are never logged above level `debug`.

use std::{
    env, fmt,
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    sync::{Mutex, PoisonError},
};

use clap::{ArgAction, Args, ValueEnum};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{self, Writer},
    },
    registry::LookupSpan,
};

/// Options on the log.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Log")]
pub struct LogOptions {
    /// How the log is written to standard error
    #[arg(long, value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,

    /// Lowest level that is logged [default: that of `DNSTAP_AGENT_LOG`, otherwise `info`]
    #[arg(long, value_enum, value_name = "LEVEL", global = true)]
    pub log_level: Option<LogLevel>,

    /// Log more: `debug`, twice `trace`
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "log_level")]
    pub verbose: u8,

    /// Log less: warnings and errors, twice errors only
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with_all = ["log_level", "verbose"])]
    pub quiet: u8,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object on each line.
    Json,
}

/// Levels of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What may need a look.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

impl LogOptions {
    /// Returns the level that the options set, if they set one.
    fn level(self) -> Option<LogLevel> {
        match (self.log_level, self.verbose, self.quiet) {
            (Some(level), ..) => Some(level),
            (None, 0, 0) => None,
            (None, 0, 1) => Some(LogLevel::Warn),
            (None, 0, _) => Some(LogLevel::Error),
            (None, 1, _) => Some(LogLevel::Debug),
            (None, ..) => Some(LogLevel::Trace),
        }
    }

    fn filter(self) -> EnvFilter {
        let directive = |level: LogLevel| match level {
            LogLevel::Error => Level::ERROR,
            LogLevel::Warn => Level::WARN,
            LogLevel::Info => Level::INFO,
            LogLevel::Debug => Level::DEBUG,
            LogLevel::Trace => Level::TRACE,
        };
        let filter = match self.level() {
            Some(level) => EnvFilter::default().add_directive(directive(level).into()),
            None => EnvFilter::builder()
                .with_default_directive(Level::INFO.into())
                .with_env_var("DNSTAP_AGENT_LOG")
                .from_env_lossy(),
        };
        // The store of passive DNS tells of each file that it makes.
        let quiet = ["fjall=warn", "lsm_tree=warn"].into_iter();
        quiet
            .filter_map(|directive| directive.parse().ok())
            .fold(filter, EnvFilter::add_directive)
    }
}

/// Starts the log of this process.
pub fn start(options: LogOptions) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(options.filter())
        .with_writer(|| Held)
        .with_ansi(io::stderr().is_terminal());
    let prefixed = is_journal();
    match options.log_format {
        LogFormat::Text if prefixed => {
            // The journal adds its own times.
            let format = format::format()
                .without_time()
                .with_level(false)
                .with_target(false);
            log.event_format(Prioritised(format)).init();
        }
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => {
            let format = format::json()
                .flatten_event(true)
                .with_target(false)
                .with_current_span(false)
                .with_span_list(false);
            let fields = format::JsonFields::new();
            let log = log.fmt_fields(fields);
            if prefixed {
                log.event_format(Prioritised(format)).init();
            } else {
                log.event_format(format).init();
            }
        }
    }
}

/// Log lines that are held back while a full-screen display is shown.
static HELD: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// Most bytes that are held back; more are lost.
const MOST_HELD: usize = 64 * 1024;

/// Writes to standard error, or to the buffer while the log is held back.
struct Held;

impl io::Write for Held {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(held) = &mut *HELD.lock().unwrap_or_else(PoisonError::into_inner) {
            if held.len() + bytes.len() <= MOST_HELD {
                held.extend_from_slice(bytes);
            }
        } else {
            // The caller would panic on an error here, because its `eprintln!` would fail, too.
            io::stderr().write_all(bytes).ok();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Escapes control characters, which file names may contain, as Rust does (`\u{1b}`). The text then
/// cannot move a terminal's cursor or begin a new line.
pub(crate) fn printable(text: &str) -> String {
    let shown = |char: char| -> String {
        if char.is_control() {
            char.escape_default().collect()
        } else {
            char.into()
        }
    };
    text.chars().map(shown).collect()
}

/// Writes text that is not part of the log to standard error, with control characters escaped. If
/// the reader is gone or there is no room, the text is lost, and the exit code stays the same.
pub fn say(text: impl fmt::Display) {
    let text = text.to_string();
    let lines: Vec<_> = text.split('\n').map(printable).collect();
    io::stderr().write_all(lines.join("\n").as_bytes()).ok();
}

/// Holds the log back until it is dropped.
#[derive(Debug)]
pub struct Hold(());

/// Starts to hold the log back, if it goes to a terminal.
#[must_use]
pub fn hold() -> Option<Hold> {
    io::stderr().is_terminal().then(|| {
        *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        Hold(())
    })
}

impl Drop for Hold {
    fn drop(&mut self) {
        let held = HELD.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Ignore errors: the terminal may be gone.
        io::stderr().write_all(&held.unwrap_or_default()).ok();
    }
}

/// Returns whether standard error goes to the journal: `JOURNAL_STREAM` names its device and inode
/// (systemd.exec(5)).
fn is_journal() -> bool {
    let named = env::var("JOURNAL_STREAM").ok();
    let own = io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|fd| File::from(fd).metadata());
    own.is_ok_and(|own| named == Some(format!("{}:{}", own.dev(), own.ino())))
}

/// Begins each line with its priority, in the format of the journal (sd-daemon(3)).
struct Prioritised<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use rstest::rstest;

    use super::*;
    use crate::cli::Cli;

    #[rstest]
    #[case::nothing(&[], None)]
    #[case::more(&["-v"], Some(LogLevel::Debug))]
    #[case::most(&["-vv"], Some(LogLevel::Trace))]
    #[case::less(&["-q"], Some(LogLevel::Warn))]
    #[case::least(&["-qq"], Some(LogLevel::Error))]
    #[case::by_name(&["--log-level", "info"], Some(LogLevel::Info))]
    fn the_level_may_be_given_behind_the_command(
        #[case] options: &[&str],
        #[case] level: Option<LogLevel>,
    ) {
        let line = [&["dnstap-agent", "check"], options].concat();
        let cli = Cli::try_parse_from(line).expect("valid");
        assert_eq!(cli.log.level(), level);
    }

    #[test]
    fn names_of_files_move_no_cursor() {
        let name = "a\u{1b}[2Jb\nc\u{9b}\\\u{e9}";
        assert_eq!(printable(name), "a\\u{1b}[2Jb\\nc\\u{9b}\\\u{e9}");
    }

    #[test]
    fn levels_that_contradict_each_other_are_refused() {
        for options in [["-v", "-q"], ["-v", "--log-level=info"]] {
            let line = [&["dnstap-agent", "check"], &options[..]].concat();
            Cli::try_parse_from(line).expect_err("a contradiction");
        }
    }
}
