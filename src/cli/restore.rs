//! `restore` and `undo`.

use crate::app::App;
use crate::base::units::ByteSize;
use crate::cli::backup::{stop_on_signal, with_bar};
use crate::cli::{Exit, Failure, JsonFlag, open, output, settled};
use crate::component::Target;
use crate::config::Config;
use crate::domain::component::ComponentName;
use crate::domain::report::{RestorePlan, SkippedBackup};
use crate::engine::{RestoreRequest, Run};
use clap::{Args, builder::NonEmptyStringValueParser};
use std::{
    io::{self, BufRead, IsTerminal},
    path::PathBuf,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  rna-backup restore postgres --dry-run              what would happen
  rna-backup restore postgres                        the latest verified backup, after a question
  rna-backup restore weaviate --include Document     one class, from a safety copy if that fails
  rna-backup restore media media_backup_20261122_040000 --into /tmp/look
  rna-backup undo postgres                           the data from before the restore again";

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// postgres, weaviate or media.
    component: ComponentName,
    /// Which backup: an id, a file name, a path inside BACKUP_ROOT, or latest.
    ///
    /// `latest` is the newest one that was verified and is still there, and none that is flagged as much smaller than
    /// the one before: its id takes such a one, and `accept` takes the flag away.
    #[arg(default_value = "latest")]
    backup: String,
    /// Restore into a database of this name; the live one is not touched.
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Unpack into this folder, which must be empty or not there; the live one is not touched.
    #[arg(long, value_name = "DIR", conflicts_with = "database")]
    into: Option<PathBuf>,
    /// Of Weaviate, restore this class alone; give it once for each.
    #[arg(long, value_name = "CLASS", value_parser = NonEmptyStringValueParser::new(), conflicts_with_all = ["database", "into"])]
    include: Vec<String>,
    /// Of Weaviate, restore users, roles and aliases of the backup as well, in the place of those that there are.
    ///
    /// A key that is no longer valid then stays so: also that of WEAVIATE_API_KEY, unless the environment of Weaviate
    /// sets it. `undo` brings back classes alone.
    #[arg(long, conflicts_with_all = ["database", "into", "include"])]
    with_access: bool,
    /// Of PostgreSQL, restore also where owners and privileges are lost: --dry-run names them.
    #[arg(long, conflicts_with = "into")]
    without_rights: bool,
    /// Of PostgreSQL, go on without what cannot be made of this table, view or other object; give it once for each.
    ///
    /// A restore that the server refuses in part names them all, with this line. Of a table, the rows may be missing.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), conflicts_with_all = ["into", "include", "with_access"])]
    without: Vec<String>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Wait for a component that another process works on, instead of ending with status 5.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    json: JsonFlag,
}

#[derive(Debug, Args)]
pub(super) struct UndoArgs {
    /// postgres, weaviate or media.
    component: ComponentName,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    json: JsonFlag,
}

