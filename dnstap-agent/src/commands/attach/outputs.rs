//! Where the tap's batches go: messages to the outputs of `--output`, notices to their own.

use std::{mem, time::Instant};

use anyhow::{Context as _, Result, anyhow};
use dnstap_core::pipeline::Batch;

use super::{Job, buffers::Buffers};
use crate::{
    cli::Filters,
    commands::reload::{self, Inbox, Reloading, Start},
    host::{
        exit::{Exit, ExitWith},
        sandbox::NeededPrivileges,
    },
    report::Facts,
    sinks::{self, Health, OutputSpec, SinkReport, SinkSet},
};

/// All outputs of the tap.
pub(super) struct Outputs {
    sinks: SinkSet,
    inbox: Inbox,
    buffers: Buffers,
}

impl Outputs {
    /// Opens those of messages, and that of notices if there is one; with them comes what has them reloaded. `privileges` is what the
    /// process can still do.
    pub(super) fn open(
        job: &Job<'_>,
        outputs: &[OutputSpec],
        privileges: Option<NeededPrivileges>,
    ) -> Result<(Self, Reloading)> {
        let options = job.queues;
        let fixed = job.messages.unanswered_events.as_slice();
        let sinks = SinkSet::open_both(outputs, fixed, options)
            .map_err(|error| anyhow!(ExitWith(Exit::CannotCreate, error.to_string())))?;
        let (reloader, inbox) = reload::reloader(
            &Start {
                origin: job.origin,
                outputs,
                fixed,
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

    /// Makes the changes that were asked for, and tells the filters that are in force from now on, if they are among them. To be
    /// called between two batches. Never waits.
    pub(super) fn update(&mut self) -> Option<Filters> {
        self.inbox.apply(&mut self.sinks)
    }

    /// The same for the last time.
    pub(super) fn settle(&mut self) {
        self.inbox.close(&mut self.sinks);
    }

    /// Hands over what is in the batch and takes it out. Never waits.
    pub(super) fn send(&mut self, batch: &mut Batch) {
        let notices = &mut batch.notices;
        if notices.count > 0 {
            let frames = mem::take(&mut notices.bytes);
            self.sinks
                .notify(&sinks::Batch::new(frames, mem::take(&mut notices.count)));
        }
        let messages = &mut batch.messages;
        if messages.count > 0 {
            let frames = mem::replace(&mut messages.bytes, self.buffers.take());
            let frames = self.buffers.lend(frames);
            self.sinks
                .send(&sinks::Batch::new(frames, mem::take(&mut messages.count)));
        }
    }

    /// How they do.
    pub(super) fn health(&self) -> Health {
        self.sinks.health()
    }

    /// What pages are to state when they end.
    pub(super) fn tell(&self, facts: &Facts) {
        self.sinks.tell(facts);
    }

    /// Closes them; all have up to `deadline` to write what is queued. The last reports.
    pub(super) fn finish(self, deadline: Instant) -> Vec<SinkReport> {
        self.sinks.finish(deadline)
    }
}
