//! Progress on a terminal: bytes, messages per second, and the time left. Shows nothing if standard
//! error is no terminal, or if the work takes less than a second.

use std::{
    fs,
    io::{self, IsTerminal as _, Read},
    path::PathBuf,
    time::{Duration, Instant},
};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shorter work shows no progress bar.
const SHORT: Duration = Duration::from_secs(1);

/// Interval at which the rate is updated.
const PAUSE: Duration = Duration::from_millis(500);

/// Text if the number of bytes is known, and if it is not.
const KNOWN: &str = "{percent:>3} %  {bytes} of {total_bytes}  {msg}  {eta} left";
const UNKNOWN: &str = "{bytes}  {msg}  {elapsed}";

/// Progress of reading files.
pub(super) struct Progress {
    bar: ProgressBar,
    begun: Instant,
    /// Time of the next update; `None` if nothing is shown.
    next: Option<Instant>,
    is_shown: bool,
}

impl Progress {
    /// Creates a progress that shows nothing.
    pub(super) fn none() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            begun: Instant::now(),
            next: None,
            is_shown: false,
        }
    }

    /// Creates a progress on standard error, if that is a terminal and `-q` is not given. The time
    /// left is known if all files are regular.
    pub(super) fn over(files: &[PathBuf]) -> Self {
        if !io::stderr().is_terminal() || !tracing::enabled!(tracing::Level::INFO) {
            return Self::none();
        }
        let size = |file: &PathBuf| fs::metadata(file).ok().filter(fs::Metadata::is_file);
        let sizes = files.iter().map(|file| size(file).map(|known| known.len()));
        let total: Option<u64> = sizes.sum();
        let template = if total.is_some() { KNOWN } else { UNKNOWN };
        let begun = Instant::now();
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        // Both templates are valid; a test checks that.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            bar,
            begun,
            next: Some(begun + SHORT),
            is_shown: false,
        }
    }

    /// Returns a wrapper for readers that counts the bytes read.
    pub(super) fn counter<R: Read + 'static>(&self) -> impl Fn(R) -> Box<dyn Read> + use<R> {
        let bar = self.bar.clone();
        move |bytes| Box::new(bar.wrap_read(bytes))
    }

    /// Shows the number of messages read so far.
    pub(super) fn messages(&mut self, messages: u64) {
        let Some(next) = self.next else {
            return;
        };
        let now = Instant::now();
        if now < next {
            return;
        }
        self.next = Some(now + PAUSE);
        if !self.is_shown {
            self.is_shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        let took = u64::try_from((now - self.begun).as_millis()).unwrap_or(u64::MAX);
        let rate = messages.saturating_mul(1_000) / took.max(1);
        let (messages, rate) = (HumanCount(messages), HumanCount(rate));
        self.bar
            .set_message(format!("{messages} messages  {rate}/s"));
    }

    /// Hides the progress while `work` writes to the same terminal.
    pub(super) fn aside(&self, work: impl FnOnce()) {
        self.bar.suspend(work);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_understood() {
        for template in [KNOWN, UNKNOWN] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn bytes_are_the_same_whether_they_are_counted_or_not() {
        let progress = Progress::none();
        let mut read = Vec::new();
        let bytes: &[u8] = b"messages";
        progress.counter()(bytes)
            .read_to_end(&mut read)
            .expect("memory");
        assert_eq!((read.as_slice(), progress.bar.position()), (bytes, 8));
    }
}
