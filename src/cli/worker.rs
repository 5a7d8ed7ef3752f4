//! `worker`.

use crate::app::signalled;
use crate::base::chain;
use crate::cli::{App, Exit, Failure};
use crate::config::Config;
use crate::observe::http::{self, Health};
use jiff::Timestamp;
use tokio::net::TcpListener;

pub(super) async fn run(config: Config) -> Result<Exit, Failure> {
    let address = config.metrics_addr;
    let app = App::build(config)?;
    let worker = app.worker().map_err(|err| Failure::new(Exit::Usage, chain(&err)))?;
    let listener = TcpListener::bind(address).await.map_err(|err| {
        Failure::new(Exit::Usage, format!("listen on {address} (BACKUP_METRICS_ADDR): {err}"))
    })?;
    let health = Health::new(app.metrics.clone(), Timestamp::now().as_second());
    // Ends with the process: probes are answered to the last.
    let endpoint = tokio::spawn(http::serve(listener, health.clone()));
    app.prepare().await;
    worker.run(health, signalled).await;
    endpoint.abort();
    Ok(Exit::Done)
}
