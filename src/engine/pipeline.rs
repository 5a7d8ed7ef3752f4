//! The way of the bytes: component → packer → store, and beside it the proof of what was packed.

use crate::base::chain;
use crate::component::{Component, ComponentError, IncrementalBase};
use crate::domain::component::ComponentName;
use crate::domain::facts::{Counts, Facts};
use crate::domain::progress::Meter;
use crate::engine::EngineError;
use crate::engine::uploads::ArchiveUploads;
use crate::stream::crypt::{Identities, Recipients, decrypt};
use crate::stream::pack::{Compression, Packed, Packer};
use crate::stream::unpack::{unpack, unpack_buffered};
use bytes::Bytes;
use std::io;
use tokio::{io::AsyncRead, sync::mpsc};
use tokio_util::{io::StreamReader, task::AbortOnDropHandle};

/// Chunks on their way from one stage to the next: enough to keep both busy, few enough to stay
/// small (each is at most 1 MiB).
const UNDER_WAY: usize = 2;

/// The outcome of one pass of the backup pipeline.
#[derive(Debug)]
pub(super) struct Filled {
    /// The facts that the component reported about its data.
    pub(super) facts: Facts,
    /// The bytes that were stored.
    pub(super) packed: Packed,
    /// The counts of the decoder in those bytes.
    decoded: Counts,
}

/// Packs a component and streams the archive to its destinations, and at the same time decodes the very bytes that are
/// stored, decrypted by a key that lives as long as this run: one pass over the data, memory bounded, the slowest
/// stage sets the pace.
///
/// # Errors
///
/// The error of the stage that failed first; the others are stopped, children killed. Then the stored bytes are
/// worthless.
pub(super) async fn fill(
    component: &Component,
    base: &IncrementalBase,
    (compression, recipients): (Compression, Option<&Recipients>),
    uploads: &mut ArchiveUploads,
    meter: &Meter,
) -> Result<Filled, EngineError> {
    let name = component.name();
    let (recipients, witness) = recipients.map(Recipients::with_witness).unzip();
    let (to_store, mut packed_chunks) = mpsc::channel::<Bytes>(UNDER_WAY);
    let (to_decoder, stored_chunks) = mpsc::channel::<Bytes>(UNDER_WAY);
    let produce = async move {
        let mut packer = Packer::start(compression, recipients, to_store);
        let facts = component
            .source
            .back_up(Some(base), &mut packer, meter)
            .await
            .map_err(|err| component_error(name, err))?;
        let packed =
            packer.finish().await.map_err(|source| EngineError::Stream { what: "compress", source })?;
        Ok((facts, packed))
    };
    let store = async move {
        while let Some(chunk) = packed_chunks.recv().await {
            uploads.write(chunk.clone()).await?;
            // A decoder that has gone says why itself.
            let _ = to_decoder.send(chunk).await;
        }
        drop(to_decoder); // so that it sees the end meanwhile
        uploads.end().await?;
        Ok(())
    };
    // The decoder is a task of its own, so that it runs beside the other stages and not in turn with them.
    let decoding = tokio::spawn(decode(component.clone(), compression, witness, stored_chunks));
    let decoding = AbortOnDropHandle::new(decoding);
    let prove = async {
        let stopped = |err| EngineError::Stream { what: "decode", source: io::Error::other(err) };
        decoding.await.map_err(stopped)?
    };
    let ((facts, packed), (), decoded) = tokio::try_join!(produce, store, prove)?;
    Ok(Filled { facts, packed, decoded })
}

async fn decode(
    component: Component,
    compression: Compression,
    witness: Option<Identities>,
    mut chunks: mpsc::Receiver<Bytes>,
) -> Result<Counts, EngineError> {
    let chunks = futures_util::stream::poll_fn(move |context| {
        chunks.poll_recv(context).map(|c| c.map(io::Result::Ok))
    });
    let archive = StreamReader::new(chunks);
    let mut feed = match witness {
        Some(witness) => {
            let opened = decrypt(archive, &witness).await;
            let undone = |err| EngineError::Stream {
                what: "decrypt what was encrypted",
                source: io::Error::other(err),
            };
            unpack(compression, opened.map_err(undone)?)
        }
        None => unpack_buffered(compression, archive),
    };
    let unseen = Meter::default(); // the source's bytes are what people watch
    let counts = component
        .source
        .decode(&mut feed, &unseen)
        .await
        .map_err(|err| component_error(component.name(), err))?;
    to_end(&mut feed).await.map_err(unread)?; // a decoder may stop at its own end of archive
    Ok(counts)
}

impl Filled {
    /// Compares the counts of the decoder with those at the source.
    ///
    /// # Errors
    ///
    /// [`EngineError::Verify`] with every difference.
    pub(super) fn agree(&self, component: ComponentName) -> Result<(), EngineError> {
        let problems = self.facts.counts.differences(&self.decoded);
        if problems.is_empty() { Ok(()) } else { Err(EngineError::Verify { component, problems }) }
    }
}

/// Reads `from` to its end.
pub(super) async fn to_end(from: &mut (dyn AsyncRead + Send + Unpin)) -> io::Result<()> {
    tokio::io::copy(from, &mut tokio::io::sink()).await.map(drop)
}

fn unread(source: io::Error) -> EngineError {
    EngineError::Stream { what: "read the archive back", source }
}

fn component_error(component: ComponentName, source: ComponentError) -> EngineError {
    match source {
        // Packed a moment ago: another attempt may well be whole.
        source @ ComponentError::Corrupt { .. } => {
            EngineError::Verify { component, problems: vec![chain(&source)] }
        }
        source => EngineError::Component { component, source },
    }
}
