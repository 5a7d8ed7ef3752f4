//! A real component with a fault behind it.

use async_trait::async_trait;
use rna_backup::{
    component::{ComponentError, Feed, IncrementalBase, Source},
    domain::{
        component::ComponentName,
        facts::{Counts, Facts},
        progress::Meter,
    },
    stream::Output,
};
use std::sync::Arc;
use tokio::sync::Notify;

/// What is wrong with the source of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceFault {
    /// It fails after its last byte.
    AtItsEnd,
    /// The archive holds one file less than was read.
    LostFile,
    /// It gives its last word only when it is told to.
    Waits,
    /// There is a bug in it.
    Panics,
}

/// A real component with a fault behind it.
#[derive(Debug)]
pub struct FaultySource {
    real: Arc<dyn Source>,
    fault: Option<SourceFault>,
    /// Told when everything was read from the source.
    pub has_read: Arc<Notify>,
    /// Waited for then, by one that waits.
    pub open: Arc<Notify>,
}

impl FaultySource {
    pub fn new(real: Arc<dyn Source>, fault: Option<SourceFault>) -> Self {
        Self { real, fault, has_read: Arc::default(), open: Arc::default() }
    }
}

#[async_trait]
impl Source for FaultySource {
    fn name(&self) -> ComponentName {
        self.real.name()
    }
    fn address(&self) -> String {
        self.real.address()
    }
    fn host(&self) -> Option<String> {
        self.real.host()
    }
    async fn check(&self) -> Result<String, ComponentError> {
        self.real.check().await
    }
    async fn ping(&self) -> Result<(), ComponentError> {
        self.real.ping().await
    }
    async fn describe(&self, feed: Feed<'_>) -> Result<Facts, ComponentError> {
        self.real.describe(feed).await
    }
    async fn back_up(
        &self,
        base: Option<&IncrementalBase>,
        out: &mut dyn Output,
        meter: &Meter,
    ) -> Result<Facts, ComponentError> {
        let facts = self.real.back_up(base, out, meter).await?;
        self.has_read.notify_one();
        match self.fault {
            Some(SourceFault::AtItsEnd) => {
                return Err(ComponentError::Unavailable { what: "dump".into(), source: None });
            }
            Some(SourceFault::Waits) => self.open.notified().await,
            Some(SourceFault::Panics) => panic!("a bug in the source"),
            _ => {}
        }
        Ok(facts)
    }
    async fn decode(&self, feed: Feed<'_>, meter: &Meter) -> Result<Counts, ComponentError> {
        let mut counts = self.real.decode(feed, meter).await?;
        if let (Some(SourceFault::LostFile), Some(files)) = (self.fault, &mut counts.files) {
            files.files -= 1;
        }
        Ok(counts)
    }
}
