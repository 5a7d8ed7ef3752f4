//! Media restored: wholly the old or the new, and back again.

use crate::media::{media, tar_of};
use crate::support::disk::Tmpfs;
use crate::support::tree::{self, Seen};
use rna_backup::{
    component::{ComponentError, Restorable, RestoreOrder, Staged, Target, Undo, media::Media},
    domain::{facts::Facts, progress::Meter},
};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File, Permissions},
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, chown, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::{TempDir, tempdir};

pub type Tree = BTreeMap<OsString, Seen>;

/// What is at a place, without the areas of restores in it.
pub fn look(root: &Path) -> Tree {
    let mut seen = tree::look(root);
    seen.retain(|name, _| !name.as_bytes().starts_with(b".rna-"));
    seen
}

/// Says which entry differs, and not how: contents are long.
#[track_caller]
pub fn same(found: &Tree, expected: &Tree) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, seen) in found {
        let known = &expected[name];
        let [left, right] = [seen, known].map(|seen| (seen.mode, seen.owner, seen.modified, &seen.target));
        assert!(seen == known, "{} differs: {left:?} {right:?}", name.display());
    }
}

/// Hidden folders of restores beside or in a media folder.
pub fn areas(root: &Path) -> Vec<PathBuf> {
    let list = |dir: &Path, prefix: &str| {
        let entries = fs::read_dir(dir).map(|entries| entries.map(|entry| entry.unwrap().path()));
        let of_us = |path: &PathBuf| path.file_name().unwrap().as_bytes().starts_with(prefix.as_bytes());
        entries.map_or_else(|_| Vec::new(), |paths| paths.filter(of_us).collect())
    };
    let beside = format!(".{}.rna-", root.file_name().unwrap().to_str().unwrap());
    [list(root.parent().unwrap(), &beside), list(root, ".rna-")].concat()
}

pub async fn stage(
    media: &Media,
    tar: &[u8],
    target: &Target,
    facts: Option<&Facts>,
) -> Result<Box<dyn Staged>, ComponentError> {
    media.stage(&mut &*tar, &RestoreOrder::new(target, facts), &Meter::default()).await
}

pub async fn restore(media: &Media, tar: &[u8], facts: Option<&Facts>) {
    stage(media, tar, &Target::Live, facts).await.unwrap().swap().await.unwrap().unwrap();
}

/// What is live before: a few things that are in the backup too, others that are not, of another kind.
pub fn old_tree(root: &Path) {
    fs::create_dir_all(root.join("photos/new")).unwrap();
    fs::create_dir(root.join("a.txt")).unwrap();
    fs::write(root.join("photos/new/upload.jpg"), b"since the backup").unwrap();
    fs::write(root.join("sticky"), b"a file where the backup has a folder").unwrap();
    fs::write(root.join("only here"), vec![9; 70_000]).unwrap();
    symlink("only here", root.join("link")).unwrap();
    fs::set_permissions(root, Permissions::from_mode(0o2755)).unwrap();
    tree::touch(root, 1_000_000_000, 7);
}

/// An ordinary media folder with old data, and the archive of a nasty tree.
pub struct Lab {
    dir: TempDir,
    pub tar: Vec<u8>,
    pub facts: Facts,
    new: Tree,
    old: Tree,
}

impl Lab {
    async fn at(root: impl FnOnce(&Path) -> PathBuf) -> (Self, PathBuf) {
        let dir = tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        tree::fill(&source);
        let (tar, facts) = tar_of(&source, || ()).await;
        let root = root(dir.path());
        fs::create_dir_all(&root).unwrap();
        old_tree(&root);
        let (new, old) = (look(&source), look(&root));
        (Self { dir, tar, facts, new, old }, root)
    }

    pub async fn new() -> (Self, PathBuf) {
        Self::at(|dir| dir.join("live/media")).await
    }

