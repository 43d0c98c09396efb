//! Faults. In each, the server answers as without a tap, nothing of ours stays in the kernel, and all seen messages are
//! accounted for.

mod clock;
mod company;
mod descriptors;
mod disk;
mod kill;
mod memory;
mod network;
mod overrun;
mod pause;
mod restart;
mod reuse;
mod starve;
mod tls;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::{
    environment::{Combination, combinations},
    kernel::{self, Objects},
    load::client,
    tap::{Tap, Tapped},
};

/// Number of clients that send queries all the time.
const CLIENTS: usize = 4;
/// Pause of a client after each response. Without a pause, clients and server leave a small machine no time to attach.
const PAUSE: Duration = Duration::from_micros(500);

pub(super) fn trials() -> Vec<Trial> {
    [
        kill::trials(),
        pause::trials(),
        overrun::trials(),
        starve::trials(),
        memory::trials(),
        descriptors::trials(),
        disk::trials(),
        network::trials(),
        clock::trials(),
        restart::trials(),
        reuse::trials(),
        company::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Returns the trials that may run at the same time as others: they have no tap and little to do.
pub(super) fn beside() -> Vec<Trial> {
    [tls::beside(), disk::beside()]
        .into_iter()
        .flatten()
        .collect()
}

/// Makes one trial with the first combination, for tests that depend on neither hook nor ring.
fn once(name: &str, test: fn(&Combination) -> Result<()>) -> Vec<Trial> {
    combinations()
        .into_iter()
        .take(1)
        .map(|how| trial(format!("{how}: {name}"), move || test(&how)))
        .collect()
}

/// Runs `action` while clients send queries all the time. Each query must be answered. Returns the number of queries.
fn under_load<T>(server: SocketAddr, action: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| client::ask_until(server, PAUSE, &stop)))
            .collect();
        let result = action();
        stop.store(true, Ordering::Relaxed);
        let answered = clients
            .into_iter()
            .map(|client| {
                client
                    .join()
                    .map_err(|_panic| anyhow!("a client panicked"))?
            })
            .sum::<Result<u64>>();
        Ok((result?, answered?))
    })
}

/// Returns the objects that an attached agent holds in the kernel.
fn objects(tap: &Tap) -> Result<Objects> {
    let objects = kernel::of_process(tap.pid())?;
    ensure!(!objects.is_empty(), "attached, with nothing in the kernel");
    Ok(objects)
}

/// Checks the counters of an agent that has ended. Each of the `answered` queries that were sent while it was attached,
/// and its response, must be seen, and be in the file or counted as dropped. Returns the number of messages in the
/// file.
fn expect_balance(tapped: &Tapped, answered: u64) -> Result<u64> {
    let summary = &tapped.summary;
    let seen = summary.kernel("seen")?;
    ensure!(
        seen == 2 * answered,
        "{answered} questions answered, {seen} messages seen: {summary}"
    );
    let records = tapped.records()?;
    summary.expect_written(records.len())?;
    let dropped = summary.kernel_drops()? + summary.output_drops()?;
    let written = records.len() as u64;
    ensure!(
        seen == written + dropped && written > 0,
        "seen {seen}, in the file {written}, dropped {dropped}: {summary}"
    );
    summary.expect_accounted()?;
    Ok(written)
}

/// Ends the tap regularly, and checks that nothing of it stays in the kernel.
fn stop(tap: Tap) -> Result<Tapped> {
    let objects = objects(&tap)?;
    let tapped = tap.stop()?;
    kernel::expect_gone(&objects).context("after its end")?;
    Ok(tapped)
}
