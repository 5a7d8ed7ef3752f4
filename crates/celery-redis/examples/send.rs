//! Sends `tasks.add(2, 3)` to the queue `celery` and prints the result.
//!
//! ```sh
//! cargo run --example send -- redis://localhost:6379/0
//! ```

#![allow(clippy::print_stdout, reason = "the result is what people see")]

use celery_redis::client::{Client, ConnectOptions};
use celery_redis::keys::Keys;
use celery_redis::publish::{Outgoing, publish};
use celery_redis::result::{Backend, State};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "redis://localhost:6379/0".to_owned());
    let client = Client::new(ConnectOptions::parse(&url)?)?;
    let results = Backend::new(client.clone(), "", Duration::from_hours(24));

    let task = Outgoing::new("tasks.add", "celery").args(vec![2.into(), 3.into()]);
    publish(&client, &Keys::default(), std::slice::from_ref(&task), &CancellationToken::new()).await?;
    loop {
        if let Some(stored) = results.state(task.id()).await? {
            match State::parse(&stored.status) {
                Some(State::Success) => {
                    println!("{}", stored.result);
                    return Ok(());
                }
                Some(state) if state.is_final() => {
                    return Err(format!("the task ended as {}: {}", stored.status, stored.result).into());
                }
                _ => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
