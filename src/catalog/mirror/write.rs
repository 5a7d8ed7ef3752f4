//! One change of the tables: everything that waits, in one transaction.

use crate::catalog::Listing;
use crate::catalog::mirror::rows::{self, BACKUP_COLUMNS, RUN_COLUMNS};
use crate::catalog::mirror::{MirrorError, MirrorState, RunRow, Todo, tables};
use deadpool_postgres::{Transaction, tokio_postgres::IsolationLevel};
use std::{
    collections::HashMap,
    sync::{LazyLock, atomic::Ordering},
};

/// Rows are sent in pieces of about so many bytes.
const PIECE: usize = 1 << 20;

/// The rows that a restore of the very database that has the tables would take with it: rows of backups come from the
/// manifests again, rows of runs are nowhere else.
#[derive(Default)]
pub(super) struct PreservedRows {
    /// Rows of the table when the restore began, as JSON.
    rows: Option<String>,
    /// The rows that were written since then.
    since: Vec<RunRow>,
}

static SHOW: LazyLock<String> = LazyLock::new(|| upsert("rna_backup_backup", BACKUP_COLUMNS, ""));
static RECORD: LazyLock<String> =
    LazyLock::new(|| upsert("rna_backup_run", RUN_COLUMNS, ", seen_at = now()"));

/// Rows of runs that have ended here meanwhile are right: only rows of runs that were cut off in the middle are
/// replaced.
static PUT_BACK: LazyLock<String> = LazyLock::new(|| {
    let columns = [RUN_COLUMNS, &["seen_at"]].concat();
    upsert("rna_backup_run", &columns, " WHERE rna_backup_run.state = 'running'")
});

/// `INSERT … ON CONFLICT DO UPDATE` of rows in a JSON array. `also` is what else is said of rows that were there.
fn upsert(table: &str, columns: &[&str], also: &str) -> String {
    let (key, names) = (columns[0], columns.join(", "));
    let set: Vec<_> = columns[1..].iter().map(|column| format!("{column} = excluded.{column}")).collect();
    format!(
        "INSERT INTO public.{table} ({names}) \
         SELECT {names} FROM jsonb_populate_recordset(NULL::public.{table}, $1::text::jsonb) \
         ON CONFLICT ({key}) DO UPDATE SET {}{also}",
        set.join(", ")
    )
}

impl MirrorState {
    /// Brings the tables up to date. After an error they are as they were, unless the commit was the last
    /// thing that happened; written twice is as written once.
    pub(super) async fn write(&self, todo: &Todo, preserved: &mut PreservedRows) -> Result<(), MirrorError> {
        let mut client = self.pool.get().await?;
        let builder = client.build_transaction();
        let transaction =
            builder.isolation_level(IsolationLevel::ReadCommitted).read_only(false).start().await?;
        tables::lock_tables(&transaction).await?;
        let makes = self.makes.load(Ordering::Relaxed);
        let Some(utf8) = tables::prepare(&transaction, makes).await? else { return Ok(()) };
        record(&transaction, todo, preserved, utf8).await?;
        let kept = match &preserved.rows {
            None if todo.overwriting => Some(remember(&transaction).await?),
            _ => None,
        };
        if let Some(listing) = &todo.shown {
            show(&transaction, listing, utf8).await?;
        }
        transaction.commit().await?;
        if kept.is_some() {
            preserved.rows = kept;
        } else if todo.overwriting {
            preserved.since.extend_from_slice(&todo.runs);
        } else {
            *preserved = PreservedRows::default();
        }
        Ok(())
    }
}

