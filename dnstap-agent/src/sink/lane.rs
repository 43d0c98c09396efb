//! Owns one sink as the sender sees it: its queue, its account, and the thread that empties the one into the output.

use std::{
    io::{self, ErrorKind},
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Instant,
};

use super::{
    Batch,
    output::{Failure, Output, Written},
    queue::{self, Depth, Receiver, Refused, Sender},
    report::{Account, SinkReport, SinkState},
};

/// The sender's side of one sink.
#[derive(Debug)]
pub(super) struct Lane {
    name: String,
    /// `None` when nothing more is to come.
    queue: Option<Sender>,
    capacity: usize,
    account: Arc<Account>,
    /// Set when nobody waits for the thread any more.
    abandoned: Arc<AtomicBool>,
    /// Nothing is ever sent: it closes when the thread ends, in whatever way.
    ended: mpsc::Receiver<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Lane {
    /// Starts the thread. Fails when the system gives no thread.
    pub(super) fn start(
        name: String,
        output: Box<dyn Output>,
        queue_bytes: usize,
        depth: Arc<Depth>,
    ) -> io::Result<Self> {
        let (queue, receiver) = queue::bounded(queue_bytes, Arc::clone(&depth));
        let account = Arc::new(Account::new(depth));
        let abandoned = Arc::new(AtomicBool::new(false));
        let (alive, ended) = mpsc::channel();
        let worker = Worker {
            name: name.clone(),
            output,
            queue: receiver,
            account: Arc::clone(&account),
            abandoned: Arc::clone(&abandoned),
            _alive: alive,
        };
        let thread = thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            name,
            queue: Some(queue),
            capacity: queue_bytes,
            account,
            abandoned,
            ended,
            thread: Some(thread),
        })
    }

    /// Queues the batch or counts it as dropped. Never blocks. A panic of the sink's thread is passed on.
    pub(super) fn send(&mut self, batch: &Batch) {
        self.account.sent.fetch_add(batch.messages, Relaxed);
        let sent = match &mut self.queue {
            Some(queue) => queue.try_send(batch.clone()),
            None => Err(Refused::Closed),
        };
        match sent {
            Ok(()) => {}
            Err(Refused::Full) => {
                self.account.queue_full.fetch_add(batch.messages, Relaxed);
            }
            Err(Refused::Closed) => {
                if !self.account.state().is_over() {
                    self.join();
                }
                self.account.lost(batch.messages);
            }
        }
    }

    pub(super) fn report(&self) -> SinkReport {
        self.account.report(&self.name)
    }

    /// Whether it takes so many bytes without dropping anything.
    pub(super) fn has_room(&self, size: usize) -> bool {
        self.account.has_room(size, self.capacity)
    }

    /// Nothing more is to come: the thread may end when it has written what is queued.
    pub(super) fn close(&mut self) {
        self.queue = None;
    }

    /// Lets the thread write what is queued until `deadline`, and gives the final account.
    pub(super) fn finish(mut self, deadline: Instant) -> SinkReport {
        self.close();
        let Self {
            name,
            account,
            abandoned,
            ended,
            thread,
            ..
        } = self;
        let left = deadline.saturating_duration_since(Instant::now());
        if ended.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Disconnected) {
            join(thread);
            return account.report(&name);
        }
        abandoned.store(true, Relaxed);
        account.become_state(SinkState::Failed(format!(
            "{name}: did not take its last messages in the time given"
        )));
        let mut report = account.report(&name);
        // What is in flight may yet arrive; nobody will know, so it counts as dropped.
        report.dropped.shutdown += report
            .sent
            .saturating_sub(report.written + report.dropped.total());
        (report.queued, report.queued_bytes) = (0, 0);
        report
    }

    fn join(&mut self) {
        join(self.thread.take());
    }
}

/// A panic of the sink's thread becomes the caller's.
fn join(thread: Option<thread::JoinHandle<()>>) {
    if let Some(Err(panic)) = thread.map(thread::JoinHandle::join) {
        panic::resume_unwind(panic);
    }
}

/// What runs on the sink's thread.
struct Worker {
    name: String,
    output: Box<dyn Output>,
    queue: Receiver,
    account: Arc<Account>,
    abandoned: Arc<AtomicBool>,
    _alive: mpsc::Sender<()>,
}

impl Worker {
    fn run(mut self) {
        while let Some(batch) = self.queue.blocking_recv() {
            if self.abandoned.load(Relaxed) {
                return;
            }
            let result = self.output.write(&batch);
            let (written, error) = match result {
                Ok(written) => (written, None),
                Err(Failure { written, error }) => (written, Some(error)),
            };
            self.count(written);
            if error.is_none() {
                self.account.delays.note(&batch);
            }
            if let Some(error) = error {
                self.account.become_state(self.end_by(&error));
                self.account
                    .lost(batch.messages.saturating_sub(written.messages));
            }
            self.queue.done(&batch);
            if self.account.state().is_over() {
                return self.lose_the_rest();
            }
        }
        let end = match self.output.finish() {
            Ok(()) => SinkState::Finished,
            Err(error) => self.end_by(&error),
        };
        self.account.become_state(end);
    }

    fn count(&self, written: Written) {
        self.account.written.fetch_add(written.messages, Relaxed);
        self.account.written_bytes.fetch_add(written.bytes, Relaxed);
    }

    fn end_by(&self, error: &io::Error) -> SinkState {
        match error.kind() {
            ErrorKind::BrokenPipe => SinkState::Closed,
            _ => SinkState::Failed(format!("{}: {error}", self.name)),
        }
    }

