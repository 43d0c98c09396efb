//! Programs that send dnstap over sockets.
//!
//! ```text
//! listener ─► connection: handshake, whole frames, checked ─┐
//! listener ─► connection                                    ├─► Senders, which hands the frames over
//!             ...  (at most max_connections)               ─┘
//! ```
//!
//! Each connection is a task that holds at most one unfinished frame and one piece of input. It
//! goes on reading when the frames have been taken.

mod bind;
mod connection;

use std::{
    cell::RefCell, collections::VecDeque, os::fd::BorrowedFd, pin::pin, rc::Rc, sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use dnstap_core::counters::counters;
use dnstap_proto::frame_streams::Frames;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

pub(crate) use self::bind::{Bound, all as bind};
use crate::{
    host::net::{Arrival, Listener, SocketFile},
    sources::{Item, Source},
};

/// Time for connections to pass on what has arrived when the end has come.
const DRAIN: Duration = Duration::from_secs(2);

counters! {
    /// What senders have sent.
    pub struct Received {
        /// Connections taken.
        connections,
        /// Connections closed at once because there were too many.
        refused,
        /// Connections that ended otherwise than by STOP.
        unfinished,
        /// Frames received whole.
        messages,
        /// Bytes of these, with their lengths.
        bytes,
        /// Of the frames: those that are no dnstap, which no output gets.
        malformed,
    }
}

/// Limits on connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Most connections at once.
    pub(crate) connections: usize,
    /// Bytes of the longest frame.
    pub(crate) frame: u32,
    /// Time after which an idle connection is closed.
    pub(crate) idle: Option<Duration>,
}

/// Returns whether these frames may be passed on now. If not, their sender waits.
pub(crate) type HasRoom = Box<dyn Fn(&Frames) -> bool>;

/// All senders. Their tasks run on the current `LocalSet`.
pub(crate) struct Senders {
    shared: Rc<Shared>,
    has_room: HasRoom,
    /// Notified whenever there may be more room.
    room: Arc<Notify>,
    listeners: JoinSet<()>,
    /// Files of the sockets.
    files: Vec<Option<SocketFile>>,
    arrived: mpsc::Receiver<(Arrival, String)>,
    connections: JoinSet<()>,
    number: u64,
    /// Time by which all connections must end, once the end has come.
    stop: watch::Sender<Option<Instant>>,
}

/// State that all connections share.
#[derive(Debug)]
struct Shared {
    limits: Limits,
    received: RefCell<Received>,
    /// Frames that wait to be passed on, at most one piece per connection. A connection goes on
    /// when the sender of its channel is dropped.
    waiting: RefCell<VecDeque<(Frames, oneshot::Sender<()>)>>,
    more: Notify,
}

impl Shared {
    fn count(&self, change: impl FnOnce(&mut Received)) {
        change(&mut self.received.borrow_mut());
    }

    /// Passes on frames. Returns when they have been taken.
    async fn hand_over(&self, frames: Frames) {
        let (until, taken) = oneshot::channel();
        self.waiting.borrow_mut().push_back((frames, until));
        self.more.notify_one();
        // Nothing is ever sent; the channel closes.
        let _taken = taken.await;
    }
}

impl Senders {
    /// Starts to accept connections. `room` notifies when the result of `has_room` may have
    /// changed.
    pub(crate) fn accept(
        bound: Vec<Bound>,
        limits: Limits,
        has_room: HasRoom,
        room: Arc<Notify>,
    ) -> Self {
        let (arrive, arrived) = mpsc::channel(1);
        let mut listeners = JoinSet::new();
        let mut files = Vec::new();
        for socket in bound {
            info!("listening on {}", socket.name);
            files.push(socket.file);
            listeners.spawn_local(accept(socket.name, socket.listener, arrive.clone()));
        }
        let shared = Shared {
            limits,
            received: RefCell::default(),
            waiting: RefCell::default(),
            more: Notify::new(),
        };
        Self {
            shared: Rc::new(shared),
            has_room,
            room,
            listeners,
            files,
            arrived,
            connections: JoinSet::new(),
            number: 0,
            stop: watch::Sender::new(None),
        }
    }

    /// Returns the counters.
    pub(crate) fn received(&self) -> Received {
        *self.shared.received.borrow()
    }

    /// Waits until there may be something to pass on. Dropping the future loses nothing. Returns an
    /// error if a task has panicked.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let shared = Rc::clone(&self.shared);
        let mut room = pin!(Arc::clone(&self.room).notified_owned());
        // From here on, a notification of room is not missed.
        room.as_mut().enable();
        if self.may_hand_over() {
            return Ok(());
        }
        let waits = !shared.waiting.borrow().is_empty();
        loop {
            tokio::select! {
                () = shared.more.notified() => return Ok(()),
                () = &mut room, if waits => return Ok(()),
                Some(ended) = self.connections.join_next() => return check(ended),
                Some((arrival, peer)) = self.arrived.recv() => self.take(arrival, peer),
            }
        }
    }

    fn may_hand_over(&self) -> bool {
        let waiting = self.shared.waiting.borrow();
        let mut first = waiting.front().into_iter();
        first.any(|(frames, _)| (self.has_room)(frames))
    }

    fn take(&mut self, arrival: Arrival, peer: String) {
        self.number += 1;
        let most = self.shared.limits.connections;
        if self.connections.len() >= most {
            self.shared.count(|received| received.refused += 1);
            warn!(
                peer,
                "closed at once: there are --max-connections {most} already"
            );
            return;
        }
        let (shared, stopped) = (Rc::clone(&self.shared), self.stop.subscribe());
        self.connections.spawn_local(connection::take(
            self.number,
            arrival,
            peer,
            shared,
            stopped,
        ));
    }

    /// Passes on what still comes after [`Source::stop`], until all connections have ended.
    pub(crate) async fn finish(&mut self, take: &mut dyn FnMut(Item<'_>)) -> Result<()> {
        // The ports are closed when the tasks have ended.
        self.listeners.shutdown().await;
        let deadline = self.stop.borrow().unwrap_or_else(Instant::now);
        while !self.connections.is_empty() {
            let is_over = Instant::now() >= deadline;
            self.drain(is_over, take);
            tokio::select! {
                ready = self.ready() => ready?,
                () = sleep_until(deadline), if !is_over => {}
            }
        }
        Ok(())
    }
}

impl Source for Senders {
    /// Returns none: use [`Self::ready`] to wait.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn drain(&mut self, last: bool, take: &mut dyn FnMut(Item<'_>)) {
        while last || self.may_hand_over() {
            let next = self.shared.waiting.borrow_mut().pop_front();
            let Some((frames, _until)) = next else {
                return;
            };
            take(Item::Frames(frames));
        }
    }

    fn stop(&mut self) {
        self.listeners.abort_all();
        self.files.clear(); // no sender can connect any more
        while let Ok((arrival, peer)) = self.arrived.try_recv() {
            self.take(arrival, peer);
        }
        self.stop.send_replace(Some(Instant::now() + DRAIN));
    }
}

/// Passes on each new connection, until the receiver is gone.
async fn accept(name: String, listener: Listener, arrive: mpsc::Sender<(Arrival, String)>) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                if arrive.send(connection).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Most likely there are no descriptors left. Room appears when one is closed
                // elsewhere.
                warn!(socket = name, %error, "cannot take a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Converts a panic in a task to an error.
fn check(ended: Result<(), JoinError>) -> Result<()> {
    ended.context("a connection's task failed")
}
