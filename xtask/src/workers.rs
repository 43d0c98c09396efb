//! Runs several jobs at the same time.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Result, bail};

/// Returns the number of jobs that run at the same time: at most the number of processors.
pub(crate) fn number(jobs: usize) -> usize {
    thread::available_parallelism()
        .map_or(1, usize::from)
        .min(jobs)
}

/// Runs `work` for each job, and returns the results in order. After a failure no further job is started.
pub(crate) fn each<T: Sync, R: Send>(
    jobs: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let queue = Mutex::new(jobs.iter().enumerate());
    let results = Mutex::new(Vec::new());
    let worker = || -> Result<()> {
        loop {
            let next = locked(&queue).next();
            let Some((place, job)) = next else {
                return Ok(());
            };
            match work(job) {
                Ok(result) => locked(&results).push((place, result)),
                Err(error) => {
                    locked(&queue).by_ref().for_each(drop);
                    return Err(error);
                }
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..number(jobs.len()))
            .map(|_| scope.spawn(worker))
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(_panic) => bail!("a worker panicked"),
            })
    })?;
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(place, _)| *place);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let jobs: Vec<_> = (0..100).collect();
        let results = each(&jobs, |job| Ok(job * 2)).expect("no job fails");
        assert!(results.into_iter().eq((0..100).map(|job| job * 2)));
    }

    #[test]
    fn a_failure_is_returned_and_ends_the_queue() {
        let jobs: Vec<_> = (0..1_000).collect();
        let begun = Mutex::new(0);
        let result = each(&jobs, |_| -> Result<()> {
            *locked(&begun) += 1;
            bail!("no")
        });
        assert!(result.is_err());
        assert!(*locked(&begun) <= number(jobs.len()));
    }
}
