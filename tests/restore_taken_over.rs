//! Tasks whose worker is killed between what they do and the stored result, restores and undos above all: a worker on another
//! machine gets the task, and does nothing twice; then the first machine comes back.

use crate::catalog_rebuild::with_bucket;
use crate::restore_two_machines::Shared;
use crate::support::{
    held_line::HeldLine,
    lab::{Lab, eventually},
    s3::S3Server,
};
use rna_backup::domain::{command::task, component::ComponentName};
use rna_backup::store::S3Config;
use serde_json::{Value, json};

const MEDIA: ComponentName = ComponentName::MEDIA;
const POSTGRES: ComponentName = ComponentName::POSTGRES;

/// Two machines with a `BACKUP_ROOT` each, one Redis and one bucket.
pub struct Machines {
    pub first: Lab,
    pub second: Lab,
    line: HeldLine,
}

impl Machines {
    /// `with` gives both what they share beside that.
    pub fn new(config: &S3Config, with: impl Fn(Lab) -> Lab) -> Self {
        let lab = || with_bucket(with(Lab::new()), config);
        let first = lab().set("BACKUP_WORKER_NAME", "backup@first");
        let second = lab().set("BACKUP_WORKER_NAME", "backup@second").set("REDIS_URL", first.redis.url());
        let line = HeldLine::to(&first.redis.url());
        let first = first.set("REDIS_URL", line.url());
        Self { first, second, line }
    }

    /// Has the first machine do a task, which must succeed.
    pub async fn done(&self, task: &str, kwargs: Value) -> Value {
        let ended = self.first.ended(&self.first.order(task, kwargs).await).await;
        assert_eq!(ended["status"], "SUCCESS", "{ended}");
        ended["result"].clone()
    }

    /// Has the worker of the first machine killed when the task is done and its result about to be stored, then `meanwhile`
    /// happen, and the second machine end the task.
    pub async fn taken_over(&self, task: &str, kwargs: Value, meanwhile: impl AsyncFnOnce()) -> Value {
        let caught = async || {
            tokio::task::block_in_place(|| self.line.has_caught());
            meanwhile().await;
        };
        self.killed_after(Some("\"SUCCESS\""), task, kwargs, caught).await
    }