    /// There and back and forth again, at a place that has both.
    async fn round_trip(&self, root: &Path) {
        let media = media(root);
        assert_eq!(media.undo_point().await.unwrap(), None);
        let staged = stage(&media, &self.tar, &Target::Live, Some(&self.facts)).await.unwrap();
        assert_eq!(*staged.counts(), self.facts.counts);
        same(&look(root), &self.old);
        let kept = staged.swap().await.unwrap().unwrap();
        same(&look(root), &self.new);
        same(&look(Path::new(&kept.place)), &self.old);
        assert_eq!(media.undo_point().await.unwrap().unwrap(), kept);
        let area = Path::new(&kept.place).parent().unwrap();
        assert_eq!(fs::metadata(area).unwrap().permissions().mode() & 0o7777, 0o700);

        // A second one, in the same second: what is kept of it is the first.
        restore(&media, &self.tar, Some(&self.facts)).await;
        same(&look(root), &self.new);
        assert_eq!(areas(root).len(), 2);
        assert_eq!(media.recover().await.unwrap(), [""; 0]);

        // Backups do not see what restores keep.
        let (tar, facts) = tar_of(root, || ()).await;
        assert!(tar == self.tar && facts.counts == self.facts.counts);

        let second = media.undo_point().await.unwrap().unwrap();
        fs::remove_dir_all(Path::new(&second.place).parent().unwrap()).unwrap();
        tree::touch(root, 1_200_000_000, 42);
        let undone = media.undo(None, &Meter::default()).await.unwrap();
        same(&look(root), &self.old);
        same(&look(Path::new(&undone.place)), &self.new);
        media.undo(None, &Meter::default()).await.unwrap();
        same(&look(root), &self.new);
        media.undo(None, &Meter::default()).await.unwrap();
        media.delete_undo_data().await.unwrap();
        assert_eq!(areas(root), [""; 0].map(PathBuf::from));
        assert_eq!(media.undo_point().await.unwrap(), None);
        let err = media.undo(None, &Meter::default()).await.unwrap_err();
        assert!(matches!(err, ComponentError::Unusable { .. }), "{err:?}");
        tree::touch(root, 1_000_000_000, 7);
        same(&look(root), &self.old);
    }
}

#[tokio::test]
async fn a_nasty_tree_is_exchanged_for_the_old_and_back() {
    let (lab, root) = Lab::new().await;
    lab.round_trip(&root).await;
}

#[tokio::test]
async fn on_a_mount_point_the_entries_are_exchanged_and_back() {
    let Some(disk) = Tmpfs::mount("64m") else {
        return println!("skipped: mounting a tmpfs is not allowed here");
    };
    let (lab, _) = Lab::new().await;
    old_tree(disk.path());
    let lab = Lab { old: look(disk.path()), ..lab };
    lab.round_trip(disk.path()).await;

    // The volume of a container lies on the file system that its mount point lies on.
    let volume = disk.path().join("at");
    fs::create_dir(disk.path().join("volume")).unwrap();
    fs::create_dir(&volume).unwrap();
    let _bound = disk.bind("volume", &volume).expect("what mounts a tmpfs binds a folder");
    old_tree(&volume);
    let lab = Lab { old: look(&volume), ..lab };
    lab.round_trip(&volume).await;
}

#[tokio::test]
async fn a_folder_behind_a_symbolic_link_is_exchanged_and_the_link_stays() {
    let (lab, root) = Lab::new().await;
    let link = lab.dir.path().join("link");
    symlink("live/media", &link).unwrap();
    restore(&media(&link), &lab.tar, Some(&lab.facts)).await;
    same(&look(&root), &lab.new);
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("live/media"));
    media(&link).undo(None, &Meter::default()).await.unwrap();
    same(&look(&root), &lab.old);
}

#[tokio::test]
async fn media_that_are_all_gone_come_back() {
    let (lab, root) = Lab::new().await;
    fs::remove_dir_all(&root).unwrap();
    let media = media(&root);
    let plan = media.plan(&Target::Live, Some(&lab.facts)).await.unwrap();
    assert!(plan.replaces.starts_with("nothing: "), "{plan:?}");
    let staged = stage(&media, &lab.tar, &Target::Live, Some(&lab.facts)).await.unwrap();
    assert_eq!(staged.swap().await.unwrap(), None);
    same(&look(&root), &lab.new);
    assert_eq!(areas(&root).len(), 0);
}

#[tokio::test]
async fn a_drill_is_counted_and_thrown_away() {
    let (lab, root) = Lab::new().await;
    let staged = stage(&media(&root), &lab.tar, &Target::Scratch, Some(&lab.facts)).await.unwrap();
    assert_eq!(*staged.counts(), lab.facts.counts);
    assert_eq!(areas(&root).len(), 1);
    staged.discard().await.unwrap();
    assert_eq!(areas(&root).len(), 0);
    let staged = stage(&media(&root), &lab.tar, &Target::Scratch, None).await;
    assert!(staged.unwrap_err().to_string().contains("unpack"), "links that leave need a manifest");
    same(&look(&root), &lab.old);
}

