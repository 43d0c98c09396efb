//! Owns an output within this process: a function on the sink's own thread.

use std::io;

use super::{
    Batch, OutputSpec,
    output::{Failure, Output, Written},
};

/// Takes batches; may block, for it has a queue before it and a thread of its own.
pub type Consumer = Box<dyn FnMut(&Batch) + Send>;

/// Where messages go.
pub enum Destination<'a> {
    /// To outputs.
    Outputs(&'a [OutputSpec]),
    /// To a function in this process, by that name.
    Consumer(&'static str, Consumer),
}

impl<'a> Destination<'a> {
    /// The outputs.
    #[must_use]
    pub fn specs(&self) -> &'a [OutputSpec] {
        match self {
            Self::Outputs(specs) => specs,
            Self::Consumer(..) => &[],
        }
    }
}

pub(super) struct ConsumerOutput(pub(super) Consumer);

impl Output for ConsumerOutput {
    fn write(&mut self, batch: &Batch) -> Result<Written, Failure> {
        self.0(batch);
        Ok(Written {
            messages: batch.messages,
            bytes: batch.frames.len() as u64,
            unfit: 0,
        })
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
