//! `component::postgres` against a real server: what is dumped, counted and proven.

use crate::support::postgres::{PASSWORD, PostgresServer};
use async_trait::async_trait;
use bytes::Bytes;
use rna_backup::component::postgres::{Excluded, Postgres, PostgresConfig};
use rna_backup::component::{ComponentError, Source};
use rna_backup::domain::facts::{Counts, Facts};
use rna_backup::domain::progress::Meter;
use rna_backup::stream::{Content, Output};
use std::io;
use tokio::sync::{mpsc, oneshot};

/// An output that keeps the archive in memory.
#[derive(Default)]
pub struct MemoryOutput(pub Vec<u8>);

#[async_trait]
impl Output for MemoryOutput {
    async fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        self.0.extend_from_slice(&chunk);
        Ok(())
    }

    fn content(&mut self, _: Content) {}
}

/// Says when the first bytes come, and takes no more of them until told to.
pub struct Gated {
    pub reached: Option<oneshot::Sender<()>>,
    pub go_on: mpsc::Receiver<()>,
    pub memory: MemoryOutput,
}

impl Gated {
    pub fn new() -> (Self, oneshot::Receiver<()>, mpsc::Sender<()>) {
        let (reached, at_gate) = oneshot::channel();
        let (open, go_on) = mpsc::channel(1);
        (Self { reached: Some(reached), go_on, memory: MemoryOutput::default() }, at_gate, open)
    }
}

#[async_trait]
impl Output for Gated {
    async fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        if let Some(reached) = self.reached.take() {
            let _ = reached.send(());
            let _ = self.go_on.recv().await;
        }
        self.memory.write(chunk).await
    }

    fn content(&mut self, _: Content) {}
}

pub async fn backup(config: PostgresConfig) -> Result<(Vec<u8>, Facts), ComponentError> {
    let mut out = MemoryOutput::default();
    let facts = Postgres::new(config, Vec::new()).back_up(None, &mut out, &Meter::default()).await?;
    Ok((out.0, facts))
}

/// Decodes without any server, as it will be after a disaster.
pub async fn decode(mut archive: &[u8]) -> Result<Counts, ComponentError> {
    let config = PostgresConfig { host: "/nonexistent".into(), ..PostgresConfig::default() };
    Postgres::new(config, Vec::new()).decode(&mut archive, &Meter::default()).await
}

fn rows(counts: &Counts) -> Vec<(String, String, u64)> {
    counts.tables.iter().map(|t| (t.schema.clone(), t.table.clone(), t.rows)).collect()
}

