//! The tasks that a worker can run, with the limits that operators set by remote control.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The soft and the hard time limit of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeLimits {
    /// The soft limit, after which the task is told to end.
    pub soft: Option<Duration>,
    /// The hard limit, after which the task is ended.
    pub hard: Option<Duration>,
}

/// The tasks that a worker can run, with their limits.
#[derive(Debug, Default)]
pub struct Tasks(Mutex<BTreeMap<String, Task>>);

#[derive(Debug, Default)]
struct Task {
    limits: TimeLimits,
    rate: Option<Rate>,
}

/// A rate limit: a token bucket that holds one token, as in Celery.
#[derive(Debug)]
struct Rate {
    text: String,
    every: Duration,
    next: Instant,
}

/// The reason why a limit cannot be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitError {
    /// The worker has no task of this name.
    UnknownTask,
    /// The text is not a valid rate.
    NoRate,
}

impl Tasks {
    /// Creates tasks of these names, each with this hard limit.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>, hard: Option<Duration>) -> Self {
        let limits = TimeLimits { soft: None, hard };
        let task = |name: &str| (name.to_owned(), Task { limits, rate: None });
        Self(Mutex::new(names.into_iter().map(task).collect()))
    }

    /// Lists the tasks with their rate limits, sorted by name.
    pub fn list(&self) -> Vec<(String, Option<String>)> {
        let rate = |task: &Task| task.rate.as_ref().map(|rate| rate.text.clone());
        self.state().iter().map(|(name, task)| (name.clone(), rate(task))).collect()
    }

    /// Returns the time limits of a task.
    pub fn time_limits(&self, name: &str) -> TimeLimits {
        self.state().get(name).map(|task| task.limits).unwrap_or_default()
    }

    /// Sets the time limits of a task, for runs that begin from now on.
    ///
    /// # Errors
    ///
    /// [`LimitError::UnknownTask`].
    pub fn limit_time(&self, name: &str, limits: TimeLimits) -> Result<(), LimitError> {
        self.state().get_mut(name).ok_or(LimitError::UnknownTask)?.limits = limits;
        Ok(())
    }

    /// Sets the rate limit of a task: `10/s`, `10/m`, `10/h`, a number per second, or `0` for no limit. Returns
    /// `true` if the task has a limit now.
    ///
    /// # Errors
    ///
    /// [`LimitError`].
    pub fn limit_rate(&self, name: &str, text: &str) -> Result<bool, LimitError> {
        let every = interval(text)?;
        let rate = every.map(|every| Rate { text: text.to_owned(), every, next: Instant::now() });
        let limited = rate.is_some();
        self.state().get_mut(name).ok_or(LimitError::UnknownTask)?.rate = rate;
        Ok(limited)
    }

    /// Returns the time to wait until a task may start by its rate limit, if one of the same name is `about_to_start`
    /// or not; `None` if the task may start now. Counts nothing: a message that is looked at may not be taken.
    pub fn wait(&self, name: &str, about_to_start: bool) -> Option<Duration> {
        let mut state = self.state();
        let rate = state.get_mut(name)?.rate.as_ref()?;
        let left = rate.next.saturating_duration_since(Instant::now());
        let wait = if about_to_start { left.max(rate.every) } else { left };
        (!wait.is_zero()).then_some(wait)
    }

    /// Counts a start of a task for its rate limit.
    pub fn started(&self, name: &str) {
        let mut state = self.state();
        let Some(rate) = state.get_mut(name).and_then(|task| task.rate.as_mut()) else { return };
        let now = Instant::now();
        // For a tiny rate, whose next start is beyond the clock's range, a year stands in.
        rate.next = now.checked_add(rate.every).unwrap_or(now + Duration::from_hours(24 * 365));
    }

    fn state(&self) -> MutexGuard<'_, BTreeMap<String, Task>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the time between two starts; `None` for no limit. Source: `rate` in `celery/utils/time.py`.
fn interval(text: &str) -> Result<Option<Duration>, LimitError> {
    let (count, unit) = text.split_once('/').unwrap_or((text, "s"));
    let unit = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(LimitError::NoRate),
    };
    let count: f64 = count.trim().parse().map_err(|_| LimitError::NoRate)?;
    if count == 0.0 {
        return Ok(None);
    }
    Duration::try_from_secs_f64(unit / count).map(Some).map_err(|_| LimitError::NoRate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_celery_reads_them() {
        let cases =
            [("10/m", Ok(Some(6.0))), ("4", Ok(Some(0.25))), ("2/h", Ok(Some(1800.0))), ("0", Ok(None))];
        for (text, seconds) in cases {
            let expected = seconds.map(|seconds: Option<f64>| seconds.map(Duration::from_secs_f64));
            assert_eq!(interval(text), expected, "{text}");
        }
        for wrong in ["x", "1/d", "-1", "nan", "", "1/"] {
            assert_eq!(interval(wrong), Err(LimitError::NoRate), "{wrong}");
        }
    }

    #[test]
    fn a_rate_lets_one_start_and_tells_the_next_how_long_to_wait() {
        let tasks = Tasks::new(["a"], None);
        assert_eq!(tasks.limit_rate("a", "1/h"), Ok(true));
        assert_eq!(tasks.wait("a", false), None);
        assert_eq!(tasks.wait("a", false), None, "a look costs nothing");
        assert!(tasks.wait("a", true).unwrap() > Duration::from_secs(3590));
        tasks.started("a");
        assert!(tasks.wait("a", false).unwrap() > Duration::from_secs(3590));
        assert_eq!(tasks.limit_rate("a", "0"), Ok(false));
        assert_eq!((tasks.wait("a", false), tasks.wait("a", true)), (None, None));
        assert_eq!(tasks.limit_rate("b", "1/s"), Err(LimitError::UnknownTask));
    }
}
