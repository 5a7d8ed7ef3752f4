//! Restores of one database and one media folder from two machines, each with a `BACKUP_ROOT` of its own and both with one
//! place for backups: nothing is restored twice.

use crate::media_restore::areas;
use crate::postgres_restore::databases;
use crate::support::postgres::PostgresServer;
use rna_backup::{
    base::{chain, clock::SystemClock},
    catalog::Catalog,
    component::{
        Component, ComponentError, Staged, Target,
        media::{Media, MediaConfig},
        postgres::Postgres,
    },
    domain::{
        command::Backup,
        component::ComponentName::{self, Media as MEDIA, Postgres as POSTGRES},
        progress::Meter,
        report::{BackupReport, RestoreReport},
        retention::Policy,
    },
    engine::{Changes, Engine, EngineError, Locks, RestoreRequest, Run},
    observe::metrics::Metrics,
    store::{Store, local::LocalStore},
    stream::{crypt::Encryption, pack::Compression},
};
use std::{fs, path::PathBuf, sync::Arc};
use tempfile::TempDir;

/// The things that two machines share: a database, a media folder, a place for backups.
pub struct Shared {
    dir: TempDir,
    pub server: &'static PostgresServer,
    pub database: String,
}

impl Shared {
    pub fn new(database: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("live/media")).unwrap();
        fs::write(dir.path().join("live/media/gel.txt"), "lane 1: RNA\n").unwrap();
        let server = PostgresServer::shared();
        let database = server.database(database, "");
        server.psql(&database, "CREATE TABLE t (v text); INSERT INTO t VALUES ('backed up')");
        server.psql(&database, &format!("COMMENT ON DATABASE \"{database}\" IS 'the app''s own'"));
        Self { dir, server, database }
    }

    pub fn media(&self) -> PathBuf {
        self.dir.path().join("live/media")
    }

    fn components(&self) -> Vec<Arc<dyn Component>> {
        let postgres = Postgres::new(self.server.config(&self.database), Vec::new());
        vec![Arc::new(postgres), Arc::new(Media::new(MediaConfig::full(self.media())))]
    }

    /// Another machine.
    pub fn machine(&self, name: &str) -> Machine {
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(self.dir.path().join("bucket"), 0).unwrap());
        Machine(Engine {
            components: self.components(),
            left_out: Vec::new(),
            catalog: Catalog::new(vec![Arc::clone(&store)]),
            mirror: None,
            destinations: vec![store],
            cleanup_local: false,
            locks: Locks::new(self.dir.path().join(name).join(".locks")),
            compression: Compression::default(),
            encryption: Encryption::default(),
            policy: Policy { days: 30, last: 9, weekly: 0, monthly: 0 },
            clock: Arc::new(SystemClock),
            observer: Arc::new(Metrics::new("test").unwrap()),
            changes: Changes::default(),
            host: name.to_owned(),
        })
    }

    /// Writes something that no backup has.
    pub fn write(&self, component: ComponentName, words: &str) {
        match component {
            POSTGRES => drop(self.server.psql(&self.database, &format!("INSERT INTO t VALUES ('{words}')"))),
            _ => fs::write(self.media().join(words), words).unwrap(),
        }
    }

    /// Everything that is live, in order.
    pub fn live(&self, component: ComponentName) -> Vec<String> {
        let mut found: Vec<_> = match component {
            POSTGRES => {
                let rows = self.server.psql(&self.database, "SELECT v FROM t ORDER BY v");
                rows.lines().map(str::to_owned).collect()
            }
            _ => fs::read_dir(self.media())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect(),
        };
        found.sort();
        found.retain(|name| name != "backed up" && name != "gel.txt");
        found
    }

    /// Everything that restores have made beside what is live.
    pub fn beside(&self, component: ComponentName) -> usize {
        match component {
            POSTGRES => databases(self.server, &self.database).len() - 1,
            _ => areas(&self.media()).len(),
        }
    }

    fn comment(&self) -> String {
        let database = &self.database;
        let ask = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname";
        self.server.psql("postgres", &format!("{ask} = '{database}'"))
    }

    /// Takes away what is live, wholly.
    fn lose(&self, component: ComponentName) {
        match component {
            POSTGRES => {
                drop(
                    self.server
                        .psql("postgres", &format!("DROP DATABASE \"{}\" WITH (FORCE)", self.database)),
                );
            }
            _ => fs::remove_dir_all(self.media()).unwrap(),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for database in databases(self.server, &self.database) {
            // A test that fails may have left something in it.
            let drop = format!("DROP DATABASE \"{database}\" WITH (FORCE)");
            let _ = self.server.run("psql", "postgres", &["-X", "-c", &drop], b"");
        }
    }
}

/// An engine with a `BACKUP_ROOT` of its own. What it returns is not stored anywhere: to the others it died before that.
pub struct Machine(pub Engine);

impl Machine {
    pub async fn back_up(&self, component: ComponentName) -> BackupReport {
        let order = Backup { component, label: None, pin: false, set_id: None };
        self.0.backup(&order, &Run::default()).await.unwrap()
    }

    pub async fn restore(&self, component: ComponentName, task: &str) -> Result<RestoreReport, EngineError> {
        let request = RestoreRequest {
            component,
            reference: "latest".to_owned(),
            target: Target::Live,
            without: Vec::new(),
            without_rights: false,
        };
        self.0.restore(&request, &by(task)).await
    }

    pub fn component(&self, name: ComponentName) -> &Arc<dyn Component> {
        self.0.components.iter().find(|component| component.name() == name).unwrap()
    }

