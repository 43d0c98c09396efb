//! What systemd is told over `NOTIFY_SOCKET` (`sd_notify(3)`): ready, how things are, alive, ending. Without that variable nothing
//! happens.

use std::{fmt, time::Duration};

use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::debug;

use super::Newest;
use crate::sources::processes::executable::printable;

/// How often the text of `systemctl status` is renewed.
const STATUS: Duration = Duration::from_secs(10);

/// Says that the work has begun.
pub(super) fn ready(subject: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(subject)]);
}

/// Says that the configuration is being read again.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "no time to tell systemd"),
    }
}

/// Says that this is done.
pub(crate) fn reloaded() {
    say(&[NotifyState::Ready]);
}

/// Says that the end has begun. To be said before anything that takes time.
pub(crate) fn stopping(reason: &dyn fmt::Display) {
    say(&[
        NotifyState::Stopping,
        NotifyState::Status(&format!("ending: {reason}")),
    ]);
}

/// Says that the work goes on, each time that it shows a new snapshot: when the thread that makes them hangs, so does this.
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

/// Each line is an order to systemd, and what is told may hold names that others have given.
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
