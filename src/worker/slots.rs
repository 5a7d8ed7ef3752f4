//! How many tasks run at once, and that no two of them work on one component.

use crate::domain::component::ComponentName;
use std::{fmt, sync::Arc};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The places for running tasks.
pub(super) struct Slots {
    all: Arc<Semaphore>,
    components: [(ComponentName, Arc<Semaphore>); 3],
    freed: Arc<dyn Fn() + Send + Sync>,
    wanted: Notify,
}

/// A place for one running task.
#[derive(Debug)]
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
}

/// A component that is this task's alone within the process.
pub(super) struct Occupied {
    permit: Option<OwnedSemaphorePermit>,
    freed: Arc<dyn Fn() + Send + Sync>,
}

impl Slots {
    /// `concurrency` places; `freed` is called when a component becomes free.
    pub(super) fn new(concurrency: usize, freed: impl Fn() + Send + Sync + 'static) -> Self {
        let one = |name| (name, Arc::new(Semaphore::new(1)));
        Self {
            all: Arc::new(Semaphore::new(concurrency)),
            components: ComponentName::ALL.map(one),
            freed: Arc::new(freed),
            wanted: Notify::new(),
        }
    }

    /// Waits for a free place; `None` once `stop` fires.
    pub(super) async fn free(&self, stop: &CancellationToken) -> Option<Slot> {
        let permit = stop.run_until_cancelled(Arc::clone(&self.all).acquire_owned()).await?;
        Some(Slot { _permit: permit.expect("the semaphore is never closed") })
    }

    /// Returns when a task in hand wants a place: whoever holds one without work gives it up then.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A place for a task that waited without one.
    async fn free_again(&self, stop: &CancellationToken) -> Option<Slot> {
        // In line first, told then: or whoever gives its place up would be the next to get it.
        let tell = async {
            self.wanted.notify_one();
            std::future::pending::<Option<Slot>>().await
        };
        tokio::select! {
            biased;
            place = self.free(stop) => place,
            none = tell => none,
        }
    }

    /// Whether a task works on the component in this process.
    pub(super) fn is_busy(&self, component: ComponentName) -> bool {
        self.semaphore(component).available_permits() == 0
    }

    /// A place *and* the component, in an order that cannot lock up: whoever waits for a component
    /// holds no place meanwhile. `None` once `stop` fires.
    pub(super) async fn place(
        &self,
        slot: Option<Slot>,
        component: Option<ComponentName>,
        stop: &CancellationToken,
    ) -> Option<(Slot, Option<Occupied>)> {
        let Some(component) = component else {
            return match slot {
                Some(slot) => Some((slot, None)),
                None => Some((self.free_again(stop).await?, None)),
            };
        };
        let semaphore = self.semaphore(component);
        if let (Some(slot), Ok(permit)) = (slot, Arc::clone(semaphore).try_acquire_owned()) {
            return Some((slot, Some(self.occupied(permit))));
        }
        let permit = stop.run_until_cancelled(Arc::clone(semaphore).acquire_owned()).await?;
        let occupied = self.occupied(permit.expect("the semaphore is never closed"));
        Some((self.free_again(stop).await?, Some(occupied)))
    }

    fn occupied(&self, permit: OwnedSemaphorePermit) -> Occupied {
        Occupied { permit: Some(permit), freed: Arc::clone(&self.freed) }
    }

    fn semaphore(&self, component: ComponentName) -> &Arc<Semaphore> {
        let found = self.components.iter().find(|(name, _)| *name == component);
        &found.expect("there is one for every component").1
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.permit = None; // free before it is announced
        (self.freed)();
    }
}

impl fmt::Debug for Occupied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Occupied").finish_non_exhaustive()
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("free", &self.all.available_permits()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_waits_for_its_component_holds_no_place() {
        let slots = Slots::new(1, || {});
        let stop = CancellationToken::new();
        let media = Some(ComponentName::Media);
        let slot = slots.free(&stop).await;
        let (place, occupied) = slots.place(slot, media, &stop).await.unwrap();
        drop(place); // as a task that was taken early and waits for its time

        let slot = slots.free(&stop).await;
        let waiting = slots.place(slot, media, &stop);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(slots.is_busy(ComponentName::Media) && !slots.is_busy(ComponentName::Postgres));
        let other = slots.free(&stop).await.expect("the waiting task gave its place back");
        drop((other, occupied));
        assert!(waiting.await.is_some());
    }

    #[tokio::test]
    async fn a_task_in_hand_gets_the_place_of_whoever_only_waits_for_messages() {
        let slots = Slots::new(1, || {});
        let stop = CancellationToken::new();
        let idle = slots.free(&stop).await;
        let in_hand = slots.place(None, None, &stop);
        tokio::pin!(in_hand);
        assert!(futures_util::poll!(&mut in_hand).is_pending());
        slots.wanted().await;
        drop(idle);
        let next = slots.free(&stop);
        tokio::pin!(next);
        assert!(futures_util::poll!(&mut next).is_pending(), "the task in hand is first in line");
        assert!(in_hand.await.is_some());
    }
}
