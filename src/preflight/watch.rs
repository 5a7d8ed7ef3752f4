//! The watch of a worker over its dependencies, at its start and every minute: faults are found before a backup fails
//! over them at night, and logged until they are mended.

use crate::app::App;
use crate::preflight::{Check, destinations, redis, server_folder, source};
use crate::store::Destination;
use futures_util::future::join_all;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};

const EVERY: Duration = Duration::from_mins(1);

/// The whole catalogue is read in one look of so many: it changes behind our back, by other workers, by commands,
/// by a disk that goes away.
const READ_EVERY: u64 = 5;

/// Looks at everything again and again until the future is dropped. A dependency that cannot be used is logged each
/// time, one that is well again once. `/readyz` and the metrics of destinations show the findings.
pub async fn watch(app: &App) {
    let mut faulty = BTreeSet::new();
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0_u64.. {
        tick.tick().await;
        let reading = round > 0 && round % READ_EVERY == 0;
        let (stores, others) = tokio::join!(stores(app, reading), others(app));
        let checks: Vec<_> = stores.into_iter().chain(others).collect();
        tell(&checks, &mut faulty);
    }
}

/// Every destination; `reading`: with its catalogue.
async fn stores(app: &App, reading: bool) -> Vec<Check> {
    let engine = &app.engine;
    let closed =
        if reading { engine.read_destinations(true).await } else { engine.look_at_destinations().await };
    let check = |destination: &Arc<dyn Destination>| {
        let closed = closed.iter().find(|closed| closed.destination == destination.kind().name);
        let found = closed.map_or(Ok(String::new()), |closed| Err(destination.explain(&closed.source)));
        destinations::check(destination, found)
    };
    app.config.destinations.iter().map(check).collect()
}

/// Servers and folders that backups are made from, and Redis.
async fn others(app: &App) -> Vec<Check> {
    let (components, worker) = (&app.engine.components, &app.config.worker);
    let looks = components.iter().map(|component| source(component, component.source.ping()));
    let broker = async {
        // The worker knows by itself whether the broker answers; a look finds the reason.
        if app.metrics.is_broker_connected() {
            return Check::new("broker", Ok(String::new()), "");
        }
        redis("broker", &worker.broker, "REDIS_URL (or CELERY_BROKER_URL)", false).await
    };
    let backend = async {
        if worker.backend == worker.broker {
            return None;
        }
        Some(redis("result backend", &worker.backend, "CELERY_RESULT_BACKEND", false).await)
    };
    let (mut checks, broker, backend) = tokio::join!(join_all(looks), broker, backend);
    checks.push(broker);
    checks.extend(backend.into_iter().chain(components.iter().filter_map(server_folder)));
    checks
}

/// Logs dependencies that cannot be used, and those that were `faulty` and are not any more.
fn tell(checks: &[Check], faulty: &mut BTreeSet<String>) {
    for Check { name, ok, detail, fix } in checks {
        if !ok {
            tracing::warn!("{name} cannot be used: {detail}: {fix}");
            faulty.insert(name.clone());
        } else if faulty.remove(name) {
            tracing::info!("{name} can be used again");
        }
    }
}