async fn record(
    transaction: &Transaction<'_>,
    todo: &Todo,
    preserved: &PreservedRows,
    utf8: bool,
) -> Result<(), MirrorError> {
    const ALIVE: &str =
        "UPDATE public.rna_backup_run SET seen_at = now(), state = 'running' WHERE run_id = ANY($1)";
    const LOST: &str = "UPDATE public.rna_backup_run SET state = 'lost' \
                         WHERE state = 'running' AND seen_at < now() - interval '10 minutes'";
    const TRIM: &str = "DELETE FROM public.rna_backup_run WHERE started_at < now() - interval '90 days' \
        OR started_at < (SELECT started_at FROM public.rna_backup_run ORDER BY started_at DESC OFFSET 9999 LIMIT 1)";
    if !todo.overwriting
        && let Some(kept) = &preserved.rows
    {
        transaction.execute(PUT_BACK.as_str(), &[kept]).await?;
    }
    let since = preserved.since.iter().filter(|_| !todo.overwriting);
    // The newest of one run: two in one statement would be refused.
    let newest: HashMap<_, _> = since.chain(&todo.runs).map(|run| (&run.run_id, run)).collect();
    let mut piece = RowBatch::new(&RECORD);
    for run in newest.into_values() {
        piece.add(transaction, &run.print(utf8)).await?;
    }
    piece.send(transaction).await?;
    if !todo.live.is_empty() {
        transaction.execute(ALIVE, &[&todo.live]).await?;
    }
    transaction.execute(LOST, &[]).await?;
    if !todo.runs.is_empty() {
        transaction.execute(TRIM, &[]).await?;
    }
    Ok(())
}

async fn remember(transaction: &Transaction<'_>) -> Result<String, MirrorError> {
    const NEWEST: &str = "SELECT coalesce(jsonb_agg(r), '[]')::text FROM \
        (SELECT * FROM public.rna_backup_run ORDER BY started_at DESC LIMIT 1000) r";
    Ok(transaction.query_one(NEWEST, &[]).await?.get(0))
}

/// Makes the table equal to the catalogue. What lies where nobody could look stays as it was.
async fn show(transaction: &Transaction<'_>, listing: &Listing, utf8: bool) -> Result<(), MirrorError> {
    const FOUND: &str = "SELECT backup_id, digest FROM public.rna_backup_backup";
    const DELETE: &str = "DELETE FROM public.rna_backup_backup WHERE backup_id = ANY($1)";
    let found = transaction.query(FOUND, &[]).await?;
    let mut found: HashMap<String, String> = found.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut piece = RowBatch::new(&SHOW);
    for (turn, entry) in listing.entries.iter().enumerate() {
        let (row, digest) = rows::backup(entry, utf8);
        if found.remove(entry.backup_id.as_str()).as_ref() != Some(&digest) {
            piece.add(transaction, &rows::with_digest(&row, &digest)).await?;
        }
        if turn % 100 == 99 {
            tokio::task::yield_now().await;
        }
    }
    piece.send(transaction).await?;
    for damaged in &listing.damaged {
        found.remove(damaged.backup_id.as_str());
    }
    let gone: Vec<String> = found.into_keys().collect();
    if listing.unreachable.is_empty() && !gone.is_empty() {
        transaction.execute(DELETE, &[&gone]).await?;
    }
    Ok(())
}

/// Rows on their way, as a JSON array.
struct RowBatch<'a> {
    statement: &'a str,
    rows: String,
}

impl<'a> RowBatch<'a> {
    const fn new(statement: &'a str) -> Self {
        Self { statement, rows: String::new() }
    }

    async fn add(&mut self, transaction: &Transaction<'_>, row: &str) -> Result<(), MirrorError> {
        self.rows.push(if self.rows.is_empty() { '[' } else { ',' });
        self.rows.push_str(row);
        if self.rows.len() >= PIECE { self.send(transaction).await } else { Ok(()) }
    }

    async fn send(&mut self, transaction: &Transaction<'_>) -> Result<(), MirrorError> {
        if !self.rows.is_empty() {
            self.rows.push(']');
            transaction.execute(self.statement, &[&self.rows]).await?;
            self.rows.clear();
        }
        Ok(())
    }
}
