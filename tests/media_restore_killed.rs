//! Restores that are killed at any instant.

use crate::media::{media, tar_of};
use crate::media_restore::{Tree, areas, look, old_tree, same, stage};
use crate::support::{chance, disk::Tmpfs, tree};
use rna_backup::component::{Restorable, Target, Undo};
use rna_backup::domain::progress::Meter;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::tempdir;

/// Set for the process that a test starts to do something in its stead: the folder to do it in.
const CHILD: &str = "RNA_BACKUP_TEST_RESTORE";
/// As many as the promise names, for each way to swap.
const KILLS: usize = 50;

/// This very binary, told to run one test alone, in another process.
fn again(test: &str, dir: &Path) -> Kill {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CHILD, dir).stdin(Stdio::null());
    Kill(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
}

/// Ends a child of a test whatever happens.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Restores one tree after the other, or only goes to and fro between two, until it is killed.
async fn live_dangerously(dir: &Path) {
    let root = PathBuf::from(fs::read_to_string(dir.join("root")).unwrap());
    let media = media(&root);
    if dir.join("to and fro").exists() {
        println!("\nready");
        loop {
            media.undo(None, &Meter::default()).await.unwrap();
        }
    }
    let (a, b) = (tar_of(&dir.join("a"), || ()).await, tar_of(&dir.join("b"), || ()).await);
    println!("\nready");
    for turn in 0.. {
        let (tar, facts) = if turn % 2 == 0 { &a } else { &b };
        stage(&media, tar, &Target::Live, Some(facts)).await.unwrap().swap().await.unwrap();
        media.delete_undo_data().await.unwrap();
    }
}

/// Two trees with a few names in common, one of which is live.
fn two_trees(dir: &Path) -> [Tree; 2] {
    let (a, b) = (dir.join("a"), dir.join("b"));
    fs::create_dir(&a).unwrap();
    tree::fill(&a);
    old_tree(&b);
    for n in 0..300 {
        fs::write(a.join(format!("n{n}")), format!("a{n}")).unwrap();
        fs::write(b.join(format!("n{}", n + 100)), format!("b{n}")).unwrap();
    }
    tree::touch(&a, 5, 5);
    tree::touch(&b, 6, 6);
    [look(&a), look(&b)]
}

async fn kill_at_many_instants(test: &str, dir: &Path, root: &Path, is_mount_point: bool) {
    let mut trees = two_trees(dir);
    if is_mount_point {
        for tree in &mut trees {
            tree.get_mut(OsStr::new("")).unwrap().modified = (0, 0);
        }
    }
    fs::write(dir.join("root"), root.to_str().unwrap()).unwrap();
    let seed = std::process::id().into();
    println!("seed {seed}");
    let (mut chance, mut told) = (chance::Chance::new(seed), BTreeMap::new());
    let media = media(root);
    let (tar, facts) = tar_of(&dir.join("b"), || ()).await;
    stage(&media, &tar, &Target::Live, Some(&facts)).await.unwrap().swap().await.unwrap();
    media.delete_undo_data().await.unwrap();
    for kill in 0..KILLS {
        if kill == KILLS / 2 {
            fs::write(dir.join("to and fro"), b"").unwrap();
            for name in ["a", "b"] {
                let (tar, facts) = tar_of(&dir.join(name), || ()).await;
                stage(&media, &tar, &Target::Live, Some(&facts)).await.unwrap().swap().await.unwrap();
            }
        }
        let mut child = again(test, dir);
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "ready"), "the child ended too early");
        // Not a wait for something: the instant of death is the point.
        tokio::time::sleep(Duration::from_micros(chance.below(60_000) as u64)).await;
        assert!(child.0.try_wait().unwrap().is_none(), "the child lives until it is killed");
        drop(child);

        for line in media.recover().await.unwrap() {
            *told.entry(line[..8].to_owned()).or_insert(0) += 1;
        }
        // The time of a mount point changes with each area that comes or goes in it. It is put back, but
        // nobody puts it back after a kill.
        let look = |place: &Path| {
            let mut found = look(place);
            if is_mount_point {
                found.get_mut(OsStr::new("")).unwrap().modified = (0, 0);
            }
            found
        };
        let found = look(root);
        // What was under way is wholly there or wholly not; so is what is kept, if anything is.
        assert!(found == trees[0] || found == trees[1], "kill {kill}: neither of the two");
        if let Some(kept) = media.undo_point().await.unwrap() {
            let kept = look(Path::new(&kept.place));
            assert!(kept == trees[0] || kept == trees[1], "kill {kill}: neither of the two is kept");
            media.undo(None, &Meter::default()).await.unwrap();
            same(&look(root), &kept);
        } else {
            assert!(kill < KILLS / 2, "kill {kill}: what was kept is lost");
        }
        if kill < KILLS / 2 {
            media.delete_undo_data().await.unwrap();
            assert_eq!(areas(root).len(), 0);
        }
    }
    println!("at the next starts: {told:?}");
}

#[tokio::test]
async fn restores_killed_at_any_instant_leave_the_old_or_the_new() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return live_dangerously(Path::new(&dir)).await;
    }
    let dir = tempdir().unwrap();
    let root = dir.path().join("live/media");
    fs::create_dir_all(&root).unwrap();
    let test = "media_restore_killed::restores_killed_at_any_instant_leave_the_old_or_the_new";
    kill_at_many_instants(test, dir.path(), &root, false).await;
}

#[tokio::test]
async fn restores_killed_at_any_instant_on_a_mount_point_leave_the_old_or_the_new() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return live_dangerously(Path::new(&dir)).await;
    }
    let Some(disk) = Tmpfs::mount("64m") else {
        return println!("skipped: mounting a tmpfs is not allowed here");
    };
    let dir = tempdir().unwrap();
    let test =
        "media_restore_killed::restores_killed_at_any_instant_on_a_mount_point_leave_the_old_or_the_new";
    kill_at_many_instants(test, dir.path(), disk.path(), true).await;
}
