//! An undo that two machines do at once: both have asked what is kept before one of them begins.

use crate::restore_two_machines::Shared;
use jiff::Timestamp;
use rna_backup::component::ComponentError;
use rna_backup::domain::{
    component::ComponentName::{Media, Postgres},
    progress::Meter,
    task_note::TaskNote,
};

#[tokio::test]
async fn an_undo_that_another_machine_has_done_since_it_was_begun_leaves_the_data_alone() {
    let shared = Shared::new("undone at once");
    let (a, b) = (shared.machine("a"), shared.machine("b"));
    for name in [Postgres, Media] {
        a.back_up(name).await;
        shared.write(name, "spoiled");
        a.restore(name, "restore").await.unwrap();
        let kept = a.component(name).undo_point().await.unwrap().unwrap();
        let undo = || Some(TaskNote::undo("undo", kept.at, Timestamp::now()).from_place(&kept.place));
        b.component(name).undo_by(undo(), &Meter::default()).await.unwrap();
        assert_eq!(shared.live(name), ["spoiled"]);
        let err = a.component(name).undo_by(undo(), &Meter::default()).await.unwrap_err();
        assert!(matches!(err, ComponentError::Taken { .. }), "{err:?}");
        assert_eq!(shared.live(name), ["spoiled"], "{name} was undone twice");
        let found = a.component(name).completed_by("undo").await.unwrap().unwrap();
        assert_eq!(found.note.undone, Some(kept.at));
    }
}
