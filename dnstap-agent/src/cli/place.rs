//! CPUs and niceness of the agent, so that it does not compete with the server for CPU time.

use anyhow::{Context as _, Result};
use clap::Args;
use rustix::{
    process::{getpriority_process, setpriority_process},
    thread::{CpuSet, sched_setaffinity},
};

/// Options of `attach` on the agent's own threads.
#[derive(Clone, Debug, Default, Args)]
pub struct Place {
    /// CPUs to run on, such as `2,4-7`; best not those of the server [default: all]
    #[arg(long, value_name = "CPUS", value_parser = parse_cpus)]
    pub cpus: Option<CpuSet>,

    /// Niceness of the agent, 0 to 19; with 19 all other processes run first
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-40..=39))]
    pub nice: Option<i32>,
}

impl Place {
    /// Moves the calling thread to these CPUs and niceness. Threads that it starts later inherit
    /// both.
    pub fn take(&self) -> Result<()> {
        if let Some(cpus) = &self.cpus {
            sched_setaffinity(None, cpus).context("cannot run on the CPUs of --cpus")?;
        }
        if let Some(more) = self.nice {
            getpriority_process(None)
                .and_then(|nice| setpriority_process(None, nice + more))
                .context("cannot set the niceness given by --nice")?;
        }
        Ok(())
    }
}

/// Parses numbers and ranges of numbers, separated by commas, as in
/// `/sys/devices/system/cpu/online`.
fn parse_cpus(text: &str) -> Result<CpuSet, String> {
    let wrong = || format!("{text:?} is no list of CPUs, such as 2,4-7");
    let mut cpus = CpuSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse().ok().filter(|&cpu| cpu < CpuSet::MAX_CPU);
        let (first, last): (usize, usize) = number(first).zip(number(last)).ok_or_else(wrong)?;
        if first > last {
            return Err(wrong());
        }
        (first..=last).for_each(|cpu| cpus.set(cpu));
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use rustix::thread::sched_getaffinity;

    use super::*;

    #[rstest]
    #[case("0", Some(&[0][..]))]
    #[case("2,4-6", Some(&[2, 4, 5, 6][..]))]
    #[case("", None)]
    #[case("1-", None)]
    #[case("5-2", None)]
    #[case("1024", None)]
    #[case("all", None)]
    fn cpus_are_numbers_and_ranges(#[case] text: &str, #[case] expected: Option<&[usize]>) {
        let cpus = parse_cpus(text).ok();
        let cpus = cpus.map(|cpus| {
            (0..CpuSet::MAX_CPU)
                .filter(|&cpu| cpus.is_set(cpu))
                .collect::<Vec<_>>()
        });
        assert_eq!(cpus.as_deref(), expected);
    }

    #[test]
    fn threads_come_along() {
        let place = |cpus: &str| Place {
            cpus: Some(parse_cpus(cpus).expect("a list")),
            nice: Some(1),
        };
        // Use another thread, because niceness cannot be lowered again.
        let told = std::thread::spawn(move || {
            let before = getpriority_process(None).expect("of this thread");
            place("0").take().expect("there is a CPU");
            let child = std::thread::spawn(|| {
                let cpus = sched_getaffinity(None).expect("of this thread");
                (cpus.count(), getpriority_process(None).expect("as well"))
            });
            (before, child.join())
        });
        let (before, child) = told.join().expect("no panic");
        assert_eq!(child.expect("no panic"), (1, (before + 1).min(19)));
    }
}
