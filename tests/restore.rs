//! Restore and undo as their users order them: by task, and by hand on a bad day.

use crate::{
    schemas::validates,
    support::{
        lab::{Lab, eventually, unfinished},
        postgres::PostgresServer,
        python::Python,
        tree,
    },
};
use redis::AsyncCommands;
use rna_backup::{celery::publish::Outgoing, domain::command::task};
use serde_json::{Value, json};
use std::fs;

async fn backed_up(lab: &Lab, task: &str) -> Value {
    let ended = lab.ended(&lab.order(task, json!({})).await).await;
    assert_eq!(ended["status"], "SUCCESS", "{ended}");
    ended["result"].clone()
}

/// What a bad day does to a media folder.
fn spoil(lab: &Lab) {
    fs::remove_file(lab.media().join("figures/gel.txt")).unwrap();
    fs::write(lab.media().join("figures/été.bin"), "encrypted by somebody").unwrap();
    fs::write(lab.media().join("ransom.txt"), "pay").unwrap();
}

#[tokio::test]
async fn a_media_restore_by_task_brings_everything_back_and_undo_takes_it_back() {
    let lab = Lab::new();
    let _worker = lab.worker();
    let before = tree::look(&lab.media());
    let backup = backed_up(&lab, task::BACKUP_MEDIA).await;
    spoil(&lab);
    let spoiled = tree::look(&lab.media());
    let order = Outgoing::new(task::RESTORE_MEDIA, "backups").args(vec![backup["backup_id"].clone()]);
    let ended = lab.ended(&lab.send(&order).await).await;
    assert_eq!(ended["status"], "SUCCESS", "{ended}");
    validates("result-restore", &ended["result"]);
    assert_eq!(tree::look(&lab.media()), before);

    // The same message once more, as after a crash of the worker: nothing is restored again.
    fs::write(lab.media().join("written after the restore"), "x").unwrap();
    let _: usize = lab.connection().await.del(format!("celery-task-meta-{}", order.id())).await.unwrap();
    let again = Outgoing::new(task::RESTORE_MEDIA, "backups").args(vec![backup["backup_id"].clone()]);
    let again = lab.ended(&lab.send(&again.with_id(order.id())).await).await;
    assert_eq!(again["result"], ended["result"]);
    assert!(lab.media().join("written after the restore").exists());

    let undo = lab.ended(&lab.order(task::UNDO, json!({"component": "media"})).await).await;
    assert_eq!(undo["status"], "SUCCESS", "{undo}");
    validates("result-undo", &undo["result"]);
    assert_eq!(tree::look(&lab.media()), spoiled);
    lab.settled().await;
}

#[tokio::test]
async fn a_database_is_restored_by_a_python_client_and_an_undo_is_possible_until_the_next_backup() {
    let server = PostgresServer::shared();
    let database = server.database("restored by task", "");
    server.psql(&database, "CREATE TABLE paper (id int PRIMARY KEY, title text); INSERT INTO paper SELECT n, 'paper ' || n FROM generate_series(1, 500) n");
    let lab = Lab::new().database(server, &database);
    let worker = lab.worker();
    backed_up(&lab, task::BACKUP_POSTGRES).await;
    server.psql(&database, "DELETE FROM paper WHERE id > 300; CREATE TABLE later (id int)");
    let mut python = Python::celery_5_3().client(&lab.celery_url());
    let id = python
        .send(json!({"task": task::RESTORE_POSTGRES, "args": ["latest"], "options": {"queue": "backups"}}))
        .await;
    let restored = python.get(&id, 120).await;
    assert_eq!(restored["state"], "SUCCESS", "{restored}\n{}", worker.log());
    let count = |table: &str| server.psql(&database, &format!("SELECT count(*) FROM {table}"));
    assert_eq!((count("paper").as_str(), count("pg_class WHERE relname = 'later'").as_str()), ("500", "0"));
    let undo = lab.ended(&lab.order(task::UNDO, json!({"component": "postgres"})).await).await;
    assert_eq!(undo["status"], "SUCCESS", "{undo}");
    assert_eq!((count("paper").as_str(), count("later").as_str()), ("300", "0"));

    backed_up(&lab, task::BACKUP_POSTGRES).await;
    let undo = lab.ended(&lab.order(task::UNDO, json!({"component": "postgres"})).await).await;
    assert_eq!(
        undo["result"]["exc_message"][0],
        "nothing to undo: no restore of postgres has set anything aside"
    );
    server.psql("postgres", &format!("DROP DATABASE \"{database}\""));
}

