//! The thread of a sink that blocks. It gathers batches, writes them, and calls the output when a
//! timer is due.

use std::{
    io::{self, ErrorKind},
    mem,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tracing::{info, warn};

use super::sink_thread::{Inlet, Work, no_runtime};
use crate::sinks::{
    batch::Batch,
    report::{Account, SinkState, add},
};

/// Time for which messages are dropped before the next write to a full disk.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// Returns the work that writes all batches to `output`.
pub(in crate::sinks) fn start(output: Box<dyn Output>) -> Result<Work, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| no_runtime(&error))?;
    Ok(Box::new(move |inlet| {
        let gather = output.gather().map(|gather| Gather {
            bytes: gather.bytes.min(inlet.queue.capacity() / 2),
            ..gather
        });
        let worker = Worker {
            output,
            inlet,
            gather,
            full_until: None,
            held: Written::default(),
        };
        runtime.block_on(worker.run());
    }))
}

/// Writes batches, and reports exactly what was written when a write fails. Runs on the sink's own
/// thread, and may block there.
pub(in crate::sinks) trait Output: Send {
    /// Writes the whole batch, or accepts it into memory ([`held`](Self::held)), or fails.
    fn write(&mut self, batch: &Batch) -> Result<Written, Failure>;
    /// Writes the end of the output. This is the last call after success.
    fn finish(&mut self) -> io::Result<()>;
    /// Returns how much to gather before a write, for outputs that prefer large writes. Such
    /// outputs get only frames.
    fn gather(&self) -> Option<Gather> {
        None
    }
    /// Returns when [`turn`](Self::turn) is to be called if nothing is written until then.
    fn next_turn(&self) -> Option<Duration> {
        None
    }
    /// Does what has become due with time. An error ends the output.
    fn turn(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Returns what it has reported as written, but has in its own memory only. If the output fails,
    /// it is lost.
    fn held(&self) -> Written {
        Written::default()
    }
    /// Begins a new file if the old one was renamed or removed.
    fn reopen(&mut self) {}
}

/// Amount and age of gathered messages; they are written when one of the two is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sinks) struct Gather {
    pub(in crate::sinks) bytes: usize,
    pub(in crate::sinks) age: Duration,
}

/// What was written completely.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::sinks) struct Written {
    pub(in crate::sinks) messages: u64,
    pub(in crate::sinks) bytes: u64,
    /// Messages that the format cannot show, and that are not counted as written.
    pub(in crate::sinks) unfit: u64,
}

/// A batch that was not written completely.
#[derive(Debug)]
pub(in crate::sinks) struct Failure {
    /// Part of the batch that was written completely.
    pub(in crate::sinks) written: Written,
    pub(in crate::sinks) error: io::Error,
    /// Whether the output is complete up to there, and can accept more if the cause goes away.
    pub(in crate::sinks) resumable: bool,
}

/// State of the sink's thread.
struct Worker {
    output: Box<dyn Output>,
    inlet: Inlet,
    /// How much is gathered before a write; at most half of the queue.
    gather: Option<Gather>,
    /// Time until which a full disk is not tried again.
    full_until: Option<Instant>,
    /// What the output holds in its memory; not counted as written yet.
    held: Written,
}

/// Messages that wait to be written together. They are copied, so that their batches' memory is
/// freed.
#[derive(Default)]
struct Gathered {
    frames: BytesMut,
    messages: u64,
    /// Time at which the first of them came.
    since: Option<Instant>,
}

impl Gathered {
    fn add(&mut self, batch: &Batch) {
        self.frames.extend_from_slice(&batch.frames);
        self.messages += batch.messages;
        self.since.get_or_insert_with(Instant::now);
    }

    fn take(&mut self) -> Batch {
        self.since = None;
        Batch::new(self.frames.split(), mem::take(&mut self.messages))
    }
}

