//! The producer of librdkafka, and what it tells: deliveries, errors, statistics, its log.
//!
//! All of them arrive in [`Client::poll`], on the thread of the sink.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{
        BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig,
    },
};
use serde::Deserialize;
use tracing::{debug, info, warn};

use super::{
    flight::{Fate, Flight},
    record::Record,
    spool::Spool,
};
use crate::{
    host::kafka::{Cluster, explain},
    sinks::report::{Account, BrokerCounters, SinkState, add},
};

/// Most messages and kilobytes in librdkafka. It keeps up to a kilobyte for each message besides its bytes, so all others
/// wait in the queue or in the spool, where they take less.
const MOST_MESSAGES: &str = "100000";
const MOST_KBYTES: &str = "65536";

/// A producer.
pub(super) struct Client {
    producer: BaseProducer<Context>,
    config: ClientConfig,
    /// Most messages that are not taken out.
    most: usize,
    shared: Arc<Shared>,
}

/// What the callbacks know. Lives as long as the output, also if the producer has to be made anew.
pub(super) struct Shared {
    /// Name of the output.
    name: String,
    /// Whether the messages are in a spool, so that a failed one can be sent again.
    has_spool: bool,
    /// Whether a message chooses its topic, so that others need not wait for it.
    chooses_topic: bool,
    account: OnceLock<Arc<Account>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    flight: Flight,
    /// What is wrong, if the last thing that was heard of the brokers is bad.
    error: Option<String>,
    /// Whether the absence of brokers was logged.
    told: bool,
    /// Reasons of refusals that were logged.
    refusals: BTreeSet<String>,
    /// Whether a message of the spool has failed, and has to be sent again.
    failed: bool,
    /// Why it has failed, until another one is delivered.
    refused: Option<String>,
    /// Whether the producer accepts nothing more.
    fatal: bool,
    /// Sums of the last statistics: retries, errors, connections.
    sums: [u64; 3],
}

/// What was taken out at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// All messages, and the bytes of their frames.
    pub(super) messages: u64,
    pub(super) bytes: usize,
    /// Messages of this run.
    pub(super) own: u64,
}

/// Result of handing a record over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// librdkafka has it, or has refused it for good, which is counted.
    Taken,
    /// There is no room.
    Full,
}

impl Client {
    /// Creates the producer. It begins to connect.
    pub(super) fn create(
        cluster: &Cluster,
        name: String,
        has_spool: bool,
        chooses_topic: bool,
    ) -> Result<Self, String> {
        let mut config = cluster.config()?;
        for (option, value) in [
            ("enable.idempotence", "true"),
            ("acks", "all"),
            // For ever: what is given up is what the queue drops, by its own rule.
            ("message.timeout.ms", "0"),
            ("compression.type", "zstd"),
            ("linger.ms", "100"),
            ("queue.buffering.max.messages", MOST_MESSAGES),
            ("queue.buffering.max.kbytes", MOST_KBYTES),
            // As the clients in Java, so that a key has one partition for all of them.
            ("partitioner", "murmur2_random"),
            ("socket.keepalive.enable", "true"),
        ] {
            // The operator's own value is in the configuration already.
            if config.get(option).is_none() {
                config.set(option, value);
            }
        }
        let shared = Arc::new(Shared {
            name,
            has_spool,
            chooses_topic,
            account: OnceLock::new(),
            state: Mutex::default(),
        });
        let most = config.get("queue.buffering.max.messages");
        let most = most.and_then(|most| most.parse().ok());
        Ok(Self {
            producer: producer(&config, &shared)?,
            config,
            most: most.filter(|most| *most > 0).unwrap_or(usize::MAX),
            shared,
        })
    }

    /// Sets the account in which everything is counted from now on.
    pub(super) fn count_in(&self, account: &Arc<Account>) {
        account.has_spool.store(self.shared.has_spool, Relaxed);
        let _first = account.broker.set(BrokerCounters::default());
        let _first = self.shared.account.set(Arc::clone(account));
        account.become_state(SinkState::Waiting("not connected yet".to_owned()));
    }

