//! A Celery worker with one task: `tasks.add`, from the queue `celery`.
//!
//! ```sh
//! cargo run --example worker -- redis://localhost:6379/0
//! python -c 'from celery import Celery; app = Celery(broker="redis://", backend="redis://"); \
//!     print(app.send_task("tasks.add", [2, 3]).get(timeout=10))'
//! ```

use celery_redis::canvas::Canvas;
use celery_redis::client::{Client, ConnectOptions};
use celery_redis::consumer::{Consumer, Verdict};
use celery_redis::keys::Keys;
use celery_redis::lease::{Instance, Leases};
use celery_redis::message::Message;
use celery_redis::result::{Backend, Exception, State, TaskResult};
use celery_redis::sweep::LeaseKeeper;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "redis://localhost:6379/0".to_owned());
    let client = Client::new(ConnectOptions::parse(&url)?)?;
    let keys = Keys::default();
    let leases = Leases::new(client.clone(), keys.clone(), Instance::here("example@localhost"));
    let results = Backend::new(client.clone(), "", Duration::from_hours(24));
    let canvas = Canvas::new(client, keys, results.clone());
    let stop = CancellationToken::new();
    // Keeps the leases of this worker, and requeues the messages of workers that died.
    tokio::spawn(LeaseKeeper::new(leases.clone(), Duration::from_hours(1)).run(stop.clone()));

    let consumer = Consumer::new(leases, &["celery".to_owned()])?;
    let known = |look: &_| Verdict::take_if(look, |task| task == "tasks.add");
    while let Some(delivery) = consumer.next(&known, &stop).await? {
        match &delivery.content {
            Ok(message) => {
                let mut result = add(message).of(message);
                // Callbacks and the next chain step are sent before the result is stored, so that a crash loses none of them.
                if result.state == State::Success {
                    result.children = canvas.succeed(message, &result.result, &stop).await?;
                }
                results.store(&result, &stop).await?;
                canvas.end(message, &result, &stop).await?;
            }
            Err(refusal) => {
                results.store(&TaskResult::failure(&refusal.id, &refusal.exception, None), &stop).await?;
            }
        }
        delivery.lease.ack(&stop).await?;
    }
    Ok(())
}

/// The task: the sum of its arguments, which may be a list of numbers.
fn add(message: &Message) -> TaskResult {
    let flat =
        message.args.iter().flat_map(|arg| arg.as_array().cloned().unwrap_or_else(|| vec![arg.clone()]));
    let Some(sum) = flat.map(|number| number.as_i64()).sum::<Option<i64>>() else {
        let error = Exception::builtin("TypeError", "tasks.add takes integers");
        return TaskResult::failure(&message.id, &error, None);
    };
    TaskResult::new(&message.id, State::Success, sum.into())
}
