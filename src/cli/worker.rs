//! `worker`.

use crate::app::Signals;
use crate::base::chain;
use crate::cli::{App, Exit, Failure};
use crate::config::Config;
use crate::observe::http::{self, Health};
use crate::preflight;
use jiff::Timestamp;
use std::time::Duration;
use tokio::net::TcpListener;

/// `worker`.
#[derive(Debug, clap::Args)]
pub(super) struct WorkerArgs {
    /// Send the events of tasks from the start, for exporters; Flower asks for them by itself
    /// (also BACKUP_TASK_EVENTS=True).
    #[arg(short = 'E', long)]
    task_events: bool,
}

pub(super) async fn run(mut config: Config, args: &WorkerArgs) -> Result<Exit, Failure> {
    config.worker.task_events |= args.task_events;
    let address = config.metrics_addr;
    let mut signals = Signals::listen();
    let app = App::assemble(config).await?;
    let worker = app.worker().map_err(|err| Failure::new(Exit::Usage, chain(&err)))?;
    let listener = TcpListener::bind(address).await.map_err(|err| {
        Failure::new(Exit::Usage, format!("listen on {address} (BACKUP_METRICS_ADDR): {err}"))
    })?;
    let health = Health::new(app.metrics.clone(), Timestamp::now().as_second());
    // Ends with the process: probes are answered to the last.
    let endpoint = tokio::spawn(http::serve(listener, health.clone()));
    // The recovery after a dead restore may take hours: the worker is alive meanwhile.
    let alive = async {
        loop {
            health.turned(Timestamp::now().as_second());
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    let work = async {
        let is_prepared = tokio::select! {
            () = app.prepare() => true,
            _ = signals.next() => false,
            () = alive => unreachable!("it goes on for ever"),
        };
        if is_prepared {
            Box::pin(worker.run(health.clone(), async || signals.next().await)).await;
            app.wait_for_background().await;
        } else {
            tracing::info!(
                "stopped before any task was taken; the next start goes on with what this one left"
            );
        }
    };
    tokio::select! {
        () = work => {}
        () = preflight::watch(&app) => unreachable!("it goes on for ever"),
        () = app.engine.keep_fresh() => unreachable!("it goes on for ever"),
        () = app.engine.keep_recovering() => unreachable!("it goes on for ever"),
    }
    endpoint.abort();
    Ok(Exit::Done)
}
