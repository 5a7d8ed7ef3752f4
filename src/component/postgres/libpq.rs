//! The environment of libpq's programs: the same server, role and password as our own connections.

use crate::component::ComponentError;
use crate::component::postgres::{config::PostgresConfig, connect, tls};
use crate::component::process::Program;

/// The one thing that has no variable: a dead network ends the program after two minutes.
pub const KEEPALIVE: &str = "--dbname=keepalives_idle=60 keepalives_interval=15 keepalives_count=4";

/// Gives a program the address and credentials of the database. Everything is in the environment, where
/// any name is taken as it is; in a connection string `=` and quotes would mean something. The password
/// too: a private file would be left on the disk by a killed worker, and both can be read by the same two
/// users, ours and root.
///
/// # Errors
///
/// [`ComponentError::Unusable`] when certificates are needed and cannot be had.
pub fn with_connection(program: Program, config: &PostgresConfig) -> Result<Program, ComponentError> {
    let mut program = program
        .args(["--no-password", KEEPALIVE])
        .env("LC_ALL", "C")
        .env("HOME", "/nonexistent") // ~/.pgpass and ~/.postgresql would make it log in otherwise than we
        .env("PGHOST", &config.host)
        .env("PGPORT", config.port.to_string())
        .env("PGUSER", &config.user)
        .env("PGDATABASE", &config.database)
        .env("PGAPPNAME", connect::APPLICATION)
        .env("PGSSLMODE", config.sslmode.as_str())
        .env("PGGSSENCMODE", "disable")
        .env("PGCONNECT_TIMEOUT", config.connect_timeout.as_secs().max(2).to_string());
    if let Some(roots) = tls::root_certificates(config)? {
        program = program.env("PGSSLROOTCERT", roots);
    }
    if let Some(password) = &config.password {
        program = program.secret("PGPASSWORD", password);
    }
    Ok(program)
}