#[tokio::test]
async fn by_hand_it_says_what_it_would_do_asks_first_and_can_be_undone() {
    let lab = Lab::new();
    lab.json(&["backup", "media"]);
    let before = tree::look(&lab.media());
    spoil(&lab);
    let spoiled = tree::look(&lab.media());
    let plan = lab.json(&["restore", "media", "--dry-run"]);
    validates("restore-plan", &plan);
    let (code, out, err) = lab.run(&["restore", "media"]);
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    assert!(err.contains("give --yes"), "{err}");
    assert_eq!(tree::look(&lab.media()), spoiled, "nothing was touched so far");

    let into = lab.path("look");
    lab.json(&["restore", "media", "latest", "--into", into.to_str().unwrap(), "--yes"]);
    assert_eq!(tree::look(&into), before);
    assert_eq!(tree::look(&lab.media()), spoiled);
    let (code, _, err) = lab.run(&["undo", "media", "--yes"]);
    assert!(code == 1 && err.contains("nothing to undo"), "{err}");

    validates("result-restore", &lab.json(&["restore", "media", "--yes"]));
    assert_eq!(tree::look(&lab.media()), before);
    validates("result-undo", &lab.json(&["undo", "media", "--yes"]));
    assert_eq!(tree::look(&lab.media()), spoiled);
    let (code, _, err) = lab.run(&["restore", "media", "media_backup_20200101_000000", "--yes"]);
    assert_eq!(code, 3, "{err}");
}

#[tokio::test]
async fn a_damaged_archive_is_refused_with_the_live_data_untouched() {
    let lab = Lab::new();
    let backup = lab.json(&["backup", "media"]);
    let live = tree::look(&lab.media());
    let path = backup["path"].as_str().unwrap();
    let whole = fs::read(path).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    for (what, bytes) in
        [("flipped bit", flipped), ("70 %", whole[..whole.len() * 7 / 10].to_vec()), ("empty", Vec::new())]
    {
        fs::write(path, bytes).unwrap();
        let id = backup["backup_id"].as_str().unwrap();
        let (code, out, err) = lab.run(&["restore", "media", id, "--yes"]);
        assert_eq!((code, out.as_str()), (4, ""), "{what}: {err}");
        assert_eq!(tree::look(&lab.media()), live, "{what}");
        assert!(unfinished(&lab.backups()).is_empty(), "{what}");
    }
    fs::write(path, whole).unwrap();
    lab.json(&["restore", "media", "--yes"]);
    assert_eq!(tree::look(&lab.media()), live);
}

#[tokio::test]
async fn with_a_key_set_what_takes_data_away_must_be_signed() {
    let lab = Lab::new().set("BACKUP_RESTORE_KEY", "between app and worker");
    let _worker = lab.worker();
    backed_up(&lab, task::BACKUP_MEDIA).await;
    spoil(&lab);
    let spoiled = tree::look(&lab.media());
    let manifests = lab.manifests("media");
    for (task, kwargs) in [
        (task::RESTORE_MEDIA, json!({"backup_path": "latest"})),
        (task::UNDO, json!({"component": "media"})),
        (task::CLEANUP, json!({"retention_days": 0})),
        (task::PIN, json!({"backup": "latest"})),
        (task::ACCEPT, json!({"backup": "latest"})),
    ] {
        let ended = lab.ended(&lab.order(task, kwargs).await).await;
        assert_eq!(ended["result"]["exc_type"], "PermissionError", "{ended}");
    }
    assert_eq!(tree::look(&lab.media()), spoiled);
    assert_eq!(lab.manifests("media"), manifests);
}

