//! `component::postgres`: properties of a database itself, and what hangs on it, are compared, taken over or named.

use crate::postgres::backup;
use crate::postgres_restore::{component, databases, drill, stage, with_own_clients};
use crate::postgres_rights::{as_role, restore};
use crate::support::postgres::PostgresServer;
use rna_backup::base::chain;
use rna_backup::component::postgres::PostgresConfig;
use rna_backup::component::{Restorable, RestoreOrder, Target, Undo};
use rna_backup::domain::{facts::Facts, progress::Meter};

/// The differences and the warnings of a restore.
async fn restored(config: &PostgresConfig, archive: &[u8], facts: &Facts) -> (Vec<String>, Vec<String>) {
    let (meter, mut feed) = (Meter::default(), archive);
    let staged = component(config)
        .stage(&mut feed, &RestoreOrder::new(&Target::Live, Some(facts)), &meter)
        .await
        .unwrap();
    let differences = staged.differences(&mut &*archive, &Meter::default()).await.unwrap();
    staged.swap().await.unwrap();
    component(config).delete_undo_data().await.unwrap();
    (differences, meter.take_warnings())
}

const SEE: &str = "
    SELECT pg_get_userbyid(datdba), datconnlimit, datacl, datcollate, pg_encoding_to_char(encoding), shobj_description(d.oid, 'pg_database'),
           ARRAY(SELECT setrole::regrole || array_to_string(setconfig, ',') FROM pg_db_role_setting WHERE setdatabase = d.oid ORDER BY 1)
      FROM pg_database d WHERE datname = 'props'";

async fn properties_are_compared(server: &PostgresServer) {
    let owner = as_role(server, "props", "props_app", "");
    server.psql("postgres", "CREATE ROLE props_dba");
    let name = server.database("props", "OWNER props_app CONNECTION LIMIT 17");
    server.psql(
        &name,
        "ALTER DATABASE props SET work_mem = '7MB'; ALTER DATABASE props SET app.secret = 'S3CRET';
         ALTER ROLE props_app IN DATABASE props SET search_path = public, \"a, b\"; COMMENT ON DATABASE props IS 'it''s the lab';
         REVOKE TEMPORARY ON DATABASE props FROM PUBLIC; GRANT CREATE ON DATABASE props TO props_dba WITH GRANT OPTION;
         SET ROLE props_app; CREATE TABLE public.t (id int)",
    );
    let config = with_own_clients(server, &name);
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let noted = &facts.properties.as_ref().unwrap().0;
    assert_eq!(noted["setting app.secret"], "***", "{noted:?}");
    assert_eq!(noted["setting search_path of role props_app"], "public, \"a, b\"", "{noted:?}");
    assert!(!serde_json::to_string(&facts).unwrap().contains("S3CRET"));
    let before = server.psql("postgres", SEE);
    let nothing = (Vec::new(), Vec::new());
    assert_eq!(drill(&config, &archive, &facts).await, nothing);
    assert_eq!(restored(&config, &archive, &facts).await, nothing);
    assert_eq!(server.psql("postgres", SEE), before);
    let in_place = PostgresConfig { bin_dir: Some(server.bin().into()), ..owner };
    other_properties_are_named(server, [&config, &in_place], (&archive, &facts)).await;
    properties_of_a_database_that_is_gone_are_named(server, &config, (&archive, &facts)).await;
}

/// A restore takes over the properties of the live database, and names those that the backup had with other values.
async fn other_properties_are_named(
    server: &PostgresServer,
    [config, in_place]: [&PostgresConfig; 2],
    (archive, facts): (&[u8], &Facts),
) {
    server.psql(
        "postgres",
        "ALTER DATABASE props RESET work_mem; ALTER DATABASE props CONNECTION LIMIT 18; COMMENT ON DATABASE props IS 'another';
         GRANT TEMPORARY ON DATABASE props TO PUBLIC",
    );
    let now = server.psql("postgres", SEE);
    let words = [
        "comment: it's the lab at the backup, another now",
        "connection limit: 17 at the backup, 18 now",
        "setting work_mem: 7MB at the backup, none now",
        "PUBLIC CONNECT, PUBLIC TEMPORARY, props_app CONNECT",
    ];
    for (config, why) in
        [(config, "keeps those of the live database"), (in_place, "a restore in place changes none")]
    {
        let advice = component(config).plan(&Target::Live, Some(facts)).await.unwrap().advice;
        let mut told = vec![advice];
        if config.user == "postgres" {
            let (differences, warnings) = drill(config, archive, facts).await;
            assert_eq!(differences, [""; 0]);
            told.push(warnings);
        }
        let (differences, warnings) = restored(config, archive, facts).await;
        assert_eq!(differences, [""; 0]);
        told.push(warnings);
        for said in told {
            assert!(said.len() == 1 && said[0].contains(why), "{said:?}");
            assert!(words.iter().all(|words| said[0].contains(words)), "{said:?}");
        }
        assert_eq!(server.psql("postgres", SEE), now);
    }
}

