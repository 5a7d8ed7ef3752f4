//! An undo that two machines do at once: both have asked what is kept before one of them begins.

use crate::restore_two_machines::Shared;
use jiff::Timestamp;
use rna_backup::component::ComponentError;
use rna_backup::domain::{component::ComponentName, progress::Meter, task_note::TaskNote};

const MEDIA: ComponentName = ComponentName::MEDIA;
const POSTGRES: ComponentName = ComponentName::POSTGRES;

#[tokio::test]
async fn an_undo_that_another_machine_has_done_since_it_was_begun_leaves_the_data_alone() {
    let shared = Shared::new("undone at once");
    let (a, b) = (shared.machine("a"), shared.machine("b"));
    for name in [POSTGRES, MEDIA] {
        a.back_up(name).await;
        shared.write(name, "spoiled");
        a.restore(name, "restore").await.unwrap();
        let [one, other] = [&a, &b].map(|machine| machine.component(name).undo().unwrap());
        let kept = one.undo_point().await.unwrap().unwrap();
        let undo = || Some(TaskNote::undo("undo", kept.at, Timestamp::now()).from_place(&kept.place));
        other.undo(undo(), &Meter::default()).await.unwrap();
        assert_eq!(shared.live(name), ["spoiled"]);
        let err = one.undo(undo(), &Meter::default()).await.unwrap_err();
        assert!(matches!(err, ComponentError::Taken { .. }), "{err:?}");
        assert_eq!(shared.live(name), ["spoiled"], "{name} was undone twice");
        let found = one.completed_by("undo").await.unwrap().unwrap();
        assert_eq!(found.note.undone, Some(kept.at));
    }
}
