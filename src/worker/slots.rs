//! Limits the number of tasks that run at once, and keeps two tasks from working on one component.

use crate::domain::component::ComponentName;
use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The slots for running tasks, and the components.
#[derive(Clone)]
pub(super) struct Slots(Arc<SlotState>);

struct SlotState {
    all: Arc<Semaphore>,
    size: Mutex<usize>,
    /// The number of slots to remove as soon as their tasks end.
    surplus: AtomicUsize,
    components: Vec<(ComponentName, Arc<Semaphore>)>,
    /// The number of tasks in hand that wait for a component, without a slot.
    waiting: AtomicUsize,
    freed: Box<dyn Fn() + Send + Sync>,
}

/// A slot for one running task.
pub(super) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    slots: Slots,
}

/// A task that waits for a component without a slot.
pub(super) struct WaitingTask(Slots);

/// The most tasks in hand that wait for a component: further messages stay in the broker, where other workers see them.
const MOST_WAITING: usize = 16;

/// A component that a task occupies exclusively within this process.
pub(super) struct Occupied {
    permit: Option<OwnedSemaphorePermit>,
    slots: Slots,
}

/// The permits that a task needs to run: a slot and, for most tasks, a component.
pub(super) type Permits = (Slot, Option<Occupied>);

impl Slots {
    /// Creates `concurrency` slots. `freed` is called when a slot or a component becomes free.
    pub(super) fn new(concurrency: usize, freed: impl Fn() + Send + Sync + 'static) -> Self {
        let one = |name| (name, Arc::new(Semaphore::new(1)));
        Self(Arc::new(SlotState {
            all: Arc::new(Semaphore::new(concurrency)),
            size: Mutex::new(concurrency),
            surplus: AtomicUsize::new(0),
            components: ComponentName::all().map(one).collect(),
            waiting: AtomicUsize::new(0),
            freed: Box::new(freed),
        }))
    }

    /// Changes the number of slots. Running tasks keep their slots to their end.
    pub(super) fn resize(&self, concurrency: usize) {
        let mut size = self.0.size.lock().unwrap_or_else(PoisonError::into_inner);
        if concurrency < *size {
            let gone = self.0.all.forget_permits(*size - concurrency);
            self.0.surplus.fetch_add(*size - concurrency - gone, Ordering::AcqRel);
        } else {
            for _ in *size..concurrency {
                if !self.take_surplus() {
                    self.0.all.add_permits(1);
                }
            }
        }
        *size = concurrency;
        (self.0.freed)();
    }

    /// Decrements the number of slots to remove. Returns `false` if there is none to remove.
    fn take_surplus(&self) -> bool {
        let less = |surplus: usize| surplus.checked_sub(1);
        self.0.surplus.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
    }

    /// The number of free slots that no task in hand waits for.
    pub(super) fn room(&self) -> usize {
        self.0.all.available_permits()
    }

    /// True while as many tasks in hand wait for a component as may.
    pub(super) fn is_crowded(&self) -> bool {
        self.0.waiting.load(Ordering::Acquire) >= MOST_WAITING
    }

    /// Counts a task that waits for a component without a slot, until the value is dropped.
    pub(super) fn wait_without_slot(&self) -> WaitingTask {
        self.0.waiting.fetch_add(1, Ordering::AcqRel);
        WaitingTask(self.clone())
    }

    /// Takes a free slot, if there is one.
    pub(super) fn try_take(&self) -> Option<Slot> {
        Arc::clone(&self.0.all).try_acquire_owned().ok().map(|permit| self.slot(permit))
    }

    /// Waits for a free slot, in the order of the calls.
    pub(super) async fn take(&self) -> Slot {
        let permit = Arc::clone(&self.0.all).acquire_owned().await;
        self.slot(permit.expect("the semaphore is never closed"))
    }

    fn slot(&self, permit: OwnedSemaphorePermit) -> Slot {
        Slot { permit: Some(permit), slots: self.clone() }
    }

    /// Returns `true` if a task of this process occupies the component.
    pub(super) fn is_busy(&self, component: ComponentName) -> bool {
        self.semaphore(component).available_permits() == 0
    }

    /// Occupies the component, if no task of this process does.
    pub(super) fn try_occupy(&self, component: ComponentName) -> Option<Occupied> {
        let permit = Arc::clone(self.semaphore(component)).try_acquire_owned().ok()?;
        Some(Occupied { permit: Some(permit), slots: self.clone() })
    }

    /// Waits until the component is free, and occupies it. The caller should hold no slot while waiting.
    pub(super) async fn occupy(&self, component: ComponentName) -> Occupied {
        let permit = Arc::clone(self.semaphore(component)).acquire_owned().await;
        Occupied { permit: Some(permit.expect("the semaphore is never closed")), slots: self.clone() }
    }

    fn semaphore(&self, component: ComponentName) -> &Arc<Semaphore> {
        let found = self.0.components.iter().find(|(name, _)| *name == component);
        &found.expect("there is one for every component").1
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        match self.permit.take() {
            Some(permit) if self.slots.take_surplus() => permit.forget(),
            permit => drop(permit), // free before it is announced
        }
        (self.slots.0.freed)();
    }
}

impl Drop for WaitingTask {
    fn drop(&mut self) {
        self.0.0.waiting.fetch_sub(1, Ordering::AcqRel);
        (self.0.0.freed)();
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.permit = None; // free before it is announced
        (self.slots.0.freed)();
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("free", &self.room()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_component_is_one_tasks_until_it_ends() {
        let slots = Slots::new(1, || {});
        let occupied = slots.try_occupy(ComponentName::MEDIA).unwrap();
        assert!(slots.is_busy(ComponentName::MEDIA) && !slots.is_busy(ComponentName::POSTGRES));
        let waiting = slots.occupy(ComponentName::MEDIA);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(occupied);
        waiting.await;
    }

    #[tokio::test]
    async fn a_task_in_hand_gets_the_next_place_that_is_free() {
        let slots = Slots::new(1, || {});
        let running = slots.try_take();
        let in_hand = slots.take();
        tokio::pin!(in_hand);
        assert!(futures_util::poll!(&mut in_hand).is_pending());
        drop(running);
        assert_eq!(slots.room(), 0, "it is promised to the task in hand");
        in_hand.await;
    }

    #[test]
    fn places_are_added_at_once_and_taken_away_when_their_tasks_end() {
        let slots = Slots::new(2, || {});
        let running = [slots.try_take(), slots.try_take()];
        slots.resize(1);
        assert_eq!(slots.room(), 0);
        slots.resize(2);
        slots.resize(1);
        drop(running);
        assert_eq!(slots.room(), 1);
        slots.resize(3);
        assert_eq!(slots.room(), 3);
    }
}
