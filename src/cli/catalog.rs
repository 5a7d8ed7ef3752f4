//! `catalog`.

use crate::app::App;
use crate::cli::backup::{stop_on_signal, with_bar};
use crate::cli::{Exit, Failure, JsonFlag, open, output};
use crate::config::Config;
use crate::domain::component::ComponentName;
use crate::domain::rebuild::{CopyProblem, RebuildReport};
use crate::engine::Run;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(super) enum CatalogCommand {
    /// Make the catalogue anew from BACKUP_ROOT and the bucket alone.
    ///
    /// Needs nothing but the settings: neither broker nor database, and no earlier catalogue. Manifests
    /// are written where they are missing and the archive is there; an archive without any is read to its
    /// end (with BACKUP_AGE_IDENTITY_FILE also an encrypted one), and gets one when it is whole. Nothing is
    /// deleted. Ends with 4 when something is damaged, with 1 when something could not be looked at.
    Rebuild(RebuildArgs),
}

#[derive(Debug, Args)]
pub(super) struct RebuildArgs {
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Wait for a component that another process works on, instead of ending with status 5.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    json: JsonFlag,
}

pub(super) async fn run(config: Config, command: CatalogCommand) -> Result<Exit, Failure> {
    let CatalogCommand::Rebuild(args) = command;
    let app = open(config).await?;
    let report = Box::pin(rebuild(&app, &args)).await?;
    let printed = if args.json.json { output::json(&report) } else { output::print(describe(&report)) };
    Ok(if !report.damaged.is_empty() {
        Exit::Unverified
    } else if !report.skipped.is_empty() {
        Exit::Failed
    } else {
        printed
    })
}

async fn rebuild(app: &App, args: &RebuildArgs) -> Result<RebuildReport, Failure> {
    let run = Run { cancel: stop_on_signal(), wait: args.wait, ..Run::default() };
    let mut report = RebuildReport::default();
    for component in ComponentName::all() {
        let work = app.engine.rebuild(component, args.dry_run, &run, &mut report);
        Box::pin(with_bar(component, &run.meter, work)).await?;
    }
    Ok(report)
}

fn describe(report: &RebuildReport) -> String {
    let would = if report.dry_run { "would be " } else { "" };
    let mut lines = Vec::new();
    for id in &report.made {
        lines.push(format!("{id}: a manifest {would}made from its archive"));
    }
    for written in &report.written {
        lines
            .push(format!("{}: its manifest {would}written into {}", written.backup_id, written.destination));
    }
    let problem =
        |kind: &str, problem: &CopyProblem| format!("{kind}: {}: {}", problem.location, problem.why);
    lines.extend(report.missing.iter().map(|missing| problem("missing", missing)));
    lines.extend(report.damaged.iter().map(|damaged| problem("DAMAGED", damaged)));
    lines.extend(report.skipped.iter().map(|skipped| problem("left alone", skipped)));
    let mut table = output::Table::new(&["COMPONENT", "DESTINATION", "BACKUPS"], &[2]);
    for found in &report.found {
        let (component, backups) = (found.component.to_string(), found.backups.to_string());
        table.row(vec![component, found.destination.clone(), backups]);
    }
    lines.push(table.to_string());
    lines.join("\n")
}
