//! What systemd is told over `NOTIFY_SOCKET` (`sd_notify(3)`): ready, how things are, alive, ending. Without that variable nothing
//! happens.

use std::{fmt, time::Duration};

use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::debug;

use super::Newest;

/// How often the text of `systemctl status` is renewed.
const STATUS: Duration = Duration::from_secs(10);

/// Says that the work has begun.
pub(super) fn ready(subject: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(subject)]);
}

/// Says that the configuration is being read again.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "no time to tell systemd"),
    }
}

/// Says that this is done.
pub fn reloaded() {
    say(&[NotifyState::Ready]);
}

/// Says that the end has begun. To be said before anything that takes time.
pub fn stopping(reason: &dyn fmt::Display) {
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
    if let Err(error) = sd_notify::notify(false, states) {
        debug!(%error, "systemd does not listen");
    }
}
