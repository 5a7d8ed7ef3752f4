//! One consistent state of the database: what `pg_dump` dumps, counted on a connection of ours.

use crate::base::chain;
use crate::component::ComponentError;
use crate::component::postgres::{
    connect::sort, definitions, derived, names::decode_name, predicted_differences, properties, rights,
};
use crate::domain::{
    definitions::Definitions, derived::Derived, facts::TableRows, properties::Properties, rights::Rights,
};
use deadpool_postgres::{
    ClientWrapper, Transaction,
    tokio_postgres::{IsolationLevel, Row, SimpleQueryMessage},
};
use std::collections::BTreeMap;

/// The oldest server with the functions that we ask (`pg_partition_root`).
const OLDEST_SERVER: u32 = 12;

/// The properties of the server, read outside of any snapshot.
#[derive(Debug, Clone)]
pub struct Server {
    /// `15.18`.
    pub version: String,
    /// 15.
    pub major: u32,
    /// Encoding of the database, as `pg_encoding_to_char` has it.
    pub encoding: String,
    /// Size of the database, bytes.
    pub database_bytes: u64,
    /// The `search_path` of the session, as the role and the database have set it.
    search_path: String,
    /// The role that logs in, where a setting of that role or of the database lets sessions act as another.
    pub login: Option<String>,
    /// Django's table of applied migrations, quoted, when there is one on the search path.
    migrations: Option<String>,
}

/// A table whose rows are dumped.
#[derive(Debug)]
pub struct Table {
    /// Quoted, with schema.
    quoted: String,
    /// `WHERE …` for tables of an extension, of which only the user's rows are dumped.
    condition: String,
    /// Names under which `pg_dump` writes the rows: of the table, or of its partition root.
    name: (String, String),
    /// The comment on it, or nothing.
    comment: String,
    /// The table's own name, in bytes of the database's encoding, quoted: a pattern for `pg_dump`.
    pub pattern: Vec<u8>,
    /// Size with TOAST, bytes.
    bytes: u64,
}

/// A table whose rows are left out, if it is the one that is meant: rows of somebody else's table of the
/// same name are data like any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excluded {
    /// The table's schema, unquoted.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// The beginning of the comment on the table.
    pub comment: String,
}

/// Settings of a session that reads catalogs and rows. To compile a query of the catalogs takes a server longer than to
/// run that query.
const SESSION: &str =
    "SET row_security = off; SET search_path = pg_catalog; SET jit = off; SET quote_all_identifiers = off";

/// A transaction that sees one state, and lends it to `pg_dump`.
pub struct Snapshot<'a> {
    transaction: Transaction<'a>,
    /// The id of the snapshot, for `pg_dump --snapshot`.
    pub id: String,
    /// Every table whose rows are in the dump.
    pub tables: Vec<Table>,
    /// The tables that are left out by the settings, of those there are.
    pub excluded: Vec<Table>,
    /// True if it holds a lock on every table, so that none can be emptied or rewritten any more.
    pub is_locked: bool,
}

impl Server {
    /// Asks the server.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] when it is older than PostgreSQL 12, else the error of the server.
    pub async fn ask(client: &ClientWrapper) -> Result<Self, ComponentError> {
        const ASK: &str = "
            SELECT current_setting('server_version'), current_setting('server_version_num')::int4,
                   getdatabaseencoding()::text, pg_database_size(current_database()),
                   (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                      JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE c.oid = to_regclass('django_migrations') AND c.relkind = 'r'
                       AND 3 = (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid
                                   AND a.attname IN ('id', 'app', 'name') AND NOT a.attisdropped)),
                   current_setting('search_path'),
                   (SELECT session_user::text WHERE EXISTS (
                     SELECT FROM pg_db_role_setting, unnest(setconfig) c
                      WHERE c LIKE 'role=%' AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
                        AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))))";
        let failed = |err| sort("ask the server what it is".into(), err);
        let row = client.query_one(ASK, &[]).await.map_err(failed)?;
        let version: String = row.get(0);
        let major = u32::try_from(row.get::<_, i32>(1) / 10_000).unwrap_or_default();
        if major < OLDEST_SERVER {
            let what = format!("server is PostgreSQL {version}: {OLDEST_SERVER} or newer is needed");
            return Err(ComponentError::Unusable { what, source: None });
        }
        Ok(Self {
            version: version.split_whitespace().next().unwrap_or_default().to_owned(),
            major,
            encoding: row.get(2),
            database_bytes: row.get::<_, i64>(3).unsigned_abs(),
            migrations: row.get(4),
            search_path: row.get(5),
            login: row.get(6),
        })
    }
}

