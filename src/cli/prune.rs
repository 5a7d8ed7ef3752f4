//! `prune`.

use crate::cli::{Exit, Failure, JsonFlag, open, output, settled};
use crate::config::Config;
use crate::domain::component::ComponentName;
use crate::domain::id::BackupId;
use crate::domain::report::{KeptBackup, PruneReport};
use crate::engine::{PruneRequest, Run};
use clap::Args;

pub(super) const EXAMPLES: &str = "\
Examples:
  rna-backup prune --dry-run
  rna-backup prune --component media --retention-days 30

What an object lock keeps is named and fails nothing; whatever else cannot be deleted ends with exit status 1.";

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Only say what would be deleted, and why the rest stays.
    #[arg(long)]
    dry_run: bool,
    /// Of this component alone: postgres, weaviate or media.
    #[arg(long)]
    component: Option<ComponentName>,
    /// Age in days after which a backup may go, instead of BACKUP_RETENTION_DAYS.
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<u32>,
    /// Delete by the clock, although it stands far after the backups. Look at the clock first.
    #[arg(long)]
    trust_clock: bool,
    #[command(flatten)]
    json: JsonFlag,
}

pub(super) async fn run(config: Config, args: PruneArgs) -> Result<Exit, Failure> {
    let app = open(config).await?;
    let request = PruneRequest {
        component: args.component,
        retention_days: args.retention_days,
        dry_run: args.dry_run,
        trust_clock: args.trust_clock,
    };
    if !args.dry_run {
        app.sweep_all().await;
    }
    let report = settled(&app, app.engine.prune(request, &Run::default())).await?;
    let is_silent = report.deleted.is_empty() && report.kept.is_empty() && !report.problems.is_empty();
    let printed = match (args.json.json, is_silent) {
        (true, _) => output::json(&report),
        (false, true) => Exit::Failed,
        (false, false) => output::print(describe(&report)),
    };
    for locked in &report.locked {
        output::note(format_args!("locked: {locked}"));
    }
    for problem in &report.problems {
        output::note(format_args!("error: {problem}"));
    }
    Ok(if report.problems.is_empty() { printed } else { Exit::Failed })
}

fn describe(report: &PruneReport) -> String {
    let verb = if report.dry_run { "would delete" } else { "deleted" };
    let keep = if report.dry_run { "would keep" } else { "kept" };
    let stays = |id: &BackupId| report.kept.iter().any(|kept| kept.backup_id == *id);
    let mut lines = Vec::new();
    for id in &report.deleted {
        // The same backup may go from one destination and stay in another.
        let from = report.deleted_from.get(id).filter(|_| stays(id));
        let from = from.map_or_else(String::new, |from| format!(" from {}", from.join(" and ")));
        lines.push(format!("{verb} {id}{from}"));
    }
    for KeptBackup { backup_id, why } in &report.kept {
        let elsewhere = if report.deleted.contains(backup_id) { " elsewhere" } else { "" };
        lines.push(format!("{keep} {backup_id}{elsewhere} ({why})"));
    }
    if lines.is_empty() {
        "there is nothing to delete and nothing to keep".to_owned()
    } else {
        lines.join("\n")
    }
}
