//! The way of the bytes: component → packer → store, and beside it the proof of what was packed.

use crate::base::chain;
use crate::component::{Component, ComponentError};
use crate::domain::component::ComponentName;
use crate::domain::facts::{Counts, Facts};
use crate::domain::progress::Meter;
use crate::engine::EngineError;
use crate::store::Upload;
use crate::stream::pack::{Compression, Packed, Packer};
use crate::stream::unpack::{Fingerprint, unpack};
use bytes::Bytes;
use std::{io, sync::Arc};
use tokio::{io::AsyncRead, sync::mpsc};
use tokio_util::{io::StreamReader, task::AbortOnDropHandle};

/// Chunks on their way from one stage to the next: enough to keep both busy, few enough to stay
/// small (each is at most 1 MiB).
const UNDER_WAY: usize = 2;

/// What went through.
#[derive(Debug)]
pub(super) struct Filled {
    /// What the component said about its data.
    pub(super) facts: Facts,
    /// The bytes that were stored.
    pub(super) packed: Packed,
    /// What the decoder found in them.
    decoded: Counts,
}

/// Streams a component, packed, into an upload, and at the same time decodes the very bytes that are
/// stored: one pass over the data, memory bounded, the slowest stage sets the pace.
///
/// # Errors
///
/// Of the stage that failed first; the others are stopped, children killed. Then the upload is
/// worthless.
pub(super) async fn fill(
    component: &Arc<dyn Component>,
    compression: Compression,
    upload: &mut dyn Upload,
    meter: &Meter,
) -> Result<Filled, EngineError> {
    let name = component.name();
    let (to_store, mut packed_chunks) = mpsc::channel::<Bytes>(UNDER_WAY);
    let (to_decoder, stored_chunks) = mpsc::channel::<Bytes>(UNDER_WAY);
    let produce = async move {
        let mut packer = Packer::start(compression, to_store);
        let facts = component.backup(&mut packer, meter).await.map_err(|err| component_error(name, err))?;
        let packed =
            packer.finish().await.map_err(|source| EngineError::Stream { what: "compress", source })?;
        Ok((facts, packed))
    };
    let store = async move {
        while let Some(chunk) = packed_chunks.recv().await {
            upload.write(chunk.clone()).await?;
            // A decoder that has gone says why itself.
            let _ = to_decoder.send(chunk).await;
        }
        Ok(())
    };
    // On a task of its own, so that it runs beside the other stages and not in turn with them.
    let decoding = tokio::spawn(decode(Arc::clone(component), compression, stored_chunks));
    let decoding = AbortOnDropHandle::new(decoding);
    let prove = async {
        let stopped = |err| EngineError::Stream { what: "decode", source: io::Error::other(err) };
        decoding.await.map_err(stopped)?
    };
    let ((facts, packed), (), decoded) = tokio::try_join!(produce, store, prove)?;
    Ok(Filled { facts, packed, decoded })
}

async fn decode(
    component: Arc<dyn Component>,
    compression: Compression,
    mut chunks: mpsc::Receiver<Bytes>,
) -> Result<Counts, EngineError> {
    let chunks = futures_util::stream::poll_fn(move |context| {
        chunks.poll_recv(context).map(|c| c.map(io::Result::Ok))
    });
    let mut feed = unpack(compression, StreamReader::new(chunks));
    let unseen = Meter::default(); // the source's bytes are what people watch
    let counts =
        component.decode(&mut feed, &unseen).await.map_err(|err| component_error(component.name(), err))?;
    to_end(&mut feed).await?; // a decoder may stop at its own end of archive
    Ok(counts)
}

/// Reads back what was stored and compares: the same bytes as were decoded, and in them the same
/// data as was read from the source.
///
/// # Errors
///
/// [`EngineError::Verify`] with everything that does not hold.
pub(super) async fn prove(
    component: ComponentName,
    filled: &Filled,
    upload: &mut dyn Upload,
    meter: &Meter,
) -> Result<(), EngineError> {
    meter.begin("verify", filled.packed.bytes);
    let mut stored = Fingerprint::new(upload.read_back().await?);
    to_end(&mut stored).await?;
    let (bytes, sha256) = stored.finish();
    let mut problems = filled.facts.counts.differences(&filled.decoded);
    if bytes != filled.packed.bytes {
        problems.push(format!("wrote {} bytes, found {bytes}", filled.packed.bytes));
    } else if sha256 != filled.packed.sha256 {
        problems.push("the hash of the stored bytes is not that of the written ones".to_owned());
    }
    if problems.is_empty() { Ok(()) } else { Err(EngineError::Verify { component, problems }) }
}

async fn to_end(from: &mut (dyn AsyncRead + Send + Unpin)) -> Result<(), EngineError> {
    let rest = tokio::io::copy(from, &mut tokio::io::sink()).await;
    rest.map(drop).map_err(|source| EngineError::Stream { what: "read the archive back", source })
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
