//! Reads the CPU time and memory of processes from `/proc`.

use std::{
    fs,
    iter::Sum,
    ops::{Add, Sub},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Nanoseconds of one tick of `/proc/PID/stat`: `USER_HZ` is 100 on every Linux.
const TICK_NS: u64 = 10_000_000;

/// CPU time in nanoseconds. `/proc` splits it in ticks of 10 ms. The sum is exact if the threads that used it still
/// exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cpu {
    pub(super) user: u64,
    pub(super) system: u64,
}

impl Cpu {
    /// Returns the sum of both.
    pub(super) fn sum(self) -> u64 {
        self.user + self.system
    }

    /// Returns the CPU time of a process so far.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let [user, system, ..] = ticks(&format!("/proc/{pid}/stat"))?;
        let mut exact = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .with_context(|| format!("process {pid} has ended"))?
        {
            let path = task?.path().join("schedstat");
            let text = fs::read_to_string(&path).unwrap_or_default();
            exact += text
                .split(' ')
                .next()
                .and_then(|run| run.parse::<u64>().ok())
                .unwrap_or(0);
        }
        // The ticks are rounded down, so they only tell how to divide the exact time.
        let rounded = (user + system).max(1);
        let user = u64::try_from(u128::from(exact) * u128::from(user) / u128::from(rounded))?;
        Ok(Self {
            user,
            system: exact - user,
        })
    }

    /// Returns the CPU time of all processes that this one has started and waited for.
    pub(super) fn of_children() -> Result<Self> {
        let [.., user, system] = ticks("/proc/self/stat")?;
        Ok(Self {
            user: user * TICK_NS,
            system: system * TICK_NS,
        })
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }
}

impl Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            system: self.system + other.system,
        }
    }
}

impl Sum for Cpu {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// Reads `utime`, `stime`, `cutime`, `cstime` of `proc_pid_stat(5)`.
fn ticks(path: &str) -> Result<[u64; 4]> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    parse_ticks(&text).with_context(|| format!("{path} is not as expected: {text}"))
}

fn parse_ticks(text: &str) -> Option<[u64; 4]> {
    // The name may contain any character, so the fields are counted after it: the third field comes first.
    let (_, fields) = text.rsplit_once(") ")?;
    let fields: Vec<u64> = fields
        .split(' ')
        .skip(11)
        .take(4)
        .map_while(|field| field.parse().ok())
        .collect();
    fields.try_into().ok()
}

/// Returns the largest resident memory of a process so far, in bytes.
pub(super) fn peak_memory(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("{path} has no VmHWM"))?;
    Ok(kib * 1024)
}

/// Polls until a condition is true that has no event to wait for.
pub(super) fn wait_until(what: &str, patience: Duration, is_so: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !is_so() {
        anyhow::ensure!(Instant::now() < deadline, "{what}: not in {patience:?}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let text = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 20 0";
        assert_eq!(parse_ticks(text), Some([11, 12, 13, 14]));
        assert_eq!(parse_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn work_shows_in_the_time_of_the_process() {
        let id = std::process::id();
        let before = Cpu::of(id).expect("it runs").sum();
        let mut sum = 0_u64;
        while Cpu::of(id).expect("it runs").sum() < before + 20_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(peak_memory(id).expect("it runs") > 100_000);
    }
}
