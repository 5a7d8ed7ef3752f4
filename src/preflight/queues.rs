//! The queues at the broker: what waits in them, who takes from them, and what went astray.

use crate::base::chain;
use crate::celery::CeleryError;
use crate::celery::client::Client;
use crate::celery::keys::Keys;
use crate::celery::message::{Envelope, Limits, Peeked};
use crate::celery::strays;
use crate::domain::command::Command;
use crate::preflight::{Check, in_time};
use crate::worker::{Options, option_setting};

/// The queue of Celery for tasks without a route.
const DEFAULT_QUEUE: &str = "celery";

/// The line that sends the app's orders to us.
const ROUTE: &str = "CELERY_TASK_ROUTES = {\"api.backup.*\": {\"queue\": \"backups\"}}";

/// The oldest messages of the default queue that are looked at, those that are served next.
const LOOKED_AT: isize = 1000;

/// Messages that are read at once, each of up to megabytes.
const AT_ONCE: isize = 10;

/// Rounds of a scan over all keys: who shares a broker with millions of others is not worth more.
const ROUNDS: usize = 1000;

/// Looks at the queues, reading only.
pub(super) async fn check_queues(options: &Options) -> Vec<Check> {
    let check = async {
        let broker = Broker { client: Client::new(options.broker.clone())?, keys: options.keys() };
        let (ours, others) = (broker.ours(options).await?, broker.others(options).await);
        let is_ours = options.queues.iter().any(|queue| queue == DEFAULT_QUEUE);
        let stray = if is_ours { None } else { Some(broker.routing(options).await) };
        Ok::<_, CeleryError>([ours, others].into_iter().chain(stray).collect())
    };
    let fix = "let the broker's user read the queues (LLEN)";
    match in_time(check).await {
        Ok(Ok(checks)) => checks,
        Ok(Err(err)) => vec![Check::new("queues", Err(chain(&err)), fix)],
        Err(late) => vec![Check::new("queues", Err(late), "see whether Redis is busy")],
    }
}

struct Broker {
    client: Client,
    keys: Keys,
}

impl Broker {
    /// Reports the number of messages that wait in each of our queues, and whether a worker takes them.
    async fn ours(&self, options: &Options) -> Result<Check, CeleryError> {
        let (mut waiting, mut words) = (0, Vec::new());
        for queue in &options.queues {
            let mut length = 0;
            for (_, list) in self.keys.lists(std::slice::from_ref(queue)) {
                length += self.length(&list).await?;
            }
            waiting += length;
            words.push(format!("{length} in {queue}"));
        }
        let lengths = words.join(", ");
        let found = match self.workers().await {
            // The right to scan is not needed for anything else.
            Err(err) => {
                Ok(format!("waiting: {lengths}; whether a worker is alive cannot be told: {}", chain(&err)))
            }
            Ok(0) if waiting > 0 => Err(format!("waiting: {lengths}, and no rna-backup worker is alive")),
            Ok(0) => Ok(format!("waiting: {lengths}; no rna-backup worker is alive")),
            Ok(1) => Ok(format!("waiting: {lengths}; one rna-backup worker is alive")),
            Ok(several) => Ok(format!("waiting: {lengths}; {several} rna-backup workers are alive")),
        };
        Ok(Check::new("queues", found, "start one: rna-backup worker"))
    }

    /// Looks for lists beside those of our queues that hold backup tasks, and names the settings that would read them.
    async fn others(&self, options: &Options) -> Check {
        let mut fixes = Vec::new();
        let found = match strays::find(&self.client, &self.keys, &options.queues, Command::is_ours).await {
            // The rights to scan and to look into lists are not needed for anything else.
            Err(err) => {
                Ok(format!("whether backup tasks wait in other lists cannot be told: {}", chain(&err)))
            }
            Ok(found) if found.is_empty() => Ok("no backup task waits in another list".to_owned()),
            Ok(found) => {
                fixes.extend(found.iter().map(|stray| option_setting(&stray.option)));
                fixes.dedup();
                let lists: Vec<_> = found.iter().map(ToString::to_string).collect();
                Err(format!(
                    "backup tasks wait in lists that this worker would not read: {}",
                    lists.join(", ")
                ))
            }
        };
        Check::new("other lists", found, &format!("unless another worker reads them: {}", fixes.join("; ")))
    }

    async fn length(&self, list: &str) -> Result<isize, CeleryError> {
        self.client.command("ask for the length of a queue", redis::cmd("LLEN").arg(list)).await
    }

    /// Returns the number of our workers with a record that is not over.
    async fn workers(&self) -> Result<usize, CeleryError> {
        let pattern = self.keys.worker("*");
        let (mut found, mut cursor) = (0, 0_u64);
        for _ in 0..ROUNDS {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1000);
            let (next, keys): (u64, Vec<Vec<u8>>) = self.client.command("look for workers", &scan).await?;
            found += keys.len();
            if next == 0 {
                break;
            }
            cursor = next;
        }
        Ok(found)
    }

    /// Tests whether the app sends its orders to a queue that no worker of ours reads.
    async fn routing(&self, options: &Options) -> Check {
        let queue = options.queues.first().map_or("backups", String::as_str);
        let fix = format!(
            "route them, in the app's settings: {}; those that are there already are to be sent again",
            ROUTE.replace("backups", queue)
        );
        let found = match self.stray().await {
            // The right to read other programs' queues is not needed for anything else.
            Err(err) => {
                Ok(format!("whether backup tasks wait in {DEFAULT_QUEUE} cannot be told: {}", chain(&err)))
            }
            Ok(0) => Ok(format!("no backup task waits in the app's own queue {DEFAULT_QUEUE}")),
            Ok(stray) => Err(format!(
                "{stray} backup task(s) wait in {DEFAULT_QUEUE}, where no rna-backup worker looks"
            )),
        };
        Check::new("routing", found, &fix)
    }

    /// Returns the number of backup orders among the next messages of the default queue.
    async fn stray(&self) -> Result<usize, CeleryError> {
        let mut stray = 0;
        for (_, list) in self.keys.lists(&[DEFAULT_QUEUE.to_owned()]) {
            let looked_at = LOOKED_AT.min(self.length(&list).await?);
            for end in (1..=looked_at).step_by(AT_ONCE.unsigned_abs()) {
                let mut range = redis::cmd("LRANGE");
                // The oldest are at the right.
                range.arg(&list).arg(1 - end - AT_ONCE).arg(-end);
                let messages: Vec<Vec<u8>> = self.client.command("look at the default queue", &range).await?;
                stray += messages.iter().filter(|message| is_ours(message)).count();
            }
        }
        Ok(stray)
    }
}

fn is_ours(message: &[u8]) -> bool {
    matches!(Envelope::peek(message, &Limits::default()), Peeked::Task(look) if Command::is_ours(&look.task))
}
