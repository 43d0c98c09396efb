//! Where the tap's batches go: messages to the outputs of `--output`, events to their own.

use std::{mem, time::Duration};

use anyhow::{Result, anyhow};

use super::buffers::Buffers;
use crate::{
    cli::Attach,
    exit::{Exit, ExitWith},
    pipeline::Batch,
    sink::{self, Health, OutputSpec, Reopener, SinkOptions, SinkReport, SinkSet},
};

/// All outputs of the tap.
pub(super) struct Outputs {
    messages: SinkSet,
    events: Option<SinkSet>,
    buffers: Buffers,
}

impl Outputs {
    /// What is to be opened; the output of events, if there is one, is the last.
    pub(super) fn specs(options: &Attach) -> Vec<OutputSpec> {
        let events = options.messages.unanswered_events.clone();
        options.outputs.iter().cloned().chain(events).collect()
    }

    /// Opens them; with them comes what has all their files begin anew.
    pub(super) fn open(options: &Attach) -> Result<(Self, Reopener)> {
        let mut messages = SinkSet::open(&Self::specs(options), SinkOptions::default())
            .map_err(|error| anyhow!(ExitWith(Exit::CannotCreate, error.to_string())))?;
        let reopener = messages.reopener();
        let reports = options.messages.unanswered_events.is_some();
        let events = reports.then(|| messages.split_last());
        let outputs = Self {
            messages,
            events,
            buffers: Buffers::default(),
        };
        Ok((outputs, reopener))
    }

    /// Hands over what is in the batch and takes it out. Never waits.
    pub(super) fn send(&mut self, batch: &mut Batch) {
        if let Some(events) = &mut self.events {
            events.send(&sink::Batch {
                frames: mem::take(&mut batch.event_frames).into(),
                messages: mem::take(&mut batch.events),
            });
        }
        if batch.messages > 0 {
            let frames = mem::replace(&mut batch.frames, self.buffers.take());
            self.messages.send(&sink::Batch {
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

    /// Closes them; each has `grace` to write what is queued. The last reports, of messages and of events.
    pub(super) fn finish(self, grace: Duration) -> (Vec<SinkReport>, Option<SinkReport>) {
        let messages = self.messages.finish(grace);
        let events = self.events.and_then(|events| events.finish(grace).pop());
        (messages, events)
    }
}
