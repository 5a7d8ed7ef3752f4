//! The locks of media that are restored, beside processes that start.

use crate::media::media;
use crate::media_restore::{Lab, areas, restore};
use rna_backup::component::{Restorable, Undo};
use rna_backup::domain::progress::Meter;
use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Starts children all the time, until it is dropped.
struct Children(Arc<AtomicBool>, Option<thread::JoinHandle<()>>);

impl Children {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let starting = move || {
            while !told.load(Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        };
        Self(stop, Some(thread::spawn(starting)))
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(thread::JoinHandle::join);
    }
}

/// A child between fork and exec has every file open that its parent has open, and with it their locks.
#[tokio::test]
async fn what_is_kept_is_the_newest_beside_a_thread_that_starts_children_all_the_time() {
    const ROUNDS: usize = 200;
    let (lab, root) = Lab::new().await;
    let media = media(&root);
    restore(&media, &lab.tar, Some(&lab.facts)).await;
    restore(&media, &lab.tar, Some(&lab.facts)).await;
    let _children = Children::start();
    for round in 0..ROUNDS {
        let newest = media.undo_point().await.unwrap().unwrap();
        let undone = media.undo(None, &Meter::default()).await.unwrap();
        assert_eq!(media.undo_point().await.unwrap().unwrap(), undone, "round {round}");
        assert!(!Path::new(&newest.place).exists(), "round {round}: an older state was put back");
        assert_eq!(media.recover().await.unwrap(), [""; 0]);
    }
    media.delete_undo_data().await.unwrap();
    assert!(areas(&root).is_empty(), "something that was kept is not forgotten: {:?}", areas(&root));
}
