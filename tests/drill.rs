//! Drills: a backup is restored for real, compared and thrown away.

use crate::postgres_restore::databases;
use crate::schemas::validates;
use crate::support::{
    lab::{Lab, eventually, unfinished},
    postgres::PostgresServer,
    python::Python,
    tree,
};
use rna_backup::domain::command::task;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::{fs, process::Stdio};

/// A lab with a database of its own.
fn lab(server: &PostgresServer, name: &str) -> Lab {
    let name = server.database(name, "");
    server.psql(
        &name,
        "CREATE TABLE paper AS SELECT g AS id, 'paper ' || g AS title FROM generate_series(1, 2000) g",
    );
    Lab::new().database(server, &name).set("RUST_LOG", "")
}

/// Makes every restore of the database, but nothing in itself, wait for a minute.
fn slow_to_restore(server: &PostgresServer, name: &str) {
    server.psql(
        name,
        &format!(
            "CREATE FUNCTION public.patient() RETURNS bool LANGUAGE sql AS $$
               SELECT pg_sleep(CASE WHEN current_database() = '{name}' THEN 0 ELSE 60 END) IS NOT NULL $$;
             CREATE TABLE slow (id int CHECK (public.patient())); INSERT INTO slow VALUES (1)"
        ),
    );
}

/// The files and folders beside the media folder, hidden ones too.
fn beside_media(lab: &Lab) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(lab.media().parent().unwrap()).unwrap().map(name).collect();
    names.sort();
    names
}

#[test]
fn a_drill_restores_for_real_compares_and_leaves_nothing() {
    let server = PostgresServer::shared();
    let lab = lab(server, "well drilled");
    lab.json(&["backup", "all"]);
    // It is the backup that is compared, not what is live by now.
    server.psql("well drilled", "DELETE FROM paper WHERE id > 7");
    fs::write(lab.media().join("later.txt"), "after the backup").unwrap();
    let (media, beside) = (tree::look(&lab.media()), beside_media(&lab));
    let found = lab.json(&["verify", "all", "--drill"]);
    validates("result-verify", &found);
    let results = found["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for result in results {
        assert_eq!((&result["ok"], &result["level"]), (&json!(true), &json!("drill")), "{result}");
    }
    for component in ["postgres", "media"] {
        let manifest = &lab.manifests(component)[0];
        validates("manifest", manifest);
        assert_eq!(manifest["verified"]["level"], "drill");
        assert_eq!(lab.json(&["list", component])["backups"][0]["verified"], "drill");
    }
    assert_eq!(databases(server, "well drilled"), ["well drilled"]);
    assert_eq!(server.psql("well drilled", "SELECT count(*) FROM paper"), "7");
    assert_eq!((tree::look(&lab.media()), beside_media(&lab)), (media, beside));
    // A look that is less thorough takes nothing back.
    lab.json(&["verify", "all"]);
    assert_eq!(lab.manifests("media")[0]["verified"]["level"], "drill");
}

#[test]
fn a_backup_that_can_be_read_but_not_restored_is_found_by_a_drill_alone() {
    let server = PostgresServer::shared();
    let lab = lab(server, "not restorable");
    // As it happens: a constraint that looks at what is around it, which is not the same in a restore.
    server.psql(
        "not restorable",
        "CREATE FUNCTION at_home() RETURNS bool LANGUAGE sql AS $$ SELECT current_database() = 'not restorable' $$;
         CREATE TABLE a (id int CHECK (public.at_home())); INSERT INTO a VALUES (1)",
    );
    let made = lab.json(&["backup", "postgres"]);
    let (code, out, err) = lab.run(&["verify", "postgres", "--drill", "--json"]);
    assert_eq!(code, 4, "{err}");
    let result = &serde_json::from_str::<serde_json::Value>(&out).unwrap()["results"][0];
    let problem = result["problems"][0].as_str().unwrap();
    assert!(problem.starts_with("local: it cannot be restored: "), "{problem}");
    assert!(problem.contains("violates check constraint"), "{problem}");
    // Nothing is wrong with the archive, and another server may take it.
    assert_eq!(lab.manifests("postgres")[0]["verified"]["level"], "decode");
    assert_eq!(lab.json(&["list"])["backups"][0]["state"], "ok");
    assert_eq!(databases(server, "not restorable"), ["not restorable"]);

    let live =
        server.psql("not restorable", "SELECT oid FROM pg_database WHERE datname = current_database()");
    let (code, _, err) = lab.run(&["restore", "postgres", made["backup_id"].as_str().unwrap(), "--yes"]);
    assert!(code == 1 && err.contains("violates check constraint"), "{code}: {err}");
    let now = server.psql("not restorable", "SELECT oid FROM pg_database WHERE datname = current_database()");
    assert_eq!((now, databases(server, "not restorable").len()), (live, 1));
}

