//! `backup COMPONENT|all`.

use crate::app::Signals;
use crate::base::chain;
use crate::base::units::ByteSize;
use crate::cli::{App, Exit, Failure, JsonFlag, output, settled};
use crate::config::Config;
use crate::domain::command::Backup;
use crate::domain::component::ComponentName;
use crate::domain::progress::Meter;
use crate::domain::report::BackupReport;
use crate::engine::{Engine, EngineError, Run};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::{future::Future, time::Duration};
use tokio_util::sync::CancellationToken;

pub(super) const EXAMPLES: &str = "\
Examples:
  rna-backup backup postgres --label 'before upgrade' --pin
  rna-backup backup all --json | jq -r '.results[].backup_id'";

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// postgres, weaviate, media, or all that are configured, one after the other.
    ///
    /// With `all`, one that fails does not keep the others from being saved; the exit status is then 1.
    #[arg(value_name = "COMPONENT|all", value_parser = parse_scope)]
    scope: Scope,
    /// Free text that `list` shows, at most 64 characters.
    #[arg(long, value_parser = parse_label)]
    label: Option<String>,
    /// Keep this backup for good, whatever retention says.
    #[arg(long)]
    pin: bool,
    /// Wait for a component that another process works on, instead of ending with status 5.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    json: JsonFlag,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    One(ComponentName),
    All,
}

pub(super) fn parse_scope(text: &str) -> Result<Scope, String> {
    if text == "all" {
        return Ok(Scope::All);
    }
    text.parse().map(Scope::One).map_err(|_| "give postgres, weaviate, media or all".to_owned())
}

fn parse_label(text: &str) -> Result<String, String> {
    if text.chars().count() > Backup::LABEL_CHARS || text.chars().any(char::is_control) {
        return Err(format!("at most {} characters, none of them a control character", Backup::LABEL_CHARS));
    }
    Ok(text.to_owned())
}

pub(super) async fn run(config: Config, args: BackupArgs) -> Result<Exit, Failure> {
    let app = App::build(config).await?;
    let cancel = stop_on_signal();
    app.sweep().await;
    match args.scope {
        Scope::One(component) => {
            let work = one(&app.engine, component, &args, None, &cancel);
            let report = settled(&app, work).await?;
            Ok(if args.json.json { output::json(&report) } else { output::print(describe(&report)) })
        }
        Scope::All => settled(&app, all(&app.engine, &args, &cancel)).await,
    }
}

/// One after the other: each may use every core. A failure does not keep the rest from being saved.
async fn all(engine: &Engine, args: &BackupArgs, cancel: &CancellationToken) -> Result<Exit, Failure> {
    let configured = engine.configured();
    if configured.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "no component is configured: set DATABASE_URL, WEAVIATE_URL or MEDIA_ROOT",
        ));
    }
    let set_id = uuid::Uuid::new_v4().to_string();
    let (mut results, mut exit) = (serde_json::Map::new(), Exit::Done);
    for component in configured {
        let result = match one(engine, component, args, Some(&set_id), cancel).await {
            Ok(report) => {
                if !args.json.json {
                    output::print(describe(&report));
                }
                json!(report)
            }
            Err(err) => {
                let error = chain(&err);
                Failure::from(err).tell();
                exit = Exit::Failed;
                json!({"status": "failed", "component": component, "error": error})
            }
        };
        results.insert(component.to_string(), result);
        if cancel.is_cancelled() {
            break;
        }
    }
    let printed = if args.json.json {
        output::json(&json!({"set_id": set_id, "results": results}))
    } else {
        Exit::Done
    };
    Ok(if exit == Exit::Done { printed } else { exit })
}

async fn one(
    engine: &Engine,
    component: ComponentName,
    args: &BackupArgs,
    set_id: Option<&str>,
    cancel: &CancellationToken,
) -> Result<BackupReport, EngineError> {
    let order =
        Backup { component, label: args.label.clone(), pin: args.pin, set_id: set_id.map(str::to_owned) };
    let run = Run { cancel: cancel.clone(), wait: args.wait, ..Run::default() };
    with_bar(component, &run.meter, engine.backup(&order, &run)).await
}

/// Shows a bar on a terminal while `work` goes on; nothing elsewhere.
pub(super) async fn with_bar<T>(component: ComponentName, meter: &Meter, work: impl Future<Output = T>) -> T {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    let style = "{prefix:>9} {msg:<8} {bar:30} {bytes:>11} of {total_bytes:<11} {bytes_per_sec}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is well formed"));
    bar.set_prefix(component.as_str());
    tokio::pin!(work);
    let mut told = String::new();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            done = &mut work => {
                bar.finish_and_clear();
                return done;
            }
            _ = tick.tick() => {
                let progress = meter.snapshot(component);
                bar.set_length(progress.total);
                bar.set_position(progress.current);
                // Without a visible bar, a line tells why nothing happens.
                if bar.is_hidden() && progress.phase.starts_with("waiting: ") && told != progress.phase {
                    output::note(format_args!("{component}: {}", progress.phase));
                    told.clone_from(&progress.phase);
                }
                bar.set_message(progress.phase);
            }
        }
    }
}

fn describe(report: &BackupReport) -> String {
    let (source, stored) = (ByteSize(report.source_bytes), ByteSize(report.size_bytes));
    let (id, took, verified) = (&report.backup_id, report.duration_seconds, &report.verified);
    let mut lines =
        vec![format!("{id}: {source} of data, stored {stored}, took {took:.1} s, verified ({verified})")];
    lines.push(report.path.clone());
    lines.extend(report.s3_uri.iter().filter(|uri| **uri != report.path).cloned());
    lines.extend(report.pruned.iter().map(|id| format!("retention deleted {id}")));
    if let Some(anomaly) = &report.anomaly {
        let (against, what) = (&anomaly.against, anomaly.what.join(", "));
        lines.push(format!("warning: much smaller than {against}: {what}"));
        lines.push(format!(
            "retention deletes nothing of {0} until you say that this is right: rna-backup accept {id}",
            report.component
        ));
    }
    lines.extend(report.warnings.iter().map(|warning| format!("warning: {warning}")));
    let more = report.warning_count.saturating_sub(report.warnings.len() as u64);
    if more > 0 {
        lines.push(format!("and {more} more warnings"));
    }
    lines.join("\n  ")
}

/// A token that SIGINT or SIGTERM cancels, so that children are stopped and partial files removed.
pub(super) fn stop_on_signal() -> CancellationToken {
    let token = CancellationToken::new();
    let mut signals = Signals::listen();
    tokio::spawn({
        let token = token.clone();
        async move {
            signals.next().await;
            token.cancel();
        }
    });
    token
}
