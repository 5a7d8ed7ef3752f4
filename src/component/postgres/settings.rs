//! The settings of the database.

use crate::base::env::Env;
use crate::component::Component;
use crate::component::postgres::{Postgres, PostgresConfig, by_hand};
use crate::component::registry::{Parts, Registration, Settings, SettingsContext};
use crate::domain::component::ComponentName;
use secrecy::ExposeSecret;
use std::sync::Arc;

pub(in crate::component) const REGISTRATION: Registration = Registration {
    name: ComponentName::POSTGRES,
    read: |env, context| read(env, context).map(|config| Arc::new(config) as _),
    by_hand: |read, facts| Some(by_hand::commands(read, facts)),
    variables: |_| Some("where the server is, and as whom: PGHOST, PGPORT, PGUSER and PGPASSWORD".to_owned()),
};

impl Settings for PostgresConfig {
    fn name(&self) -> ComponentName {
        ComponentName::POSTGRES
    }

    fn build(&self, parts: &Parts) -> Component {
        Postgres::new(self.clone(), parts.catalog_tables.clone()).into()
    }
}

fn read(env: &mut Env, context: &SettingsContext<'_>) -> Option<PostgresConfig> {
    let parts = ["POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_HOST"];
    let url = env.secret("DATABASE_URL");
    let configured = context.named || env.is_set("DATABASE_URL") || parts.iter().any(|name| env.is_set(name));
    let mut config = match &url {
        Some(url) => match PostgresConfig::from_url(url.expose_secret()) {
            Ok(config) => Some(config),
            Err(err) => {
                env.note("DATABASE_URL", err);
                None
            }
        },
        None => Some(PostgresConfig {
            host: env.or("POSTGRES_HOST", "localhost".to_owned()),
            port: env.of_kind("POSTGRES_PORT", "a port number", 5432),
            user: env.or("POSTGRES_USER", "postgres".to_owned()),
            password: env.secret("POSTGRES_PASSWORD"),
            database: env.or("POSTGRES_DB", "rna_db".to_owned()),
            ..PostgresConfig::default()
        }),
    };
    let (sslmode, sslrootcert) = (env.optional("POSTGRES_SSLMODE"), env.optional("POSTGRES_SSLROOTCERT"));
    let bin_dir = env.optional("BACKUP_PG_BIN_DIR");
    let jobs = env.of_kind("BACKUP_PG_JOBS", "a whole number", PostgresConfig::default().jobs);
    if jobs == 0 {
        env.note("BACKUP_PG_JOBS", "must be at least 1");
    }
    if let Some(config) = &mut config {
        config.jobs = jobs;
        config.sslmode = sslmode.unwrap_or(config.sslmode);
        config.sslrootcert = sslrootcert.or(config.sslrootcert.take());
        config.bin_dir = bin_dir;
        config.scratch = Some(context.root.to_owned());
    }
    config.filter(|_| configured)
}
