//! `component::postgres`: restores in place, by an owner who may not make databases.

use crate::postgres::backup;
use crate::postgres_in_the_way::of_a_poor_owner;
use crate::postgres_restore::{component, stage};
use crate::support::postgres::PostgresServer;
use rna_backup::base::chain;
use rna_backup::component::postgres::PostgresConfig;
use rna_backup::component::{ComponentError, Restorable, RestoreOrder, Target};
use rna_backup::domain::{facts::Facts, progress::Meter};

/// The refusal of a dry run, or nothing.
async fn refusal(config: &PostgresConfig, archive: &[u8], facts: &Facts) -> String {
    let previewed =
        component(config).preview(&mut &*archive, &RestoreOrder::new(&Target::Live, Some(facts))).await;
    previewed.err().as_ref().map_or_else(String::new, |err| chain(err))
}

async fn restore(config: &PostgresConfig, archive: &[u8], facts: &Facts) -> Result<(), ComponentError> {
    stage(config, archive, &Target::Live, Some(facts)).await?.swap().await.map(drop)
}

/// Everything that an owner may make and a `DROP` names in a way of its own.
const ODD: &str = r#"
    CREATE EXTENSION citext; CREATE SCHEMA app; CREATE SCHEMA "lab data"; CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TYPE cmp AS (x int);
    CREATE TYPE app.rg AS RANGE (subtype = int); CREATE DOMAIN dm AS int CHECK (VALUE > 0);
    CREATE COLLATION deu FROM "C"; CREATE SEQUENCE sq; CREATE TABLE app.t (i serial PRIMARY KEY, n text, m mood[]);
    CREATE TABLE q (i int PRIMARY KEY, d dm, c cmp, e mood DEFAULT 'a', t text COLLATE deu); INSERT INTO app.t (n) VALUES ('a');
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
    CREATE FUNCTION calc(i int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i + 1';
    CREATE FUNCTION more(i int, "M x" mood, VARIADIC text[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE PROCEDURE pr(m mood, d dm, c cmp) LANGUAGE sql AS 'SELECT 1'; CREATE FUNCTION of_row(q) RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE AGGREGATE ag(*) (sfunc = int8inc, stype = int8, initcond = 0);
    CREATE VIEW "lab data".v AS SELECT i, e FROM q WHERE e = 'b'; CREATE VIEW "lab data".grp AS SELECT i, d FROM q GROUP BY i;
    CREATE VIEW "new
line" AS SELECT * FROM "lab data".v; CREATE MATERIALIZED VIEW mv AS SELECT calc(i) FROM q;
    CREATE TRIGGER x BEFORE UPDATE ON q FOR EACH ROW EXECUTE FUNCTION touch(); CREATE POLICY p ON q USING (calc(i) > 1);
    CREATE RULE r AS ON DELETE TO app.t DO ALSO NOTIFY x; CREATE STATISTICS st ON i, d FROM q;
    CREATE INDEX ON q (calc(i)); CREATE TABLE k (i int REFERENCES q, g int GENERATED ALWAYS AS (i + 1) STORED CHECK (calc(g) > 0));
    ALTER TABLE k ADD CONSTRAINT nv CHECK (i > 0) NOT VALID; CREATE TABLE id (i int GENERATED ALWAYS AS IDENTITY);
    CREATE FUNCTION same(int, mood) RETURNS bool LANGUAGE sql AS 'SELECT true';
    CREATE OPERATOR === (leftarg = int, rightarg = mood, function = same);
    CREATE TEXT SEARCH DICTIONARY tsd (template = simple); CREATE TEXT SEARCH CONFIGURATION tsc (copy = simple);
    CREATE PUBLICATION pub FOR TABLE q; SELECT lo_create(503);
    CREATE VIEW one AS SELECT 1 AS i; CREATE VIEW two AS SELECT * FROM one; CREATE OR REPLACE VIEW one AS SELECT i FROM id"#;

async fn an_unchanged_database_is_restored(server: &PostgresServer) {
    let config = of_a_poor_owner(server, "unchanged");
    server.psql("unchanged", &format!("SET ROLE unchanged; {ODD}"));
    let (archive, facts) = backup(config.clone()).await.unwrap();
    // Twice: the numbers of the objects are others then.
    for _ in 0..2 {
        assert_eq!(refusal(&config, &archive, &facts).await, "");
        server.psql("unchanged", "DELETE FROM app.t");
        restore(&config, &archive, &facts).await.unwrap();
        assert_eq!(server.psql("unchanged", "SELECT count(*) FROM app.t"), "1");
    }
}

#[tokio::test]
async fn in_place_nothing_of_a_backup_is_taken_for_something_newer() {
    an_unchanged_database_is_restored(PostgresServer::shared()).await;
}

#[tokio::test]
async fn in_place_nothing_of_a_backup_is_taken_for_something_newer_on_18() {
    an_unchanged_database_is_restored(&PostgresServer::of(18)).await;
}

/// Objects that were made later, and the statement that takes each away.
const LATER: [(&str, &str); 25] = [
    ("CREATE TABLE app.newer (i serial)", "ALTER TABLE app.newer SET SCHEMA public"),
    (
        "CREATE TABLE newer (i int); CREATE TRIGGER x BEFORE UPDATE ON newer FOR EACH ROW EXECUTE FUNCTION touch()",
        "DROP TRIGGER x on public.newer",
    ),
    ("CREATE VIEW newer AS SELECT calc(3) AS x", "DROP VIEW public.newer"),
    (
        "CREATE VIEW newer AS SELECT calc(3) AS x; CREATE VIEW newest AS SELECT * FROM newer",
        "DROP VIEW public.newest",
    ),
    (
        "CREATE TABLE newer (i int CONSTRAINT k CHECK (calc(i) > 0))",
        "ALTER TABLE public.newer DROP CONSTRAINT k",
    ),
    (
        "CREATE TABLE newer (i int DEFAULT nextval('sq'))",
        "ALTER TABLE public.newer ALTER COLUMN i DROP DEFAULT",
    ),
    ("CREATE TABLE newer (i mood[])", "ALTER TABLE public.newer ALTER COLUMN i TYPE text"),
    ("CREATE TABLE newer (i cmp)", "ALTER TABLE public.newer ALTER COLUMN i TYPE text"),
    ("CREATE TABLE newer (i app.t)", "ALTER TABLE public.newer ALTER COLUMN i TYPE text"),
    (
        "CREATE TABLE newer (i text COLLATE deu)",
        "ALTER TABLE public.newer ALTER COLUMN i TYPE text COLLATE pg_catalog.\"default\"",
    ),
    ("CREATE TABLE newer (i citext)", "ALTER TABLE public.newer ALTER COLUMN i TYPE text"),
    ("CREATE DOMAIN newer AS mood", "DROP TYPE public.newer"),
    (
        "CREATE FUNCTION newer(c cmp) RETURNS int LANGUAGE sql AS 'SELECT 424242'",
        "DROP FUNCTION public.newer(public.cmp)",
    ),
    (
        "CREATE FUNCTION newer() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT calc(424242); END",
        "DROP FUNCTION public.newer()",
    ),
    ("CREATE PROCEDURE newer(m mood) LANGUAGE sql AS 'SELECT 1'", "DROP PROCEDURE public.newer(public.mood)"),
    (
        "CREATE TABLE newer (i int); CREATE POLICY p ON newer USING (calc(i) > 1)",
        "DROP POLICY p on public.newer",
    ),
    ("CREATE VIEW newer AS SELECT 'a'::mood AS m", "DROP VIEW public.newer"),
    (
        "CREATE TABLE newer (i int); CREATE RULE r AS ON INSERT TO newer DO ALSO INSERT INTO q VALUES (new.i)",
        "DROP RULE r on public.newer",
    ),
    (
        "CREATE TABLE newer (i int, j int); CREATE STATISTICS newer ON (calc(i)), j FROM newer",
        "DROP STATISTICS public.newer",
    ),
    ("CREATE TABLE newer (i int); CREATE INDEX newer_i ON newer (calc(i))", "DROP INDEX public.newer_i"),
    ("CREATE TABLE newer (i int REFERENCES q)", "ALTER TABLE public.newer DROP CONSTRAINT newer_i_fkey"),
    ("CREATE PUBLICATION newer FOR TABLE app.t, q", "ALTER PUBLICATION newer DROP TABLE app.t"),
    ("CREATE TABLE newer () INHERITS (app.t)", "ALTER TABLE public.newer NO INHERIT app.t"),
    (
        "CREATE AGGREGATE newer(mood) (sfunc = array_append, stype = mood[])",
        "DROP AGGREGATE public.newer(public.mood)",
    ),
    ("DROP VIEW two; CREATE MATERIALIZED VIEW two AS SELECT 1", "DROP MATERIALIZED VIEW public.two"),
];

async fn what_came_later_is_in_the_way(server: &PostgresServer) {
    let config = of_a_poor_owner(server, "newcomer");
    server.psql("newcomer", &format!("SET ROLE newcomer; {ODD}"));
    let (archive, facts) = backup(config.clone()).await.unwrap();
    for (made, away) in LATER {
        server.psql("newcomer", &format!("SET ROLE newcomer; {made}"));
        let said = refusal(&config, &archive, &facts).await;
        assert!(said.contains(&format!("before the restore {away}")), "{made}: {said}");
        assert!(!said.contains("424242"), "a definition may hold a secret: {said}");
        let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await;
        assert!(staged.is_err_and(|err| chain(&err).contains(away)), "{made}");
        // Every statement in turn is the way out.
        let statements = said.split("before the restore ").skip(1).map(|rest| {
            let ends = ["; and after it", " (save it first"].iter().filter_map(|end| rest.find(end));
            &rest[..ends.min().unwrap()]
        });
        server.psql("newcomer", &statements.collect::<Vec<_>>().join(";\n"));
        assert_eq!(refusal(&config, &archive, &facts).await, "", "{made}: {said}");
        restore(&config, &archive, &facts).await.unwrap();
        server.psql(
            "newcomer",
            "SET client_min_messages = error; DROP TABLE IF EXISTS newer; DROP PUBLICATION IF EXISTS newer",
        );
    }
}

#[tokio::test]
async fn in_place_every_kind_of_newcomer_is_refused_with_a_way_out() {
    what_came_later_is_in_the_way(PostgresServer::shared()).await;
}

#[tokio::test]
async fn in_place_every_kind_of_newcomer_is_refused_with_a_way_out_on_18() {
    what_came_later_is_in_the_way(&PostgresServer::of(18)).await;
}

async fn default_privileges_do_not_widen_rights(server: &PostgresServer) {
    let config = of_a_poor_owner(server, "generous");
    let give = "ALTER DEFAULT PRIVILEGES FOR ROLE generous GRANT SELECT ON TABLES TO PUBLIC";
    let take = "ALTER DEFAULT PRIVILEGES FOR ROLE generous REVOKE SELECT ON TABLES FROM PUBLIC";
    server.psql("generous", &format!("CREATE SCHEMA app AUTHORIZATION generous; SET ROLE generous; CREATE TABLE t (i int); {give};
        ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC; ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"));
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let said = refusal(&config, &archive, &facts).await;
    let functions = "ALTER DEFAULT PRIVILEGES FOR ROLE generous GRANT EXECUTE ON FUNCTIONS TO PUBLIC";
    assert!(
        said.contains(&format!(
            "before the restore {take}; and after it, unless the restore has done so, {give}"
        )),
        "{said}"
    );
    assert!(said.contains(functions) && !said.contains("IN SCHEMA app"), "{said}");
    let err = restore(&config, &archive, &facts).await.unwrap_err();
    assert!(matches!(&err, ComponentError::Unusable { what, .. } if what.contains(take)), "{err}");
    server.psql("generous", &format!("{take}; {functions}"));
    restore(&config, &archive, &facts).await.unwrap();
    assert_eq!(server.psql("generous", "SELECT relacl IS NULL FROM pg_class WHERE relname = 't'"), "t");
    // They have come back with the archive.
    assert_eq!(server.psql("generous", "SELECT count(*) FROM pg_default_acl"), "3");
    // The schema public is not made again: what was granted on it since then stays, and is told.
    server.psql("generous", &format!("GRANT CREATE ON SCHEMA public TO PUBLIC; {take}; {functions}"));
    let meter = Meter::default();
    let lab = component(&config);
    let staged =
        lab.stage(&mut &*archive, &RestoreOrder::new(&Target::Live, Some(&facts)), &meter).await.unwrap();
    staged.swap().await.unwrap();
    let warnings = meter.take_warnings().join("; ");
    assert!(
        warnings.contains("not those of the backup")
            && warnings.contains("schema public is with PUBLIC CREATE"),
        "{warnings}"
    );
}

#[tokio::test]
async fn in_place_default_privileges_that_would_widen_rights_are_refused_with_their_statements() {
    default_privileges_do_not_widen_rights(PostgresServer::shared()).await;
}

#[tokio::test]
async fn in_place_default_privileges_that_would_widen_rights_are_refused_with_their_statements_on_18() {
    default_privileges_do_not_widen_rights(&PostgresServer::of(18)).await;
}

async fn what_belongs_to_others_is_named(server: &PostgresServer) {
    let config = of_a_poor_owner(server, "tenant");
    server.psql(
        "tenant",
        "CREATE EXTENSION citext; SELECT lo_create(503); GRANT SELECT ON LARGE OBJECT 503 TO tenant; CREATE TABLE of_them (i int);
         GRANT SELECT ON of_them TO tenant; CREATE SCHEMA theirs; GRANT USAGE ON SCHEMA theirs TO tenant;
         CREATE TABLE theirs.t (i int); GRANT SELECT ON theirs.t TO tenant; SET ROLE tenant; CREATE TABLE own (i int);
         SELECT lo_create(504)",
    );
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let said = refusal(&config, &archive, &facts).await;
    for named in ["extension citext", "large object 503", "table theirs.t", "schema theirs"] {
        assert!(said.contains(&format!("{named} belongs to postgres")), "{named}: {said}");
    }
    // The owner of a schema may drop what is in it.
    assert!(
        !said.contains("table public.own") && !said.contains("504") && !said.contains("of_them"),
        "{said}"
    );
}

#[tokio::test]
async fn in_place_what_belongs_to_other_owners_is_named_beforehand() {
    what_belongs_to_others_is_named(PostgresServer::shared()).await;
}

#[tokio::test]
async fn in_place_what_belongs_to_other_owners_is_named_beforehand_on_18() {
    what_belongs_to_others_is_named(&PostgresServer::of(18)).await;
}

async fn partitions_with_keys_are_restored(server: &PostgresServer) {
    let config = of_a_poor_owner(server, "parted");
    server.psql(
        "parted",
        "SET ROLE parted; CREATE TABLE parent (i int PRIMARY KEY, u int, UNIQUE (i, u)) PARTITION BY RANGE (i);
         CREATE TABLE ch PARTITION OF parent FOR VALUES FROM (1) TO (5) PARTITION BY RANGE (i);
         CREATE TABLE deep PARTITION OF ch FOR VALUES FROM (1) TO (5); CREATE INDEX ON parent (u);
         CREATE TABLE \"a part\" PARTITION OF parent FOR VALUES FROM (6) TO (9); INSERT INTO parent VALUES (1, 1), (7, 7);
         CREATE TABLE fk (i int REFERENCES parent (i)); CREATE TABLE list (i int PRIMARY KEY) PARTITION BY LIST (i);
         CREATE TABLE item (i int PRIMARY KEY); ALTER TABLE list ATTACH PARTITION item FOR VALUES IN (7)",
    );
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let seen = "SELECT conrelid::regclass::text, conname, conparentid <> 0 FROM pg_constraint WHERE contype IN ('p', 'u', 'f') AND conrelid >= 16384 ORDER BY 1, 2;
                SELECT * FROM parent ORDER BY 1";
    let before = server.psql("parted", seen);
    server.psql("parted", "DELETE FROM parent");
    assert_eq!(refusal(&config, &archive, &facts).await, "");
    restore(&config, &archive, &facts).await.unwrap();
    assert_eq!(server.psql("parted", seen), before);
    // A partition and its rows that the backup does not know would be lost, and so would a part of a newer table.
    server.psql(
        "parted",
        "SET ROLE parted; CREATE TABLE late PARTITION OF parent FOR VALUES FROM (10) TO (20); ALTER TABLE list DETACH PARTITION item;
         CREATE TABLE newer (i int) PARTITION BY LIST (i); ALTER TABLE newer ATTACH PARTITION item FOR VALUES IN (7)",
    );
    let said = refusal(&config, &archive, &facts).await;
    for words in [
        "ALTER TABLE public.parent DETACH PARTITION public.late; and after it ALTER TABLE public.parent ATTACH PARTITION public.late \
         FOR VALUES FROM (10) TO (20)",
        "ALTER TABLE public.newer DETACH PARTITION public.item",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("late_pkey") && !said.contains("late_u_idx"), "{said}");
}

#[tokio::test]
async fn in_place_partitioned_tables_with_keys_come_back() {
    partitions_with_keys_are_restored(PostgresServer::shared()).await;
}

#[tokio::test]
async fn in_place_partitioned_tables_with_keys_come_back_on_18() {
    partitions_with_keys_are_restored(&PostgresServer::of(18)).await;
}

async fn extensions_of_other_owners_are_named(server: &PostgresServer) {
    let config = of_a_poor_owner(server, "inext");
    server.psql(
        "inext",
        "CREATE ROLE inext_other; GRANT inext_other TO inext; GRANT CREATE ON DATABASE inext TO inext_other;
         GRANT CREATE ON SCHEMA public TO inext_other; SET ROLE inext_other; CREATE EXTENSION citext; RESET ROLE; SET ROLE inext;
         CREATE TABLE t (id int, name citext); INSERT INTO t VALUES (1, 'x')",
    );
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let words = "Extension citext belongs to inext after a restore and belonged to inext_other at the backup";
    let plan = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap();
    assert!(plan.advice.iter().any(|said| said.starts_with(words)), "{plan:?}");
    server.psql("inext", "DELETE FROM t");
    let meter = Meter::default();
    let staged = component(&config)
        .stage(&mut &*archive, &RestoreOrder::new(&Target::Live, Some(&facts)), &meter)
        .await
        .unwrap();
    staged.swap().await.unwrap();
    let warnings = meter.take_warnings();
    assert!(warnings.len() == 1 && warnings[0].starts_with(words), "{warnings:?}");
    assert_eq!(
        server.psql(
            "inext",
            "SELECT count(*), (SELECT extowner::regrole FROM pg_extension WHERE extname = 'citext') FROM t"
        ),
        "1|inext"
    );

    // An extension that its owner may not make anew is refused, and nothing is touched.
    server.psql(
        "inext",
        "ALTER ROLE inext_other SUPERUSER; SET ROLE inext_other; CREATE EXTENSION pageinspect; RESET ROLE; ALTER ROLE inext_other NOSUPERUSER",
    );
    let (archive, facts) = backup(config.clone()).await.unwrap();
    server.psql("inext", "DELETE FROM t");
    let said = chain(&restore(&config, &archive, &facts).await.unwrap_err());
    assert!(said.contains("Extension pageinspect cannot be created by \"inext\""), "{said}");
    assert_eq!(server.psql("inext", "SELECT count(*) FROM t"), "0");
}

#[tokio::test]
async fn in_place_extensions_of_other_owners_are_named_or_refused_before_anything_is_touched() {
    for server in [PostgresServer::start(), PostgresServer::of(18)] {
        extensions_of_other_owners_are_named(&server).await;
    }
}