    fn lose_the_rest(mut self) {
        self.queue.close();
        while let Some(batch) = self.queue.blocking_recv() {
            self.account.lost(batch.messages);
            self.queue.done(&batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_slow_sink_drops_for_itself_and_everything_is_accounted_for() {
        let (gate, output) = Gated::new();
        let mut lane = lane(output, 1000);
        for _ in 0..100 {
            lane.send(&batch(100, 3));
            let now = lane.report();
            assert!(now.is_balanced() && now.queued_bytes <= 1000, "{now:?}");
        }
        let before = lane.report();
        assert_eq!((before.sent, before.written, before.queued), (300, 0, 30));
        assert_eq!(before.dropped.queue_full, 270);
        gate.send(usize::MAX).expect("it waits");
        let report = lane.finish(soon());
        assert_eq!((report.sent, report.written, report.queued), (300, 30, 0));
        assert_eq!(
            (report.state.clone(), report.is_balanced()),
            (SinkState::Finished, true)
        );
    }

    #[test]
    fn a_failing_sink_counts_what_it_wrote_and_what_it_misses() {
        let (gate, mut output) = Gated::new();
        output.fails_after = Some((4, ErrorKind::StorageFull));
        let mut lane = lane(output, 1000);
        for _ in 0..8 {
            lane.send(&batch(100, 3));
        }
        gate.send(usize::MAX).expect("it waits");
        while !lane.report().state.is_over() {
            thread::yield_now();
        }
        for _ in 0..8 {
            lane.send(&batch(100, 3)); // far more than the queue takes: the end must be noticed
        }
        let report = lane.finish(soon());
        // Four batches whole, one message of the fifth.
        assert_eq!((report.sent, report.written), (48, 13));
        assert_eq!(
            (
                report.dropped.io_error,
                report.dropped.total(),
                report.queued
            ),
            (35, 35, 0)
        );
        let SinkState::Failed(error) = &report.state else {
            panic!("{report:?}")
        };
        assert!(error.starts_with("file:test: "), "{error}");
    }

    #[test]
    fn a_reader_that_went_away_is_an_end_and_not_an_error() {
        let (gate, mut output) = Gated::new();
        output.fails_after = Some((0, ErrorKind::BrokenPipe));
        gate.send(usize::MAX).expect("it waits");
        let mut lane = lane(output, 1000);
        lane.send(&batch(100, 3));
        let report = lane.finish(soon());
        assert_eq!(report.state, SinkState::Closed);
        assert_eq!(
            (report.written, report.dropped.closed, report.is_balanced()),
            (1, 2, true)
        );
    }

    #[test]
    fn a_stuck_sink_is_left_behind_when_the_time_is_over() {
        let (gate, output) = Gated::new();
        let mut lane = lane(output, 1000);
        gate.send(2).expect("it waits");
        for _ in 0..5 {
            lane.send(&batch(100, 3));
        }
        while lane.report().written < 6 {
            thread::yield_now();
        }
        let report = lane.finish(Instant::now() + Duration::from_millis(20));
        assert_eq!(
            (report.written, report.dropped.shutdown, report.queued),
            (6, 9, 0)
        );
        assert!(
            matches!(report.state, SinkState::Failed(_)) && report.is_balanced(),
            "{report:?}"
        );
        drop(gate);
    }

    #[test]
    #[should_panic(expected = "a bug in an output")]
    fn a_panic_of_the_thread_is_passed_on_at_the_end() {
        let lane = panicking();
        lane.finish(soon());
    }

    #[test]
    #[should_panic(expected = "a bug in an output")]
    fn a_panic_of_the_thread_is_passed_on_while_sending() {
        let mut lane = panicking();
        loop {
            lane.send(&batch(1, 1));
        }
    }

    fn panicking() -> Lane {
        struct Panicking;
        impl Output for Panicking {
            fn write(&mut self, _: &Batch) -> Result<Written, Failure> {
                panic!("a bug in an output")
            }
            fn finish(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut lane = Lane::start(
            "text:-".to_owned(),
            Box::new(Panicking),
            1000,
            Arc::default(),
        )
        .expect("a thread");
        lane.send(&batch(1, 1));
        lane
    }

    /// Writes as many batches as it is told to.
    struct Gated {
        gate: mpsc::Receiver<usize>,
        open: usize,
        written: usize,
        fails_after: Option<(usize, ErrorKind)>,
    }

    impl Gated {
        fn new() -> (mpsc::Sender<usize>, Self) {
            let (tx, gate) = mpsc::channel();
            (
                tx,
                Self {
                    gate,
                    open: 0,
                    written: 0,
                    fails_after: None,
                },
            )
        }
    }

    impl Output for Gated {
        fn write(&mut self, batch: &Batch) -> Result<Written, Failure> {
            while self.open == 0 {
                let closed = |_| Failure {
                    written: Written::default(),
                    error: ErrorKind::TimedOut.into(),
                };
                self.open = self.gate.recv().map_err(closed)?;
            }
            self.open -= 1;
            if let Some((after, kind)) = self.fails_after
                && self.written == after
            {
                return Err(Failure {
                    written: Written {
                        messages: 1,
                        bytes: 10,
                    },
                    error: kind.into(),
                });
            }
            self.written += 1;
            Ok(Written {
                messages: batch.messages,
                bytes: batch.frames.len() as u64,
            })
        }

        fn finish(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lane(output: Gated, queue_bytes: usize) -> Lane {
        Lane::start(
            "file:test".to_owned(),
            Box::new(output),
            queue_bytes,
            Arc::default(),
        )
        .expect("a thread")
    }

    fn batch(size: usize, messages: u64) -> Batch {
        Batch {
            frames: vec![0; size].into(),
            messages,
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }
}
