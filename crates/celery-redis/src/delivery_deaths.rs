//! Deaths of workers over one message.
//!
//! A worker that begins a task adds its run's id to a set of the message, and the scripts that settle the message
//! remove the id again. So an id that stays in the set although its worker is dead means a death over this task. An
//! end of the task, a clean shutdown, a wait for a time or a component, and a lost connection of a living worker do
//! not count as deaths. A set counts a worker once however often a command is repeated, and the message itself
//! stays as it was sent.

use super::CeleryError;
use super::instance::Record;
use super::lease::Lease;
use redis::RedisResult;
use tokio_util::sync::CancellationToken;

/// Lifetime in seconds of a set whose message was removed by others, say by `celery purge`: longer than five runs.
const LIFE: u32 = 30 * 86_400;

impl Lease {
    /// Records that this worker begins the task; tries once. A death over the task counts from here on.
    ///
    /// # Errors
    ///
    /// As [`Client::once`](super::client::Client::once). After an error a death may not be counted.
    pub async fn begin(&self) -> Result<(), CeleryError> {
        let leases = self.leases();
        let begun = leases.keys().begun(self.tag());
        let mut note = redis::pipe();
        note.sadd(&begun, leases.instance().id()).ignore().expire(&begun, LIFE.into()).ignore();
        let write = |mut link| async move { note.exec_async(&mut link).await };
        leases.client().once("note that a task begins", write).await
    }

    /// Counts the workers that died over the task. Repeats until Redis answers or `stop` fires.
    ///
    /// # Errors
    ///
    /// As [`Client::retrying`](super::client::Client::retrying).
    pub async fn deaths(&self, stop: &CancellationToken) -> Result<usize, CeleryError> {
        let leases = self.leases();
        let (begun, own) = (leases.keys().begun(self.tag()), leases.instance());
        let read = |mut link| {
            let begun = begun.clone();
            async move {
                let workers: Vec<String> = redis::cmd("SMEMBERS").arg(begun).query_async(&mut link).await?;
                let others: Vec<_> = workers.into_iter().filter(|worker| worker != own.id()).collect();
                if others.is_empty() {
                    return Ok(Vec::new());
                }
                let mut records = redis::cmd("MGET");
                for worker in &others {
                    records.arg(leases.keys().worker(worker));
                }
                let records: RedisResult<Vec<Option<String>>> = records.query_async(&mut link).await;
                records
            }
        };
        let records = leases.client().retrying("read deaths over a task", stop, read).await?;
        let is_dead = |record: &Option<String>| {
            let record = record.as_ref().map(|text| serde_json::from_str::<Record>(text));
            // A worker whose record cannot be parsed may be alive.
            record.is_none_or(|record| record.is_ok_and(|record| own.sees_the_end_of(&record)))
        };
        Ok(records.iter().filter(|record| is_dead(record)).count())
    }
}