pub(super) async fn run(config: Config, args: RestoreArgs) -> Result<Exit, Failure> {
    let app = open(config).await?;
    let target = match (&args.database, &args.into) {
        (Some(name), _) => Target::custom("database", [name]),
        (None, Some(folder)) => {
            let absolute = std::path::absolute(folder);
            let absolute = absolute.map_err(|err| Failure::new(Exit::Usage, format!("--into: {err}")))?;
            Target::custom("into", [absolute])
        }
        (None, None) if !args.include.is_empty() => Target::custom("include", &args.include),
        (None, None) if args.with_access => Target::custom("with-access", [""; 0]),
        (None, None) => Target::Live,
    };
    let (component, reference, without) = (args.component, args.backup.clone(), args.without.clone());
    let without_rights = args.without_rights;
    let given = [("--without-rights", without_rights), ("--without", !without.is_empty())];
    if let Some((option, _)) = given.into_iter().find(|(_, is_given)| *is_given)
        && !component.kind().restores_in_part
    {
        let why = format!("{option} is of postgres alone: leave it out for {component}");
        return Err(Failure::new(Exit::Usage, why));
    }
    let request = RestoreRequest { component, reference, target, without, without_rights };
    let plan = app.engine.plan_restore(&request).await?;
    if args.dry_run {
        return Ok(if args.json.json { output::json(&plan) } else { output::print(describe(&plan)) });
    }
    if !args.yes {
        output::note(describe(&plan));
        confirm(&format!("Restore {} from {}?", args.component, plan.backup_id))?;
    }
    // The backup of the plan is the one that is restored, also if a newer one comes meanwhile.
    let passed_over = plan.passed_over;
    let request = RestoreRequest { reference: plan.reads, ..request };
    let run = Run { cancel: stop_on_signal(), wait: args.wait, ..Run::default() };
    let work = with_bar(args.component, &run.meter, app.engine.restore(&request, &run));
    let mut report = settled(&app, work).await?;
    report.warnings.splice(0..0, passed_over.iter().map(SkippedBackup::to_string));
    if args.json.json {
        return Ok(output::json(&report));
    }
    let mut lines = vec![format!("restored {} in {:.1} s", report.backup_id, report.duration_seconds)];
    if let Some(kept) = &report.kept {
        let component = args.component;
        lines.push(format!(
            "the data from before is kept as {kept} until the next backup: `rna-backup undo {component}`"
        ));
    }
    lines.extend(report.warnings.iter().map(|warning| format!("warning: {warning}")));
    Ok(output::print(lines.join("\n  ")))
}

pub(super) async fn undo(config: Config, args: UndoArgs) -> Result<Exit, Failure> {
    let app: App = open(config).await?;
    if !args.yes {
        confirm(&format!("Put the {} from before the last restore back?", args.component))?;
    }
    let run = Run::default();
    let work = with_bar(args.component, &run.meter, app.engine.undo(args.component, &run));
    let report = Box::pin(settled(&app, work)).await?;
    if args.json.json {
        return Ok(output::json(&report));
    }
    let mut lines = vec![format!(
        "{} is as it was before the restore; what was live until now is kept as {}",
        report.target, report.kept
    )];
    lines.extend(report.warnings.iter().map(|warning| format!("warning: {warning}")));
    Ok(output::print(lines.join("\n  ")))
}

/// Asks on a terminal; elsewhere nobody can answer.
fn confirm(question: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, "nobody is there to ask: give --yes if you mean it"));
    }
    output::note(format_args!("{question} Type yes to go on: "));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    match (read, answer.trim()) {
        (Ok(_), "yes") => Ok(()),
        _ => Err(Failure::new(Exit::Failed, "not confirmed; nothing was touched")),
    }
}

fn describe(plan: &RestorePlan) -> String {
    let bytes = |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), |bytes| ByteSize(bytes).to_string());
    let reads: Vec<_> = std::iter::once(&plan.reads).chain(&plan.also_reads).map(String::as_str).collect();
    let mut lines = vec![format!("{} of {}", plan.backup_id, plan.created_at)];
    lines.extend(plan.passed_over.iter().map(|passed_over| format!("not taken {passed_over}")));
    lines.extend([
        format!("reads     {} ({})", reads.join(", and "), ByteSize(plan.archive_bytes)),
        format!("replaces  {}", plan.replaces),
        format!("how       {}", plan.method),
        format!("space     needs {}, free {}", bytes(plan.needs_bytes), bytes(plan.free_bytes)),
        format!("downtime  {}", plan.downtime),
    ]);
    lines.extend(plan.versions.iter().map(|version| format!("version   {version}")));
    lines.extend(plan.warnings.iter().map(|warning| format!("warning   {warning}")));
    if !plan.not_tried.is_empty() {
        lines.push(format!("not tried {}", plan.not_tried.join("; ")));
    }
    lines.join("\n  ")
}
