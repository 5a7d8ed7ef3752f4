//! A store that cuts, gives wrong bytes or loses replies: no backup counts that is not whole, and live data
//! stays as it is.

use crate::copies::{Bench, back_up};
use crate::support::{
    faulty::{Fault, Faults, GOOD, Op},
    tree,
};
use rna_backup::{
    component::Target,
    domain::{component::ComponentName, listing::BackupState, manifest::VerifyLevel},
    engine::{EngineError, RestoreRequest, Run, VerifyRequest},
};
use std::fs;

const MEDIA: ComponentName = ComponentName::MEDIA;

/// What is read is not what was written.
const DAMAGE: [Faults; 3] =
    [&[(Op::Open, Fault::CutAfter(20))], &[(Op::Open, Fault::CutAfter(0))], &[(Op::Open, Fault::Flip(20))]];

#[tokio::test]
async fn an_archive_that_is_cut_or_wrong_when_it_is_read_is_found_by_a_verification() {
    for faults in DAMAGE {
        for level in [VerifyLevel::Checksum, VerifyLevel::Decode] {
            let bench = Bench::new();
            back_up(&bench.alone(GOOD), &Run::default()).await.unwrap();
            let request = VerifyRequest { component: None, backup: "latest".to_owned(), level };
            let engine = bench.alone(faults);
            let found = engine.verify(MEDIA, &request, &Run::default()).await.unwrap().remove(0);
            assert!(!found.ok && !found.problems.is_empty(), "{faults:?} {level:?}: {found:?}");
            let listed = bench.alone(GOOD).listing(None).await.unwrap().backups.remove(0);
            assert_eq!(listed.state, BackupState::Failed, "{faults:?} {level:?}");
        }
    }
}

#[tokio::test]
async fn an_archive_that_is_cut_or_wrong_when_it_is_read_is_refused_and_live_data_untouched() {
    for faults in DAMAGE {
        let bench = Bench::new();
        let report = back_up(&bench.alone(GOOD), &Run::default()).await.unwrap();
        fs::write(bench.path("media/gel.txt"), "another gel").unwrap();
        let live = tree::look(&bench.path("media"));
        let request = RestoreRequest {
            component: MEDIA,
            reference: report.backup_id.to_string(),
            target: Target::Live,
            without_rights: false,
            without: Vec::new(),
        };
        let err = bench.alone(faults).restore(&request, &Run::default()).await.unwrap_err();
        assert!(matches!(err, EngineError::Damaged { .. }), "{faults:?}: {err:?}");
        assert!(tree::look(&bench.path("media")) == live, "{faults:?}");
    }
}

#[tokio::test]
async fn an_archive_that_comes_slowly_and_in_pieces_is_as_good_as_any() {
    for faults in [crate::support::faulty::SLOW, crate::support::faulty::SHORT] {
        let bench = Bench::new();
        let whole = tree::look(&bench.path("media"));
        let engine = bench.alone(faults);
        let report = back_up(&engine, &Run::default()).await.unwrap();
        fs::write(bench.path("media/gel.txt"), "another gel").unwrap();
        let request = RestoreRequest {
            component: MEDIA,
            reference: report.backup_id.to_string(),
            target: Target::Live,
            without_rights: false,
            without: Vec::new(),
        };
        engine.restore(&request, &Run::default()).await.unwrap();
        assert_eq!(tree::look(&bench.path("media")), whole, "{faults:?}");
    }
}

#[tokio::test]
async fn a_commit_whose_reply_is_lost_is_looked_at_and_counts() {
    let bench = Bench::new();
    let engine = bench.alone(&[(Op::Commit, Fault::LoseReply)]);
    back_up(&engine, &Run::default()).await.unwrap();
    assert_eq!(bench.counts("near"), (1, 1));
    let listed = bench.alone(GOOD).listing(None).await.unwrap().backups;
    assert_eq!((listed.len(), listed[0].state), (1, BackupState::Ok));

    // One that is there and not what was written does not count, and goes with the next backup.
    let bench = Bench::new();
    let engine = bench.alone(&[(Op::Commit, Fault::LoseReply), (Op::Open, Fault::Flip(20))]);
    let err = back_up(&engine, &Run::default()).await.unwrap_err();
    assert!(matches!(err, EngineError::Store(_)) && err.is_transient(), "{err:?}");
    assert_eq!(
        bench.counts("near"),
        (1, 0),
        "nothing is removed that a manifest of another machine may name"
    );
    back_up(&bench.alone(GOOD), &Run::default()).await.unwrap();
    assert_eq!(bench.counts("near"), (1, 1));
}

#[tokio::test]
async fn a_manifest_whose_reply_is_lost_leaves_no_backup_without_its_archive() {
    let bench = Bench::new();
    let err = back_up(&bench.alone(&[(Op::Put, Fault::LoseReply)]), &Run::default()).await.unwrap_err();
    assert!(matches!(err, EngineError::Catalog(_)) && err.is_transient(), "{err:?}");
    assert_eq!(bench.counts("near"), (0, 0));

    // When it cannot be taken back either, both stay, and that is a backup.
    let faults: Faults = &[(Op::Put, Fault::LoseReply), (Op::Unlist, Fault::Away)];
    back_up(&bench.alone(faults), &Run::default()).await.unwrap_err();
    assert_eq!(bench.counts("near"), (1, 1));
    back_up(&bench.alone(GOOD), &Run::default()).await.unwrap();
    let listed = bench.alone(GOOD).listing(None).await.unwrap().backups;
    assert!(listed.len() == 2 && listed.iter().all(|backup| backup.state == BackupState::Ok), "{listed:?}");
}
