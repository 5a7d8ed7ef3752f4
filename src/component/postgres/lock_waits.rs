//! Locks that others hold and that our sessions wait for, told while they wait.

use crate::component::ComponentError;
use crate::component::postgres::{admin, config::PostgresConfig, connect::APPLICATION};
use crate::domain::progress::Meter;
use deadpool_postgres::ClientWrapper;
use std::time::Duration;

/// The pause before each look at the locks: most work is done before the first one.
const LOOK: Duration = Duration::from_secs(1);

/// The locks that our sessions in this database wait for, and their holders. Roles of little right are not told since when.
const WAITS: &str = "
    SELECT DISTINCT format('%s, held by pid %s (%s)',
             CASE WHEN l.relation IS NOT NULL THEN 'a lock on ' || l.relation::regclass::text ELSE 'a lock (' || l.locktype || ')' END,
             holder.pid,
             concat_ws(', ', coalesce(nullif(holder.application_name, ''), holder.usename, 'prepared transaction'),
                       'since ' || to_char(coalesce(holder.xact_start, holder.backend_start), 'YYYY-MM-DD HH24:MI:SS')))
      FROM pg_stat_activity waiter JOIN pg_locks l ON l.pid = waiter.pid AND NOT l.granted,
           unnest(pg_blocking_pids(waiter.pid)) blocker(pid)
           LEFT JOIN pg_stat_activity holder ON holder.pid = blocker.pid
     WHERE waiter.application_name = $1 AND waiter.datname = current_database() AND waiter.usename = current_user
       AND coalesce(holder.application_name, '') <> $1
     ORDER BY 1 LIMIT 3";

/// Does `work`, and shows on `meter` what its sessions in the database wait for.
pub async fn show_during<T>(config: &PostgresConfig, meter: &Meter, work: impl Future<Output = T>) -> T {
    let look = async {
        let mut session = None;
        loop {
            tokio::time::sleep(LOOK).await;
            // An error is left out here: the work itself fails with its cause.
            meter.waits_for(lock_waits(config, &mut session).await.unwrap_or_default());
        }
    };
    let done = tokio::select! {
        done = work => done,
        () = look => unreachable!("the look never ends by itself"),
    };
    meter.waits_for(String::new());
    done
}

async fn lock_waits(
    config: &PostgresConfig,
    session: &mut Option<ClientWrapper>,
) -> Result<String, ComponentError> {
    let client = if let Some(client) = session.take() {
        client
    } else {
        let client = admin::alone(config, &config.database).await?;
        let set = client.batch_execute("SET search_path = pg_catalog").await;
        set.map_err(|err| admin::fault("begin a session", err))?;
        client
    };
    let rows = client.query(WAITS, &[&APPLICATION]).await;
    let rows = rows.map_err(|err| admin::fault("look what is waited for", err))?;
    *session = Some(client);
    Ok(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("; "))
}
