//! `show`.

mod by_hand;

use crate::base::units::ByteSize;
use crate::catalog::{Entry, Origin};
use crate::cli::{Exit, Failure, JsonFlag, open, output};
use crate::component::Registration;
use crate::config::Config;
use crate::domain::component::ComponentName;
use crate::domain::listing::BackupState;
use crate::domain::manifest::Manifest;
use crate::domain::metadata::MetadataCounts;
use clap::Args;
use serde_json::json;
use std::fmt::Display;

pub(super) const EXAMPLES: &str = "\
Examples:
  rna-backup show latest --component postgres
  rna-backup show pg_backup_20261122_020000
  rna-backup show ./media_backup_20261122_040000.tar.zst";

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// A backup id, its file name, its path inside BACKUP_ROOT, or `latest`.
    ///
    /// `latest` is the newest one that was verified and is still there, also when it is flagged as much smaller than
    /// the one before: `restore` takes such a one by its id only.
    backup: String,
    /// Of which component: postgres, weaviate or media. Without it, `latest` is that of any.
    #[arg(long)]
    component: Option<ComponentName>,
    #[command(flatten)]
    json: JsonFlag,
}

pub(super) async fn run(config: Config, args: ShowArgs) -> Result<Exit, Failure> {
    let app = open(config).await?;
    let entry = app.engine.find(&args.backup, args.component).await?;
    let mut bases = Vec::new();
    for id in entry.builds_on() {
        bases.push(app.engine.find(id.as_str(), Some(entry.component())).await?);
    }
    if let Some(flag) = entry.manifest().and_then(Manifest::flag) {
        output::note(format_args!("warning: a restore of `latest` passes over {}: {flag}", entry.backup_id));
    }
    let commands = by_hand::how_to_open(&entry, &bases, |copy| {
        app.engine.catalog.store(&copy.destination)?.fetch_command(&copy.key)
    });
    if args.json.json {
        let shown = json!({"backup": entry.listed(), "manifest": entry.manifest(), "open_with": commands});
        return Ok(output::json(&shown));
    }
    for due in app.engine.due(Some(entry.component())).await {
        output::note(format_args!("warning: {due}"));
    }
    let mut lines = describe(&entry);
    if commands.is_empty() {
        lines.push("it cannot be opened: its archive is gone".to_owned());
    } else {
        lines.push(String::new());
        lines.push("to look into it and to unpack it, without rna-backup:".to_owned());
        lines.extend(commands.iter().map(|command| format!("  {command}")));
    }
    let facts = entry.manifest().map(|manifest| &manifest.facts);
    lines.extend((Registration::of(entry.component()).variables)(facts));
    Ok(output::print(lines.join("\n")))
}

fn fact(name: &str, value: impl Display) -> String {
    format!("{name:<10} {value}")
}

fn describe(entry: &Entry) -> Vec<String> {
    let listed = entry.listed();
    let mut lines = vec![
        fact("backup", &listed.backup_id),
        fact("component", listed.component),
        fact("created", format_args!("{} UTC", listed.created_at.strftime("%Y-%m-%d %H:%M:%S"))),
    ];
    for copy in &listed.destinations {
        let (size, state) = (ByteSize(copy.bytes), copy.state.as_str());
        lines.push(fact("archive", format_args!("{} ({size}, {state})", copy.location)));
        if copy.state == BackupState::Failed {
            lines.extend(damage(entry, &copy.destination).iter().map(|what| fact("warning", what)));
            lines.push(fact("warning", "the archive is damaged: use another backup if you can"));
        }
    }
    lines.push(fact("verified", listed.verified.as_str()));
    match &entry.origin {
        Origin::Manifest(manifest) => lines.extend(describe_manifest(manifest)),
        Origin::Newer(format) => {
            lines.push(fact("made by", format_args!("a newer rna-backup (manifest format {format})")));
        }
        Origin::Legacy => lines.push(fact("made by", "the app's old tasks, which wrote nothing down")),
    }
    lines
}

/// The known faults of a copy that is there.
fn damage(entry: &Entry, destination: &str) -> Vec<String> {
    let objects = entry.manifest().map_or(&[][..], |manifest| &manifest.objects);
    let noted = objects.iter().find(|o| o.destination == destination).map(|o| o.problems.clone());
    noted
        .filter(|problems| !problems.is_empty())
        .unwrap_or_else(|| vec!["the archive is longer or shorter than it was".to_owned()])
}

fn describe_manifest(manifest: &Manifest) -> Vec<String> {
    let facts = &manifest.facts;
    let mut lines = vec![
        fact("source", format_args!("{} ({})", manifest.source, ByteSize(facts.source_bytes))),
        fact("sha256", manifest.sha256()),
        fact("made by", format_args!("rna-backup {} on {}", manifest.program, manifest.host)),
    ];
    for (name, value) in [("label", &manifest.label), ("set", &manifest.set_id), ("task", &manifest.task_id)]
    {
        lines.extend(value.as_ref().map(|value| fact(name, value)));
    }
    lines.extend(facts.builds_on.iter().map(|id| fact("builds on", id)));
    if manifest.pinned {
        lines.push(fact("pinned", "yes: retention leaves it alone"));
    }
    lines.extend(
        facts.versions.iter().map(|(name, version)| fact("version", format_args!("{name} {version}"))),
    );
    lines.extend(facts.migrations.iter().map(|(app, name)| fact("migration", format_args!("{app} {name}"))));
    if !facts.counts.tables.is_empty() {
        let rows: u64 = facts.counts.tables.iter().map(|table| table.rows).sum();
        lines.push(fact("tables", format_args!("{}, with {rows} rows in all", facts.counts.tables.len())));
    }
    if let Some(definitions) = &facts.definitions {
        lines.push(fact("objects", format_args!("{}, with their definitions", definitions.objects())));
    }
    lines.extend(facts.rights.as_ref().map(|rights| fact("rights", rights.describe())));
    if let Some(files) = facts.counts.files {
        lines.push(fact("files", format_args!("{}, folders: {}", files.files, files.directories)));
    }
    let attributes = facts.counts.attributes.map(|attributes| attributes.describe()).unwrap_or_default();
    if !attributes.is_empty() {
        lines.push(fact("of these", attributes));
    }
    let metadata = facts.counts.metadata.iter().flat_map(MetadataCounts::describe);
    lines.extend(metadata.map(|(name, numbers)| fact(name, numbers)));
    let objects: u64 = facts.counts.classes.values().sum();
    if let Some(backend) = &facts.backend {
        let classes = facts.counts.classes.len();
        lines.push(fact(
            "classes",
            format_args!("{classes}, with {objects} objects in all, by way of {backend}"),
        ));
    }
    if let Some(id) = &facts.server_backup {
        lines.push(fact(
            "data",
            format_args!("backup {id} in the bucket, where Weaviate keeps it; the archive is its index"),
        ));
    }
    if let Some(anomaly) = &manifest.anomaly {
        let (against, what) = (&anomaly.against, anomaly.what.join(", "));
        let accepted = if anomaly.accepted.is_some() { " (accepted)" } else { "" };
        lines.push(fact("anomaly", format_args!("much smaller than {against}: {what}{accepted}")));
    }
    lines.extend(facts.warnings.iter().map(|warning| fact("warning", warning)));
    lines
}