#[test]
fn a_damaged_archive_is_not_restored_in_a_drill_either() {
    let lab = Lab::new().set("RUST_LOG", "");
    let made = lab.json(&["backup", "media"]);
    let path = made["path"].as_str().unwrap();
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
    let beside = beside_media(&lab);
    let (code, out, _) = lab.run(&["verify", "media", "--drill"]);
    assert!(
        code == 4 && out.contains("NOT WHOLE (drill)") && out.contains("its hash is not the one"),
        "{out}"
    );
    assert_eq!(beside_media(&lab), beside);
}

#[test]
fn a_drill_that_is_interrupted_leaves_nothing() {
    let server = PostgresServer::shared();
    let lab = lab(server, "interrupted drill");
    slow_to_restore(server, "interrupted drill");
    lab.json(&["backup", "postgres"]);
    let drill = lab.program(&["verify", "postgres", "--drill"]).stderr(Stdio::piped()).spawn().unwrap();
    while databases(server, "interrupted drill").len() < 2 {}
    let pid = Pid::from_raw(i32::try_from(drill.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let ended = drill.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(databases(server, "interrupted drill"), ["interrupted drill"]);
    assert_eq!(lab.manifests("postgres")[0]["verified"]["level"], "decode");
}

#[tokio::test]
async fn a_drill_runs_as_a_task_and_shows_in_the_metrics() {
    let server = PostgresServer::shared();
    let lab = lab(server, "a drill by task").set("RUST_LOG", "info");
    lab.json(&["backup", "all"]);
    let worker = lab.worker();
    worker.ready().await;
    let mut python = Python::celery_5_3().client(&lab.celery_url());
    let order = json!({"task": task::VERIFY, "kwargs": {"drill": true}, "options": {"queue": "backups"}});
    let id = python.send(order).await;
    let got = python.get(&id, 60).await;
    assert_eq!(got["state"], "SUCCESS", "{got}");
    validates("result-verify", &got["value"]);
    let metrics = worker.http("/metrics").await.unwrap().1;
    for component in ["media", "postgres"] {
        for line in [
            format!("rna_backup_drill_mismatches{{component=\"{component}\"}} 0"),
            format!(
                "rna_backup_verify_last_success_timestamp_seconds{{component=\"{component}\",level=\"drill\"}} 1"
            ),
            format!(
                "rna_backup_runs_total{{component=\"{component}\",operation=\"drill\",result=\"success\"}} 1"
            ),
        ] {
            assert!(metrics.contains(&line), "{line} is not in {metrics}");
        }
    }
    assert_eq!(databases(server, "a drill by task"), ["a drill by task"]);

    let path = lab.manifests("media")[0]["objects"][0]["key"].as_str().unwrap().to_owned();
    fs::write(lab.backups().join(path), "").unwrap();
    let ended = lab.ended(&lab.order(task::VERIFY, json!({"component": "media", "drill": true})).await).await;
    assert_eq!(ended["status"], "FAILURE");
    let mismatch = async || {
        worker
            .http("/metrics")
            .await
            .unwrap()
            .1
            .contains("rna_backup_drill_mismatches{component=\"media\"} 1")
    };
    assert!(eventually(mismatch).await);
}

#[tokio::test]
async fn a_restore_is_terminated_while_it_runs_and_while_it_waits_for_its_turn() {
    let server = PostgresServer::shared();
    let lab = lab(server, "terminated restore").set("RUST_LOG", "info");
    slow_to_restore(server, "terminated restore");
    lab.json(&["backup", "postgres"]);
    let live = || {
        server.psql("terminated restore", "SELECT oid FROM pg_database WHERE datname = current_database()")
    };
    let before = live();
    let _worker = lab.worker();
    let order = json!({"backup_path": "latest"});
    let running = lab.order(task::RESTORE_POSTGRES, order.clone()).await;
    assert!(eventually(async || databases(server, "terminated restore").len() == 2).await);
    // A verification has no component in its name, so that it takes a place and waits there.
    let waiting = lab.order(task::VERIFY, json!({"component": "postgres", "drill": true})).await;
    let shown = async || {
        lab.result(&waiting).await.is_some_and(|shown| {
            shown["result"]["phase"].as_str().is_some_and(|phase| phase.starts_with("waiting: "))
        })
    };
    assert!(eventually(shown).await);
    let mut python = Python::newest().client(&lab.celery_url());
    for id in [&waiting, &running] {
        python.control("revoke", json!({"task_id": id, "terminate": true})).await;
        assert_eq!(lab.ended(id).await["status"], "REVOKED");
    }
    assert_eq!((databases(server, "terminated restore").len(), live()), (1, before));
    assert!(unfinished(&lab.backups()).is_empty());
}
