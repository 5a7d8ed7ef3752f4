//! Floor 2: what can be backed up. Components know neither stores nor Celery.

pub mod error;
pub mod media;
pub mod postgres;
pub mod process;

use crate::domain::{
    component::ComponentName,
    facts::{Counts, Facts},
    progress::Meter,
};
use crate::stream::Output;
use async_trait::async_trait;
use std::fmt;
use tokio::io::AsyncRead;

pub use error::ComponentError;

/// The bytes of an archive, decompressed, on their way back into a component.
pub type Feed<'a> = &'a mut (dyn AsyncRead + Send + Unpin);

/// Something that can be backed up to one stream of bytes.
///
/// A component *writes into* its output rather than returning a reader, so that
/// it still owns its child process when the last byte is out: `Ok` means the
/// source itself reported success, and only then does the engine commit.
/// Dropping the future of any method must stop whatever it started.
#[async_trait]
pub trait Component: Send + Sync + fmt::Debug {
    /// Which one it is.
    fn name(&self) -> ComponentName;

    /// What is read, for manifests and results: name of the database, path of the folder.
    /// Never a secret.
    fn source(&self) -> String;

    /// Looks whether a backup could run, without reading the data: server
    /// reachable, client programs fit, folder readable. One line of what was found.
    ///
    /// # Errors
    ///
    /// What a backup would fail with.
    async fn check(&self) -> Result<String, ComponentError>;

    /// Reads the data once, from one consistent state, into `out`.
    ///
    /// Begins the phases of `meter` itself and counts source bytes on it.
    ///
    /// # Errors
    ///
    /// [`ComponentError::is_transient`] tells whether another attempt makes sense.
    /// What was written to `out` before an error is worthless.
    async fn backup(&self, out: &mut dyn Output, meter: &Meter) -> Result<Facts, ComponentError>;

    /// Reads a whole archive to its end without touching the live system, and counts
    /// what it holds. Counts the bytes read on `meter`, whose phase the caller began.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Corrupt`] when the archive is damaged or cut short.
    async fn decode(&self, feed: Feed<'_>, meter: &Meter) -> Result<Counts, ComponentError>;
}
