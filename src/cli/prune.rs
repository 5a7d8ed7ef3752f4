//! `prune`.

use crate::cli::{Exit, Failure, JsonFlag, open, output, settled};
use crate::config::Config;
use crate::domain::component::ComponentName;
use crate::domain::report::PruneReport;
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
    #[command(flatten)]
    json: JsonFlag,
}

pub(super) async fn run(config: Config, args: PruneArgs) -> Result<Exit, Failure> {
    let app = open(config).await?;
    let request = PruneRequest {
        component: args.component,
        retention_days: args.retention_days,
        dry_run: args.dry_run,
    };
    if !args.dry_run {
        app.sweep().await;
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
    let mut lines: Vec<String> = report.deleted.iter().map(|id| format!("{verb} {id}")).collect();
    let keep = if report.dry_run { "would keep" } else { "kept" };
    lines.extend(report.kept.iter().map(|kept| format!("{keep} {} ({})", kept.backup_id, kept.why)));
    if lines.is_empty() {
        "there is nothing to delete and nothing to keep".to_owned()
    } else {
        lines.join("\n")
    }
}