    /// Hands a record over. `bytes`: of its frame.
    pub(super) fn send(
        &self,
        record: &Record<'_>,
        (run, seq): (u64, u64),
        bytes: usize,
        is_own: bool,
    ) -> Sent {
        // What librdkafka has delivered may wait for one before it.
        if self.in_flight() >= self.most {
            return Sent::Full;
        }
        let number = self.shared.lock().flight.push(bytes, is_own);
        let (run, seq) = (format!("{run:016x}"), seq.to_string());
        let headers = [
            ("content-type", record.content_type.as_bytes()),
            ("dnstap-type", record.kind.as_bytes()),
            ("identity", record.identity),
            ("run", run.as_bytes()),
            ("seq", seq.as_bytes()),
        ];
        let mut owned = OwnedHeaders::new_with_capacity(headers.len());
        for (key, value) in headers {
            let value = Some(value);
            owned = owned.insert(Header { key, value });
        }
        let base = BaseRecord {
            key: record.key,
            payload: Some(record.value),
            timestamp: record.time,
            headers: Some(owned),
            ..BaseRecord::with_opaque_to(record.topic, number)
        };
        match self.producer.send(base) {
            Ok(()) => Sent::Taken,
            Err((error, _)) => match error.rdkafka_error_code() {
                // No callback runs before the next poll, so it is still the last one.
                Some(RDKafkaErrorCode::QueueFull) => {
                    self.shared.lock().flight.pop();
                    Sent::Full
                }
                code => {
                    self.shared.fail(number, code, &error.to_string());
                    Sent::Taken
                }
            },
        }
    }

    /// Notes the fate of a message for which there is no record; its place in the order is kept.
    pub(super) fn skip(&self, bytes: usize, is_own: bool, fate: Fate) {
        let mut state = self.shared.lock();
        let number = state.flight.push(bytes, is_own);
        state.flight.settle(number, fate);
    }

    /// Learns what has happened, and waits up to this time for more.
    pub(super) fn poll(&self, wait: Duration) {
        self.producer.poll(wait);
        let in_flight = self.shared.lock().flight.len() as u64;
        self.shared.broker().in_flight.store(in_flight, Relaxed);
    }

    /// Takes out what is settled, in order, and counts it.
    pub(super) fn settled(&self) -> Settled {
        let (account, records) = (self.shared.account(), &self.shared.broker().records);
        let mut settled = Settled::default();
        let (mut written, mut written_bytes, mut replayed) = (0, 0, 0);
        while let Some((slot, fate)) = self.shared.lock().flight.take() {
            settled.messages += 1;
            settled.bytes += slot.bytes;
            settled.own += u64::from(slot.is_own);
            let dropped = &account.dropped;
            let counter = match fate {
                Fate::Delivered if slot.is_own => {
                    written += 1;
                    written_bytes += slot.bytes as u64;
                    continue;
                }
                Fate::Delivered => {
                    replayed += 1;
                    continue;
                }
                _ if !slot.is_own => &records.replay_dropped,
                Fate::TooLarge => &dropped.too_large,
                Fate::Rejected => &dropped.rejected,
                Fate::Expired => &dropped.disconnected,
                Fate::Ended => &dropped.shutdown,
                Fate::Unfit => &dropped.unfit,
                Fate::Damaged => &dropped.io_error,
            };
            add(counter, 1);
        }
        add(&account.written, written);
        add(&account.written_bytes, written_bytes);
        add(&records.replayed, replayed);
        settled
    }

    /// Gives all messages up that are not settled.
    pub(super) fn give_up(&self, fate: Fate) {
        self.shared.lock().flight.settle_all(fate);
    }

    /// Returns the number of messages that are not taken out yet.
    pub(super) fn in_flight(&self) -> usize {
        self.shared.lock().flight.len()
    }

    /// Sets what the spool has.
    pub(super) fn spooled(&self, spool: &Spool) {
        let broker = self.shared.broker();
        broker.spooled.store(spool.messages(), Relaxed);
        broker.spooled_bytes.store(spool.bytes(), Relaxed);
    }

    /// Counts bytes of the spool that could not be read.
    pub(super) fn damaged(&self, bytes: u64) {
        add(&self.shared.broker().records.damaged_bytes, bytes);
    }

    /// Returns whether messages have to be sent again from the spool.
    pub(super) fn has_failed(&self) -> bool {
        let state = self.shared.lock();
        state.failed || state.fatal
    }