/// No database is there to take anything over from.
async fn properties_of_a_database_that_is_gone_are_named(
    server: &PostgresServer,
    config: &PostgresConfig,
    (archive, facts): (&[u8], &Facts),
) {
    server.psql("postgres", "DROP DATABASE props WITH (FORCE)");
    let (differences, warnings) = restored(config, archive, facts).await;
    let warning = warnings.join(" ");
    assert_eq!(differences, [""; 0]);
    for words in [
        "since there was no database",
        "setting work_mem: 7MB at the backup, none now",
        "pg_restore --create",
    ] {
        assert!(warning.contains(words), "{words}: {warning}");
    }
    let shown =
        server.run("pg_restore", "postgres", &["--create", "--section=pre-data", "--file=-"], archive);
    let shown = String::from_utf8(shown.stdout).unwrap();
    for statement in [
        "ALTER DATABASE props CONNECTION LIMIT = 17",
        "ALTER DATABASE props SET work_mem TO '7MB'",
        "COMMENT ON DATABASE props IS 'it''s the lab'",
        "GRANT CREATE ON DATABASE props TO props_dba WITH GRANT OPTION",
    ] {
        assert!(shown.contains(statement), "{statement}: {shown}");
    }
}

#[tokio::test]
async fn properties_of_the_database_are_compared_and_named() {
    for server in [PostgresServer::start(), PostgresServer::of(18)] {
        properties_are_compared(&server).await;
    }
}

#[tokio::test]
async fn properties_of_a_latin1_database_with_odd_names_are_the_same_from_any_database() {
    let server = PostgresServer::start();
    let name = server.database("props_latin1", "ENCODING LATIN1 TEMPLATE template0 LOCALE 'C'");
    server.psql(
        &name,
        "SET client_encoding = UTF8; CREATE ROLE \"müller\"; ALTER ROLE \"müller\" IN DATABASE props_latin1 SET work_mem = '7MB';
         GRANT CREATE ON DATABASE props_latin1 TO \"müller\"; ALTER DATABASE props_latin1 SET search_path = 'größe';
         COMMENT ON DATABASE props_latin1 IS 'größe'",
    );
    let config = server.config(&name);
    let (archive, facts) = backup(config.clone()).await.unwrap();
    let (differences, warnings) = drill(&config, &archive, &facts).await;
    assert_eq!(differences, [""; 0]);
    // No session beside the database knows that role by this name.
    let statement = "ALTER ROLE \"müller\" IN DATABASE \"props_latin1\" SET \"work_mem\" TO '7MB'";
    assert!(warnings.iter().any(|warning| warning.contains(statement)), "{warnings:?}");
}

async fn what_hangs_on_the_database(server: &PostgresServer) {
    server.psql("postgres", "ALTER SYSTEM SET wal_level = logical");
    server.control(&["stop", "-w", "-m", "fast"]);
    server.start_again();
    let name = server.database("subscriber", "IS_TEMPLATE true");
    server.psql(&name, "CREATE TABLE t (id int PRIMARY KEY); SELECT pg_create_logical_replication_slot('a_slot', 'pgoutput')");
    server.psql(
        &name,
        "CREATE SUBSCRIPTION news CONNECTION 'host=nowhere dbname=x' PUBLICATION p WITH (connect = false, slot_name = far)",
    );
    let config = with_own_clients(server, &name);
    let (archive, facts) = backup(config.clone()).await.unwrap();
    server.psql(&name, "UPDATE pg_subscription SET subenabled = true");
    for target in [Target::Live, Target::custom("database", [name.clone()])] {
        let err = chain(&component(&config).plan(&target, Some(&facts)).await.unwrap_err());
        assert!(
            err.contains("is an active subscriber") && err.contains("ALTER SUBSCRIPTION news DISABLE"),
            "{err}"
        );
    }
    server.psql(&name, "ALTER SUBSCRIPTION news DISABLE");
    let warnings = component(&config).plan(&Target::Live, Some(&facts)).await.unwrap().warnings.join(" ");
    for words in [
        "Subscription news stays with the database that is set aside",
        "Replication slot a_slot stays with the database that is set aside, and is dropped with it",
    ] {
        assert!(warnings.contains(words), "{words}: {warnings}");
    }
    let staged = stage(&config, &archive, &Target::Scratch, Some(&facts)).await.unwrap();
    staged.discard().await.unwrap();
    let staged = stage(&config, &archive, &Target::Live, Some(&facts)).await.unwrap();
    let kept = staged.swap().await.unwrap().unwrap().place;
    // The database that was set aside cannot be dropped while it has a subscription: the error has the statements, and they suffice.
    let err = component(&config).delete_undo_data().await.unwrap_err();
    let said = chain(&err);
    let statements = "ALTER SUBSCRIPTION news DISABLE; ALTER SUBSCRIPTION news SET (slot_name = NONE); DROP SUBSCRIPTION news";
    assert!(!err.is_transient() && said.contains(statements) && !said.contains("a_slot"), "{said}");
    server.psql(&kept, statements);
    component(&config).delete_undo_data().await.unwrap();
    assert_eq!(databases(server, "subscriber"), ["subscriber"]);
    let left = "SELECT datistemplate, (SELECT count(*) FROM pg_subscription), (SELECT count(*) FROM pg_replication_slots)
                  FROM pg_database WHERE datname = 'subscriber'";
    assert_eq!(server.psql("postgres", left), "t|0|0");
    restore(&config, &archive, &facts, &Target::Live).await.unwrap();
}

#[tokio::test]
async fn what_hangs_on_the_database_itself_is_named_or_refused_and_can_be_removed() {
    for server in [PostgresServer::start(), PostgresServer::of(18)] {
        what_hangs_on_the_database(&server).await;
    }
}
