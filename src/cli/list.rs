//! `list`.

use crate::base::units::ByteSize;
use crate::catalog::Entry;
use crate::cli::{Exit, Failure, JsonFlag, open, output};
use crate::config::Config;
use crate::domain::component::ComponentName;
use crate::domain::id::BackupId;
use crate::domain::listing::{BackupState, ListedBackup, ListedCopy};
use crate::domain::report::Listing;
use crate::engine::EngineError;
use clap::Args;
use std::collections::BTreeSet;

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only this component: postgres, weaviate or media.
    component: Option<ComponentName>,
    #[command(flatten)]
    json: JsonFlag,
}

pub(super) async fn run(config: Config, args: ListArgs) -> Result<Exit, Failure> {
    let app = open(config).await?;
    let listing = app.engine.listing(args.component).await?;
    if args.json.json {
        return Ok(output::json(&listing));
    }
    for due in app.engine.due(args.component).await {
        output::note(format_args!("warning: {due}"));
    }
    if listing.backups.is_empty() {
        let of = args.component.map_or(String::new(), |component| format!("{component} "));
        let unreachable =
            app.engine.catalog.list(args.component).await.map_err(EngineError::from)?.unreachable;
        if !unreachable.is_empty() {
            let unreachable: Vec<_> = unreachable.iter().map(|unreachable| unreachable.destination).collect();
            let words = format!(
                "no {of}backups are seen, but {} cannot be read: see above",
                unreachable.join(" and ")
            );
            return Err(Failure::new(Exit::Failed, words));
        }
        // The folder's path shows a person with a forgotten setting that this is the wrong place.
        let places: Vec<_> = app.config.destinations.iter().map(|destination| destination.place()).collect();
        output::note(format_args!("there are no {of}backups in {}", places.join(" nor in ")));
        return Ok(Exit::Done);
    }
    let entries = app.engine.catalog.list(args.component).await.map_err(EngineError::from)?.entries;
    let is_suspect = |entry: &&Entry| entry.is_suspect();
    let suspect = entries.iter().filter(is_suspect).map(|entry| entry.backup_id.clone()).collect();
    Ok(output::print(table(&listing, &suspect)))
}

/// The destinations of the backup, each with its state where that is not the best.
fn places(backup: &ListedBackup) -> String {
    let place = |copy: &ListedCopy| match copy.state {
        BackupState::Ok => copy.destination.clone(),
        state => format!("{} ({})", copy.destination, state.as_str()),
    };
    backup.destinations.iter().map(place).collect::<Vec<_>>().join(", ")
}

fn table(listing: &Listing, suspect: &BTreeSet<BackupId>) -> output::Table {
    let headings = ["BACKUP", "CREATED (UTC)", "SIZE", "SOURCE", "VERIFIED", "STATE", "WHERE", "LABEL"];
    let mut table = output::Table::new(&headings, &[2, 3]);
    for backup in &listing.backups {
        let pinned = backup.pinned.then(|| "(pinned)".to_owned());
        let smaller =
            suspect.contains(&backup.backup_id).then(|| "(much smaller than the one before)".to_owned());
        let label: Vec<String> = backup.label.iter().cloned().chain(pinned).chain(smaller).collect();
        table.row(vec![
            backup.backup_id.to_string(),
            backup.created_at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            ByteSize(backup.size_bytes).to_string(),
            backup.source_bytes.map_or("?".to_owned(), |bytes| ByteSize(bytes).to_string()),
            backup.verified.as_str().to_owned(),
            backup.state.as_str().to_owned(),
            places(backup),
            label.join(" "),
        ]);
    }
    table
}