#[tokio::test]
async fn a_worker_killed_at_any_instant_of_a_restore_leaves_the_old_or_the_new_and_the_next_one_finishes() {
    let lab = Lab::new();
    for n in 0..400 {
        fs::write(lab.media().join(format!("figures/plot {n}.svg")), format!("<svg>{n}</svg>").repeat(40))
            .unwrap();
    }
    let mut worker = lab.worker();
    backed_up(&lab, task::BACKUP_MEDIA).await;
    let good = tree::look(&lab.media());
    spoil(&lab);
    let spoiled = tree::look(&lab.media());
    for delay in [0, 5, 10, 20, 30, 45, 60, 80, 100] {
        let order =
            lab.send(&Outgoing::new(task::RESTORE_MEDIA, "backups").args(vec![json!("latest")])).await;
        // Not a wait for something: the instant of death is the point.
        tokio::time::sleep(std::time::Duration::from_millis(delay)).await;
        worker.kill();
        let now = tree::look(&lab.media());
        assert!(now == good || now == spoiled, "after {delay} ms it is neither the old nor the new");
        worker = lab.worker();
        let ended = lab.ended(&order).await;
        assert_eq!(ended["status"], "SUCCESS", "{ended}");
        assert_eq!(tree::look(&lab.media()), good);
        let undo = lab.ended(&lab.order(task::UNDO, json!({"component": "media"})).await).await;
        assert_eq!(undo["status"], "SUCCESS", "{undo}");
        assert!(tree::look(&lab.media()) == spoiled, "after {delay} ms undo leads elsewhere");
    }
    let clean = eventually(async || unfinished(&lab.backups()).is_empty());
    assert!(clean.await);
}

#[test]
fn rights_on_tables_come_back() {
    let server = PostgresServer::shared();
    let database = server.database("granted", "");
    server.psql(
        &database,
        "CREATE ROLE \"the reader\"; CREATE TABLE paper (id int); GRANT SELECT ON paper TO \"the reader\", PUBLIC",
    );
    let lab = Lab::new().database(server, &database);
    lab.json(&["backup", "postgres"]);
    let plan = lab.json(&["restore", "postgres", "--dry-run"]);
    validates("restore-plan", &plan);
    assert_eq!(plan["warnings"], json!([]));
    server.psql(&database, "REVOKE ALL ON paper FROM PUBLIC");
    assert_eq!(lab.json(&["restore", "postgres", "--yes"])["warnings"], json!([]));
    let granted = "SELECT has_table_privilege('the reader', 'paper', 'SELECT'), relacl::text LIKE '%=r/%' FROM pg_class WHERE relname = 'paper'";
    assert_eq!(server.psql(&database, granted), "t|t");
}

/// A task that failed and is tried again must not take the restore of somebody else for its own.
#[tokio::test]
async fn what_was_restored_by_hand_between_two_attempts_of_a_task_is_not_taken_for_its_work() {
    let lab = Lab::new();
    lab.json(&["backup", "media"]);
    let before = tree::look(&lab.media());
    spoil(&lab);
    let kept = lab.json(&["restore", "media", "--yes"])["kept"].clone();
    assert!(kept.is_string(), "{kept}");
    let latest = json!({"backup_path": "latest"}).as_object().unwrap().clone();
    let order = Outgoing::new(task::RESTORE_MEDIA, "backups").kwargs(latest);
    // As it stands after an attempt whose swap failed.
    let record = json!({"task_id": order.id(), "kept_before": kept, "report": null});
    fs::write(lab.backups().join(".locks/media.restored"), record.to_string()).unwrap();
    lab.json(&["undo", "media", "--yes"]);
    assert_ne!(tree::look(&lab.media()), before);
    let _worker = lab.worker();
    let ended = lab.ended(&lab.send(&order).await).await;
    assert_eq!(ended["status"], "SUCCESS", "{ended}");
    assert_eq!(tree::look(&lab.media()), before);
}

/// Its result may be lost with the broker, or the worker dies before it is stored.
#[tokio::test]
async fn an_undo_that_is_delivered_again_is_not_done_again() {
    let lab = Lab::new();
    lab.json(&["backup", "media"]);
    spoil(&lab);
    let spoiled = tree::look(&lab.media());
    lab.json(&["restore", "media", "--yes"]);
    let order = Outgoing::new(task::UNDO, "backups")
        .kwargs(json!({"component": "media"}).as_object().unwrap().clone());
    lab.send(&order).await;
    let mut link = lab.connection().await;
    let message: Vec<String> = link.lrange("backups", 0, -1).await.unwrap();
    let _worker = lab.worker();
    let first = lab.ended(order.id()).await;
    assert_eq!(tree::look(&lab.media()), spoiled);
    let _: usize = link.del(format!("celery-task-meta-{}", order.id())).await.unwrap();
    let _: usize = link.lpush("backups", &message[0]).await.unwrap();
    let again = lab.ended(order.id()).await;
    assert_eq!(again["result"], first["result"]);
    assert_eq!(tree::look(&lab.media()), spoiled);
    let another = lab.ended(&lab.order(task::UNDO, json!({"component": "media"})).await).await;
    assert_eq!(another["status"], "SUCCESS", "{another}");
    assert_ne!(tree::look(&lab.media()), spoiled, "another order is another undo");
}
