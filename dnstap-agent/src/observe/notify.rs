//! Notifications to systemd over `NOTIFY_SOCKET` (`sd_notify(3)`): ready, status, watchdog,
//! stopping. Without that variable nothing is sent.

use std::{fmt, time::Duration};

use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::debug;

use super::Newest;
use crate::sources::processes::executable::printable;

/// Interval at which the text of `systemctl status` is updated.
const STATUS: Duration = Duration::from_secs(10);

/// Notifies that the command is ready.
pub(super) fn ready(subject: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(subject)]);
}

/// Notifies that the configuration is being read again.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "no time to tell systemd"),
    }
}

/// Notifies that reloading is done.
pub(crate) fn reloaded() {
    say(&[NotifyState::Ready]);
}

/// Notifies that the command is ending. Call this before anything that takes time.
pub(crate) fn stopping(reason: &dyn fmt::Display) {
    say(&[
        NotifyState::Stopping,
        NotifyState::Status(&format!("ending: {reason}")),
    ]);
}

/// Notifies the watchdog with each new snapshot. If the thread that makes snapshots hangs, the
/// notifications stop, too.
pub(super) async fn serve(mut newest: Newest) {
    let mut next = Instant::now() + STATUS;
    while newest.changed().await.is_ok() {
        let Some(published) = newest.borrow_and_update().clone() else {
            continue;
        };
        say(&[NotifyState::Watchdog]);
        if Instant::now() >= next {
            next = Instant::now() + STATUS;
            say(&[NotifyState::Status(&published.line())]);
        }
    }
}

fn say(states: &[NotifyState<'_>]) {
    let lines: Vec<_> = states.iter().map(line).collect();
    let lines: Vec<_> = lines.iter().map(|line| NotifyState::Custom(line)).collect();
    if let Err(error) = sd_notify::notify(false, &lines) {
        debug!(%error, "systemd does not listen");
    }
}

/// Formats a notification. Each line is a command to systemd, and the text may contain names chosen
/// by others, so it is escaped.
fn line(state: &NotifyState<'_>) -> String {
    printable(&state.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_one_line() {
        let told = line(&NotifyState::Status("taps x\nWATCHDOG=trigger\ny"));
        assert_eq!(told, "STATUS=taps x\u{fffd}WATCHDOG=trigger\u{fffd}y");
    }
}
