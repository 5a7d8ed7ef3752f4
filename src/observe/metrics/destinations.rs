//! What is known of each destination: the gauges, and the reason why one cannot be used, for `/readyz`.

use super::{Metrics, as_gauge};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How the last look at each destination ended; a destination that is to be looked at anew is not in it.
#[derive(Debug, Clone, Default)]
pub(super) struct LastLooks(Arc<Mutex<BTreeMap<String, Result<(), String>>>>);

impl LastLooks {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Result<(), String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metrics {
    /// A destination was looked at: it can be used, or not, for a reason that holds no secret.
    pub fn destination(&self, destination: &str, found: Result<(), String>) {
        self.destination_up.with_label_values(&[destination]).set(i64::from(found.is_ok()));
        self.last_looks.lock().insert(destination.to_owned(), found);
    }

    /// The bytes that can still be written to a destination.
    pub fn destination_free(&self, destination: &str, free: u64) {
        self.destination_free.with_label_values(&[destination]).set(as_gauge(free));
    }

    /// Whether a destination could be used at the last look, and nothing has failed there since.
    pub fn is_destination_well(&self, destination: &str) -> bool {
        matches!(self.last_looks.lock().get(destination), Some(Ok(())))
    }

    /// Something has failed in some destination: what was found before counts no more. The gauges stay until the
    /// next look.
    pub fn doubt_destinations(&self) {
        self.last_looks.lock().retain(|_, found| found.is_err());
    }

    /// The destinations that cannot be used, each with the reason.
    pub fn closed_destinations(&self) -> Vec<(String, String)> {
        let looks = self.last_looks.lock();
        looks.iter().filter_map(|(name, found)| Some((name.clone(), found.clone().err()?))).collect()
    }
}

#[test]
fn a_destination_is_closed_until_a_look_finds_it_well() {
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
