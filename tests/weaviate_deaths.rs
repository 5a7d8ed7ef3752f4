//! Deaths of the program and of a real Weaviate at every request of a backup, a restore, an undo and a put-back: after the
//! next run each class is as it was or as it was to be, whole.
//!
//! `WEAVIATE_KILL_STRIDE=1` tries every request; else a part of them is tried, spread over each kind of work.
//! `WEAVIATE_KILL_ONLY=Undo` tries one kind of work, `WEAVIATE_KILL_ONLY=Undo:57` one request of that kind, and
//! `WEAVIATE_KILL_ONLY=Undo:57..` those from there on.

use crate::support::lab::eventually;
use crate::support::s3_proxy::{BadLine, Line};
use crate::support::weaviate_server::{MIDDLE, NEWEST, OLDEST, Start, WeaviateServer};
use crate::support::weaviate_start::versions;
use crate::weaviate::{SECOND, backup, decode, each, restore};
use crate::weaviate_faults::{LONG_SECOND, all_have_ended, deletes_a_class, these_have_ended};
use crate::weaviate_jobs::{bucket_folder, in_bucket};
use rna_backup::base::chain;
use rna_backup::component::weaviate::{BackendSetting, Weaviate, WeaviateConfig};
use rna_backup::component::{BucketFolder, ComponentError, Restorable, Target, Undo};
use rna_backup::domain::progress::Meter;
use rna_backup::engine::StoreFolder;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// The contents of a server, by class.
type Contents = BTreeMap<String, Value>;

/// The work under way when somebody dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Backup,
    Restore,
    Undo,
    /// The put-back by the next run after a restore that died as a class was gone.
    PutBack,
}

const ALL_WORK: [Work; 4] = [Work::Backup, Work::Restore, Work::Undo, Work::PutBack];

/// The one who dies at a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// The program, before the server has got the request, or after the server has done what it was asked to.
    Program { effect: bool },
    /// The server, when it has done what it was asked to and before it has answered.
    Server,
}

/// The requests that are left out between two deaths.
#[expect(clippy::disallowed_methods, reason = "how much is tried is no setting of the program")]
fn stride(usual: usize) -> usize {
    std::env::var("WEAVIATE_KILL_STRIDE").map_or(usual, |stride| stride.parse().unwrap())
}

/// The one kind of work that is to be tried, and the requests of that kind.
#[expect(clippy::disallowed_methods, reason = "how much is tried is no setting of the program")]
fn only() -> Option<(Work, RangeInclusive<usize>)> {
    let only = std::env::var("WEAVIATE_KILL_ONLY").ok()?;
    let (work, requests) = only.split_once(':').unwrap_or((&only, "1.."));
    let work = ALL_WORK.into_iter().find(|known| format!("{known:?}") == work).unwrap();
    let requests = match requests.strip_suffix("..") {
        Some(first) => first.parse().unwrap()..=usize::MAX,
        None => requests.parse().unwrap()..=requests.parse().unwrap(),
    };
    Some((work, requests))
}

/// One way on one server.
struct Lab {
    server: WeaviateServer,
    backend: BackendSetting,
    /// The server's folder in its bucket, if backups go there.
    bucket_folder: Option<Arc<StoreFolder>>,
    archive: Vec<u8>,
    /// The backup in the bucket, to which the archive is an index.
    in_bucket: Option<String>,
    /// The contents of the archive.
    backed_up: Contents,
}

impl Lab {
    async fn new(version: &str, backend: BackendSetting) -> Self {
        let (server, bucket_folder) = if backend == BackendSetting::S3 {
            let (server, bucket) = in_bucket(version).await;
            (server, Some(Arc::new(bucket_folder(&bucket).await)))
        } else {
            let server = Start::version(version).server().await;
            server.fill().await;
            (server, None)
        };
        let backed_up = server.contents().await;
        let mut lab =
            Self { server, backend, bucket_folder, archive: Vec::new(), in_bucket: None, backed_up };
        let (archive, facts) = backup(&lab.direct()).await.unwrap();
        (lab.archive, lab.in_bucket) = (archive, facts.server_backup);
        lab
    }

    /// The component, with its requests to Weaviate through this address.
    fn through(&self, url: &str, second: Duration) -> Weaviate {
        let config = WeaviateConfig {
            server: url.parse().unwrap(),
            backend: self.backend,
            second,
            ..self.server.config()
        };
        Weaviate::new(
            config,
            self.bucket_folder.clone().map(|bucket_folder| bucket_folder as Arc<dyn BucketFolder>),
        )
    }

