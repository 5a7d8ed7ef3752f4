//! `pin`, `unpin` and `accept`.

use crate::app::App;
use crate::catalog::Entry;
use crate::cli::backup::stop_on_signal;
use crate::cli::{Exit, Failure, JsonFlag, open, output, settled};
use crate::config::Config;
use crate::domain::component::ComponentName;
use crate::engine::{EngineError, Run};
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct OneBackupArgs {
    /// A backup id, its file name, its path inside BACKUP_ROOT, or `latest`.
    backup: String,
    /// Of which component: postgres, weaviate or media. Without it, `latest` is that of any.
    #[arg(long)]
    component: Option<ComponentName>,
    /// Wait for a component that another process works on, instead of ending with status 5.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    json: JsonFlag,
}

pub(super) async fn run(config: Config, args: OneBackupArgs, pinned: bool) -> Result<Exit, Failure> {
    let (app, run) = begin(config, &args).await?;
    let work = app.engine.pin(&args.backup, args.component, pinned, &run);
    let entry = settled(&app, unless_stopped(&run, Box::pin(work))).await?;
    let said = if pinned { "pinned" } else { "no longer pinned" };
    Ok(show(&entry, args.json, said))
}

pub(super) async fn accept(config: Config, args: OneBackupArgs) -> Result<Exit, Failure> {
    let (app, run) = begin(config, &args).await?;
    let work = app.engine.accept(&args.backup, args.component, &run);
    let entry = settled(&app, unless_stopped(&run, Box::pin(work))).await?;
    let flagged = entry.manifest().is_some_and(|manifest| manifest.anomaly.is_some());
    Ok(show(&entry, args.json, if flagged { "accepted" } else { "nothing to accept, it is not flagged" }))
}

async fn begin(config: Config, args: &OneBackupArgs) -> Result<(App, Run), Failure> {
    Ok((open(config).await?, Run { cancel: stop_on_signal(), wait: args.wait, ..Run::default() }))
}

/// A manifest is written in one step, so that it may be stopped anywhere.
async fn unless_stopped<T>(
    run: &Run,
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    run.cancel.run_until_cancelled(work).await.unwrap_or(Err(EngineError::Cancelled))
}

fn show(entry: &Entry, flag: JsonFlag, said: &str) -> Exit {
    if flag.json {
        return output::json(&entry.listed());
    }
    output::print(format_args!("{}: {said}", entry.backup_id))
}