impl<'a> Snapshot<'a> {
    /// Opens a snapshot of the database in which nothing can be dropped or truncated any more.
    ///
    /// `exclude` names tables whose rows are not to be dumped.
    ///
    /// # Errors
    ///
    /// The error of the server; a table that vanishes in the meantime is a passing fault.
    pub async fn open(
        client: &'a mut ClientWrapper,
        server: &Server,
        exclude: &[Excluded],
    ) -> Result<Self, ComponentError> {
        let failed = |err| sort("open a snapshot of the database".into(), err);
        // If this process dies, the server is to notice within a second (since 14, on Linux).
        let _ = client.batch_execute("SET client_connection_check_interval = '1s'").await;
        client.batch_execute(SESSION).await.map_err(failed)?;

        let lock = client.query(LIST, &[]).await.map_err(failed)?;
        let lock: Vec<_> = lock.iter().map(|row| format!("ONLY {}", row.get::<_, String>(0))).collect();
        let room = client.query_one(ROOM_FOR_LOCKS, &[]).await.map_err(failed)?;
        let is_locked = i64::try_from(lock.len()).is_ok_and(|locks| locks <= room.get(0));
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await
            .map_err(failed)?;
        // First the locks, then the snapshot: LOCK takes none. TRUNCATE and rewrites by ALTER TABLE
        // empty a table even in snapshots taken before them, so they must come before or not at all.
        if is_locked && !lock.is_empty() {
            let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", lock.join(", "));
            transaction.batch_execute(&lock).await.map_err(failed)?;
        }
        let id = transaction.query_one("SELECT pg_export_snapshot()", &[]).await.map_err(failed)?.get(0);
        let rows = transaction.query(LIST, &[]).await.map_err(failed)?;
        let all = rows.iter().map(|row| Table::from_row(row, &server.encoding));
        let (excluded, tables) = all.partition(|table| table.is_one_of(exclude));
        Ok(Self { transaction, id, tables, excluded, is_locked })
    }

    /// About how many bytes the dump will have.
    pub fn estimate(&self) -> u64 {
        self.tables.iter().map(|table| table.bytes).sum()
    }

    /// Refuses tables that were emptied or rewritten between the snapshot and the locks of `pg_dump`, which holds them now:
    /// the dump would have none of their rows. `now` is a session that sees what is there at present.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unavailable`]; else the error of the server.
    pub async fn nothing_is_rewritten(&self, now: &ClientWrapper) -> Result<(), ComponentError> {
        const FILES: &str = "SELECT oid, relfilenode FROM pg_class WHERE relkind = 'r' AND relpersistence <> 't' AND oid >= 16384";
        let failed = |err| sort("look whether tables were rewritten".into(), err);
        let files =
            |rows: Vec<Row>| rows.iter().map(|row| (row.get(0), row.get(1))).collect::<BTreeMap<u32, u32>>();
        let then = files(self.transaction.query(FILES, &[]).await.map_err(failed)?);
        let now = files(now.query(FILES, &[]).await.map_err(failed)?);
        if then.iter().all(|(table, file)| now.get(table).is_none_or(|now| now == file)) {
            return Ok(());
        }
        let what = "a table was emptied or rewritten while the dump began".into();
        Err(ComponentError::Unavailable { what, source: None })
    }

    /// Counts the rows of every table, sorted by schema and name. Each count gives its locks back, those on the table and on
    /// all its indexes: a server has room for few more than `pg_dump` takes.
    ///
    /// # Errors
    ///
    /// The error of the server, with the name of the table.
    pub async fn count(&self) -> Result<Vec<TableRows>, ComponentError> {
        let mut counts = BTreeMap::<_, u64>::new();
        for Table { quoted, condition, name, .. } in &self.tables {
            let count = format!(
                "SAVEPOINT one; SELECT count(*) FROM ONLY {quoted} {condition}; ROLLBACK TO one; RELEASE one"
            );
            let failed = |err| sort(format!("count the rows of {quoted}"), err);
            // The simple protocol: one round trip for all four, nothing prepared.
            let answer = self.transaction.simple_query(&count).await.map_err(failed)?;
            let rows = answer.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0)?.parse::<u64>().ok(),
                _ => None,
            });
            *counts.entry(name).or_default() += rows.expect("count(*) is one number");
        }
        let counts = counts.into_iter().map(|((schema, table), rows)| (schema.clone(), table.clone(), rows));
        Ok(counts.map(|(schema, table, rows)| TableRows { schema, table, rows }).collect())
    }

    /// The migration of each Django app that was applied last.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn migrations(&self, server: &Server) -> Result<BTreeMap<String, String>, ComponentError> {
        let Some(table) = &server.migrations else { return Ok(BTreeMap::new()) };
        let newest =
            format!("SELECT DISTINCT ON (app) app::text, name::text FROM {table} ORDER BY app, id DESC");
        let failed = |err| sort(format!("read {table}"), err);
        let rows = self.transaction.query(&newest, &[]).await.map_err(failed)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Owners and privileges of all objects.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn rights(&self) -> Result<Rights, ComponentError> {
        rights::read(&self.transaction).await
    }

    /// Properties of the database itself, whose name this is.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn properties(&mut self, database: &str) -> Result<Result<Properties, String>, ComponentError> {
        let failed = |err| sort("look at the properties of the database".into(), err);
        let attempt = self.transaction.savepoint("properties").await.map_err(failed)?;
        let found = properties::read(&*attempt, database).await;
        attempt.rollback().await.map_err(failed)?;
        match found {
            Err(err @ ComponentError::Unusable { .. }) => Ok(Err(format!(
                "Owner, privileges, limits and settings of the database itself are not noted, and nobody compares them: {}.",
                chain(&err)
            ))),
            found => found.map(Ok),
        }
    }

    /// Definitions of all objects, and the objects that are not those of a backup that has noted `promised`.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn definitions(
        &self,
        server: &Server,
        promised: Option<&Definitions>,
    ) -> Result<definitions::FoundDefinitions, ComponentError> {
        definitions::read(&self.transaction, server.major, promised).await
    }

    /// Reads the contents of the database beside rows and rights.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn derived(&mut self, server: &Server) -> Result<Derived, ComponentError> {
        derived::read(&mut self.transaction, &server.search_path, server.major).await
    }

    /// The same, and what cannot be made under an empty `search_path`: the backup's own question.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn derived_and_tried(&mut self, server: &Server) -> Result<Derived, ComponentError> {
        let unqualified = derived::find_unqualified(&mut self.transaction).await?;
        let refused = predicted_differences::find(&mut self.transaction).await?;
        let mut derived = Derived { unqualified, refused, ..self.derived(server).await? };
        derived.left_out.extend(predicted_differences::find_columns(&self.transaction).await?);
        Ok(derived)
    }

    /// Ends the snapshot.
    ///
    /// # Errors
    ///
    /// The error of the server: then the snapshot may have ended before, and what was read in it is not certain.
    pub async fn close(self) -> Result<(), ComponentError> {
        self.transaction.commit().await.map_err(|err| sort("end the snapshot".into(), err))
    }
}

