//! The destinations that cannot be used, and the reasons, for `/readyz`.

use super::Metrics;
use crate::domain::component::ComponentName;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The result of the last check of each destination. A destination that must be checked again has no entry.
#[derive(Debug, Clone, Default)]
pub(super) struct LastLooks(Arc<Mutex<BTreeMap<String, Result<(), String>>>>);

impl LastLooks {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Result<(), String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metrics {
    /// Starts the counters of a destination at 0, those of its requests as well if they are counted.
    pub fn start_destination(&self, destination: &str, counts_requests: bool) {
        for component in ComponentName::all() {
            self.retention_deleted.with_label_values(&[component.as_str(), destination]);
        }
        if counts_requests {
            self.request_retries.with_label_values(&[destination]);
        }
    }

    /// Returns the destinations that cannot be used, each with the reason.
    pub fn closed_destinations(&self) -> Vec<(String, String)> {
        let looks = self.last_looks.lock();
        looks.iter().filter_map(|(name, found)| Some((name.clone(), found.clone().err()?))).collect()
    }
}

#[test]
fn a_destination_is_closed_until_a_look_finds_it_well() {
    use crate::engine::RunObserver as _;
    let metrics = Metrics::new("test").unwrap();
    assert!(
        !metrics.is_destination_well("s3") && metrics.closed_destinations().is_empty(),
        "nobody has looked"
    );
    metrics.destination("local", Ok(()));
    metrics.destination("s3", Err("no such bucket".to_owned()));
    assert_eq!(metrics.closed_destinations(), [("s3".to_owned(), "no such bucket".to_owned())]);
    metrics.doubt_destinations();
    assert!(!metrics.is_destination_well("local") && !metrics.closed_destinations().is_empty());
    metrics.destination("s3", Ok(()));
    assert!(metrics.is_destination_well("s3") && metrics.closed_destinations().is_empty());
    let text = metrics.render().unwrap();
    assert!(text.contains(r#"rna_backup_destination_up{destination="local"} 1"#), "{text}");
}
