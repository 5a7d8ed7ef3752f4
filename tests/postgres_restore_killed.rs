//! Restores of which something is killed at any instant: the program, its `pg_restore`, the server.

use crate::postgres::{FINGERPRINT, backup};
use crate::postgres_restore::{component, databases, stage};
use crate::support::chance::Chance;
use crate::support::lab::Lab;
use crate::support::postgres::PostgresServer;
use rna_backup::component::{Restorable, Target, Undo, postgres::PostgresConfig};
use rna_backup::domain::progress::Meter;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

/// As many as the promise names, for each of the three.
const KILLS: usize = 50;

/// Little of everything that a restore does: it is done some two hundred times.
const CONTENTS: &str = "
    CREATE TABLE plain (id serial PRIMARY KEY, body text);
    INSERT INTO plain (body) SELECT repeat('body', 20) || g FROM generate_series(1, 3000) g;
    CREATE TABLE by_enum (c char PRIMARY KEY, v int);
    INSERT INTO by_enum VALUES ('a', 1), ('b', 2);
    CREATE TABLE child (plain int REFERENCES plain, c char REFERENCES by_enum);
    INSERT INTO child VALUES (11, 'a');
    CREATE INDEX ON plain (body);
    SELECT lo_from_bytea(0, 'large')";

/// A database with a backup, and then other contents; a server of its own.
struct Scene {
    server: PostgresServer,
    lab: Lab,
    config: PostgresConfig,
    old: String,
    new: String,
    chance: Chance,
    /// How long a restore takes when nobody kills anything.
    whole: Duration,
    ends: [usize; 2],
    told: BTreeMap<String, usize>,
}

impl Scene {
    /// With so many `pg_restore` at once.
    fn set(jobs: usize) -> Self {
        let server = PostgresServer::start();
        server.database("app", "");
        server.psql("app", CONTENTS);
        let socket = server.socket_dir().to_str().unwrap();
        let config = PostgresConfig { host: socket.into(), password: None, ..server.config("app") };
        let lab = Lab::new().set("POSTGRES_HOST", socket).set("POSTGRES_PORT", config.port);
        let lab = lab.set("POSTGRES_DB", "app").set("BACKUP_PG_JOBS", jobs).set("RUST_LOG", "warn");
        lab.json(&["backup", "postgres"]);
        let new = server.psql("app", FINGERPRINT);
        server
            .psql("app", "DROP TABLE child; DELETE FROM plain WHERE id > 10; SELECT nextval('plain_id_seq')");
        // After a crash a sequence may have gone on by some numbers otherwise.
        server.psql("app", "CHECKPOINT");
        let old = server.psql("app", FINGERPRINT);
        let seed = std::process::id().into();
        println!("seed {seed}");
        let (chance, whole) = (Chance::new(seed), Duration::ZERO);
        Self { server, lab, config, old, new, chance, whole, ends: [0; 2], told: BTreeMap::new() }
    }