#[tokio::test]
async fn another_folder_is_filled_if_it_is_empty_or_not_there() {
    let (lab, root) = Lab::new().await;
    let media = media(&root);
    for (name, make) in [("absent", false), ("empty", true)] {
        let folder = lab.dir.path().join("other").join(name);
        fs::create_dir_all(if make { &folder } else { folder.parent().unwrap() }).unwrap();
        let target = Target::custom("into", [&folder]);
        let staged = stage(&media, &lab.tar, &target, Some(&lab.facts)).await.unwrap();
        assert_eq!(staged.swap().await.unwrap(), None);
        same(&look(&folder), &lab.new);
        assert_eq!(areas(&folder).len(), 0);
        for refused in [
            media.plan(&target, None).await.map(|_| ()).unwrap_err(),
            stage(&media, &lab.tar, &target, None).await.map(|_| ()).unwrap_err(),
        ] {
            assert!(matches!(refused, ComponentError::Unusable { .. }), "{refused:?}");
        }
    }
    let err = media.plan(&Target::custom("database", ["x"]), None).await.unwrap_err();
    assert!(matches!(err, ComponentError::Unusable { .. }), "{err:?}");
    same(&look(&root), &lab.old);
}

#[tokio::test]
async fn the_old_tasks_archives_come_back_without_their_top_folder() {
    let dir = tempdir().unwrap();
    let (source, root) = (dir.path().join("backend_media"), dir.path().join("media"));
    for folder in [&source, &root] {
        fs::create_dir(folder).unwrap();
    }
    fs::create_dir(source.join("docs")).unwrap();
    fs::write(source.join("docs/protocol.pdf"), b"pdf").unwrap();
    tree::touch(&source.join("docs"), 1_500_000_000, 0);
    fs::set_permissions(&source, Permissions::from_mode(0o750)).unwrap();
    tree::touch(&source, 1_600_000_000, 0);
    fs::write(root.join("live"), b"live").unwrap();
    // As the app made them, and as people do by hand.
    let python = "import shutil; shutil.make_archive('old', 'tar', '.', 'backend_media')";
    for [program, args @ ..] in [
        ["python3", "-c", python, "-", "-"],
        ["tar", "-cf", "old.tar", "--", "backend_media"],
        ["tar", "-cf", "old.tar", "-Cbackend_media", "."],
    ] {
        assert!(Command::new(program).args(args).current_dir(&dir).status().unwrap().success());
        let tar = fs::read(dir.path().join("old.tar")).unwrap();
        restore(&media(&root), &tar, None).await;
        let mut expected = look(&source);
        for (name, seen) in &mut expected {
            // Python's and GNU's default formats hold whole seconds or more.
            seen.modified.1 = look(&root)[name].modified.1;
        }
        same(&look(&root), &expected);
        media(&root).undo(None, &Meter::default()).await.unwrap();
        assert_eq!(fs::read(root.join("live")).unwrap(), b"live");
    }
}

#[tokio::test]
async fn a_plan_says_what_would_be_done() {
    let (lab, root) = Lab::new().await;
    let plan = media(&root).plan(&Target::Live, Some(&lab.facts)).await.unwrap();
    let files = lab.facts.counts.files.unwrap();
    assert!(plan.replaces.ends_with(&format!(", by 19 files, {} bytes", files.bytes)), "{plan:?}");
    assert!(plan.replaces.contains("(3 files, 70052 bytes)"), "{plan:?}");
    assert_eq!(plan.method, "exchange of folders");
    let holes = lab.facts.counts.attributes.unwrap().hole_bytes;
    assert!(holes > 0 && plan.needs_bytes.unwrap() > files.bytes - holes, "{plan:?}");
    assert!(plan.free_bytes.unwrap() > 0, "{plan:?}");
    assert_eq!(areas(&root).len(), 0);
}

