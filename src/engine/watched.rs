//! Loss of the lock and cancellation in the middle of a run.

use crate::base::chain;
use crate::component::ComponentError;
use crate::domain::component::ComponentName;
use crate::engine::{ComponentLock, EngineError, Run};

/// Does work that may be given up at any point: it ends when the lock is lost or the run is cancelled. Work that only
/// plans holds no lock.
///
/// # Errors
///
/// Loss of the lock, cancellation, or the error of the work.
pub(super) async fn abortable<T>(
    run: &Run,
    held: Option<&ComponentLock>,
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    let lost = async {
        let Some(held) = held else { return std::future::pending().await };
        held.lost().cancelled().await;
        held.component
    };
    tokio::select! {
        outcome = work => outcome,
        component = lost => Err(EngineError::LockLost { component }),
        () = run.cancel.cancelled() => Err(EngineError::Cancelled),
    }
}

/// Does work of a component that replaces live data. When the lock is lost or the run is cancelled, the component is
/// [asked to stop](crate::domain::progress::Meter::stop) and its end waited for: only the component knows where it
/// may stop.
///
/// # Errors
///
/// Loss of the lock or cancellation, where these came before the work failed, else the error of the component.
pub(super) async fn watched<T>(
    component: ComponentName,
    run: &Run,
    held: &ComponentLock,
    work: impl Future<Output = Result<T, ComponentError>>,
) -> Result<T, EngineError> {
    let lost = held.lost();
    tokio::pin!(work);
    let ended = tokio::select! {
        ended = &mut work => ended,
        () = async { tokio::select! { () = lost.cancelled() => {}, () = run.cancel.cancelled() => {} } } => {
            run.meter.stop();
            work.await
        }
    };
    ended.map_err(|source| {
        let stopped = match (lost.is_cancelled(), run.cancel.is_cancelled()) {
            (true, _) => EngineError::LockLost { component },
            (_, true) => EngineError::Cancelled,
            _ => return EngineError::Component { component, source },
        };
        tracing::warn!(error = %chain(&source), "a restore ends in the middle of its last step");
        stopped
    })
}
