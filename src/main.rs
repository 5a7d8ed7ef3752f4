//! The program: arguments, then settings, then logs, then the work, then the exit code.

use clap::Parser;
use rna_backup::{
    base::env::Env,
    cli::{self, Cli, Exit},
    config::Config,
    core_dumps,
    observe::telemetry,
    store,
};
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Gives the memory of a backup back to the system soon after it has ended, so that an idle worker
/// stays small; set up in `.cargo/config.toml`.
///
/// Not in builds for debugging: `faketime` and other tools that put themselves before the system's
/// functions wait for ever on an allocator that asks for the time.
#[cfg(all(feature = "jemalloc", not(debug_assertions)))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(script) = cli.script() {
        return if io::stdout().write_all(&script).is_ok() { Exit::Done.into() } else { Exit::Failed.into() };
    }
    // The one TLS provider of every client in this process; an error means that it is set already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let env = Env::from_os(std::env::vars_os());
    let (config, warnings) = match Config::from_env(env, store::KINDS, cli.needs_broker()) {
        Ok(read) => read,
        Err(err) => {
            let _ = writeln!(io::stderr(), "error: {err}");
            return Exit::Usage.into();
        }
    };
    telemetry::init(config.log_format, config.log_filter.as_deref().unwrap_or(cli.log_filter()));
    if let Err(err) = core_dumps::forbid() {
        tracing::warn!(error = %err, "cannot forbid core dumps, which hold secrets");
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(cli::run(cli, config)).into(),
        Err(err) => {
            let _ = writeln!(io::stderr(), "error: start the runtime: {err}");
            Exit::Failed.into()
        }
    }
}
