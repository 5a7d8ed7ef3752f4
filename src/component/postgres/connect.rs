//! Connections to the server, and what their errors mean.

use crate::component::ComponentError;
use crate::component::postgres::{
    config::{PostgresConfig, SslMode},
    tls,
};
use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime,
    tokio_postgres::{self, NoTls, config::SslMode as Tls, error::SqlState},
};
use secrecy::ExposeSecret;
use std::{
    error::Error,
    io,
    time::{Duration, Instant},
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The `application_name` of our sessions, as `pg_stat_activity` shows it.
pub const APPLICATION: &str = "rna-backup";

/// The most connections at once: one for the dump, one for queries beside it.
const CONNECTIONS: usize = 2;

/// A pool that has not connected yet.
///
/// # Errors
///
/// [`ComponentError::Unusable`] when certificates are needed and cannot be had.
pub fn pool(config: &PostgresConfig) -> Result<Pool, ComponentError> {
    pool_with(config, None)
}

/// The same, whose sessions begin with these options of the server's command line.
///
/// # Errors
///
/// As there.
pub fn pool_with(config: &PostgresConfig, options: Option<&str>) -> Result<Pool, ComponentError> {
    let mut client = tokio_postgres::Config::new();
    client
        .host(&config.host)
        .port(config.port)
        .user(&config.user)
        .dbname(&config.database)
        .application_name(APPLICATION)
        .connect_timeout(config.connect_timeout)
        .keepalives_idle(Duration::from_mins(1));
    if let Some(options) = options {
        client.options(options);
    }
    if let Some(password) = &config.password {
        client.password(password.expose_secret());
    }
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Verified };
    let manager = if config.host.starts_with('/') || config.sslmode == SslMode::Disable {
        Manager::from_config(client.ssl_mode(Tls::Disable).clone(), NoTls, recycling)
    } else {
        let mode = if config.sslmode == SslMode::Prefer { Tls::Prefer } else { Tls::Require };
        let roots = tls::root_certificates(config)?;
        let tls = MakeRustlsConnect::new(tls::client_config(config.sslmode, roots.as_deref())?);
        Manager::from_config(client.ssl_mode(mode).clone(), tls, recycling)
    };
    let limit = Some(config.connect_timeout);
    let pool = Pool::builder(manager)
        .max_size(CONNECTIONS)
        .runtime(Runtime::Tokio1)
        .wait_timeout(limit)
        .create_timeout(limit) // a server that accepts and then says nothing
        .recycle_timeout(limit)
        .build();
    Ok(pool.expect("a runtime is set, which is all that the timeouts need"))
}

/// Settings of a role or database, taken from every session of ours: another role to act as, since rights and owners are
/// those of the role that logs in, and limits of time, since a backup, a restore and a drill take as long as they take.
const NO_SETTINGS: &str = "
    SET ROLE NONE;
    SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings
     WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout',
                    'transaction_timeout')";

/// The time for which a refusal because of too many sessions is waited out: sessions of this process that have just ended may
/// still count.
const FULL_FOR: Duration = Duration::from_millis(500);

/// The pause between two tries.
const AGAIN: Duration = Duration::from_millis(10);

fn is_full(err: &tokio_postgres::Error) -> bool {
    err.code() == Some(&SqlState::TOO_MANY_CONNECTIONS)
}

/// A connection of the pool, as the role that logs in and without limits of time.
///
/// # Errors
///
/// Sorted as by [`sort`].
pub async fn connect(pool: &Pool, config: &PostgresConfig) -> Result<Object, ComponentError> {
    let what = format!("connect to PostgreSQL {config}");
    let deadline = Instant::now() + FULL_FOR;
    let connection = loop {
        match pool.get().await {
            Err(PoolError::Backend(err)) if is_full(&err) && Instant::now() < deadline => {
                tokio::time::sleep(AGAIN).await;
            }
            outcome => break outcome,
        }
    };
    let connection = connection.map_err(|err| match err {
        PoolError::Backend(err) => match err.code() {
            Some(&SqlState::INVALID_CATALOG_NAME) => ComponentError::Unusable {
                what: format!(
                    "{what}: the database does not exist: create it, or correct DATABASE_URL or POSTGRES_DB"
                ),
                source: err.into_source(),
            },
            _ => sort(what.clone(), err),
        },
        PoolError::Timeout(_) => {
            let source = format!("no answer within {:?}", config.connect_timeout);
            ComponentError::Unavailable { what: what.clone(), source: Some(source.into()) }
        }
        err => ComponentError::Unavailable { what: what.clone(), source: Some(err.into()) },
    })?;
    connection.batch_execute(NO_SETTINGS).await.map_err(|err| sort(what, err))?;
    Ok(connection)
}

/// Sorts an error of the driver by what the caller can do about it. `what` was tried.
///
/// The codes are those of [appendix A](https://www.postgresql.org/docs/current/errcodes-appendix.html).
pub fn sort(what: String, err: tokio_postgres::Error) -> ComponentError {
    let Some(code) = err.code().map(|code| code.code().to_owned()) else { return sort_local(what, err) };
    let message = err.as_db_error().map(|db| db.message().to_owned()).unwrap_or_default();
    let source = err.into_source();
    match &*code {
        "28P01" | "28000" => ComponentError::Denied { what, source },
        "42501" => ComponentError::Unusable {
            what: format!(
                "{what}: {message}: let the role of the backup read everything, with GRANT pg_read_all_data \
                 (or GRANT SELECT ON that table), and ALTER ROLE … BYPASSRLS where row security is in use"
            ),
            source,
        },
        // Undefined table: dropped since it was listed. Then lock, snapshot and query conflicts.
        "42P01" | "40001" | "40P01" | "55P03" => ComponentError::Unavailable { what, source },
        "53300" => ComponentError::Unavailable {
            what: format!(
                "{what}: the server, the database or the role has all its connections (ALTER ROLE … CONNECTION LIMIT, ALTER \
                 DATABASE … CONNECTION LIMIT, max_connections)"
            ),
            source,
        },
        // Connection exceptions, insufficient resources (53300: too many connections), operator
        // intervention (57P01 shutting down, 57P03 starting up, 57014 canceled), system errors.
        _ if ["08", "53", "57", "58"].contains(&&code[..2]) => ComponentError::Unavailable { what, source },
        _ => ComponentError::Unusable { what: format!("{what}: {message}"), source },
    }
}

/// Errors that no server sent.
fn sort_local(what: String, err: tokio_postgres::Error) -> ComponentError {
    // The driver keeps its kinds to itself; its words are all there is.
    let kind = err.to_string();
    let untrusted = chain(&err).any(|cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>)
    });
    let source = Some(err.into());
    match &*kind {
        "authentication error" | "invalid configuration" => ComponentError::Denied { what, source },
        "error performing TLS handshake" if untrusted => ComponentError::Unusable {
            what: format!(
                "{what}: the server's certificate is not trusted: see POSTGRES_SSLMODE and POSTGRES_SSLROOTCERT"
            ),
            source,
        },
        "error performing TLS handshake" => ComponentError::Unusable {
            what: format!("{what}: TLS is not possible: see POSTGRES_SSLMODE"),
            source,
        },
        _ => ComponentError::Unavailable { what, source },
    }
}

fn chain<'a>(err: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(err), |&err| err.source())
}