impl Worker {
    async fn run(mut self) {
        let mut gathered = Gathered::default();
        loop {
            let now = Instant::now();
            let written_at = self
                .gather
                .zip(gathered.since)
                .map(|(gather, since)| since + gather.age);
            let turn_at = self.output.next_turn().map(|left| now + left);
            let due = written_at.into_iter().chain(turn_at).min();
            let next = tokio::select! {
                biased;
                () = self.inlet.reopen.notified() => Next::Reopen,
                batch = self.inlet.queue.recv() => batch.map_or(Next::End, Next::Batch),
                () = until(due) => Next::Due,
            };
            let go_on = match next {
                Next::Batch(batch) => match self.gather {
                    Some(gather) => {
                        gathered.add(&batch);
                        drop(batch);
                        gathered.frames.len() < gather.bytes || self.write(&gathered.take())
                    }
                    None => self.write(&batch),
                },
                Next::Due => {
                    let now = Instant::now();
                    let go_on =
                        written_at.is_none_or(|at| now < at) || self.write(&gathered.take());
                    if go_on && turn_at.is_some_and(|at| now >= at) {
                        self.turn()
                    } else {
                        go_on
                    }
                }
                Next::Reopen => {
                    let go_on = self.write(&gathered.take());
                    self.output.reopen();
                    go_on
                }
                Next::End => {
                    if self.write(&gathered.take()) {
                        self.finish();
                    }
                    return;
                }
            };
            if !go_on {
                let rest = self.inlet.queue.abandon();
                return self.account().lost(rest);
            }
        }
    }

    /// Writes and counts the batch. Returns false if the sink has ended.
    fn write(&mut self, batch: &Batch) -> bool {
        if batch.messages == 0 && batch.frames.is_empty() {
            return true;
        }
        // The receiver may have given up on this thread.
        if self.account().is_over() {
            return false;
        }
        if self.full_until.is_some_and(|until| Instant::now() < until) {
            add(&self.account().dropped.disk_full, batch.messages);
            self.inlet.queue.done(batch);
            return true;
        }
        match self.output.write(batch) {
            Ok(written) => {
                self.count(written);
                self.account().delays.note(batch);
                if self.full_until.take().is_some() {
                    info!(output = self.inlet.name, "there is room again");
                    self.account().become_state(SinkState::Running);
                }
            }
            Err(Failure {
                written,
                error,
                resumable,
            }) => {
                self.count(written);
                let lost = batch
                    .messages
                    .saturating_sub(written.messages + written.unfit);
                if resumable && is_full(&error) {
                    self.wait_for_room(&error, lost);
                } else {
                    self.fail(&error, lost);
                }
            }
        }
        self.inlet.queue.done(batch);
        !self.account().is_over()
    }

    /// Drops messages for a while instead of trying a full disk for each batch.
    fn wait_for_room(&mut self, error: &io::Error, lost: u64) {
        if self.full_until.is_none() {
            warn!(output = self.inlet.name, %error, "messages are dropped until there is room");
        }
        self.full_until = Some(Instant::now() + FULL_PAUSE);
        let full = format!("{}: {error}", self.inlet.name);
        self.account().become_state(SinkState::Waiting(full));
        add(&self.account().dropped.disk_full, lost);
    }

    /// Lets the output do what is due. Returns false if the sink has ended.
    fn turn(&mut self) -> bool {
        let done = self.output.turn();
        self.count(Written::default());
        if let Err(error) = done {
            self.fail(&error, 0);
        }
        !self.account().is_over()
    }

    /// Ends the sink. Besides `lost` messages, those are lost that the output holds.
    fn fail(&mut self, error: &io::Error, lost: u64) {
        let held = mem::take(&mut self.held).messages;
        self.account().become_state(self.end_by(error));
        self.account().lost(lost + held);
        self.account().held.store(0, Relaxed);
    }

    fn finish(&mut self) {
        let dropped = self.account().dropped.disk_full.load(Relaxed);
        let done = self.output.finish();
        self.count(Written::default());
        let end = match done {
            Ok(()) if dropped > 0 => SinkState::Failed(format!(
                "{}: No space left on the disk: {dropped} messages were dropped",
                self.inlet.name
            )),
            Ok(()) => SinkState::Finished,
            Err(error) => return self.fail(&error, 0),
        };
        self.account().become_state(end);
    }

