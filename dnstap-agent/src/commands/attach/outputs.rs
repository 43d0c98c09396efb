//! Destinations of the tap's batches: messages go to the outputs of `--output`, notices and events
//! to their own.

use std::{mem, time::Instant};

use anyhow::{Context as _, Result, anyhow};
use dnstap_core::pipeline::{Batch, Frames};

use super::{Job, buffers::Buffers};
use crate::{
    cli::Filters,
    commands::reload::{self, Inbox, Reloading, Start},
    host::{
        exit::{Exit, ExitWith},
        sandbox::NeededPrivileges,
    },
    report::Facts,
    sinks::{self, Health, OutputSpec, SinkReport, SinkSet, Takes},
};

/// Outputs of the tap.
pub(super) struct Outputs {
    sinks: SinkSet,
    inbox: Inbox,
    buffers: Buffers,
}

impl Outputs {
    /// Opens the outputs of messages, notices and events. Also returns their reloader. `privileges`: what the process can still do.
    pub(super) fn open(
        job: &Job<'_>,
        outputs: &[OutputSpec],
        privileges: Option<NeededPrivileges>,
    ) -> Result<(Self, Reloading)> {
        let options = job.queues;
        let notices = job.messages.unanswered_events.as_slice();
        let events = job.events.outputs();
        let groups = [
            (outputs, Takes::Messages),
            (notices, Takes::Notices),
            (&events[..], Takes::Events),
        ];
        let sinks = SinkSet::open_groups(&groups, options)
            .map_err(|error| anyhow!(ExitWith(Exit::CannotCreate, error.to_string())))?;
        let (reloader, inbox) = reload::reloader(
            &Start {
                origin: job.origin,
                outputs,
                fixed: &[notices, &events].concat(),
                options,
                privileges,
            },
            &sinks,
        );
        let reloading = reloader
            .start()
            .context("the system gives no thread for reloading")?;
        let outputs = Self {
            sinks,
            inbox,
            buffers: Buffers::default(),
        };
        Ok((outputs, reloading))
    }

    /// Makes requested changes of outputs. Returns the new filters, if there are any. Call this
    /// between two batches. Never waits.
    pub(super) fn update(&mut self) -> Option<Filters> {
        self.inbox.apply(&mut self.sinks)
    }

    /// Makes requested changes for the last time.
    pub(super) fn settle(&mut self) {
        self.inbox.close(&mut self.sinks);
    }

    /// Passes on the content of the batch and removes it. Never waits.
    pub(super) fn send(&mut self, batch: &mut Batch) {
        for (takes, frames) in [
            (Takes::Notices, &mut batch.notices),
            (Takes::Events, &mut batch.events),
        ] {
            if frames.count > 0 {
                let Frames { bytes, count } = mem::take(frames);
                self.sinks.send_to(takes, &sinks::Batch::new(bytes, count));
            }
        }
        let messages = &mut batch.messages;
        if messages.count > 0 {
            let frames = mem::replace(&mut messages.bytes, self.buffers.take());
            let frames = self.buffers.lend(frames);
            self.sinks
                .send(&sinks::Batch::new(frames, mem::take(&mut messages.count)));
        }
    }

    /// Returns the outputs' accounts.
    pub(super) fn health(&self) -> Health {
        self.sinks.health()
    }

    /// Stores the facts that pages show when they end.
    pub(super) fn tell(&self, facts: &Facts) {
        self.sinks.tell(facts);
    }

    /// Closes all outputs. They have until `deadline` to write what is queued. Returns their final
    /// accounts.
    pub(super) fn finish(self, deadline: Instant) -> Vec<SinkReport> {
        self.sinks.finish(deadline)
    }
}
