//! `celery control`: the commands that change the state of the worker.

use super::super::repr;
use super::super::result::Exception;
use super::super::tasks::{LimitError, TimeLimits};
use super::arguments::{Arguments, nok, ok, signal, strings, truthy, type_error, value_error};
use super::panel::{Outcome, Panel};
use super::stamps;
use serde_json::{Value, json};
use std::time::Duration;

/// Maximum number of queues and of concurrent tasks that remote control can set, so that no sender fills the memory.
const MOST_QUEUES: usize = 256;
const MOST_TASKS: usize = 1024;

impl Panel {
    /// Runs a command that changes the worker; `None` if there is no such command.
    pub(super) fn operate(&self, method: &str, arguments: Arguments) -> Option<Outcome> {
        Some(match method {
            "revoke" => self.revoke(arguments),
            "terminate" => self.terminate(arguments),
            "revoke_by_stamped_headers" => self.revoke_stamped(arguments),
            "rate_limit" => self.limit_rate(arguments),
            "time_limit" => self.limit_time(arguments),
            "enable_events" => Ok(self.enable_events(true)),
            "disable_events" => Ok(self.enable_events(false)),
            "heartbeat" => {
                self.node.events.worker("worker-heartbeat", &self.node.requests, &self.node.about);
                Ok(Value::Null)
            }
            "add_consumer" => self.add_queue(arguments),
            "cancel_consumer" => self.cancel_queue(arguments),
            "pool_grow" => self.grow(arguments),
            "pool_shrink" => self.shrink(arguments),
            "autoscale" => Err(value_error("Autoscale not enabled")),
            "pool_restart" => Err(value_error("Pool restarts not enabled")),
            // Elections are held by Python's workers; this worker does not take part.
            "election" => Ok(Value::Null),
            _ => return None,
        })
    }

    fn revoke(&self, arguments: Arguments) -> Outcome {
        let [ids] = arguments.require(["task_id"])?;
        let ids = strings(ids)?;
        if arguments.flag("terminate") {
            return self.end(&ids, arguments.get("signal"));
        }
        self.node.revoke_all(&ids, None);
        tracing::info!(tasks = ids.len(), "tasks flagged as revoked");
        Ok(ok(format!("tasks {} flagged as revoked", set(&ids))))
    }

    fn terminate(&self, arguments: Arguments) -> Outcome {
        let [signal, ids] = arguments.require(["signal", "task_id"])?;
        self.end(&strings(ids)?, Some(signal))
    }

    fn end(&self, ids: &[&str], with: Option<&Value>) -> Outcome {
        let signal = signal(with)?;
        let ended = self.node.revoke_all(ids, Some(signal));
        tracing::info!(signal, tasks = ended.len(), "tasks terminated by remote");
        Ok(ok(if ended.is_empty() {
            "terminate: tasks unknown".to_owned()
        } else {
            format!("terminate: {}", ended.join(", "))
        }))
    }

    fn revoke_stamped(&self, arguments: Arguments) -> Outcome {
        let [headers] = arguments.require(["headers"])?;
        let signal = signal(arguments.get("signal"))?;
        let headers = stamps::headers(headers)?;
        let terminate = arguments.flag("terminate");
        let ended = self.node.revoke_stamped(&stamps::pairs(&headers), terminate.then_some(signal));
        tracing::info!(stamps = headers.len(), ended = ended.len(), "stamped tasks revoked by remote");
        let shown = repr::value(&Value::Object(headers.clone()));
        Ok(ok(match (terminate, ended.is_empty()) {
            (false, _) => format!("headers {shown} flagged as revoked, but not terminated"),
            (true, true) => format!("headers {shown} were not terminated"),
            (true, false) => format!("headers {} revoked", stamps::grouped(&ended)),
        }))
    }

