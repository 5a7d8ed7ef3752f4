//! The media folder as a tar stream.
//!
//! Entries are sorted by name, folders before what is in them, paths relative and without `./`, but for
//! the first entry, which is the root itself as `./`: `tar -xpf` into a folder gives that folder the
//! root's mode, owner and time. Kept are modes, numeric owners, times to the nanosecond, symbolic links,
//! hard links, empty folders and names as they are, byte for byte. Extended attributes and ACLs are not;
//! sparse files are read in full. Other file systems mounted below the root are part of it.

mod decode;
mod estimate;
mod folder;
mod kind;
mod pack;
mod tar;

use crate::component::{Component, ComponentError, Feed};
use crate::domain::{
    component::ComponentName,
    facts::{Counts, Facts},
    progress::Meter,
};
use crate::stream::{Content, Output};
use async_trait::async_trait;
use folder::Folder;
use rustix::io::Errno;
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, task};

/// Where the media are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaConfig {
    /// `MEDIA_ROOT`. It may itself be a symbolic link; none below it is followed.
    pub root: PathBuf,
}

/// The app's media folder.
#[derive(Debug)]
pub struct Media {
    config: MediaConfig,
}

impl Media {
    /// Nothing is read before a backup or a check.
    pub const fn new(config: MediaConfig) -> Self {
        Self { config }
    }

    /// Opens and lists the root.
    async fn open(&self) -> Result<Folder, ComponentError> {
        let root = self.config.root.clone();
        let opened = task::spawn_blocking(move || Folder::root(&root)).await.map_err(crashed)?;
        let root = self.config.root.display();
        opened.map_err(|err| {
            let what = match err {
                Errno::NOENT => {
                    format!("find MEDIA_ROOT {root}: create or mount the folder, or correct the setting")
                }
                Errno::NOTDIR => {
                    format!("open MEDIA_ROOT {root}: it is not a folder, correct the setting")
                }
                Errno::ACCESS | Errno::PERM => {
                    format!("open MEDIA_ROOT {root}: give the user of this process the right to read it")
                }
                err => {
                    let what = format!("open MEDIA_ROOT {root}");
                    return ComponentError::Read { what, source: err.into() };
                }
            };
            ComponentError::Unusable { what, source: Some(Box::new(err)) }
        })
    }

    /// How many bytes there are to read, once the backup has run for a while: on a small folder it would
    /// only take the time of those who read it. `None` when nobody could tell, or `stop` was set.
    async fn estimate(&self, stop: Arc<AtomicBool>) -> Option<u64> {
        /// Nobody needs an estimate of what takes no longer.
        const PATIENCE: Duration = Duration::from_secs(2);
        tokio::time::sleep(PATIENCE).await;
        let root = self.open().await.ok()?;
        task::spawn_blocking(move || estimate::estimate(root, &stop)).await.ok()?
    }
}

#[async_trait]
impl Component for Media {
    fn name(&self) -> ComponentName {
        ComponentName::Media
    }

    fn source(&self) -> String {
        self.config.root.display().to_string()
    }

    async fn check(&self) -> Result<String, ComponentError> {
        let folder = self.open().await?;
        Ok(format!("{} is readable, {} entries at its top", self.config.root.display(), folder.len()))
    }

    async fn backup(&self, out: &mut dyn Output, meter: &Meter) -> Result<Facts, ComponentError> {
        /// Of 1 MiB each: enough that reading and compressing overlap.
        const QUEUE: usize = 3;
        meter.begin("pack", 0);
        let root = self.open().await?;

        let (chunks, mut queue) = mpsc::channel(QUEUE);
        let mut packing = {
            let meter = meter.clone();
            // Opening a file through the runtime costs more than reading a small one, so one thread
            // does it all. It ends when the queue does.
            task::spawn_blocking(move || pack::pack(root, chunks, meter))
        };
        let stop = StopOnDrop::default();
        let total = self.estimate(Arc::clone(&stop.0));
        tokio::pin!(total);

        let (mut content, mut counting) = (Content::default(), true);
        loop {
            tokio::select! {
                chunk = queue.recv() => {
                    let Some(chunk) = chunk else { break };
                    if chunk.content != content {
                        content = chunk.content;
                        out.content(content);
                    }
                    out.write(chunk.bytes).await.map_err(ComponentError::Output)?;
                }
                found = &mut total, if counting => {
                    counting = false;
                    if let Some(bytes) = found {
                        meter.expect(bytes);
                    }
                }
            }
        }
        (&mut packing).await.map_err(crashed)?
    }

    async fn decode(&self, feed: Feed<'_>, meter: &Meter) -> Result<Counts, ComponentError> {
        decode::decode(feed, meter).await
    }
}

/// Tells the estimate that nobody waits for it any more.
#[derive(Debug, Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A thread panicked, or the runtime is shutting down.
fn crashed(err: task::JoinError) -> ComponentError {
    ComponentError::Read { what: "read media".to_owned(), source: err.into() }
}
