//! A further kind of store: this file and its line in the list of kinds are all that the program needs of it.

use crate::{
    copies::back_up,
    support::{
        faulty::{Faulty, GOOD},
        lab::files,
        memory::Memory,
        tree,
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rna_backup::{
    app::App,
    base::{
        chain,
        env::{self, Env},
    },
    component::Target,
    config::Config,
    domain::{component::ComponentName, manifest::VerifyLevel},
    engine::{PruneRequest, RestoreRequest, Run, VerifyRequest},
    preflight,
    store::{AccessCheck, Destination, Diagnosis, KINDS, ObjectKey, Observer, OpenError, Store, StoreKind},
};
use std::{
    error::Error,
    fs,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

static MEMORY: StoreKind = StoreKind {
    name: "memory",
    check: "memory of this test",
    counts_requests: false,
    settings: &[env::open("BACKUP_MEMORY")],
    read,
};

/// The objects, which outlive each opened store.
static OBJECTS: LazyLock<Memory> = LazyLock::new(Memory::default);

#[derive(Debug)]
struct MemoryConfig {
    name: String,
}

fn read(env: &mut Env, _: Option<&Path>, _: &[Arc<dyn Destination>]) -> Option<Arc<dyn Destination>> {
    Some(Arc::new(MemoryConfig { name: env.optional("BACKUP_MEMORY")? }))
}

#[async_trait]
impl Destination for MemoryConfig {
    fn kind(&self) -> &'static StoreKind {
        &MEMORY
    }
    fn place(&self) -> String {
        format!("memory {}", self.name)
    }
    async fn open(&self, _: Option<Observer>) -> Result<Arc<dyn Store>, OpenError> {
        Ok(Arc::new(Faulty::new(Arc::new(OBJECTS.clone()), GOOD).named(MEMORY.name)))
    }
    async fn diagnose(
        &self,
        folders: &[ObjectKey],
        _: BoxFuture<'_, Option<u64>>,
        _: Duration,
    ) -> Result<String, Diagnosis> {
        let checked = OBJECTS.check_access(folders, AccessCheck::Write).await;
        checked.map(|()| format!("{} is there", self.place())).map_err(|err| self.explain(&err))
    }
    fn explain(&self, err: &(dyn Error + 'static)) -> Diagnosis {
        Diagnosis::new(chain(err), "correct BACKUP_MEMORY")
    }
}

#[tokio::test]
async fn a_further_kind_of_store_is_one_file_and_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let (media, root) = (dir.path().join("media"), dir.path().join("backups"));
    fs::create_dir(&media).unwrap();
    fs::write(media.join("gel.txt"), "lane 1: RNA\n".repeat(9000)).unwrap();
    let settings = [
        ("MEDIA_ROOT", media.to_str().unwrap()),
        ("BACKUP_ROOT", root.to_str().unwrap()),
        ("BACKUP_LOCAL", "False"),
        ("BACKUP_MEMORY", "lab"),
        ("BACKUP_MEDIA_FULL_EVERY", "0"),
    ];
    let kinds = [KINDS, &[&MEMORY]].concat();
    let unknown = Config::from_env(Env::new(settings), KINDS, true).unwrap_err();
    assert!(unknown.to_string().contains("BACKUP_MEMORY: is not a known setting"), "{unknown}");
    let (config, warnings) = Config::from_env(Env::new(settings), &kinds, true).unwrap();
    assert_eq!(warnings, []);

    let checks = preflight::run(&config).await;
    let found: Vec<_> = checks.iter().map(|check| (&*check.name, check.ok, &*check.detail)).collect();
    assert!(found.contains(&(MEMORY.check, true, "memory lab is there")), "{found:?}");

    let app = App::build(config).await.unwrap();
    OBJECTS.put(&"media/dead.partial".parse().unwrap(), Bytes::from_static(b"half")).await.unwrap();
    app.sweep_all().await;
    assert_eq!(OBJECTS.keys(), [""; 0], "a dead run had left something");
    let (engine, run) = (&app.engine, Run::default());
    let first = back_up(engine, &run).await.unwrap();
    assert!(first.path.starts_with("memory://media/"), "{first:?}");
    assert_eq!((OBJECTS.keys().len(), files(&root.join("media")).len()), (2, 0));

    let whole = tree::look(&media);
    fs::write(media.join("gel.txt"), "gone").unwrap();
    let media_of = ComponentName::MEDIA;
    let request =
        VerifyRequest { component: Some(media_of), backup: "latest".to_owned(), level: VerifyLevel::Drill };
    assert_eq!(engine.verify(media_of, &request, &run).await.unwrap()[0].backup_id, first.backup_id);
    let request = RestoreRequest {
        component: media_of,
        reference: first.path.clone(),
        target: Target::Live,
        without_rights: false,
        without: Vec::new(),
    };
    assert_eq!(engine.restore(&request, &run).await.unwrap().path, first.path);
    assert_eq!(tree::look(&media), whole);

    let second = back_up(engine, &run).await.unwrap();
    let request = PruneRequest { retention_days: Some(0), ..PruneRequest::default() };
    let pruned = engine.prune(request, &run).await.unwrap();
    assert_eq!(pruned.deleted, [first.backup_id], "{pruned:?}");
    let listed = engine.listing(None).await.unwrap().backups;
    assert_eq!((listed.len(), &listed[0].backup_id), (1, &second.backup_id));
    app.wait_for_background().await;
    let metrics = app.metrics.render().unwrap();
    for line in [
        r#"rna_backup_retention_deleted_total{component="media",destination="memory"} 1"#,
        r#"rna_backup_retention_deleted_total{component="media",destination="s3"} 0"#,
        r#"rna_backup_catalog_backups{component="media",destination="memory",state="verified"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