    fn begin(&self) -> Child {
        let mut restore = self.lab.program(&["restore", "postgres", "latest", "--yes"]);
        restore.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// An instant of a restore: not a wait for something, the instant of death is the point.
    async fn wait_by_chance(&mut self) {
        let micros = usize::try_from(self.whole.as_micros()).unwrap();
        tokio::time::sleep(Duration::from_micros(self.chance.below(micros) as u64)).await;
    }

    /// The machine is not always as fast as when the whole was measured: some instants are to be after the end.
    fn learn(&mut self, was_over: bool) {
        self.whole = if was_over { self.whole * 9 / 10 } else { self.whole * 26 / 25 };
    }

    /// The next run puts right what there is to put right, at once and wholly.
    async fn recover(&mut self) {
        let app = component(&self.config);
        for line in app.recover().await.unwrap() {
            *self.told.entry(line.replace(|c: char| c.is_ascii_digit(), "")).or_insert(0) += 1;
        }
        assert_eq!(app.recover().await.unwrap(), [""; 0]);
    }

    /// Whether the live database is the new one; if not, it is the old one.
    fn is_new(&mut self) -> bool {
        let found = self.server.psql("app", FINGERPRINT);
        assert!(found == self.old || found == self.new, "neither of the two");
        self.ends[usize::from(found == self.new)] += 1;
        found == self.new
    }

    /// Recovers, compares the database, and brings the old contents back. `told`: the restore said that it is done. Returns
    /// whether the new contents were there.
    async fn recover_and_undo(&mut self, told: bool) -> bool {
        self.recover().await;
        let (is_new, app) = (self.is_new(), component(&self.config));
        assert!(is_new || !told, "told of a restore that is not there");
        assert_eq!(app.undo_point().await.unwrap().is_some(), is_new);
        assert_eq!(databases(&self.server, "app").len(), 1 + usize::from(is_new));
        if is_new {
            app.undo(None, &Meter::default()).await.unwrap();
            assert!(self.server.psql("app", FINGERPRINT) == self.old, "not what was there");
            app.delete_undo_data().await.unwrap();
        }
        assert_eq!(databases(&self.server, "app"), ["app"]);
        is_new
    }

    /// Measures a restore that is not killed. `from`: waits for the beginning of the measured time.
    async fn measure_whole(&mut self, from: impl Fn(&Child), to: impl Fn(&Child)) {
        // The first is slower: nothing is in any cache.
        for _ in 0..2 {
            let mut restore = self.begin();
            from(&restore);
            let begun = Instant::now();
            to(&restore);
            self.whole = begun.elapsed();
            assert!(restore.wait().unwrap().success());
            self.recover_and_undo(true).await;
        }
        self.ends = [0; 2];
    }

    /// Ends every process of the server, with nothing tidied up.
    fn kill_server(&self) {
        let postmaster = self.server.postmaster();
        // It starts no more of them while they are counted.
        kill_process(postmaster, Signal::STOP).unwrap();
        let mut all = children(postmaster);
        all.push(postmaster);
        for pid in &all {
            kill(*pid);
        }
        for pid in all {
            until(|| !runs(pid));
        }
        self.server.unlock();
    }

    /// Ends one of the server's processes; it starts all of them again then, by itself.
    fn kill_backend(&mut self) {
        let backend = *self.chance.of(&children(self.server.postmaster()));
        kill(backend);
        until(|| !runs(backend));
        until(|| self.server.run("psql", "postgres", &["-c", "SELECT"], b"").status.success());
    }

    fn tell(&self) {
        let [old, new] = self.ends;
        println!("old {old} times, new {new} times; at the next starts: {:?}", self.told);
    }
}

/// The children of a process, whichever of its threads began them.
fn children(parent: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero())).into_iter().flatten();
    let lists =
        threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids = lists.flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>());
    pids.filter_map(Pid::from_raw).collect()
}

/// Whether a process runs: not whether somebody has waited for it.
fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Looks until it is so, and leaves the processor to others in between.
fn until(so: impl Fn() -> bool) {
    while !so() {
        std::thread::yield_now();
    }
}

fn kill(pid: Pid) {
    // It may have ended by itself in the meantime.
    let _ = kill_process(pid, Signal::KILL);
}

/// The `pg_restore` that a restore has running, and its workers.
fn restorers(restore: &Child) -> Vec<Pid> {
    let name = |pid: &Pid| fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).ok();
    let mut found = children(Pid::from_child(restore));
    found.retain(|pid| name(pid).as_deref() == Some("pg_restore\n"));
    let workers: Vec<_> = found.iter().flat_map(|pid| children(*pid)).collect();
    found.extend(workers);
    found.retain(|pid| runs(*pid));
    found
}

fn ended(restore: &Child) {
    until(|| !runs(Pid::from_child(restore)));
}

#[tokio::test]
async fn a_restore_that_is_killed_at_any_instant_leaves_the_old_or_the_new() {
    let mut scene = Scene::set(1);
    scene.measure_whole(|_| (), ended).await;
    for _ in 0..KILLS {
        let mut restore = scene.begin();
        scene.wait_by_chance().await;
        restore.kill().unwrap();
        let told = restore.wait().unwrap().success();
        scene.learn(told);
        scene.recover_and_undo(told).await;
    }
    scene.tell();
}