    fn limit_rate(&self, arguments: Arguments) -> Outcome {
        let [_, rate] = arguments.require(["task_name", "rate_limit"])?;
        let task = arguments.name("task_name")?;
        let text = match rate {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let limited = truthy(rate);
        match self.node.tasks.limit_rate(task, if limited { &text } else { "0" }) {
            Ok(_) => {
                self.node.changed.notify_one();
                let state = if limited { "new rate limit set" } else { "rate limit disabled" };
                tracing::info!(task, rate = text, "{state} by remote");
                Ok(ok(format!("{state} successfully")))
            }
            Err(LimitError::UnknownTask) => Ok(nok("unknown task")),
            Err(LimitError::NoRate) => no_rate(&text),
        }
    }

    fn limit_time(&self, arguments: Arguments) -> Outcome {
        let limit = |name| match arguments.get(name) {
            None => Ok(None),
            Some(value) => {
                let seconds = value.as_f64().ok_or_else(|| type_error(format!("{name} is not a number")))?;
                // A limit of zero or less, or one too large for a `Duration`, counts as no limit.
                Ok(Duration::try_from_secs_f64(seconds).ok().filter(|limit| !limit.is_zero()))
            }
        };
        let task = arguments.get("task_name").and_then(Value::as_str).unwrap_or_default();
        let limits = TimeLimits { soft: limit("soft")?, hard: limit("hard")? };
        if self.node.tasks.limit_time(task, limits).is_err() {
            return Ok(nok("unknown task"));
        }
        self.node.changed.notify_one();
        tracing::info!(task, ?limits, "time limits set by remote");
        Ok(ok("time limits set successfully"))
    }

    fn enable_events(&self, on: bool) -> Value {
        let already = if self.node.events.enable(on) { "" } else { "already " };
        ok(format!("task events {already}{}", if on { "enabled" } else { "disabled" }))
    }

    /// Adds a queue under its own name. A sender that uses a named exchange must bind the queue to that exchange.
    fn add_queue(&self, arguments: Arguments) -> Outcome {
        let queue = arguments.name("queue")?;
        let mut full = false;
        self.node.queues.send_if_modified(|queues| {
            let new = !queues.iter().any(|known| known == queue);
            full = new && queues.len() >= MOST_QUEUES;
            if new && !full {
                queues.push(queue.to_owned());
            }
            new && !full
        });
        if full {
            return Err(value_error(format!("no more than {MOST_QUEUES} queues")));
        }
        tracing::info!(queue, "queue added by remote");
        Ok(ok(format!("add consumer {queue}")))
    }

    fn cancel_queue(&self, arguments: Arguments) -> Outcome {
        let queue = arguments.name("queue")?;
        self.node.queues.send_if_modified(|queues| {
            let before = queues.len();
            queues.retain(|known| known != queue);
            queues.len() < before
        });
        tracing::info!(queue, "queue cancelled by remote");
        Ok(ok(format!("no longer consuming from {queue}")))
    }

    fn grow(&self, arguments: Arguments) -> Outcome {
        let n = arguments.count("n")?;
        self.resize(|now| now.checked_add(n).filter(|after| *after <= MOST_TASKS))
            .then(|| ok("pool will grow"))
            .ok_or_else(|| value_error(format!("the pool cannot grow beyond {MOST_TASKS}")))
    }

    fn shrink(&self, arguments: Arguments) -> Outcome {
        let n = arguments.count("n")?;
        self.resize(|now| now.checked_sub(n).filter(|after| *after >= 1))
            .then(|| ok("pool will shrink"))
            .ok_or_else(|| value_error("the pool cannot shrink below 1"))
    }

    /// Changes the number of concurrent tasks, unless `size` returns `None`. Returns `true` if the number was
    /// changed.
    fn resize(&self, size: impl Fn(usize) -> Option<usize>) -> bool {
        self.node.concurrency.send_if_modified(|concurrency| {
            let Some(after) = size(*concurrency) else { return false };
            tracing::info!(after, "tasks at once changed by remote");
            *concurrency = after;
            true
        })
    }
}

/// Builds Python's reply to an invalid rate: `rate` in `celery/utils/time.py`.
fn no_rate(text: &str) -> Outcome {
    let (count, unit) = text.split_once('/').unwrap_or((text, ""));
    if !["", "s", "m", "h"].contains(&unit) {
        return Err(Exception::builtin("KeyError", unit));
    }
    let why = value_error(format!("could not convert string to float: {}", repr::value(&json!(count))));
    Ok(nok(format!("Invalid rate limit string: {why}")))
}

/// Formats strings as Python's `repr` does a set.
pub(super) fn set(strings: &[&str]) -> String {
    if strings.is_empty() {
        return "set()".to_owned();
    }
    let shown: Vec<_> = strings.iter().map(|text| repr::value(&json!(text))).collect();
    format!("{{{}}}", shown.join(", "))
}