    fn direct(&self) -> Weaviate {
        self.through(&self.server.url(), SECOND)
    }

    async fn all_have_ended(&self) {
        let Some(bucket_folder) = &self.bucket_folder else { return all_have_ended(&self.server).await };
        let files = bucket_folder.files("").await.unwrap();
        let ids: BTreeSet<_> = files.iter().filter_map(|(path, _)| Some(path.split_once('/')?.0)).collect();
        let ids = ids.into_iter().map(str::to_owned);
        these_have_ended(&self.server, "s3", ids).await;
    }

    /// Removes from the bucket what earlier deaths have left there.
    async fn clear_bucket(&self) {
        let (Some(bucket_folder), Some(own)) = (&self.bucket_folder, &self.in_bucket) else { return };
        for (path, _) in bucket_folder.files("").await.unwrap() {
            if path.split_once('/').is_none_or(|(id, _)| id != own) {
                bucket_folder.remove(&path).await.unwrap();
            }
        }
    }

    /// Brings the server to where the work begins, and tells what each class may be after it.
    async fn prepare(&mut self, work: Work, is_restarted: bool) -> [Contents; 2] {
        if !is_restarted {
            self.all_have_ended().await;
        }
        self.server.wipe().await;
        self.clear_bucket().await;
        for folder in [self.server.state(), self.server.folder()] {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
            }
        }
        self.server.fill().await;
        self.server.spoil().await;
        let spoiled = self.server.contents().await;
        match work {
            Work::Backup => [spoiled.clone(), spoiled],
            Work::Restore => {
                let mut wanted = self.backed_up.clone();
                wanted.insert("Later".to_owned(), spoiled["Later"].clone());
                [wanted, spoiled]
            }
            Work::Undo => {
                restore(&self.direct(), &self.archive, &Target::Live).await.unwrap();
                [self.server.contents().await, spoiled]
            }
            Work::PutBack => {
                self.die_as_a_class_is_gone().await;
                [spoiled.clone(), spoiled]
            }
        }
    }

    async fn die_as_a_class_is_gone(&self) {
        let died = Arc::new(Notify::new());
        let dies = died.clone();
        let mut is_gone = false;
        let line = BadLine::before(&self.server.address(), move |asked| {
            if is_gone {
                return Line::BlackHole;
            }
            is_gone = deletes_a_class(asked);
            if !is_gone {
                return Line::Good;
            }
            dies.notify_one();
            Line::LoseAnswer
        })
        .await;
        let dying = self.through(&line.url(), SECOND);
        tokio::select! {
            ended = restore(&dying, &self.archive, &Target::Live) => panic!("it ended: {ended:?}"),
            () = died.notified() => {}
        }
        line.is_idle().await;
        assert_eq!(self.server.classes().await.len(), 3);
    }

    /// Somebody dies at the request of that number. Returns false when the work has ended before it.
    async fn die(&mut self, work: Work, death: Death, deadly: usize) -> bool {
        let allowed = self.prepare(work, death == Death::Server).await;
        let (version, backend) = (self.server.version(), self.backend);
        let what = format!("{version:?} {backend:?}, {work:?}, {death:?} at request {deadly}");
        let (seen, died, pid) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()), self.server.pid());
        let dies = died.clone();
        let line = BadLine::before(&self.server.address(), move |_| {
            let number = seen.fetch_add(1, Ordering::SeqCst) + 1;
            if number == deadly {
                dies.notify_one();
            }
            match (death, number == deadly) {
                (Death::Server, true) => Line::KillServer(pid),
                (Death::Program { effect: true }, true) => Line::LoseAnswer,
                (Death::Program { .. }, _) if number >= deadly => Line::BlackHole,
                _ => Line::Good,
            }
        })
        .await;
        let second = if death == Death::Server { LONG_SECOND } else { SECOND };
        let component = self.through(&line.url(), second);
        let Self { server, archive, .. } = self;
        let is_dead = {
            let working = run(work, &component, archive);
            tokio::pin!(working);
            let ended = tokio::select! {
                ended = &mut working => Some(ended),
                () = died.notified() => None,
            };
            match (&ended, death) {
                (Some(ended), _) => assert!(ended.is_ok(), "{what}: {ended:?}"),
                (None, Death::Program { .. }) => {}
                (None, Death::Server) => {
                    let revival = async {
                        let lies = async || is_dead_process(pid);
                        assert!(eventually(lies).await, "{what}");
                        server.start_again();
                    };
                    // It succeeds or fails, and says which; what it has left is for the next run.
                    let (ended, ()) = tokio::join!(working, revival);
                    server.is_ready().await;
                    println!("{what}: {}", ended.map_or_else(|err| chain(&err), |()| "done".to_owned()));
                }
            }
            ended.is_none()
        };
        drop(component);
        // The server does what it was asked to, also when nobody waits for the answer.
        if is_dead && death == (Death::Program { effect: true }) {
            line.is_idle().await;
        }
        let next = self.direct();
        let done = next.recover().await.unwrap_or_else(|err| panic!("{what}: {}", chain(&err)));
        println!("{what}: {done:?}");
        let found = self.server.contents().await;
        assert!(found.keys().eq(allowed[0].keys()), "{what}: {:?}, {done:?}", found.keys());
        for (class, contents) in &found {
            let is_whole = allowed.iter().any(|allowed| allowed[class] == *contents);
            assert!(is_whole, "{what}: class {class} is neither as before nor as it was to be; {done:?}");
        }
        is_dead
    }
}