#[tokio::test]
async fn a_file_system_mounted_in_the_media_is_left_where_it_is() {
    let (lab, root) = Lab::new().await;
    let inside = root.join("with space");
    fs::create_dir(&inside).unwrap();
    let Some(_disk) = Tmpfs::mount_at("1m", &inside) else {
        return println!("skipped: mounting a tmpfs is not allowed here");
    };
    File::create(inside.join("x")).unwrap();
    let media = media(&root);
    // The night's backup says so, and not the bad day.
    let warnings = tar_of(&root, || ()).await.1.warnings;
    assert!(
        warnings.iter().any(|warning| warning.contains("another file system is mounted there")),
        "{warnings:?}"
    );
    for refused in [
        media.plan(&Target::Live, None).await.map(|_| ()).unwrap_err(),
        stage(&media, &lab.tar, &Target::Live, Some(&lab.facts)).await.map(|_| ()).unwrap_err(),
    ] {
        assert!(matches!(refused, ComponentError::Unusable { .. }), "{refused:?}");
    }
    assert!(inside.join("x").exists());
    assert_eq!(areas(&root).len(), 0);
}

#[tokio::test]
async fn an_exchange_that_fails_in_the_middle_is_taken_back() {
    let Some(disk) = Tmpfs::mount("64m") else {
        return println!("skipped: mounting a tmpfs is not allowed here");
    };
    let (lab, _) = Lab::new().await;
    old_tree(disk.path());
    let old = look(disk.path());
    let media = media(disk.path());
    let chattr = |flag: &str| {
        let set = Command::new("chattr").args([flag, "only here"]).current_dir(disk.path()).output();
        set.is_ok_and(|output| output.status.success())
    };
    let staged = stage(&media, &lab.tar, &Target::Live, Some(&lab.facts)).await.unwrap();
    // Before that it would have been found.
    if !chattr("+i") {
        return println!("skipped: chattr is not allowed here");
    }
    let err = staged.swap().await.unwrap_err();
    assert!(matches!(err, ComponentError::Denied { .. }), "{err:?}");
    assert!(chattr("-i"));
    same(&look(disk.path()), &old);
    assert_eq!(areas(disk.path()).len(), 0);
    assert_eq!(media.recover().await.unwrap(), [""; 0]);
}

#[test]
fn without_rights_what_can_come_back_does_and_is_exchanged_where_it_can_be() {
    let dir = tempdir().unwrap();
    let (source, root) = (dir.path().join("source"), dir.path().join("closed/media"));
    for (folder, name) in [(&source, "theirs"), (&root, "old")] {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(name), b"content").unwrap();
        chown(folder.join(name), Some(1234), Some(1234)).unwrap();
        fs::set_permissions(folder.join(name), Permissions::from_mode(0o4755)).unwrap();
    }
    fs::create_dir_all(source.join("in/shut")).unwrap();
    fs::write(source.join("in/shut/file"), b"in it").unwrap();
    fs::set_permissions(source.join("in/shut"), Permissions::from_mode(0o555)).unwrap();
    // Root may do everything, so the thread, and those that it starts, give that up.
    std::thread::spawn(move || {
        let mut sets = capabilities(None).unwrap();
        sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::CHOWN;
        set_capabilities(None, sets).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (tar, facts) = tar_of(&source, || ()).await;
            let media = media(&root);
            let closed = root.parent().unwrap();
            for mode in [0o755, 0o555] {
                fs::set_permissions(closed, Permissions::from_mode(mode)).unwrap();
                restore(&media, &tar, Some(&facts)).await;
                let found = look(&root);
                let theirs = &found["theirs".as_ref() as &OsStr];
                assert_eq!((theirs.owner, theirs.mode), ((0, 0), 0o100_755));
                assert_eq!(found["in/shut".as_ref() as &OsStr].mode, 0o40_555);
                assert_eq!(found.len(), 5, "the root and all below it");
                let inside =
                    media.undo_point().await.unwrap().unwrap().place.starts_with(root.to_str().unwrap());
                assert_eq!(inside, mode == 0o555, "what cannot lie beside the folder lies in it");
                media.undo(None, &Meter::default()).await.unwrap();
                assert_eq!(look(&root)["old".as_ref() as &OsStr].owner, (1234, 1234));
                media.delete_undo_data().await.unwrap();
                assert_eq!(areas(&root).len(), 0);
            }
        });
    })
    .join()
    .unwrap();
}
