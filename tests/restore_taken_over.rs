//! Restores and undos whose worker is killed between the swap and the stored result: a worker on another machine gets the task,
//! and does nothing twice; then the first machine comes back.

use crate::catalog_rebuild::with_bucket;
use crate::restore_two_machines::Shared;
use crate::support::{held_line::HeldLine, lab::Lab, s3::S3Server};
use rna_backup::domain::{
    command::task,
    component::ComponentName::{Media as MEDIA, Postgres as POSTGRES},
};
use rna_backup::store::S3Config;
use serde_json::{Value, json};

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
        let mut killed = self.first.worker();
        killed.ready().await;
        self.line.catch("\"SUCCESS\"");
        let id = self.first.order(task, kwargs).await;
        tokio::task::block_in_place(|| self.line.has_caught());
        meanwhile().await;
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