    /// Returns whether the producer has to be made anew.
    pub(super) fn is_dead(&self) -> bool {
        self.shared.lock().fatal
    }

    /// Makes the producer forget all messages. Without a spool they count as dropped.
    pub(super) fn purge(&self, wait: Duration) {
        // Otherwise it waits for threads that may look up a broker's name.
        self.producer
            .purge(PurgeConfig::default().queue().inflight().non_blocking());
        // The callbacks come at the next polls; a timeout leaves messages whose fate nobody knows.
        let _late = self.producer.flush(wait);
        self.poll(Duration::ZERO);
    }

    /// Begins anew after [`Self::purge`]: with no message, and with a producer that works. Returns what is known of the
    /// messages that were not taken out, in order.
    pub(super) fn begin_anew(&mut self) -> Result<VecDeque<Option<Fate>>, String> {
        if self.is_dead() {
            let new = producer(&self.config, &self.shared)?;
            dispose(std::mem::replace(&mut self.producer, new));
        }
        let mut state = self.shared.lock();
        (state.failed, state.fatal) = (false, false);
        Ok(state.flight.give_up())
    }

    /// Ends the producer without waiting for it.
    pub(super) fn dispose(self) {
        dispose(self.producer);
    }

    /// Returns what is wrong with the brokers.
    pub(super) fn error(&self) -> Option<String> {
        self.shared.lock().error.clone()
    }
}

/// Ends a producer on a thread of its own: it waits for its threads, which may wait for the name of a broker.
fn dispose(producer: BaseProducer<Context>) {
    let ended = thread::Builder::new()
        .name("kafka-end".to_owned())
        .spawn(move || drop(producer));
    // Without a thread it has ended here.
    drop(ended);
}

fn producer(config: &ClientConfig, shared: &Arc<Shared>) -> Result<BaseProducer<Context>, String> {
    let context = Context(Arc::clone(shared));
    config
        .create_with_context(context)
        .map_err(|error| explain(&error))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the account. It is there before the first poll.
    fn account(&self) -> &Account {
        self.account
            .get()
            .unwrap_or_else(|| unreachable!("the account is set before anything is sent"))
    }

    fn broker(&self) -> &BrokerCounters {
        self.account()
            .broker
            .get()
            .unwrap_or_else(|| unreachable!("set with the account"))
    }

    fn delivered(&self, number: usize) {
        let mut state = self.lock();
        (state.error, state.refused) = (None, None);
        state.flight.settle(number, Fate::Delivered);
    }

    /// Notes the fate of a message that was not delivered, or that it has to be sent again.
    fn fail(&self, number: usize, code: Option<RDKafkaErrorCode>, why: &str) {
        use RDKafkaErrorCode::{
            InvalidMessageSize, InvalidRecord, InvalidTimestamp, InvalidTopic, MessageSizeTooLarge,
            MessageTimedOut, PolicyViolation, PurgeInflight, PurgeQueue, TopicAuthorizationFailed,
            UnknownTopic, UnknownTopicOrPartition,
        };
        let mut state = self.lock();
        let is_purged = matches!(code, Some(PurgeQueue | PurgeInflight));
        let (fate, is_final) = match code {
            Some(MessageSizeTooLarge | InvalidMessageSize) => (Fate::TooLarge, true),
            Some(InvalidRecord | InvalidTimestamp) => (Fate::Rejected, true),
            Some(
                UnknownTopic
                | UnknownTopicOrPartition
                | InvalidTopic
                | TopicAuthorizationFailed
                | PolicyViolation,
            ) => (Fate::Rejected, self.chooses_topic),
            Some(MessageTimedOut) => (Fate::Expired, false),
            _ if is_purged && !state.fatal => (Fate::Ended, false),
            _ => (Fate::Rejected, false),
        };
        let is_new = !is_purged && state.refusals.insert(format!("{code:?}"));
        let is_kept = self.has_spool && !is_final;
        if is_kept {
            state.failed = true;
            if !is_purged {
                state.refused = Some(why.to_owned());
            }
        } else {
            state.flight.settle(number, fate);
        }
        drop(state);
        if is_new {
            let remedy = match code {
                Some(MessageSizeTooLarge) => {
                    "; raise max.message.bytes of the topic, or lower batches with x-batch.size=BYTES"
                }
                _ => "",
            };
            warn!(
                output = self.name,
                is_kept, "a record was not delivered: {why}{remedy}"
            );
        }
    }

    /// Learns how many brokers are connected.
    fn connected(&self, brokers: u64) {
        let before = self.broker().brokers.swap(brokers, Relaxed);
        let mut state = self.lock();
        if brokers > 0 {
            state.error = None;
            if before == 0 {
                state.told = false;
                info!(output = self.name, brokers, "connected");
            }
            // A full spool is another reason for waiting.
            let lacks_room = self.account().lacks_room.load(Relaxed);
            let running = match state.refused.clone() {
                Some(why) => SinkState::Waiting(format!("{}: {why}", self.name)),
                None => SinkState::Running,
            };
            drop(state);
            if !lacks_room {
                self.account().become_state(running);
            }
            return;
        }
        let error = state.error.clone();
        let error = error.unwrap_or_else(|| "not connected yet".to_owned());
        if state.error.is_some() && !state.told {
            state.told = true;
            warn!(output = self.name, %error, "no connection; trying again, keeping what has room");
        }
        drop(state);
        // A full spool is what costs messages, so it is told first.
        if !self.account().lacks_room.load(Relaxed) {
            self.account()
                .become_state(SinkState::Waiting(format!("{}: {error}", self.name)));
        }
    }
}