impl Table {
    fn from_row(row: &Row, encoding: &str) -> Self {
        let raw = |column| row.get::<_, Vec<u8>>(column);
        Self {
            quoted: row.get(0),
            condition: row.get(1),
            bytes: row.get::<_, i64>(2).unsigned_abs(),
            name: (decode_name(&raw(3), encoding), decode_name(&raw(4), encoding)),
            pattern: [quote(&raw(5)), quote(&raw(6))].join(&b'.'),
            comment: decode_name(&raw(7), encoding),
        }
    }

    fn is_one_of(&self, tables: &[Excluded]) -> bool {
        let (schema, name) = &self.name;
        let is_it = |table: &Excluded| {
            table.schema == *schema && table.table == *name && self.comment.starts_with(&table.comment)
        };
        tables.iter().any(is_it)
    }
}

/// Quotes a name for the patterns of `pg_dump`, in which quoted letters stand for themselves.
fn quote(name: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in name {
        quoted.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
    }
    quoted.push(b'"');
    quoted
}

/// A quarter of the locks that the server has room for: `pg_dump` needs one for each table as well, and so do others.
const ROOM_FOR_LOCKS: &str = "
    SELECT current_setting('max_locks_per_transaction')::int8
           * (current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8) / 4";

/// The tables whose rows `pg_dump` dumps, by the rules of its `getTableData`,
/// `selectDumpableTable` and `processExtensionTables` (`src/bin/pg_dump/pg_dump.c`):
///
/// - ordinary tables and partitions, unlogged ones too; not their parents, foreign tables, views,
///   materialized views; nothing temporary; no schema of the system;
/// - of the tables of an extension only those it marked as configuration, with its condition;
/// - under the name of their root, partitions below a hash partitioning by an enum: `pg_dump`
///   loads those through the root, since the hash of an enum differs between databases.
const LIST: &str = "
    SELECT format('%I.%I', n.nspname, c.relname), coalesce(conf.condition, ''), pg_table_size(c.oid),
           convert_to(coalesce(root.schema, n.nspname)::text, getdatabaseencoding()),
           convert_to(coalesce(root.name, c.relname)::text, getdatabaseencoding()),
           convert_to(n.nspname::text, getdatabaseencoding()),
           convert_to(c.relname::text, getdatabaseencoding()),
           convert_to(coalesce(obj_description(c.oid, 'pg_class'), ''), getdatabaseencoding())
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN (SELECT t.oid, t.condition FROM pg_extension e, unnest(e.extconfig, e.extcondition) t(oid, condition)) conf
             ON conf.oid = c.oid
      LEFT JOIN LATERAL
           (SELECT r.relname AS name, s.nspname AS schema
              FROM pg_class r JOIN pg_namespace s ON s.oid = r.relnamespace
             WHERE c.relispartition AND r.oid = pg_partition_root(c.oid)
               AND EXISTS (SELECT FROM pg_partition_ancestors(c.oid) a
                             JOIN pg_partitioned_table p ON p.partrelid = a.relid
                             JOIN pg_opclass o ON o.oid = ANY (p.partclass)
                             JOIN pg_am m ON m.oid = o.opcmethod
                            WHERE o.opcname = 'enum_ops' AND m.amname = 'hash')) root ON true
     WHERE c.relkind = 'r' AND c.relpersistence <> 't'
       AND (conf.oid IS NOT NULL
            OR n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
               AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                                  AND d.objid = c.oid AND d.deptype = 'e'))
     ORDER BY c.oid";
