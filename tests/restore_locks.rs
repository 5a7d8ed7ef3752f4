//! The locks of a database and of a media folder: nobody takes the work of a living run away, on whatever machine it is.

use crate::postgres_restore::databases;
use crate::restore_two_machines::Shared;
use crate::support::lab::{Lab, eventually};
use rna_backup::{
    base::chain,
    component::{ComponentError, postgres::pool},
    domain::{component::ComponentName, progress::Meter},
};

const MEDIA: ComponentName = ComponentName::MEDIA;
const POSTGRES: ComponentName = ComponentName::POSTGRES;

/// Asserts that another run, which the error names, keeps this one from its work.
#[track_caller]
fn is_taken<T>(done: Result<T, ComponentError>) {
    let Err(err) = done else { panic!("the component is somebody else's") };
    assert!(matches!(err, ComponentError::Taken { .. }) && err.is_transient(), "{}", chain(&err));
    assert!(err.to_string().contains(&format!("process {}", std::process::id())), "{err}");
}

#[tokio::test]
async fn nobody_takes_the_copy_of_a_restore_away_that_another_process_has_under_way() {
    let shared = Shared::new("under way elsewhere");
    let (a, b) = (shared.machine("a"), shared.machine("b"));
    for name in [POSTGRES, MEDIA] {
        let backup = a.back_up(name).await;
        shared.write(name, "spoiled");
        a.restore(name, "restore").await.unwrap();
        shared.write(name, "again");
        let staged = a.stage(name, &backup).await.unwrap();
        let other = b.component(name);
        let (restorable, undo) = (other.restorable().unwrap(), other.undo().unwrap());
        is_taken(restorable.recover().await);
        is_taken(undo.undo(None, &Meter::default()).await);
        is_taken(undo.delete_undo_data().await);
        is_taken(b.stage(name, &backup).await);
        let err = b.restore(name, "another").await.unwrap_err();
        assert!(err.is_transient(), "{}", chain(&err));
        // A backup does not wait: it changes nothing but what it makes.
        b.back_up(name).await;
        assert_eq!(shared.beside(name), 2);
        staged.swap().await.unwrap().unwrap();
        assert_eq!(shared.live(name), [""; 0]);
        let undone = undo.undo(None, &Meter::default()).await;
        undone.unwrap();
        assert_eq!(shared.live(name), ["again"]);
        // One that died is put right.
        drop(a.stage(name, &backup).await.unwrap());
        assert_eq!(restorable.recover().await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_backup_by_hand_leaves_the_copies_of_others_alone() {
    let shared = Shared::new("by hand beside");
    let a = shared.machine("a");
    let lab =
        Lab::new().database(shared.server, &shared.database).set("MEDIA_ROOT", shared.media().display());
    for name in [POSTGRES, MEDIA] {
        let backup = a.back_up(name).await;
        shared.write(name, "spoiled");
        let staged = a.stage(name, &backup).await.unwrap();
        lab.json(&["backup", name.as_str()]);
        let (code, _, err) = lab.run(&["restore", name.as_str(), "latest", "--yes"]);
        let holder = format!("process {}", std::process::id());
        assert!(code == 5 && err.contains(&holder), "{err}");
        staged.swap().await.unwrap().unwrap();
        assert_eq!(shared.live(name), [""; 0]);
    }
}

/// The sessions that hold the lock of the shared database: its first key is `rna!`.
const HOLDERS: &str = "pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = x'726e6121'::int::oid AND objid = hashtext";

#[tokio::test]
async fn a_run_that_has_lost_its_lock_stops_before_its_swap() {
    let shared = Shared::new("lock lost");
    let (a, b) = (shared.machine("a"), shared.machine("b"));
    let backup = a.back_up(POSTGRES).await;
    shared.write(POSTGRES, "spoiled");
    let end =
        format!("SELECT pg_terminate_backend(pid) FROM (SELECT {HOLDERS}('{}')::oid) l", shared.database);
    let staged = a.stage(POSTGRES, &backup).await.unwrap();
    shared.server.psql("postgres", &end);
    let err = staged.swap().await.unwrap_err();
    assert!(chain(&err).contains("is lost") && err.is_transient(), "{}", chain(&err));
    assert_eq!(shared.live(POSTGRES), ["spoiled"]);
    assert_eq!(b.component(POSTGRES).restorable().unwrap().recover().await.unwrap().len(), 1);

    // Another machine has taken it since, and is as far: of the two, one swaps.
    let staged = a.stage(POSTGRES, &backup).await.unwrap();
    shared.server.psql("postgres", &end);
    let other = b.stage(POSTGRES, &backup).await.unwrap();
    assert!(chain(&staged.swap().await.unwrap_err()).contains("is lost"));
    assert_eq!(shared.live(POSTGRES), ["spoiled"]);
    other.swap().await.unwrap().unwrap();
    assert_eq!(shared.live(POSTGRES), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_loses_its_lock_half_way_leaves_the_rest_to_whoever_has_it() {
    let shared = Shared::new("half way lost");
    let (a, b) = (shared.machine("a"), shared.machine("b"));
    let backup = a.back_up(POSTGRES).await;
    shared.write(POSTGRES, "spoiled");
    let staged = a.stage(POSTGRES, &backup).await.unwrap();
    // A transaction that is prepared in the copy keeps it from being renamed: the swap stays where the door is closed.
    let copy = databases(shared.server, &shared.database).pop().unwrap();
    shared.server.psql(&copy, "BEGIN; CREATE TABLE late (); PREPARE TRANSACTION 'late half way'");
    let swap = tokio::spawn(staged.swap());
    let is_open = || {
        let ask = "SELECT datallowconn FROM pg_database WHERE datname";
        shared.server.psql("postgres", &format!("{ask} = '{}'", shared.database)) == "t"
    };
    assert!(eventually(async || !is_open()).await);
    // Somebody else waits for the lock, and has it as soon as it is lost.
    let pool = pool(&shared.server.config("postgres")).unwrap();
    let (waits, ends) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let key = i32::from_be_bytes(*b"rna!");
    let take = format!("SELECT pg_advisory_lock({key}, hashtext('{}'))", shared.database);
    let end =
        format!("SELECT pg_terminate_backend(pid) FROM (SELECT {HOLDERS}('{}')::oid) l", shared.database);
    let (taken, ended) = tokio::join!(waits.batch_execute(&take), ends.batch_execute(&end));
    taken.and(ended).unwrap();
    // The swap ends sessions in the copy until it has stopped, this one too.
    let is_rolled_back = || {
        let _ = shared.server.run("psql", &copy, &["-X", "-c", "ROLLBACK PREPARED 'late half way'"], b"");
        let left = "SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'late half way'";
        shared.server.psql("postgres", left) == "0"
    };
    assert!(eventually(async || is_rolled_back()).await);

    let err = swap.await.unwrap().unwrap_err();
    assert!(chain(&err).contains("is lost"), "{}", chain(&err));
    assert!(!is_open(), "nothing is put back over somebody else's work");
    waits.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    assert_eq!(
        b.component(POSTGRES).restorable().unwrap().recover().await.unwrap().len(),
        2,
        "it is opened, and the copy removed"
    );
    assert_eq!(shared.live(POSTGRES), ["spoiled"]);
}