    /// A restore that goes as far as its swap.
    pub async fn stage(
        &self,
        name: ComponentName,
        backup: &BackupReport,
    ) -> Result<Box<dyn Staged>, ComponentError> {
        let archive = fs::read(&backup.path).unwrap();
        let mut plain = rna_backup::stream::unpack::unpack(Compression::default(), &*archive);
        self.component(name).stage(&mut plain, &Target::Live, None, &Meter::default()).await
    }
}

pub fn by(task: &str) -> Run {
    Run { task_id: Some(task.to_owned()), ..Run::default() }
}

#[tokio::test]
async fn a_restore_whose_result_was_never_stored_is_not_done_again_on_another_machine() {
    let shared = Shared::new("restored twice");
    let (a, b) = (shared.machine("a"), shared.machine("b"));
    for component in [POSTGRES, MEDIA] {
        let backup = a.back_up(component).await;
        shared.write(component, "spoiled");
        let first = a.restore(component, "restore").await.unwrap();
        assert_eq!(shared.live(component), [""; 0]);
        shared.write(component, "since");

        // The same order says `latest`, and means what was the latest then.
        b.back_up(component).await;
        let again = b.restore(component, "restore").await.unwrap();
        assert_eq!(shared.live(component), ["since"], "{component} was restored twice");
        assert_eq!((again.backup_id, again.kept.as_ref()), (backup.backup_id, first.kept.as_ref()));
        assert_eq!(shared.beside(component), 1);

        let undone = b.0.undo(component, &by("undo")).await.unwrap();
        assert_eq!(shared.live(component), ["spoiled"], "undo leads to what was there before the restore");
        let again = a.0.undo(component, &by("undo")).await.unwrap();
        assert_eq!(shared.live(component), ["spoiled"], "{component} was undone twice");
        assert_eq!((again.replaced_at, again.kept), (undone.replaced_at, undone.kept));
        // Nor does the restore come again after the undo.
        b.restore(component, "restore").await.unwrap();
        assert_eq!(shared.live(component), ["spoiled"]);
        // Another order is another restore.
        a.restore(component, "another").await.unwrap();
        assert_eq!(shared.live(component), ["since"]);
    }
    assert_eq!(shared.comment(), "the app's own");
}

#[tokio::test]
async fn a_backup_between_a_crash_and_the_next_delivery_leaves_the_proof_until_the_result_is_stored() {
    let shared = Shared::new("proven for a day");
    let (a, b) = (shared.machine("a"), shared.machine("b"));
    for component in [POSTGRES, MEDIA] {
        let backup = a.back_up(component).await;
        shared.write(component, "spoiled");
        a.restore(component, "restore").await.unwrap();
        shared.write(component, "since");
        // The next one by hand is kept as well, for undo.
        for machine in [&a, &b] {
            machine.back_up(component).await;
            assert_eq!(shared.beside(component), 1, "the only proof is gone");
        }
        for machine in [&b, &a] {
            let again = machine.restore(component, "restore").await.unwrap();
            assert_eq!(again.backup_id, backup.backup_id);
            assert_eq!(shared.live(component), ["since"], "{component} was restored twice");
        }
        b.0.result_stored(component, "somebody else's").await;
        b.back_up(component).await;
        assert_eq!(shared.beside(component), 1);
        b.0.result_stored(component, "restore").await;
        a.back_up(component).await;
        assert_eq!(shared.beside(component), 0, "the result is stored, and a backup made");
    }
}

#[tokio::test]
async fn a_restore_into_nothing_is_not_done_again_either_and_leaves_no_trace_once_its_result_is_stored() {
    let shared = Shared::new("restored into nothing");
    let (a, b) = (shared.machine("a"), shared.machine("b"));
    for component in [POSTGRES, MEDIA] {
        a.back_up(component).await;
        shared.lose(component);
        let first = a.restore(component, "restore").await.unwrap();
        assert_eq!(first.kept, None);
        shared.write(component, "since");
        b.back_up(component).await;
        let again = b.restore(component, "restore").await.unwrap();
        assert_eq!(shared.live(component), ["since"], "{component} was restored twice");
        assert_eq!((again.backup_id, again.kept), (first.backup_id, None));
        assert!(b.component(component).undo_point().await.unwrap().is_none());
        a.0.result_stored(component, "restore").await;
        a.back_up(component).await;
        assert_eq!(shared.beside(component), 0);
    }
    assert_eq!(shared.comment(), "", "a new database has no comment");
}

#[tokio::test]
async fn a_task_that_two_machines_have_at_once_is_done_by_one() {
    let shared = Shared::new("at once");
    let (a, b) = (shared.machine("a"), shared.machine("b"));
    for component in [POSTGRES, MEDIA] {
        a.back_up(component).await;
        shared.write(component, "spoiled");
        for round in 0..5 {
            let task = format!("{component} {round}");
            let (one, two) = tokio::join!(a.restore(component, &task), b.restore(component, &task));
            assert!(one.is_ok() || two.is_ok(), "{one:?} {two:?}");
            for failed in [&one, &two].into_iter().filter_map(|done| done.as_ref().err()) {
                assert!(failed.is_transient(), "{}", chain(failed));
            }
            assert_eq!(shared.beside(component), 1, "{one:?} {two:?}");
            a.0.undo(component, &by(&format!("undo {task}"))).await.unwrap();
            assert_eq!(shared.live(component), ["spoiled"]);
            a.component(component).result_stored(&task).await.unwrap();
            a.component(component).result_stored(&format!("undo {task}")).await.unwrap();
            a.component(component).delete_undo_data().await.unwrap();
        }
    }
}
