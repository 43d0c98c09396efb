//! Where the tap's batches go: messages to the outputs of `--output`, events to their own.

use std::{mem, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use dnstap_core::pipeline::Batch;

use super::{Job, buffers::Buffers};
use crate::{
    cli::Filters,
    commands::reload::{self, Inbox, Reloading, Start},
    host::{
        exit::{Exit, ExitWith},
        sandbox::Duties,
    },
    report::Facts,
    sinks::{self, Destination, Health, SinkReport, SinkSet},
};

/// All outputs of the tap.
pub(super) struct Outputs {
    messages: SinkSet,
    events: Option<SinkSet>,
    inbox: Inbox,
    buffers: Buffers,
}

impl Outputs {
    /// Opens those of messages, and that of events if there is one; with them comes what has them reloaded. `duties` is what the
    /// process can still do.
    pub(super) fn open(
        job: &Job<'_>,
        destination: Destination<'_>,
        duties: Option<Duties>,
    ) -> Result<(Self, Reloading)> {
        let options = job.queues;
        let outputs = destination.specs();
        let fixed = job.messages.unanswered_events.as_slice();
        let mut messages = SinkSet::open_to(destination, fixed, options)
            .map_err(|error| anyhow!(ExitWith(Exit::CannotCreate, error.to_string())))?;
        let events = (!fixed.is_empty()).then(|| messages.split_last());
        let (reloader, inbox) = reload::reloader(
            &Start {
                origin: job.origin,
                outputs,
                fixed,
                options,
                duties,
            },
            &messages,
            events.as_ref(),
        );
        let reloading = reloader
            .start()
            .context("the system gives no thread for reloading")?;
        let outputs = Self {
            messages,
            events,
            inbox,
            buffers: Buffers::default(),
        };
        Ok((outputs, reloading))
    }

    /// Makes the changes that were asked for, and tells the filters that are in force from now on, if they are among them. To be
    /// called between two batches. Never waits.
    pub(super) fn update(&mut self) -> Option<Filters> {
        self.inbox.apply(&mut self.messages)
    }

    /// The same for the last time.
    pub(super) fn settle(&mut self) {
        self.inbox.close(&mut self.messages);
    }

    /// Hands over what is in the batch and takes it out. Never waits.
    pub(super) fn send(&mut self, batch: &mut Batch) {
        if let Some(events) = &mut self.events {
            events.send(&sinks::Batch {
                frames: mem::take(&mut batch.event_frames).into(),
                messages: mem::take(&mut batch.events),
            });
        }
        if batch.messages > 0 {
            let frames = mem::replace(&mut batch.frames, self.buffers.take());
            self.messages.send(&sinks::Batch {
                frames: self.buffers.lend(frames),
                messages: mem::take(&mut batch.messages),
            });
        }
    }

    /// How the outputs of messages do.
    pub(super) fn health(&self) -> Health {
        self.messages.health()
    }

    /// How the output of events does.
    pub(super) fn events(&self) -> Option<SinkReport> {
        self.events.as_ref()?.health().sinks.pop()
    }

    /// What pages are to state when they end.
    pub(super) fn tell(&self, facts: &Facts) {
        self.messages.tell(facts);
    }

    /// Closes them; each has `grace` to write what is queued. The last reports, of messages and of events.
    pub(super) fn finish(self, grace: Duration) -> (Vec<SinkReport>, Option<SinkReport>) {
        let messages = self.messages.finish(grace);
        let events = self.events.and_then(|events| events.finish(grace).pop());
        (messages, events)
    }
}