    /// Has the worker of the first machine killed when `instant` has come, and the second machine end the task. The line to
    /// Redis stops at `word`.
    async fn killed_after(
        &self,
        word: Option<&'static str>,
        task: &str,
        kwargs: Value,
        instant: impl AsyncFnOnce(),
    ) -> Value {
        let mut killed = self.first.worker();
        killed.ready().await;
        if let Some(word) = word {
            self.line.catch(word);
        }
        let id = self.first.order(task, kwargs).await;
        instant().await;
        killed.kill();
        self.line.clear();
        assert_ne!(self.first.result(&id).await.unwrap_or_default()["status"], "SUCCESS");

        let other = self.second.worker();
        let ended = self.first.ended(&id).await;
        assert_eq!(ended["status"], "SUCCESS", "{ended}");
        self.first.settled().await;
        assert_eq!(other.stop(), Some(0));
        ended["result"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_whose_worker_is_killed_before_its_result_is_stored_is_done_once_by_two_machines() {
    let config = S3Server::shared().bucket().await;
    let shared = Shared::new("taken over");
    let machines = Machines::new(&config, |lab| {
        lab.database(shared.server, &shared.database).set("MEDIA_ROOT", shared.media().display())
    });
    let kinds = [
        (POSTGRES, task::BACKUP_POSTGRES, task::RESTORE_POSTGRES),
        (MEDIA, task::BACKUP_MEDIA, task::RESTORE_MEDIA),
    ];
    for (name, backup, restore) in kinds {
        let made = machines.first.json(&["backup", name.as_str()]);
        shared.write(name, "spoiled");
        let meanwhile = async || {
            assert_eq!(shared.live(name), [""; 0], "the swap is done");
            shared.write(name, "since");
        };
        let restored = machines.taken_over(restore, json!({"backup_path": "latest"}), meanwhile).await;
        assert_eq!(restored["backup_id"], made["backup_id"]);
        assert_eq!(shared.live(name), ["since"], "{name} was restored twice");

        let meanwhile = async || {
            assert_eq!(shared.live(name), ["spoiled"], "undo leads to what was live before the restore");
            shared.write(name, "later");
        };
        machines.taken_over(task::UNDO, json!({"component": name}), meanwhile).await;
        assert_eq!(shared.live(name), ["later", "spoiled"], "the undo of {name} was done twice");

        // The first machine comes back, and makes its next backup.
        let back = machines.first.worker();
        machines.done(task::UNDO, json!({"component": name})).await;
        assert_eq!(shared.live(name), ["since"]);
        machines.done(backup, json!({})).await;
        assert_eq!((shared.live(name), shared.beside(name)), (vec!["since".to_owned()], 0));
        drop(back);
        // Nor is a backup made twice; the second machine, which has it in the bucket alone, names no path of the first.
        let made = machines.taken_over(backup, json!({}), async || {}).await;
        assert!(made["path"] == made["s3_uri"] && made["s3_uri"].is_string(), "{made}");
        let (ours, theirs) =
            (machines.first.manifests(name.as_str()), machines.second.manifests(name.as_str()));
        assert_eq!((ours.len(), theirs.len()), (3, 0), "{ours:?} {theirs:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_and_retention_whose_worker_is_killed_are_ended_by_the_other_machine() {
    let config = S3Server::shared().bucket().await;
    let machines =
        Machines::new(&config, |lab| lab.set("BACKUP_KEEP_LAST", 1).set("BACKUP_MEDIA_FULL_EVERY", 0));
    let nothing = async || {};
    let backed_up = || machines.first.json(&["backup", "media"])["backup_id"].as_str().unwrap().to_owned();
    let is_listed = |backup: &str, flag: &str, wanted: &Value| {
        for lab in [&machines.first, &machines.second] {
            let all = lab.json(&["list", "media"])["backups"].clone();
            let found = all.as_array().unwrap().iter().find(|found| found["backup_id"] == backup);
            assert_eq!(found.map_or(&Value::Null, |found| &found[flag]), wanted, "{all}");
        }
    };
    let (older, newer) = (backed_up(), backed_up());
    for pinned in [true, false] {
        machines.taken_over(task::PIN, json!({"backup": older, "pinned": pinned}), nothing).await;
        is_listed(&older, "pinned", &json!(pinned));
    }
    let retention = json!({"backup_type": "media", "retention_days": 0});
    machines.taken_over(task::CLEANUP, retention, nothing).await;
    is_listed(&older, "state", &Value::Null);
    is_listed(&newer, "state", &json!("ok"));
    assert_eq!(machines.first.json(&["verify", "media", "all"])["results"][0]["ok"], true);
}

/// A drill that dies leaves a database of its own.
#[tokio::test(flavor = "multi_thread")]
async fn drills_whose_worker_is_killed_are_ended_by_the_other_machine_and_leave_no_copy() {
    let config = S3Server::shared().bucket().await;
    let shared = Shared::new("ended by others");
    let machines = Machines::new(&config, |lab| {
        lab.database(shared.server, &shared.database).set("MEDIA_ROOT", shared.media().display())
    });
    // An index that is not done where that role was there when its making began: an IMMUTABLE function sees no later
    // state.
    shared.server.psql(
        &shared.database,
        "CREATE FUNCTION wait() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
             WHILE EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'drill must wait') LOOP
                 PERFORM pg_catalog.pg_sleep(0.05);
             END LOOP;
             RETURN 1;
         END $$;
         INSERT INTO t VALUES ('backed up');
         CREATE INDEX ON t ((public.wait()))",
    );
    machines.first.json(&["backup", "postgres"]);
    let drill = json!({"component": "postgres", "drill": true});
    shared.server.psql("postgres", "CREATE ROLE \"drill must wait\"");
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'CREATE INDEX%wait()%'";
    let in_its_midst = async || {
        let is_making = async || shared.server.psql("postgres", waits) == "1";
        assert!(eventually(is_making).await, "the drill makes the index");
        assert_eq!(shared.beside(POSTGRES), 1);
        shared.server.psql("postgres", "DROP ROLE \"drill must wait\"");
    };
    let drilled = machines.killed_after(None, task::VERIFY, drill.clone(), in_its_midst).await;
    assert_eq!(drilled["results"][0]["ok"], true, "{drilled}");
    let drilled = machines.taken_over(task::VERIFY, drill.clone(), async || {}).await;
    assert_eq!(drilled["results"][0]["ok"], true, "{drilled}");
    let back = machines.first.worker();
    machines.done(task::VERIFY, drill).await;
    drop(back);
    assert_eq!(shared.beside(POSTGRES), 0, "a scratch copy is left");
}
