//! The catalogue in the app's database while the database, its rights or a destination are not as they should be.

use crate::catalog_tables::{Database, entries, lab, succeeds, warnings};
use crate::support::{
    catalog,
    faulty::{AWAY, Faulty},
    lab::{Lab, eventually},
    postgres::{PASSWORD, PostgresServer},
};
use rna_backup::catalog::{Catalog, Listing, mirror::Mirror};
use rna_backup::component::postgres;
use rna_backup::domain::{command::task, component::ComponentName};
use serde_json::json;
use std::{fs, net::TcpListener, sync::Arc};

#[tokio::test]
async fn without_the_right_to_make_tables_one_warning_says_what_to_grant_and_all_else_works() {
    let (lab, database) = lab("no right");
    let password = PASSWORD.replace('\'', "''");
    database.sql(&format!(
        "CREATE ROLE \"may read\" LOGIN PASSWORD '{password}'; GRANT pg_read_all_data TO \"may read\"; \
         REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    ));
    let lab = lab.set("POSTGRES_USER", "may read");
    let worker = lab.worker();
    succeeds(&lab, task::BACKUP_MEDIA, json!({})).await;
    succeeds(&lab, task::BACKUP_POSTGRES, json!({})).await;
    assert!(eventually(async || warnings(&worker) == 1).await, "{}", worker.log());
    assert!(worker.log().contains("GRANT CREATE ON SCHEMA public TO \\\"may read\\\""), "{}", worker.log());

    // Its owner makes them instead, as the file says.
    let file = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/catalog.sql")).unwrap();
    let (_, grant) = file.split_once("--     GRANT ").unwrap();
    let grant = grant.lines().next().unwrap().replace("the_role", "\"may read\"");
    database.sql(&format!("BEGIN; {file}; GRANT {grant}; COMMIT"));
    succeeds(&lab, task::BACKUP_MEDIA, json!({})).await;
    database.follows(&lab).await;
    assert_eq!(warnings(&worker), 1, "{}", worker.log());
    assert!(worker.log().contains("are up to date again"));
}

#[tokio::test]
async fn while_the_database_is_down_backups_go_on_and_afterwards_the_tables_are_right() {
    let server = PostgresServer::start();
    let database = Database(&server, server.database("down", ""));
    let lab = Lab::new().database(&server, &database.1);
    let worker = lab.worker();
    succeeds(&lab, task::BACKUP_MEDIA, json!({})).await;
    database.follows(&lab).await;
    let options = format!(
        "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories={} -c fsync=off",
        server.config(&database.1).port,
        server.socket_dir().display()
    );
    server.control(&["stop", "-m", "fast"]);
    for _ in 0..2 {
        succeeds(&lab, task::BACKUP_MEDIA, json!({})).await;
    }
    assert!(eventually(async || warnings(&worker) == 1).await, "{}", worker.log());
    server.control(&["start", "-w", "-o", &options]);
    database.follows(&lab).await;
    assert_eq!(database.sql("SELECT count(*) FROM rna_backup_run WHERE state = 'success'"), "3");
    assert_eq!(warnings(&worker), 1, "{}", worker.log());
}

#[tokio::test]
async fn nobody_waits_for_a_database_that_says_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let lab = Lab::new().set("POSTGRES_HOST", "127.0.0.1").set("POSTGRES_PORT", port);
    let lab = lab.set("BACKUP_COMPONENTS", "media");
    let worker = lab.worker();
    succeeds(&lab, task::BACKUP_MEDIA, json!({})).await;
    assert!(eventually(async || warnings(&worker) == 1).await, "{}", worker.log());
    succeeds(&lab, task::BACKUP_MEDIA, json!({})).await;
    assert_eq!(worker.stop(), Some(0));
}

#[tokio::test]
async fn somebody_elses_table_of_that_name_is_left_alone_and_backed_up() {
    let (lab, database) = lab("foreign table");
    database.sql("CREATE TABLE rna_backup_run AS SELECT 'precious' AS what");
    let worker = lab.worker();
    succeeds(&lab, task::BACKUP_POSTGRES, json!({})).await;
    assert!(eventually(async || warnings(&worker) == 1).await, "{}", worker.log());
    assert!(worker.log().contains("public.rna_backup_run is not a table of rna-backup"), "{}", worker.log());
    succeeds(&lab, task::BACKUP_MEDIA, json!({})).await;
    let counts = &lab.manifests("postgres")[0]["facts"]["counts"]["tables"];
    assert_eq!(counts[1], json!({"schema": "public", "table": "rna_backup_run", "rows": 1}), "{counts}");
    assert_eq!(database.sql("SELECT what FROM rna_backup_run"), "precious");
    assert_eq!(database.sql("SELECT to_regclass('rna_backup_backup') IS NULL"), "t");
    assert_eq!(worker.stop(), Some(0));
}

#[tokio::test]
async fn what_a_destination_has_that_is_away_stays_in_the_table() {
    let server = PostgresServer::shared();
    let database = Database(server, server.database("away", ""));
    let lab = catalog::Lab::new();
    lab.backup(ComponentName::MEDIA, 1).await;
    let show = async |listing: Listing| {
        let mirror = Mirror::new(postgres::pool(&server.config(&database.1)).unwrap());
        mirror.make_tables();
        mirror.show(listing);
        mirror.close().await;
    };
    show(Listing { entries: entries(1), ..lab.catalog.list(None).await.unwrap() }).await;
    let there = || database.sql("SELECT string_agg(backup_id, ' ') FROM rna_backup_backup");
    assert_eq!(there(), "media_backup_20261122_000000");

    let far = Arc::new(catalog::named(&lab.path("far"), "s3"));
    let far = Faulty::new(far, AWAY);
    let both = Catalog::new(vec![lab.store.clone(), Arc::new(far)]);
    show(both.list(None).await.unwrap()).await;
    assert_eq!(there(), "media_backup_20261122_000000 media_backup_20261122_010000");

    lab.plant("manifests/media/media_backup_20261122_000000.json", "damaged");
    show(lab.catalog.list(None).await.unwrap()).await;
    assert_eq!(there(), "media_backup_20261122_000000 media_backup_20261122_010000");
    fs::remove_file(lab.path("manifests/media/media_backup_20261122_000000.json")).unwrap();
    show(lab.catalog.list(None).await.unwrap()).await;
    assert_eq!(there(), "media_backup_20261122_010000");
}
