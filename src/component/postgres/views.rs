//! Materialized views after a restore: those that had contents get them, also where `pg_restore` alone gives none.

use crate::component::ComponentError;
use crate::component::postgres::{admin::fault, entries::CONTENTS, refusal::Refusal};
use crate::domain::derived::Derived;
use deadpool_postgres::{ClientWrapper, tokio_postgres::error::SqlState};
use std::collections::BTreeSet;

/// A materialized view without contents.
struct EmptyView {
    schema: String,
    name: String,
    quoted: String,
}

impl EmptyView {
    fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

/// Fills the materialized views that are empty now and were not at the backup, under the `search_path` that the backup
/// notes. One that reads another that was empty is filled by way of that, which is emptied again. `refused` are those
/// whose contents `pg_restore` could not bring.
///
/// Returns those that stay empty, with the server's words, and warnings in whole sentences.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn fill(
    client: &ClientWrapper,
    derived: Option<&Derived>,
    refused: &[Refusal],
) -> Result<(Vec<Refusal>, Vec<String>), ComponentError> {
    let failed = |err| fault("look at the materialized views", err);
    if let Some(path) = derived.map(|derived| &derived.search_path).filter(|path| !path.is_empty()) {
        client.execute("SELECT set_config('search_path', $1, false)", &[path]).await.map_err(failed)?;
    }
    let refused: BTreeSet<_> = refused.iter().map(Refusal::name).collect();
    let was_empty = |view: &EmptyView| match derived {
        Some(derived) => derived.empty_views.contains(&view.full_name()),
        None => !refused.contains(&view.full_name()) && !refused.contains(&view.name),
    };
    let (empty, mut missing): (Vec<_>, Vec<_>) = empty_views(client).await?.into_iter().partition(was_empty);
    if missing.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let expected: Vec<_> = missing.iter().map(EmptyView::full_name).collect();
    let mut left = refresh_all(client, &mut missing).await?;
    let mut emptied = Vec::new();
    if left.iter().any(|(_, state)| *state == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) {
        let mut by_way = empty;
        let names: Vec<_> = by_way.iter().map(|view| view.quoted.clone()).collect();
        refresh_all(client, &mut by_way).await?;
        left = refresh_all(client, &mut missing).await?;
        for quoted in names.into_iter().filter(|quoted| by_way.iter().all(|view| view.quoted != *quoted)) {
            let empty = format!("REFRESH MATERIALIZED VIEW {quoted} WITH NO DATA");
            client.batch_execute(&empty).await.map_err(|err| fault(format!("empty {quoted} again"), err))?;
            emptied.push(quoted);
        }
    }
    let still: BTreeSet<_> = missing.iter().map(EmptyView::full_name).collect();
    let filled: Vec<_> = expected.into_iter().filter(|name| !still.contains(name)).collect();
    let warnings = describe(&filled, &emptied);
    let refusal = |(view, (said, _)): (EmptyView, (String, SqlState))| Refusal {
        kind: CONTENTS.to_owned(),
        schema: Some(view.schema),
        tag: view.name,
        said,
    };
    Ok((missing.into_iter().zip(left).map(refusal).collect(), warnings))
}

fn describe(filled: &[String], emptied: &[String]) -> Vec<String> {
    if filled.is_empty() {
        return Vec::new();
    }
    let by_way = if emptied.is_empty() {
        String::new()
    } else {
        format!(", by way of {}, which was empty at the backup and is so again", emptied.join(", "))
    };
    vec![format!(
        "Materialized views that pg_restore leaves empty were filled afterwards: {}{by_way}.",
        filled.join(", ")
    )]
}

async fn empty_views(client: &ClientWrapper) -> Result<Vec<EmptyView>, ComponentError> {
    const LIST: &str = "
        SELECT nspname::text, relname::text, format('%I.%I', nspname, relname)
          FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
         WHERE relkind = 'm' AND NOT relispopulated ORDER BY c.oid";
    let rows = client.query(LIST, &[]).await.map_err(|err| fault("look at the materialized views", err))?;
    let view = |row: &deadpool_postgres::tokio_postgres::Row| EmptyView {
        schema: row.get(0),
        name: row.get(1),
        quoted: row.get(2),
    };
    Ok(rows.iter().map(view).collect())
}

/// Refreshes what can be refreshed, as long as one makes others possible, and leaves the others in the list: with the
/// server's words of each.
async fn refresh_all(
    client: &ClientWrapper,
    views: &mut Vec<EmptyView>,
) -> Result<Vec<(String, SqlState)>, ComponentError> {
    loop {
        let (mut left, mut words) = (Vec::new(), Vec::new());
        let before = views.len();
        for view in views.drain(..) {
            let refresh = format!("REFRESH MATERIALIZED VIEW {}", view.quoted);
            match client.batch_execute(&refresh).await {
                Ok(()) => {}
                Err(err) => {
                    let Some(said) = err.as_db_error() else { return Err(fault(refresh, err)) };
                    words.push((said.message().to_owned(), said.code().clone()));
                    left.push(view);
                }
            }
        }
        *views = left;
        if views.is_empty() || views.len() == before {
            return Ok(words);
        }
    }
}
