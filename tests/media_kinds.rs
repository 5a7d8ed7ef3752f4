//! `component::media::kinds`: the list of everything that a media tree holds is the one of the documentation, and true.

use crate::media::{media, tar_of};
use crate::support::tree;
use rna_backup::component::{
    Restorable, RestoreOrder, Target,
    media::kinds::{KINDS, RestoreSupport, table},
};
use std::{collections::BTreeSet, fs, path::Path};
use tempfile::tempdir;

#[test]
fn the_table_of_the_documentation_is_the_list() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/media.md");
    let page = fs::read_to_string(&path).unwrap();
    let rows = page.lines().filter(|line| line.starts_with('|')).map(|line| format!("{line}\n"));
    assert!(
        rows.collect::<String>() == table(),
        "{} has not the list; it should be:\n{}",
        path.display(),
        table()
    );
}

#[tokio::test]
async fn what_the_list_says_of_counts_is_what_a_manifest_holds() {
    let dir = tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    tree::fill(&source);
    tree::adorn(&source);
    let (tar, facts) = tar_of(&source, || ()).await;
    let counts = serde_json::to_value(&facts.counts).unwrap();
    let keys = |part: &str| counts[part].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let expected = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(keys("files"), expected(&["files", "directories", "symlinks", "hard_links", "bytes"]));
    assert_eq!(
        keys("attributes"),
        expected(&["acls", "user", "security", "trusted", "sparse", "hole_bytes"])
    );
    assert_eq!(keys("metadata"), expected(&["owners", "modes", "times"]));
    let left = KINDS.iter().filter(|kind| [RestoreSupport::Left, RestoreSupport::Named].contains(&kind.root));
    assert!(left.clone().count() == 5 && left.clone().all(|kind| kind.form.is_empty()));

    let root = dir.path().join("media");
    fs::create_dir(&root).unwrap();
    let meter = rna_backup::domain::progress::Meter::default();
    let copy = media(&root)
        .stage(&mut &*tar, &RestoreOrder::new(&Target::Live, Some(&facts)), &meter)
        .await
        .unwrap();
    assert_eq!((copy.counts(), copy.expected(&facts.counts)), (&facts.counts, facts.counts.clone()));
    copy.discard().await.unwrap();
}