/// Everything that `pg_dump` treats in its own way, and the names that break programs.
pub const NASTY: &str = r#"
CREATE TABLE plain (id serial PRIMARY KEY, body text);
INSERT INTO plain (body) SELECT E'a\tb\\.\nc\n\\.\n\n\\N\r' || g FROM generate_series(1, 1000) g;
CREATE TABLE empty (id int);
CREATE TABLE no_columns ();
INSERT INTO no_columns SELECT FROM generate_series(1, 7);
CREATE TABLE only_dots (x text);
INSERT INTO only_dots VALUES ('\.'), ('.'), ('\'), (''), (NULL), (E'\n'), ('COPY plain (id) FROM stdin;');
CREATE SCHEMA "we.ird ""schema""";
CREATE TABLE "we.ird ""schema"""."ta.ble"".x
COPY public.fake (id) FROM stdin;
1
\." ("co;l""umn" text, "größe 量" int);
INSERT INTO "we.ird ""schema"""."ta.ble"".x
COPY public.fake (id) FROM stdin;
1
\." VALUES ('x', 1), (NULL, 2);
CREATE SEQUENCE "seq'
COPY public.fake2 (id) FROM stdin;
1
\.
" START 42;
CREATE TABLE generated (a int, b int GENERATED ALWAYS AS (a * 2) STORED, id int GENERATED ALWAYS AS IDENTITY);
INSERT INTO generated (a) SELECT generate_series(1, 5);
CREATE TABLE parent (id int);
CREATE TABLE child (extra int) INHERITS (parent);
INSERT INTO parent VALUES (1), (2);
INSERT INTO child VALUES (3, 3);
CREATE TABLE measure (at date, v int) PARTITION BY RANGE (at);
CREATE TABLE measure_25 PARTITION OF measure FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE measure_rest PARTITION OF measure DEFAULT;
INSERT INTO measure VALUES ('2025-05-05', 1), ('2026-05-05', 2), ('2027-05-05', 3);
CREATE TYPE colour AS ENUM ('red', 'green', 'blue');
CREATE TABLE by_enum (c colour, v int) PARTITION BY HASH (c);
CREATE TABLE by_enum_0 PARTITION OF by_enum FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE by_enum_1 PARTITION OF by_enum FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO by_enum SELECT c, g FROM unnest(enum_range(NULL::colour)) c, generate_series(1, 4) g;
CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 9) AS n;
CREATE MATERIALIZED VIEW matview AS SELECT * FROM plain;
CREATE VIEW v AS SELECT * FROM plain;
CREATE FUNCTION looks_like_copy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN /*
COPY plain (id, body) FROM stdin;
\.
*/ RETURN new; END $$;
CREATE TRIGGER t BEFORE UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION looks_like_copy();
COMMENT ON TABLE plain IS E'a comment\nCOPY plain (id, body) FROM stdin;\n';
SELECT lo_from_bytea(0, decode(repeat('434f5059207828792920', 3000), 'hex'));
SELECT lo_from_bytea(0, E'''\n;COPY public.fake3 (id) FROM stdin;\n1\n');
CREATE TABLE circle (id int PRIMARY KEY, next int REFERENCES circle);
INSERT INTO circle VALUES (1, 1);
ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
CREATE TABLE django_migrations (id serial, app text, name text, applied timestamptz DEFAULT now());
INSERT INTO django_migrations (app, name) VALUES ('auth', '0001_initial'), ('auth', '0002_more'), ('api', '0001_initial');
"#;

/// One line for each table (its rows and a hash of them), sequence and large object.
pub const FINGERPRINT: &str = r"
SELECT format('SELECT %L, count(*), sum(hashtextextended(t::text, 0)) FROM ONLY %I.%I t;', nspname || '.' || relname, nspname, relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
 WHERE relkind IN ('r', 'm') AND nspname !~ '^pg_|^information_schema' AND relname !~ '^by_enum' ORDER BY nspname, relname \gexec
SELECT format('SELECT %L, last_value, is_called FROM %I.%I;', relname, nspname, relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = 'S' ORDER BY relname \gexec
SELECT c, count(*), sum(v) FROM by_enum GROUP BY c ORDER BY c;
SELECT md5(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY 1;
SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n' ORDER BY 1, 2;
SELECT tgname FROM pg_trigger WHERE NOT tgisinternal;
";

#[tokio::test]
async fn a_database_of_everything_comes_back_by_plain_pg_restore() {
    let server = PostgresServer::shared();
    let database = server.database("everything", "");
    server.psql(&database, NASTY);
    let (archive, facts) = backup(server.config(&database)).await.unwrap();

    let restored = server.database("everything_restored", "");
    let out = server.run("pg_restore", &restored, &["--exit-on-error", "-d", &restored], &archive);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let fingerprint = server.psql(&database, FINGERPRINT);
    assert!(fingerprint.lines().count() > 30, "{fingerprint}");
    assert_eq!(server.psql(&restored, FINGERPRINT), fingerprint);

    let found = decode(&archive).await.unwrap();
    assert_eq!(facts.counts.differences(&found), [""; 0]);
    assert_eq!(facts.counts, found, "in the same order too");
    let counted = rows(&found);
    for (table, want) in
        [("plain", 1000), ("empty", 0), ("no_columns", 7), ("only_dots", 7), ("parent", 2), ("child", 1)]
    {
        assert!(counted.contains(&("public".into(), table.into(), want)), "{table}: {counted:?}");
    }
    for (table, want) in [("measure_rest", 2), ("by_enum", 12), ("unlogged", 9)] {
        assert!(counted.contains(&("public".into(), table.into(), want)), "{table}: {counted:?}");
    }
    let weird = "ta.ble\".x\nCOPY public.fake (id) FROM stdin;\n1\n\\.";
    assert!(counted.contains(&("we.ird \"schema\"".into(), weird.into(), 2)), "{counted:?}");
    assert!(
        !counted.iter().any(|(_, table, _)| table.starts_with("fake") || table == "matview"),
        "{counted:?}"
    );

    assert_eq!(facts.migrations["auth"], "0002_more");
    assert_eq!(facts.migrations["api"], "0001_initial");
    assert_eq!(facts.source_bytes, archive.len() as u64);
    assert!(facts.database_bytes.unwrap() > 1_000_000);
    assert!(facts.versions["pg_dump"].starts_with(|c: char| c.is_ascii_digit()), "{facts:?}");
    assert!(facts.versions["postgres_server"].starts_with(|c: char| c.is_ascii_digit()), "{facts:?}");
}

#[test]
fn counts_are_those_of_the_snapshot_while_others_write() {
    let server = PostgresServer::shared();
    let database = server.database("written_to", "");
    server.psql(
        &database,
        "CREATE TABLE a AS SELECT generate_series(1, 200000) AS n; CREATE TABLE b AS TABLE a; CREATE TABLE stop (n int)",
    );
    let write = "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM stop) LOOP \
                 INSERT INTO a VALUES (0); INSERT INTO b VALUES (0); COMMIT; END LOOP; END $$";
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| server.psql(&database, write));
        while server.psql(&database, "SELECT count(*) > 200000 FROM a") != "t" {}
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (archive, facts) = runtime.block_on(backup(server.config(&database))).unwrap();
        server.psql(&database, "INSERT INTO stop VALUES (1)");
        writer.join().unwrap();
        assert_eq!(runtime.block_on(decode(&archive)).unwrap(), facts.counts);
        let counts: Vec<_> = facts.counts.tables.iter().map(|table| table.rows).collect();
        assert_eq!((counts[0], counts[2]), (counts[1], 0), "both tables are of one instant");
        let after: u64 = server.psql(&database, "SELECT count(*) FROM a").parse().unwrap();
        assert!((200_001..after).contains(&counts[0]), "{counts:?} of {after}");
    });
}

#[tokio::test]
async fn any_name_of_a_database_works() {
    let server = PostgresServer::shared();
    let names = ["Größe \"quoted\" 'single' host=x port=1 =", "postgres://x@y/z?a=b", " -U % \\ \u{91cf}"];
    for name in names {
        let database = server.database(name, "");
        server.psql(&database, "CREATE TABLE t AS SELECT 1 AS n");
        let socket = PostgresConfig {
            host: server.socket_dir().to_str().unwrap().into(),
            password: None,
            ..server.config(&database)
        };
        for config in [server.config(&database), socket] {
            let (archive, facts) = backup(config).await.unwrap();
            assert_eq!(facts.counts, decode(&archive).await.unwrap(), "{name}");
            assert_eq!(rows(&facts.counts).len(), 1, "{name}");
        }
    }
}

#[tokio::test]
async fn databases_of_other_encodings_keep_every_byte_and_name() {
    let server = PostgresServer::shared();
    let latin = server.database("latin", "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    server.psql(&latin, "SET client_encoding = 'UTF8'; CREATE TABLE \"größe\" AS SELECT 'äöü'::text AS x");
    let ascii = server.database("ascii", "ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0");
    server.psql(&ascii, r"CREATE TABLE bytes (x text); INSERT INTO bytes VALUES (E'\xff\xfe'), (E'\xe4')");
    for (database, table, count) in [(latin, "größe", 1), (ascii, "bytes", 2)] {
        let (archive, facts) = backup(server.config(&database)).await.unwrap();
        let found = decode(&archive).await.unwrap();
        assert_eq!(rows(&found), [("public".to_owned(), table.to_owned(), count)]);
        assert_eq!(facts.counts, found);
        let options = server.psql(
            &database,
            "SELECT format('ENCODING %L LOCALE ''C'' TEMPLATE template0', getdatabaseencoding())",
        );
        let restored = server.database(&format!("{database}_restored"), &options);
        let out = server.run("pg_restore", &restored, &["--exit-on-error", "-d", &restored], &archive);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let hash = format!(
            "SELECT string_agg(encode(convert_to(x, getdatabaseencoding()), 'hex'), ' ') FROM \"{table}\""
        );
        let session = |sql: &str| format!("SET client_encoding = 'UTF8'; {sql}");
        assert_eq!(server.psql(&restored, &session(&hash)), server.psql(&database, &session(&hash)));
    }
}

#[tokio::test]
async fn excluded_tables_and_those_of_extensions_are_left_out_on_both_sides() {
    let server = PostgresServer::shared();
    let database = server.database("excluding", "");
    server.psql(
        &database,
        "CREATE TABLE kept AS SELECT 1 AS n; CREATE TABLE \"Mir\"\"ror.$*\" AS SELECT 1 AS n; \
         CREATE TABLE \"mirror\" AS SELECT 1 AS n; CREATE TABLE extension_table AS SELECT 1 AS n; \
         CREATE TABLE extension_settings AS SELECT generate_series(1, 10) AS n; \
         COMMENT ON TABLE \"Mir\"\"ror.$*\" IS 'ours, version 1'; COMMENT ON TABLE mirror IS 'somebody else''s'; \
         ALTER EXTENSION plpgsql ADD TABLE extension_table; CREATE TEMP TABLE temporary (n int)",
    );
    let excluded =
        |table: &str| Excluded { schema: "public".into(), table: table.into(), comment: "ours".into() };
    let exclude = vec![excluded("Mir\"ror.$*"), excluded("mirror"), excluded("absent")];
    let postgres = Postgres::new(server.config(&database), exclude);
    let mut out = MemoryOutput::default();
    let facts = postgres.back_up(None, &mut out, &Meter::default()).await.unwrap();
    let tables: Vec<_> = facts.counts.tables.iter().map(|t| &*t.table).collect();
    assert_eq!(tables, ["extension_settings", "kept", "mirror"]);
    assert_eq!(facts.counts, decode(&out.0).await.unwrap());
}

#[tokio::test]
async fn only_the_users_rows_of_an_extensions_settings_are_dumped_and_counted() {
    let server = PostgresServer::shared();
    let database = server.database("configured", "");
    // What `pg_extension_config_dump` records, for an extension that need not be installed.
    server.psql(
        &database,
        "CREATE EXTENSION IF NOT EXISTS plpgsql; CREATE SCHEMA ext; \
         CREATE TABLE ext.settings AS SELECT generate_series(1, 10) AS n; \
         CREATE TABLE ext.internal AS SELECT 1 AS n; \
         INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion, extconfig, extcondition) \
         VALUES (99999, 'pretended', 10, 'ext'::regnamespace, false, '1', ARRAY['ext.settings'::regclass::oid], ARRAY['WHERE n > 7']); \
         INSERT INTO pg_depend SELECT 'pg_class'::regclass, t::oid, 0, 'pg_extension'::regclass, 99999, 0, 'e' \
           FROM unnest(ARRAY['ext.settings'::regclass, 'ext.internal']) t",
    );
    let (archive, facts) = backup(server.config(&database)).await.unwrap();
    assert_eq!(rows(&facts.counts), [("ext".into(), "settings".into(), 3)]);
    assert_eq!(facts.counts, decode(&archive).await.unwrap());
}

#[tokio::test]
async fn five_hundred_tables_are_no_matter() {
    let server = PostgresServer::shared();
    let database = server.database("many", "");
    let create =
        "SELECT format('CREATE TABLE t%s AS SELECT %s AS n', g, g) FROM generate_series(1, 500) g \\gexec";
    server.psql(&database, create);
    let (archive, facts) = backup(server.config(&database)).await.unwrap();
    assert_eq!(facts.counts.tables.len(), 500);
    assert_eq!(facts.counts, decode(&archive).await.unwrap());
}

#[tokio::test]
async fn a_check_says_what_it_found() {
    let server = PostgresServer::shared();
    let database = server.database("checked", "");
    let found = Postgres::new(server.config(&database), Vec::new()).check().await.unwrap();
    assert!(
        found.starts_with("PostgreSQL 1") && found.contains("/checked, ") && found.contains("; pg_dump "),
        "{found}"
    );
    assert!(!found.contains(PASSWORD));
}
