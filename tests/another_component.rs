//! A component that this file alone brings: with one registration it is backed up, verified, drilled, restored, thinned
//! out and checked, and ordered by task.

use async_trait::async_trait;
use rna_backup::{
    app::App,
    base::env::Env,
    component::{
        Component, ComponentError, Feed, IncrementalBase, Parts, Plan, Registration, Restorable, RestoreMode,
        RestoreOrder, Settings, Source, Staged, Target, UndoPoint,
    },
    config::Config,
    domain::{
        command::{Backup, Command as Order},
        component::{
            ComponentName,
            kinds::{self, ComponentKind, RestoreParameter},
        },
        facts::{Counts, Facts, FileCounts},
        manifest::VerifyLevel,
        progress::Meter,
    },
    engine::{PruneRequest, RestoreRequest, Run, VerifyRequest},
    preflight,
    stream::Output,
};
use serde_json::Map;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use tokio::io::AsyncReadExt as _;

static KIND: ComponentKind = ComponentKind {
    name: "notes",
    file_prefix: "notes_backup_",
    extension: "txt",
    setting: "NOTES_FILE",
    address_setting: "NOTES_FILE",
    server: "the disk",
    credentials: None,
    backup_task: "api.backup.tasks.backup_notes",
    restore_task: "api.backup.restore.restore_notes",
    restore_parameters: &[("backup_path", RestoreParameter::Backup)],
    address_key: None,
    repeats_id: false,
    legacy: None,
    restores_in_part: false,
    holds_catalog: false,
};

fn name() -> ComponentName {
    KIND.name.parse().unwrap()
}

/// A file of notes.
#[derive(Debug, Clone)]
struct Notes(PathBuf);

impl Notes {
    fn done<T>(&self, what: &str, done: io::Result<T>) -> Result<T, ComponentError> {
        done.map_err(|source| ComponentError::Read { what: format!("{what} {}", self.0.display()), source })
    }

    fn copy(&self) -> PathBuf {
        self.0.with_extension("copy")
    }
}

fn counts(text: &[u8]) -> Counts {
    let files = FileCounts { files: 1, bytes: text.len() as u64, ..FileCounts::default() };
    Counts { files: Some(files), ..Counts::default() }
}

async fn text(feed: Feed<'_>) -> Result<Vec<u8>, ComponentError> {
    let mut text = Vec::new();
    let read = feed.read_to_end(&mut text).await;
    read.map_err(|source| ComponentError::Read { what: "read the archive".to_owned(), source })?;
    Ok(text)
}

impl Settings for Notes {
    fn name(&self) -> ComponentName {
        name()
    }
    fn build(&self, _: &Parts) -> Component {
        Component { restorable: Some(Arc::new(self.clone())), ..Component::of(Arc::new(self.clone())) }
    }
}

#[async_trait]
impl Source for Notes {
    fn name(&self) -> ComponentName {
        name()
    }
    fn address(&self) -> String {
        self.0.display().to_string()
    }
    fn host(&self) -> Option<String> {
        None
    }
    async fn check(&self) -> Result<String, ComponentError> {
        let metadata = self.done("find", fs::metadata(&self.0))?;
        Ok(format!("{} bytes", metadata.len()))
    }
    async fn ping(&self) -> Result<(), ComponentError> {
        self.check().await.map(drop)
    }
    async fn back_up(
        &self,
        _: Option<&IncrementalBase>,
        out: &mut dyn Output,
        meter: &Meter,
    ) -> Result<Facts, ComponentError> {
        let text = self.done("read", fs::read(&self.0))?;
        meter.begin("read", text.len() as u64);
        meter.add(text.len() as u64);
        let facts = Facts { source_bytes: text.len() as u64, counts: counts(&text), ..Facts::default() };
        out.write(text.into()).await.map_err(ComponentError::Output)?;
        Ok(facts)
    }
    async fn decode(&self, feed: Feed<'_>, _: &Meter) -> Result<Counts, ComponentError> {
        Ok(counts(&text(feed).await?))
    }
    async fn describe(&self, _: Feed<'_>) -> Result<Facts, ComponentError> {
        Ok(Facts::default())
    }
}

