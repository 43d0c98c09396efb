//! An output within this process: a function that runs on the sink's own thread.

use std::{
    fmt, io,
    sync::{Mutex, PoisonError},
};

use super::{
    batch::Batch,
    queue::blocking::{self, Failure, Output, Written},
    report::Takes,
    sink::{About, Opened, Sink},
};

/// Takes batches. It may block, because it has a queue and a thread of its own.
pub type Consumer = Box<dyn FnMut(&Batch) + Send>;

/// A named function that is taken when the output is opened.
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) consumer: Mutex<Option<Consumer>>,
}

impl Sink for Function {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn open(&self, _: Takes, _: &About) -> Result<Opened, String> {
        let consumer = self
            .consumer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let consumer = consumer.ok_or_else(|| "it is open already".to_owned())?;
        Ok(Box::new(|_| blocking::start(Box::new(Called(consumer)))))
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Function").field(&self.name).finish()
    }
}

struct Called(Consumer);

impl Output for Called {
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
