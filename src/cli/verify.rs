//! `verify`.

use crate::cli::backup::{Scope, parse_scope, stop_on_signal, with_bar};
use crate::cli::{Exit, Failure, JsonFlag, open, output};
use crate::config::Config;
use crate::domain::component::ComponentName;
use crate::domain::manifest::VerifyLevel;
use crate::domain::report::{Verification, VerifyReport};
use crate::engine::{Engine, EngineError, Run, VerifyRequest};
use clap::Args;
use clap::builder::PossibleValuesParser;
use tokio_util::sync::CancellationToken;

pub(super) const EXAMPLES: &str = "\
Examples:
  rna-backup verify all
  rna-backup verify all --drill
  rna-backup verify postgres pg_backup_20261122_020000 --level checksum
  rna-backup verify all all --json | jq -r '.results[] | select(.ok | not).backup_id'";

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// postgres, weaviate, media, or all that are configured, one after the other.
    #[arg(value_name = "COMPONENT|all", value_parser = parse_scope)]
    scope: Scope,
    /// A backup id, its file name, its path inside BACKUP_ROOT, `latest`, or `all` for every backup.
    ///
    /// `latest` is the newest one, in whatever state it is.
    #[arg(default_value = "latest")]
    backup: String,
    /// How far: `checksum` reads and hashes the archive, `decode` also unpacks it and counts what is in it.
    #[arg(long, default_value = "decode", value_parser = PossibleValuesParser::new(["checksum", "decode"]))]
    level: String,
    /// Restore it for real beside the live data, compare row counts and files, and throw that away.
    #[arg(long, conflicts_with = "level")]
    drill: bool,
    /// Wait for a component that another process works on, instead of ending with status 5.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    json: JsonFlag,
}

pub(super) async fn run(config: Config, args: VerifyArgs) -> Result<Exit, Failure> {
    let request = VerifyRequest {
        component: match args.scope {
            Scope::One(component) => Some(component),
            Scope::All => None,
        },
        backup: args.backup,
        level: match args.level.as_str() {
            _ if args.drill => VerifyLevel::Drill,
            "checksum" => VerifyLevel::Checksum,
            _ => VerifyLevel::Decode,
        },
    };
    let app = open(config).await?;
    let components = app.engine.to_verify(&request).await?;
    if components.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "no component is configured: set DATABASE_URL, WEAVIATE_URL or MEDIA_ROOT",
        ));
    }
    let cancel = stop_on_signal();
    let (mut report, mut failed) = (VerifyReport::default(), Exit::Done);
    for component in components {
        match one(&app.engine, component, &request, args.wait, &cancel).await {
            Ok(results) => {
                if !args.json.json {
                    for found in &results {
                        output::print(describe(found));
                    }
                }
                report.results.extend(results);
            }
            Err(err) => {
                let exit = Failure::from(err).tell();
                failed = if failed == Exit::Done { exit } else { failed };
            }
        }
        if cancel.is_cancelled() {
            break;
        }
    }
    app.wait_for_background().await;
    let printed = if args.json.json { output::json(&report) } else { Exit::Done };
    Ok(match (report.results.iter().all(|found| found.ok), failed) {
        (false, _) => Exit::Unverified,
        (true, Exit::Done) => printed,
        (true, failed) => failed,
    })
}

async fn one(
    engine: &Engine,
    component: ComponentName,
    request: &VerifyRequest,
    wait: bool,
    cancel: &CancellationToken,
) -> Result<Vec<Verification>, EngineError> {
    let run = Run { cancel: cancel.clone(), wait, ..Run::default() };
    with_bar(component, &run.meter, engine.verify(component, request, &run)).await
}

fn describe(found: &Verification) -> String {
    let (id, level) = (&found.backup_id, found.level.as_str());
    let verdict = if found.ok { "whole" } else { "NOT WHOLE" };
    let mut lines = vec![format!("{id}: {verdict} ({level})")];
    lines.extend(found.problems.iter().cloned());
    lines.extend(found.warnings.iter().map(|warning| format!("warning: {warning}")));
    if !found.not_tried.is_empty() {
        lines.push(format!("not tried by a drill: {}", found.not_tried.join("; ")));
    }
    lines.join("\n  ")
}