/// What librdkafka calls.
pub(super) struct Context(Arc<Shared>);

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        match result {
            Ok(_) => self.0.delivered(number),
            Err((error, _)) => {
                self.0
                    .fail(number, error.rdkafka_error_code(), &error.to_string());
            }
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Errors come to `error` as well, and repeat with each attempt.
        debug!(
            output = self.0.name,
            ?level,
            facility,
            "librdkafka: {message}"
        );
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(output = self.0.name, %error, reason, "librdkafka");
        let code = error.rdkafka_error_code();
        let mut state = self.0.lock();
        match code {
            Some(RDKafkaErrorCode::Fatal) => {
                warn!(
                    output = self.0.name,
                    reason, "the producer has to begin anew"
                );
                state.fatal = true;
            }
            // Another error has said why.
            Some(RDKafkaErrorCode::AllBrokersDown) if state.error.is_some() => {}
            _ => state.error = Some(explained(reason)),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else {
            return;
        };
        let mut sums = [0; 3];
        let mut up = 0;
        for broker in statistics.brokers.values() {
            sums[0] += broker.txretries;
            sums[1] += broker.txerrs + broker.rxerrs + broker.req_timeouts + broker.disconnects;
            sums[2] += broker.connects;
            up += u64::from(broker.nodeid >= 0 && broker.state == "UP");
        }
        let before = std::mem::replace(&mut self.0.lock().sums, sums);
        let records = &self.0.broker().records;
        let counters = [
            &records.retries,
            &records.errors,
            &self.0.account().connections,
        ];
        for ((counter, now), before) in counters.into_iter().zip(sums).zip(before) {
            // A new producer counts from 0 on.
            add(counter, now.checked_sub(before).unwrap_or(now));
        }
        self.0.connected(up);
    }
}

/// Returns what librdkafka says. About a certificate it says only that it was refused, and guesses at the authorities.
fn explained(reason: &str) -> String {
    match reason.split_once("certificate verify failed") {
        Some((before, _)) => format!(
            "{before}certificate verify failed: it has expired, is for another name, or no authority of `ca=` has signed it; \
             `openssl s_client -CAfile FILE -connect HOST:PORT` tells which"
        ),
        None => reason.to_owned(),
    }
}

/// The part of librdkafka's statistics that is used (STATISTICS.md of librdkafka).
#[derive(Deserialize)]
struct Statistics {
    brokers: BTreeMap<String, BrokerStatistics>,
}

#[derive(Deserialize)]
struct BrokerStatistics {
    nodeid: i32,
    state: String,
    txretries: u64,
    txerrs: u64,
    rxerrs: u64,
    req_timeouts: u64,
    connects: u64,
    disconnects: u64,
}
