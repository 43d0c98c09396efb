//! Where the tap's batches go: messages to the outputs of `--output`, events to their own.

use std::{mem, sync::Arc, time::Instant};

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
    sinks::{self, Health, OutputSpec, SinkReport, SinkSet},
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
        outputs: &[OutputSpec],
        duties: Option<Duties>,
    ) -> Result<(Self, Reloading)> {
        let options = job.queues;
        let fixed = job.messages.unanswered_events.as_slice();
        let [messages, events] = SinkSet::open_each([outputs, fixed], options, &Arc::default())
            .map_err(|error| anyhow!(ExitWith(Exit::CannotCreate, error.to_string())))?;
        let events = (!fixed.is_empty()).then_some(events);
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
            let frames = mem::take(&mut batch.event_frames);
            events.send(&sinks::Batch::new(frames, mem::take(&mut batch.events)));
        }
        if batch.messages > 0 {
            let frames = mem::replace(&mut batch.frames, self.buffers.take());
            let frames = self.buffers.lend(frames);
            let messages = mem::take(&mut batch.messages);
            self.messages.send(&sinks::Batch::new(frames, messages));
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

    /// Closes them; all have up to `deadline` to write what is queued. The last reports, of messages and of events.
    pub(super) fn finish(self, deadline: Instant) -> (Vec<SinkReport>, Option<SinkReport>) {
        if let Some(events) = &self.events {
            events.close(deadline);
        }
        let messages = self.messages.finish(deadline);
        let events = self.events.and_then(|events| events.finish(deadline).pop());
        (messages, events)
    }
}
