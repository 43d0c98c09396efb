//! Faults: in each the server answers as if untapped, nothing of ours stays in the kernel, and what was seen is accounted for.

mod kill;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};
use libtest_mimic::Trial;

use crate::load::client;

/// Clients that ask all the time.
const CLIENTS: usize = 4;
/// Pause of a client after each answer. Without one, clients and server leave a small machine no time to attach in.
const PAUSE: Duration = Duration::from_micros(500);

pub(super) fn trials() -> Vec<Trial> {
    [kill::trials()].into_iter().flatten().collect()
}

/// Does something while clients ask all the time, each of whose questions must be answered; returns how many were.
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