#[async_trait]
impl Restorable for Notes {
    async fn plan(&self, _: &Target, _: Option<&Facts>) -> Result<Plan, ComponentError> {
        Ok(Plan { replaces: self.address(), method: "rename".to_owned(), ..Plan::default() })
    }
    fn skipped_steps(&self, _: RestoreMode) -> Vec<&'static str> {
        Vec::new()
    }
    async fn stage(
        &self,
        feed: Feed<'_>,
        _: &RestoreOrder<'_>,
        _: &Meter,
    ) -> Result<Box<dyn Staged>, ComponentError> {
        let text = text(feed).await?;
        self.done("copy", fs::write(self.copy(), &text))?;
        Ok(Box::new(Copy { notes: self.clone(), counts: counts(&text) }))
    }
    async fn recover(&self) -> Result<Vec<String>, ComponentError> {
        let _ = fs::remove_file(self.copy());
        Ok(Vec::new())
    }
}

#[derive(Debug)]
struct Copy {
    notes: Notes,
    counts: Counts,
}

#[async_trait]
impl Staged for Copy {
    fn counts(&self) -> &Counts {
        &self.counts
    }
    async fn swap(self: Box<Self>) -> Result<Option<UndoPoint>, ComponentError> {
        self.notes.done("replace", fs::rename(self.notes.copy(), &self.notes.0))?;
        Ok(None)
    }
    async fn discard(self: Box<Self>) -> Result<(), ComponentError> {
        self.notes.done("remove the copy of", fs::remove_file(self.notes.copy()))
    }
}

/// The variable that makes this program the one that brings a component.
const FOLDER: &str = "RNA_BACKUP_NOTES";

#[test]
fn a_component_is_one_file_and_its_registration() {
    // The registration holds for a whole process, in which other tests must see three components.
    let me = "another_component::in_a_process_of_its_own_it_is_backed_up_verified_restored_and_thinned_out";
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let done = child.args(["--exact", me, "--nocapture"]).env(FOLDER, folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success() && said.contains("all of it"),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[tokio::test]
async fn in_a_process_of_its_own_it_is_backed_up_verified_restored_and_thinned_out() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    kinds::add(&KIND);
    let read = |_: &mut Env, context: &rna_backup::component::SettingsContext<'_>| {
        Some(Arc::new(Notes(context.root.with_extension("txt"))) as Arc<dyn Settings>)
    };
    Registration { name: name(), read, by_hand: |read, _| Some(vec![read.to_owned()]), variables: |_| None }
        .add();

    let (root, file) = (folder.join("notes"), folder.join("notes.txt"));
    fs::write(&file, "lane 1: RNA\n").unwrap();
    let env = Env::new([("BACKUP_ROOT", root.to_str().unwrap()), ("BACKUP_COMPONENTS", "notes")]);
    let (config, _) = Config::from_env(env, rna_backup::store::KINDS, false).unwrap();
    let app = App::build(config).await.unwrap();
    let (engine, component, run) = (&app.engine, name(), Run::default());
    let check = preflight::run(&app.config).await.into_iter().find(|check| check.name == "notes").unwrap();
    assert!(check.ok && check.detail == "12 bytes", "{check:?}");

    let order = Order::parse(KIND.backup_task, &[], &Map::new()).unwrap();
    assert_eq!(order, Order::Backup(Backup { component, label: None, pin: false, set_id: None }));
    let Order::Backup(order) = order else { unreachable!() };
    let first = engine.backup(&order, &run).await.unwrap();
    let second = engine.backup(&order, &run).await.unwrap();
    assert!(second.path.ends_with(".txt.zst") && second.backup_id > first.backup_id, "{second:?}");

    let request =
        VerifyRequest { component: Some(component), backup: "all".to_owned(), level: VerifyLevel::Drill };
    let found = engine.verify(component, &request, &run).await.unwrap();
    assert!(found.iter().all(|found| found.ok && found.level == VerifyLevel::Drill), "{found:?}");

    fs::write(&file, "spoiled").unwrap();
    let request = RestoreRequest {
        component,
        reference: "latest".to_owned(),
        target: Target::Live,
        without: Vec::new(),
        without_rights: false,
    };
    engine.restore(&request, &run).await.unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "lane 1: RNA\n");
    let err = engine.undo(component, &run).await.unwrap_err();
    let err = rna_backup::base::chain(&err);
    assert!(err.contains("notes cannot be restored by this version"), "{err}");

    let request =
        PruneRequest { component: Some(component), retention_days: Some(0), ..PruneRequest::default() };
    assert_eq!(engine.prune(request, &run).await.unwrap().deleted, [first.backup_id]);
    println!("all of it");
}