    /// Counts what has been accepted, without what the output still holds of it, and what it held
    /// before and has written now.
    fn count(&mut self, accepted: Written) {
        let held = self.output.held();
        let before = mem::replace(&mut self.held, held);
        let account = self.account();
        let written = before.messages + accepted.messages - held.messages;
        // In this order a message is for a moment counted twice rather than not at all.
        add(&account.written, written);
        add(
            &account.written_bytes,
            before.bytes + accepted.bytes - held.bytes,
        );
        add(&account.dropped.unfit, accepted.unfit);
        account.held.store(held.messages, Relaxed);
    }

    fn end_by(&self, error: &io::Error) -> SinkState {
        match error.kind() {
            ErrorKind::BrokenPipe => SinkState::Closed,
            _ => SinkState::Failed(format!("{}: {error}", self.inlet.name)),
        }
    }

    fn account(&self) -> &Account {
        &self.inlet.account
    }
}

/// Next action of the thread.
enum Next {
    Batch(Batch),
    /// A timer of the gathered batch or of the output is due.
    Due,
    Reopen,
    /// The sender has ended.
    End,
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Returns whether the disk had no room.
pub(in crate::sinks) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        thread,
    };

    use rstest::rstest;

    use super::{
        super::{OVERHEAD, Policy, sink_thread::SinkThread},
        *,
    };

    /// Room for ten batches of 100 bytes.
    const QUEUE: usize = 10 * (100 + OVERHEAD);

    #[test]
    fn a_slow_sink_drops_for_itself_and_everything_is_accounted_for() {
        let (gate, output) = Gated::new();
        let mut sink_thread = sink_thread(output, QUEUE);
        for _ in 0..100 {
            sink_thread.send(&batch(100, 3));
            let now = sink_thread.report();
            assert!(now.is_balanced() && now.queued_bytes <= 1000, "{now:?}");
        }
        let before = sink_thread.report();
        assert_eq!((before.sent, before.written, before.queued), (300, 0, 30));
        assert_eq!(before.dropped.queue_full, 270);
        gate.send(usize::MAX).expect("it waits");
        let report = sink_thread.finish(soon());
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
        let mut sink_thread = sink_thread(output, QUEUE);
        for _ in 0..8 {
            sink_thread.send(&batch(100, 3));
        }
        gate.send(usize::MAX).expect("it waits");
        while !sink_thread.report().state.is_over() {
            thread::yield_now();
        }
        for _ in 0..8 {
            sink_thread.send(&batch(100, 3)); // far more than the queue holds, so that the end must be noticed
        }
        let report = sink_thread.finish(soon());
        // Four whole batches, and one message of the fifth.
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
    fn a_full_disk_that_gets_room_again_is_written_to_again_and_the_end_tells_of_it() {
        let (gate, mut output) = Gated::new();
        output.fails_after = Some((1, ErrorKind::StorageFull));
        output.resumes = true;
        gate.send(usize::MAX).expect("it waits");
        let mut sink_thread = sink_thread(output, QUEUE);
        while sink_thread.report().written < 7 {
            assert!(
                !sink_thread.report().state.is_over(),
                "{:?}",
                sink_thread.report()
            );
            sink_thread.send(&batch(100, 3));
            thread::yield_now(); // longer than the pause
        }
        let report = sink_thread.finish(soon());
        assert!(
            report.dropped.disk_full >= 2 && report.is_balanced(),
            "{report:?}"
        );
        assert_eq!(
            report.dropped.total(),
            report.dropped.disk_full + report.dropped.queue_full
        );
        assert!(
            matches!(&report.state, SinkState::Failed(error) if error.contains("No space left")),
            "{report:?}"
        );
    }

    #[test]
    fn what_is_gathered_is_written_together_and_at_the_end() {
        let (gate, mut output) = Gated::new();
        output.gathers = Some(Gather {
            bytes: 250,
            age: Duration::from_hours(1),
        });
        // Two writes: three batches of 100 bytes, and the last batch.
        gate.send(2).expect("it waits");
        drop(gate); // a third would fail
        let mut sink_thread = sink_thread(output, QUEUE);
        for _ in 0..4 {
            sink_thread.send(&batch(100, 3));
        }
        while sink_thread.report().written < 9 {
            assert!(
                !sink_thread.report().state.is_over(),
                "{:?}",
                sink_thread.report()
            );
            thread::yield_now();
        }
        assert_eq!(sink_thread.report().queued, 3);
        let report = sink_thread.finish(soon());
        assert_eq!((report.written, report.queued), (12, 0));
    }

    #[test]
    fn what_is_gathered_is_written_when_it_is_old_enough() {
        let (gate, mut output) = Gated::new();
        output.gathers = Some(Gather {
            bytes: 250,
            age: Duration::from_millis(5),
        });
        gate.send(usize::MAX).expect("it waits");
        let mut sink_thread = sink_thread(output, QUEUE);
        sink_thread.send(&batch(100, 3));
        while sink_thread.report().written < 3 {
            thread::yield_now();
        }
    }

    #[rstest]
    #[case::by_a_write(Fails::Write)]
    #[case::by_a_timer(Fails::Turn)]
    #[case::at_the_end(Fails::Finish)]
    fn what_an_output_held_when_it_failed_is_lost_and_not_written(#[case] fails: Fails) {
        let (turn, turns) = mpsc::channel();
        let output = Holding {
            held: Written::default(),
            turns,
            fails,
        };
        let mut sink_thread = started("pdns:test", Box::new(output), QUEUE);
        for _ in 0..2 {
            sink_thread.send(&batch(100, 3));
        }
        turn.send(false).expect("it waits");
        while sink_thread.report().written < 6 {
            thread::yield_now();
        }
        let report = sink_thread.report();
        assert_eq!((report.queued, report.written_bytes), (0, 200));
        for _ in 0..2 {
            sink_thread.send(&batch(100, 3));
        }
        while sink_thread.report().queued_bytes > 0 {
            thread::yield_now();
        }
        let report = sink_thread.report();
        assert_eq!((report.written, report.queued), (6, 6), "held");
        match fails {
            Fails::Write => sink_thread.send(&batch(7, 1)),
            Fails::Turn => turn.send(true).expect("it waits"),
            Fails::Finish => {}
        }
        while fails != Fails::Finish && !sink_thread.report().state.is_over() {
            thread::yield_now();
        }
        let report = sink_thread.finish(soon());
        let last = u64::from(fails == Fails::Write);
        assert_eq!((report.written, report.written_bytes), (6, 200));
        assert_eq!((report.dropped.io_error, report.queued), (6 + last, 0));
        assert!(
            report.is_balanced() && matches!(report.state, SinkState::Failed(_)),
            "{report:?}"
        );
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Fails {
        /// For the batch of one message.
        Write,
        Turn,
        Finish,
    }

    /// Holds everything until the test lets it have a turn, which writes it, or fails.
    struct Holding {
        held: Written,
        turns: mpsc::Receiver<bool>,
        fails: Fails,
    }

    impl Output for Holding {
        fn write(&mut self, batch: &Batch) -> Result<Written, Failure> {
            if batch.messages == 1 {
                return Err(Failure {
                    written: Written::default(),
                    error: ErrorKind::StorageFull.into(),
                    resumable: false,
                });
            }
            let accepted = Written {
                messages: batch.messages,
                bytes: batch.frames.len() as u64,
                unfit: 0,
            };
            self.held.messages += accepted.messages;
            self.held.bytes += accepted.bytes;
            Ok(accepted)
        }

        fn next_turn(&self) -> Option<Duration> {
            Some(Duration::from_millis(1))
        }

        fn turn(&mut self) -> io::Result<()> {
            match self.turns.try_recv() {
                Ok(true) => return Err(ErrorKind::StorageFull.into()),
                Ok(false) => self.held = Written::default(),
                Err(_) => {}
            }
            Ok(())
        }

        fn held(&self) -> Written {
            self.held
        }

        fn finish(&mut self) -> io::Result<()> {
            match self.fails {
                Fails::Finish => Err(ErrorKind::StorageFull.into()),
                Fails::Write | Fails::Turn => Ok(()),
            }
        }
    }

    #[test]
    fn a_reader_that_went_away_is_an_end_and_not_an_error() {
        let (gate, mut output) = Gated::new();
        output.fails_after = Some((0, ErrorKind::BrokenPipe));
        gate.send(usize::MAX).expect("it waits");
        let mut sink_thread = sink_thread(output, QUEUE);
        sink_thread.send(&batch(100, 3));
        let report = sink_thread.finish(soon());
        assert_eq!(report.state, SinkState::Closed);
        assert_eq!(
            (report.written, report.dropped.closed, report.is_balanced()),
            (1, 2, true)
        );
    }

    #[test]
    fn a_stuck_sink_is_left_behind_when_the_time_is_over() {
        let (gate, output) = Gated::new();
        let mut sink_thread = sink_thread(output, QUEUE);
        gate.send(2).expect("it waits");
        for _ in 0..5 {
            sink_thread.send(&batch(100, 3));
        }
        while sink_thread.report().written < 6 {
            thread::yield_now();
        }
        let report = sink_thread.finish(Instant::now() + Duration::from_millis(20));
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
        let sink_thread = panicking();
        sink_thread.finish(soon());
    }

    #[test]
    #[should_panic(expected = "a bug in an output")]
    fn a_panic_of_the_thread_is_passed_on_while_sending() {
        let mut sink_thread = panicking();
        loop {
            sink_thread.send(&batch(1, 1));
        }
    }

    fn panicking() -> SinkThread {
        struct Panicking;
        impl Output for Panicking {
            fn write(&mut self, _: &Batch) -> Result<Written, Failure> {
                panic!("a bug in an output")
            }
            fn finish(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut sink_thread = started("text:-", Box::new(Panicking), 1000);
        sink_thread.send(&batch(1, 1));
        sink_thread
    }

    /// Writes as many batches as the test allows.
    struct Gated {
        gate: mpsc::Receiver<usize>,
        open: usize,
        written: usize,
        fails_after: Option<(usize, ErrorKind)>,
        /// Whether it works again after one failure.
        resumes: bool,
        gathers: Option<Gather>,
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
                    resumes: false,
                    gathers: None,
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
                    resumable: false,
                };
                self.open = self.gate.recv().map_err(closed)?;
            }
            self.open -= 1;
            if let Some((after, kind)) = self.fails_after
                && self.written == after
            {
                if self.resumes {
                    self.fails_after = None;
                }
                return Err(Failure {
                    written: Written {
                        messages: 1,
                        bytes: 10,
                        unfit: 0,
                    },
                    error: kind.into(),
                    resumable: self.resumes,
                });
            }
            self.written += 1;
            Ok(Written {
                messages: batch.messages,
                bytes: batch.frames.len() as u64,
                unfit: 0,
            })
        }

        fn gather(&self) -> Option<Gather> {
            self.gathers
        }

        fn finish(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sink_thread(output: Gated, queue_bytes: usize) -> SinkThread {
        started("file:test", Box::new(output), queue_bytes)
    }

    fn started(name: &str, output: Box<dyn Output>, queue_bytes: usize) -> SinkThread {
        SinkThread::start(
            name.to_owned(),
            start(output).expect("memory"),
            (queue_bytes, Policy::DropNewest, Arc::default()),
            Arc::default(),
        )
        .expect("a thread")
    }

    fn batch(size: usize, messages: u64) -> Batch {
        Batch::new(vec![0; size], messages)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }
}
