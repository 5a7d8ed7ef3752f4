//! A copy in a second destination whose run ends before its manifest is written: it goes with the next run, unless a manifest
//! names it.

use crate::copies::{Bench, back_up, task};
use crate::support::{
    faulty::{AWAY, GOOD, SILENT_MANIFEST},
    lab::{eventually, files},
};
use async_trait::async_trait;
use rna_backup::{
    domain::component::ComponentName,
    engine::{EngineError, Fleet, FleetError, FleetHold, FleetTake, LockState, Run},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_copy_whose_run_dies_before_its_manifest_is_written_goes_with_the_next_run() {
    let bench = Bench::new();
    back_up(&bench.engine(GOOD, AWAY), &task("a")).await.unwrap_err();
    let run = task("a");
    let dying = bench.engine(GOOD, SILENT_MANIFEST);
    tokio::select! {
        ended = back_up(&dying, &run) => panic!("it ended: {ended:?}"),
        copied = eventually(async || !files(&bench.path("far/media")).is_empty()) => assert!(copied),
    }
    assert_eq!((bench.counts("near"), bench.counts("far")), ((1, 1), (1, 0)), "copied, and in no manifest");
    back_up(&bench.engine(GOOD, GOOD), &task("b")).await.unwrap();
    assert_eq!((bench.counts("near"), bench.counts("far")), ((2, 2), (1, 1)));
}

#[tokio::test]
async fn a_copy_that_the_manifest_beside_it_names_stays_though_its_run_died_before_the_other_manifest_was_written()
 {
    let bench = Bench::new();
    back_up(&bench.engine(GOOD, AWAY), &task("a")).await.unwrap_err();
    let run = task("a");
    let dying = bench.engine(SILENT_MANIFEST, GOOD);
    tokio::select! {
        ended = back_up(&dying, &run) => panic!("it ended: {ended:?}"),
        noted = eventually(async || !files(&bench.path("far/manifests/media")).is_empty()) => assert!(noted),
    }
    // Another machine, which sees the far destination alone, relies on that copy by now.
    back_up(&bench.engine(GOOD, GOOD), &task("b")).await.unwrap();
    assert_eq!((bench.counts("near"), bench.counts("far")), ((2, 2), (2, 2)));
}

/// A fleet whose lock passes to another machine once it was asked for.
#[derive(Debug)]
struct Passing;

#[async_trait]
impl Fleet for Passing {
    async fn try_take(&self, _: ComponentName, _: Option<&str>) -> Result<FleetTake, FleetError> {
        Ok(FleetTake::Taken(Box::new(Hold(AtomicBool::new(false)))))
    }
    async fn holder(&self, _: ComponentName) -> Option<String> {
        None
    }
}

#[derive(Debug)]
struct Hold(AtomicBool);

#[async_trait]
impl FleetHold for Hold {
    fn lost(&self) -> CancellationToken {
        CancellationToken::new()
    }
    async fn lock_state(&self) -> LockState {
        if self.0.swap(true, Ordering::SeqCst) { LockState::Lost } else { LockState::Ours }
    }
    async fn free(self: Box<Self>) {}
}

#[tokio::test]
async fn a_copy_that_is_there_when_another_machine_has_the_component_goes_with_the_next_run() {
    let bench = Bench::new();
    let losing = bench.engine(GOOD, GOOD);
    losing.locks.join(Arc::new(Passing));
    // The first manifest counts, the second comes too late.
    let err = back_up(&losing, &Run::default()).await.unwrap_err();
    assert!(
        matches!(&err, EngineError::Copy { source, .. } if matches!(**source, EngineError::LockLost { .. })),
        "{err:?}"
    );
    assert_eq!((bench.counts("near"), bench.counts("far")), ((1, 1), (1, 0)), "copied, and in no manifest");
    back_up(&bench.engine(GOOD, GOOD), &Run::default()).await.unwrap();
    assert_eq!((bench.counts("near"), bench.counts("far")), ((2, 2), (1, 1)));
}
