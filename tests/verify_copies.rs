//! Verification of a backup that lies in two destinations: each copy by itself, and what is marked.

use crate::copies::engine;
use crate::support::{
    catalog::manifest,
    faulty::{AWAY, Faults, Faulty, GOOD},
};
use crate::verify::noise;
use jiff::Timestamp;
use rna_backup::{
    base::chain,
    catalog::{Catalog, Entry},
    domain::{
        command::Backup,
        component::ComponentName,
        listing::BackupState,
        manifest::{Manifest, VerifyLevel},
        report::{CheckedCopy, Verification},
        retention::VerificationStatus,
    },
    engine::{Engine, EngineError, Run, VerifyRequest},
    store::{Store, local::LocalStore},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// A backup of media with a copy in two destinations, and its archive in each.
struct Twice {
    dir: tempfile::TempDir,
    near: PathBuf,
    far: PathBuf,
    id: String,
}

impl Twice {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("media")).unwrap();
        fs::write(path("media/gel.txt"), noise(5000)).unwrap();
        let mut twice = Self { near: path("near"), far: path("far"), id: String::new(), dir };
        let engine = twice.engine(twice.far(GOOD));
        let order = Backup { component: ComponentName::MEDIA, label: None, pin: false, set_id: None };
        let report = engine.backup(&order, &Run::default()).await.unwrap();
        let mut manifest: Manifest = engine.find("latest", None).await.unwrap().manifest().unwrap().clone();
        let mut copy = manifest.objects[0].clone();
        "s3".clone_into(&mut copy.destination);
        twice.far.push(&copy.key);
        fs::create_dir_all(twice.far.parent().unwrap()).unwrap();
        fs::copy(&report.path, &twice.far).unwrap();
        manifest.objects.push(copy);
        engine.catalog.write(&manifest).await.unwrap();
        Self { near: report.path.into(), id: report.backup_id.to_string(), ..twice }
    }

    /// The far destination, with these faults.
    fn far(&self, faults: Faults) -> Arc<Faulty> {
        let real = LocalStore::open(self.dir.path().join("far"), 0).unwrap();
        Arc::new(Faulty::new(Arc::new(real), faults).named("s3"))
    }

    fn engine(&self, far: Arc<Faulty>) -> Engine {
        let path = |name: &str| self.dir.path().join(name);
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(path("near"), 0).unwrap());
        Engine {
            catalog: Catalog::new(vec![Arc::clone(&store), far]),
            ..engine(&path("media"), &path("near/.locks"), vec![store])
        }
    }

    async fn verify(
        &self,
        faults: Faults,
        backup: &str,
        level: VerifyLevel,
    ) -> Result<Vec<Verification>, EngineError> {
        let request = VerifyRequest { component: None, backup: backup.to_owned(), level };
        self.engine(self.far(faults)).verify(ComponentName::MEDIA, &request, &Run::default()).await
    }

    async fn entry(&self) -> Entry {
        self.engine(self.far(GOOD)).find(&self.id, None).await.unwrap()
    }
}

fn flip_a_bit(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes[9] ^= 1;
    fs::write(file, bytes).unwrap();
}

const WRONG_HASH: &str = "its hash is not the one in its manifest";

#[tokio::test]
async fn a_damaged_copy_in_one_destination_does_not_spoil_the_good_one_in_another() {
    let twice = Twice::new().await;
    let verify = async |level| {
        let results = twice.verify(GOOD, "latest", level).await.unwrap();
        (results[0].ok, results[0].problems.clone(), twice.entry().await)
    };
    assert!(verify(VerifyLevel::Decode).await.0);
    flip_a_bit(&twice.far);
    let (ok, problems, entry) = verify(VerifyLevel::Checksum).await;
    assert_eq!((ok, problems), (false, vec![format!("s3: {WRONG_HASH}")]));
    assert!(entry.is_verified() && entry.state() == BackupState::Ok);
    let verification = |destination| entry.candidate(destination).unwrap().verification;
    assert_eq!(
        (verification("local"), verification("s3")),
        (VerificationStatus::Verified, VerificationStatus::Failed)
    );

    fs::remove_file(&twice.far).unwrap();
    let (ok, problems, entry) = verify(VerifyLevel::Decode).await;
    assert_eq!((ok, problems), (false, vec!["s3: the archive is missing".to_owned()]));
    assert_eq!(entry.candidate("s3").unwrap().verification, VerificationStatus::Missing);
}