#[tokio::test]
async fn a_restore_whose_pg_restore_is_killed_at_any_instant_leaves_the_old() {
    let mut scene = Scene::set(3);
    let begun = |restore: &Child| until(|| !restorers(restore).is_empty());
    scene.measure_whole(begun, |restore| until(|| restorers(restore).is_empty())).await;
    let mut kills = 0;
    while kills < KILLS {
        let mut restore = scene.begin();
        begun(&restore);
        scene.wait_by_chance().await;
        let found = restorers(&restore);
        if found.is_empty() {
            scene.learn(true);
        } else {
            kill(*scene.chance.of(&found));
            kills += 1;
        }
        let told = restore.wait().unwrap().success();
        assert_eq!(scene.recover_and_undo(told).await, told);
    }
    scene.tell();
}

#[tokio::test]
async fn a_server_that_is_killed_at_any_instant_of_a_restore_has_the_old_or_the_new() {
    let mut scene = Scene::set(1);
    scene.measure_whole(|_| (), ended).await;
    for turn in 0..KILLS {
        let mut restore = scene.begin();
        scene.wait_by_chance().await;
        let was_over = !runs(Pid::from_child(&restore));
        scene.learn(was_over);
        if turn % 3 == 0 {
            scene.kill_backend();
        } else {
            scene.kill_server();
            scene.server.start_again();
        }
        let told = restore.wait().unwrap().success();
        scene.recover_and_undo(told).await;
    }
    scene.tell();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_at_any_instant_of_a_swap_has_the_old_or_the_new() {
    let mut scene = Scene::set(1);
    assert!(scene.begin().wait().unwrap().success());
    let undo = |scene: &Scene| {
        let app = component(&scene.config);
        tokio::spawn(async move { app.undo(None, &Meter::default()).await })
    };
    for _ in 0..2 {
        let begun = Instant::now();
        undo(&scene).await.unwrap().unwrap();
        scene.whole = begun.elapsed();
    }
    let mut was_new = scene.is_new();
    for _ in 0..KILLS / 2 {
        let swap = undo(&scene);
        scene.wait_by_chance().await;
        scene.kill_server();
        scene.server.start_again();
        let told = swap.await.unwrap().is_ok();
        scene.recover().await;
        let is_new = scene.is_new();
        assert!(is_new != was_new || !told, "told of a swap that is not there");
        // The other one is kept, whichever is live.
        undo(&scene).await.unwrap().unwrap();
        was_new = scene.is_new();
        assert_ne!(was_new, is_new);
        assert_eq!(databases(&scene.server, "app").len(), 2);
    }
    scene.tell();
}

/// Until the live database takes sessions again the app is shut out.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_open_again_as_soon_as_a_server_is_back_that_went_away_in_the_middle_of_a_swap() {
    let server = PostgresServer::start();
    server.database("app", "");
    server.psql("app", CONTENTS);
    let config = server.config("app");
    let (archive, _) = backup(config.clone()).await.unwrap();
    let staged = stage(&config, &archive, &Target::Live, None).await.unwrap();
    // A transaction that is prepared in the copy keeps it from being renamed: the swap stays where the door is closed.
    let copy = databases(&server, "app").pop().unwrap();
    server.psql(&copy, "BEGIN; CREATE TABLE late (); PREPARE TRANSACTION 'late'");
    let swap = tokio::spawn(staged.swap());
    let open =
        || server.psql("postgres", "SELECT datallowconn FROM pg_database WHERE datname = 'app'") == "t";
    until(|| !open());
    server.control(&["stop", "-m", "immediate", "-w"]);
    server.start_again();
    let err = swap.await.unwrap().unwrap_err();
    assert!(open(), "after {err} the app is shut out until somebody comes");
    server.psql(&copy, "ROLLBACK PREPARED 'late'");
    assert_eq!(component(&config).recover().await.unwrap().len(), 1, "the copy alone is left");
}
