//! `component::postgres`: settings of role and database change no value on its way through a backup, and what no dump has is
//! named.

use crate::postgres::backup;
use crate::postgres_restore::{component, drill, in_parallel, with_own_clients};
use crate::postgres_rights::as_role;
use crate::support::postgres::PostgresServer;
use rna_backup::base::chain;
use rna_backup::component::postgres::PostgresConfig;
use rna_backup::component::{Restorable, RestoreOrder, Target, Undo};
use rna_backup::domain::facts::Facts;
use rna_backup::domain::progress::Meter;

/// Restores over the live database, and tells the warnings.
async fn restore(config: &PostgresConfig, archive: &[u8], facts: &Facts) -> Result<Vec<String>, String> {
    let (meter, mut feed) = (Meter::default(), archive);
    let staged =
        component(config).stage(&mut feed, &RestoreOrder::new(&Target::Live, Some(facts)), &meter).await;
    let staged = staged.map_err(|err| chain(&err).clone())?;
    staged.swap().await.map_err(|err| chain(&err).clone())?;
    component(config).delete_undo_data().await.unwrap();
    Ok(meter.take_warnings())
}

#[tokio::test]
async fn values_are_read_as_they_were_written_whatever_role_and_database_have_set() {
    let server = PostgresServer::shared();
    let name = server.database("read_as_written", "");
    server.psql(
        &name,
        "ALTER DATABASE read_as_written SET lc_monetary = 'C'; ALTER DATABASE read_as_written SET quote_all_identifiers = on;
         ALTER DATABASE read_as_written SET array_nulls = off",
    );
    server.psql(
        &name,
        "CREATE TABLE a (id int, arr text[], i interval);
         SET array_nulls = on; INSERT INTO a VALUES (1, '{a,NULL}', '-1 day +02:03:00');
         CREATE TABLE paid (amount money CHECK (current_setting('lc_monetary') = 'C')); INSERT INTO paid VALUES (12.5)",
    );
    let config = as_role(server, &name, "as_written", "SUPERUSER");
    server.psql(
        "postgres",
        "ALTER ROLE as_written SET array_nulls = off; ALTER ROLE as_written SET IntervalStyle = sql_standard",
    );
    // Where neither says so, the server has another locale.
    assert_ne!(server.psql("postgres", "SHOW lc_monetary"), "C");
    for config in [config.clone(), in_parallel(config).0] {
        let (archive, facts) = backup(config.clone()).await.unwrap();
        assert_eq!(drill(&config, &archive, &facts).await, (Vec::new(), Vec::new()));
        server.psql(&name, "TRUNCATE a, paid");
        assert_eq!(restore(&config, &archive, &facts).await.unwrap(), [""; 0]);
        let see = "SET array_nulls = on; SELECT arr = '{a,NULL}'::text[], arr[2] IS NULL, i = '-1 day +02:03:00' FROM a; SELECT amount::numeric FROM paid";
        assert_eq!(server.psql(&name, see), "t|t|t\n12.50");
    }
}

#[tokio::test]
async fn a_tablespace_that_is_not_there_holds_no_rows_hostage() {
    let server = PostgresServer::shared();
    let name = server.database("in_tablespace", "");
    server
        .psql("postgres", "SET allow_in_place_tablespaces = on; CREATE TABLESPACE \"fast disk\" LOCATION ''");
    server.psql(
        &name,
        "CREATE TABLE t (id int PRIMARY KEY USING INDEX TABLESPACE \"fast disk\") TABLESPACE \"fast disk\"; INSERT INTO t VALUES (1)",
    );
    let config = with_own_clients(server, &name);
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let tablespace =
        "SELECT spcname FROM pg_class LEFT JOIN pg_tablespace s ON s.oid = reltablespace WHERE relname = 't'";
    assert_eq!(restore(&config, &archive, &facts).await.unwrap(), [""; 0]);
    assert_eq!(server.psql(&name, tablespace), "fast disk");
    server.psql(&name, "DROP TABLE t");
    server.psql("postgres", "DROP TABLESPACE \"fast disk\"");
    let plan = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap();
    let words = "CREATE TABLESPACE \"fast disk\" LOCATION …";
    assert!(plan.warnings.join(" ").contains(words), "{:?}", plan.warnings);
    let (differences, warnings) = drill(&config, &archive, &facts).await;
    assert!(differences.is_empty() && warnings.join(" ").contains(words), "{differences:?} {warnings:?}");
    assert_eq!(restore(&config, &archive, &facts).await.unwrap(), [""; 0]);
    assert_eq!(server.psql(&name, &format!("{tablespace}; SELECT id FROM t")), "\n1");
}

#[tokio::test]
async fn what_no_dump_has_is_named_by_backup_and_plan() {
    let server = PostgresServer::shared();
    let name = server.database("left_out", "");
    server.psql(
        &name,
        "CREATE TABLE t (id int PRIMARY KEY, up int REFERENCES t); CREATE INDEX \"slow One\" ON t (up);
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = '\"slow One\"'::regclass;
         ALTER TABLE t DISABLE TRIGGER ALL;
         CREATE TABLE p (id int) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
         UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'p1'::regclass",
    );
    let config = with_own_clients(server, &name);
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let plan = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap();
    for said in [facts.warnings.join(" "), plan.warnings.join(" ")] {
        for words in [
            "Index public.\"slow One\" is invalid",
            "REINDEX INDEX public.\"slow One\"",
            "Triggers of foreign key t_up_fkey on public.t are disabled",
            "ALTER TABLE public.p DETACH PARTITION public.p1 FINALIZE",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
    // None of it keeps the backup from being whole.
    let (differences, _) = drill(&config, &archive, &facts).await;
    assert_eq!(differences, [""; 0]);
}

#[tokio::test]
async fn no_warning_and_no_refusal_shows_a_secret_or_a_row() {
    let server = PostgresServer::shared();
    server.psql("postgres", "CREATE ROLE shown_app");
    let name = server.database("shown", "OWNER shown_app");
    server.psql(
        &name,
        "ALTER DATABASE shown SET \"app.settings.jwt_secret\" = 'S3CRET-jwt';
         CREATE TABLE patients (name text, finding text, CONSTRAINT known CHECK (finding <> 'S3CRET-row' OR current_database() = 'shown'));
         INSERT INTO patients VALUES ('Alice', 'S3CRET-row'); ALTER TABLE patients OWNER TO shown_app",
    );
    let config = as_role(server, &name, "shown_rna", "CREATEDB IN ROLE shown_app");
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let advice = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap().advice.join(" ");
    let refused = restore(&config, &archive, &facts).await.unwrap_err();
    assert!(advice.contains("SET \"app.settings.jwt_secret\" TO …"), "{advice}");
    assert!(refused.contains("violates check constraint \"known\""), "{refused}");
    for said in [advice, refused] {
        assert!(!said.contains("S3CRET") && !said.contains("Alice"), "{said}");
    }
}

#[tokio::test]
async fn a_role_of_another_database_whose_name_is_no_utf8_is_in_nobodys_way() {
    let server = PostgresServer::start();
    let latin = server.database("latin", "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    let made = server.run(
        "psql",
        &latin,
        &["-X", "-q", "-f", "-"],
        b"SET client_encoding = 'LATIN1'; CREATE ROLE \"r\xf6le\"",
    );
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let name = server.database("beside_latin", "");
    server.psql(&name, "CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    let config = with_own_clients(&server, &name);
    let (archive, facts) = backup(config.clone()).await.unwrap();
    assert_eq!(restore(&config, &archive, &facts).await.unwrap(), [""; 0]);
}