#[tokio::test]
async fn a_copy_that_can_be_read_is_looked_at_while_the_other_is_away() {
    let twice = Twice::new().await;
    // Nothing is wrong with what can be read, and of the other nobody knows.
    let err = twice.verify(AWAY, &twice.id, VerifyLevel::Decode).await.unwrap_err();
    assert!(chain(&err).contains("device on fire"), "{err:?}");
    let before = twice.entry().await.manifest().unwrap().verified;
    assert!(twice.verify(AWAY, "all", VerifyLevel::Decode).await.is_ok_and(|found| !found[0].ok));
    assert_eq!(twice.entry().await.manifest().unwrap().objects[1].problems, [""; 0]);

    flip_a_bit(&twice.near);
    for backup in [twice.id.as_str(), "all"] {
        let found = twice.verify(AWAY, backup, VerifyLevel::Decode).await.unwrap().remove(0);
        assert!(!found.ok && found.problems[0] == format!("local: {WRONG_HASH}"), "{found:?}");
        assert!(found.problems.last().unwrap().starts_with("s3: it cannot be read: "), "{found:?}");
    }
    let entry = twice.entry().await;
    let verification = |destination| entry.candidate(destination).unwrap().verification;
    assert_eq!(
        (verification("local"), verification("s3")),
        (VerificationStatus::Failed, VerificationStatus::Verified)
    );
    assert!(entry.manifest().unwrap().verified.at >= before.at, "the other copy may be whole");
}

#[tokio::test]
async fn a_drill_goes_on_to_the_second_copy_where_the_first_is_damaged() {
    let twice = Twice::new().await;
    let mut opened = Vec::new();
    for damaged in [false, true] {
        if damaged {
            flip_a_bit(&twice.near);
        }
        let far = twice.far(GOOD);
        let request = VerifyRequest { component: None, backup: twice.id.clone(), level: VerifyLevel::Drill };
        let engine = twice.engine(Arc::clone(&far));
        let found = engine.verify(ComponentName::MEDIA, &request, &Run::default()).await.unwrap();
        assert_eq!(found[0].ok, !damaged, "{found:?}");
        assert!(found[0].problems.iter().all(|problem| problem.starts_with("local: ")), "{found:?}");
        opened.push(far.opened.load(Relaxed));
    }
    assert!(opened[1] > opened[0], "it is read for its hash, and once more to be restored: {opened:?}");
}

#[test]
fn what_was_found_by_looking_farther_is_not_taken_back_by_looking_less_far() {
    let mut manifest = manifest(ComponentName::MEDIA, 1, &["local"]);
    let now = Timestamp::now();
    let mut copy = CheckedCopy {
        destination: "local".to_owned(),
        location: String::new(),
        bytes: Some(1000),
        state: BackupState::Ok,
        problems: Vec::new(),
        found_by: None,
    };
    let whole = copy.clone();
    copy.find(vec!["table paper: 7 rows and not 4000".to_owned()], VerifyLevel::Drill);
    manifest.note(VerifyLevel::Checksum, now, &[copy]);
    assert_eq!(manifest.last_word().0, now, "of two manifests, the one with the mark counts");
    for level in [VerifyLevel::Checksum, VerifyLevel::Decode] {
        manifest.note(level, now, std::slice::from_ref(&whole));
        assert_eq!((manifest.objects[0].problems.len(), manifest.verified.level), (1, VerifyLevel::None));
    }
    manifest.note(VerifyLevel::Drill, now, &[whole]);
    assert_eq!((manifest.objects[0].problems.len(), manifest.objects[0].found), (0, None));
    assert_eq!(manifest.verified.level, VerifyLevel::Drill);
}
