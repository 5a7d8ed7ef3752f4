//! `celery inspect`: the commands that read the state of the worker.

use super::super::events::epoch;
use super::super::publish::iso;
use super::super::requests::{Phase, TaskInHand};
use super::super::result::Exception;
use super::arguments::{Arguments, ok, strings};
use super::panel::{Outcome, Panel};
use super::{mingle, usage};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// The priority of Celery's timers, whatever the priority of the task.
const TIMER_PRIORITY: u8 = 6;

impl Panel {
    /// Runs a command that changes no state of the worker; `None` if there is no such command.
    pub(super) fn inspect(&self, method: &str, arguments: Arguments) -> Option<Outcome> {
        let value = match method {
            "ping" => ok("pong"),
            "active" | "dump_active" => self.active(arguments.flag("safe")),
            "reserved" | "dump_reserved" => self.reserved(),
            "scheduled" | "dump_schedule" => self.scheduled(),
            "revoked" | "dump_revoked" => json!(self.node.revoked.list()),
            "registered" | "dump_tasks" => return Some(self.registered(arguments)),
            "active_queues" => self.node.queues.borrow().iter().map(|queue| described(queue)).collect(),
            "conf" | "dump_conf" => Value::Object(self.node.about.conf.clone()),
            "report" => ok(self.report()),
            "query_task" => return Some(self.query(arguments)),
            "clock" => json!({"clock": self.node.clock.now()}),
            "hello" => return Some(mingle::answer_hello(&self.node, arguments)),
            "stats" => self.stats(),
            "memsample" => json!(usage::memory()),
            "memdump" => {
                json!(format!("- rss (end): {}.\n", usage::memory().as_deref().unwrap_or("not known")))
            }
            "objgraph" => {
                return Some(Err(Exception::builtin("ImportError", "Requires the objgraph library")));
            }
            _ => return None,
        };
        Some(Ok(value))
    }

    fn active(&self, safe: bool) -> Value {
        let requests = self.node.requests.list();
        let active = requests.iter().filter(|held| matches!(held.phase(), Phase::Active(_)));
        active.map(|held| self.shown(held, safe)).collect()
    }

    fn reserved(&self) -> Value {
        let requests = self.node.requests.list();
        let reserved = requests.iter().filter(|held| held.phase() == Phase::Reserved);
        reserved.map(|held| self.shown(held, false)).collect()
    }

    fn scheduled(&self) -> Value {
        let requests = self.node.requests.list();
        let scheduled = requests.iter().filter(|held| held.phase() == Phase::Scheduled);
        let shown = |held| {
            let request = self.shown(held, false);
            json!({"eta": held.message.eta.map(iso), "priority": TIMER_PRIORITY, "request": request})
        };
        scheduled.map(|held| shown(held)).collect()
    }

    /// Formats a task as `Request.info` in `celery/worker/request.py` does.
    fn shown(&self, held: &TaskInHand, safe: bool) -> Value {
        let message = &held.message;
        let (args, kwargs) = if safe {
            (json!(message.argsrepr), json!(message.kwargsrepr))
        } else {
            (json!(message.args), json!(message.kwargs))
        };
        let since = match held.phase() {
            Phase::Active(since) => Some(epoch(since)),
            _ => None,
        };
        json!({
            "id": message.id,
            "name": message.task,
            "args": args,
            "kwargs": kwargs,
            "type": message.task,
            "hostname": self.node.name,
            "time_start": since,
            // A message is acknowledged when its task ends, and then the task is no longer in this list.
            "acknowledged": false,
            "delivery_info": {
                "exchange": message.exchange,
                "routing_key": message.routing_key,
                "priority": message.priority,
                "redelivered": message.redelivered,
            },
            "worker_pid": since.map(|_| std::process::id()),
        })
    }

    fn query(&self, arguments: Arguments) -> Outcome {
        let [ids] = arguments.require(["ids"])?;
        let ids: HashSet<_> = strings(ids)?.into_iter().collect();
        let mut found = Map::new();
        for held in self.node.requests.list() {
            if ids.contains(&*held.message.id) {
                let state = match held.phase() {
                    Phase::Active(_) => "active",
                    Phase::Reserved => "reserved",
                    Phase::Scheduled => "scheduled",
                };
                found.insert(held.message.id.clone(), json!([state, self.shown(&held, false)]));
            }
        }
        Ok(Value::Object(found))
    }

    /// Lists the tasks by name, each with those requested attributes that the task has.
    fn registered(&self, arguments: Arguments) -> Outcome {
        let asked = arguments.get("taskinfoitems").map(strings).transpose()?.unwrap_or_default();
        let items = if asked.is_empty() { vec!["exchange", "routing_key", "rate_limit"] } else { asked };
        let builtins = arguments.flag("builtins");
        let tasks = self.node.tasks.list();
        let shown = tasks.into_iter().filter(|(name, _)| builtins || !name.starts_with("celery."));
        let line = |(name, rate): (String, Option<String>)| {
            let info: Vec<_> =
                items.iter().filter_map(|item| self.attribute(item, &name, rate.as_ref())).collect();
            if info.is_empty() { name } else { format!("{name} [{}]", info.join(" ")) }
        };
        Ok(shown.map(line).collect())
    }

    /// Formats one attribute of a task as `name=value`; `None` if this program's tasks do not have the attribute.
    fn attribute(&self, item: &str, task: &str, rate: Option<&String>) -> Option<String> {
        let limits = self.node.tasks.time_limits(task);
        let seconds = |limit: std::time::Duration| limit.as_secs_f64().to_string();
        let value = match item {
            "name" => task.to_owned(),
            "rate_limit" => rate?.clone(),
            "time_limit" => seconds(limits.hard?),
            "soft_time_limit" => seconds(limits.soft?),
            "acks_late" => "True".to_owned(),
            _ => return None,
        };
        Some(format!("{item}={value}"))
    }
}

/// Formats a queue as kombu's `Queue.as_dict` does, with all fields: readers such as Flower fail if one is missing.
fn described(queue: &str) -> Value {
    json!({
        "name": queue,
        "exchange": {
            "name": queue, "type": "direct", "arguments": null, "durable": true, "passive": false,
            "auto_delete": false, "delivery_mode": null, "no_declare": false,
        },
        "routing_key": queue,
        "queue_arguments": null,
        "binding_arguments": null,
        "consumer_arguments": null,
        "durable": true,
        "exclusive": false,
        "auto_delete": false,
        "no_ack": false,
        "alias": null,
        "bindings": [],
        "no_declare": null,
        "expires": null,
        "message_ttl": null,
        "max_length": null,
        "max_length_bytes": null,
        "max_priority": null,
    })
}