async fn run(work: Work, component: &Weaviate, archive: &[u8]) -> Result<(), ComponentError> {
    match work {
        Work::Backup => {
            let (archive, facts) = backup(component).await?;
            assert_eq!(decode(component, &archive).await.unwrap(), facts.counts);
            Ok(())
        }
        Work::Restore => restore(component, archive, &Target::Live).await.map(drop),
        Work::Undo => component.undo(None, &Meter::default()).await.map(drop),
        Work::PutBack => component.recover().await.map(drop),
    }
}

/// Returns whether the process has ended; its parent may not have asked yet.
fn is_dead_process(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

/// Lets somebody die at one request after the other of each kind of work, and tells at how many.
async fn die_everywhere(version: &str, backend: BackendSetting, death: Death, stride: usize) -> usize {
    let (mut lab, mut points) = (Lab::new(version, backend).await, 0);
    // The first death is another one for each kind of work, so that together they are spread.
    for (first, work) in ALL_WORK.into_iter().enumerate() {
        let requests = match only() {
            Some((only, _)) if only != work => continue,
            Some((_, requests)) => requests,
            None => 1 + first * stride / ALL_WORK.len()..=usize::MAX,
        };
        for deadly in requests.step_by(stride) {
            if !lab.die(work, death, deadly).await {
                break;
            }
            points += 1;
        }
    }
    points
}

/// Lets somebody die on these servers side by side, where `make weaviate` has built them.
async fn die_on<const LANES: usize>(lanes: [(&str, BackendSetting, Death); LANES], stride: usize) {
    each(lanes, async |(version, backend, death)| {
        if versions().contains(&version) {
            let points = die_everywhere(version, backend, death, stride).await;
            println!("{points} points: {version} {backend:?} {death:?}");
            assert!(points > 2 || only().is_some());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_dies_at_any_request_leaves_each_class_whole() {
    let lanes = [
        (OLDEST, BackendSetting::Filesystem, Death::Program { effect: true }),
        (NEWEST, BackendSetting::Filesystem, Death::Program { effect: false }),
        (OLDEST, BackendSetting::Export, Death::Program { effect: false }),
        (NEWEST, BackendSetting::Export, Death::Program { effect: true }),
    ];
    die_on(lanes, stride(23)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_dies_over_a_bucket_or_a_version_between_leaves_each_class_whole() {
    let lanes = [
        (MIDDLE, BackendSetting::Filesystem, Death::Program { effect: true }),
        (NEWEST, BackendSetting::S3, Death::Program { effect: true }),
    ];
    die_on(lanes, stride(40)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_at_any_request_leaves_each_class_whole() {
    let lanes = [
        (OLDEST, BackendSetting::Filesystem),
        (NEWEST, BackendSetting::Filesystem),
        (NEWEST, BackendSetting::Export),
    ];
    die_on(lanes.map(|(version, backend)| (version, backend, Death::Server)), stride(40)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_over_a_bucket_or_a_version_between_leaves_each_class_whole() {
    let lanes = [(MIDDLE, BackendSetting::Filesystem), (NEWEST, BackendSetting::S3)];
    die_on(lanes.map(|(version, backend)| (version, backend, Death::Server)), stride(60)).await;
}
