//! Creates and registers metrics, with the prefix `rna_backup_`.

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Creates metrics with the prefix `rna_backup_`, and registers each in the registry.
pub(super) struct Maker<'a>(pub(super) &'a Registry);

impl Maker<'_> {
    pub(super) fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("rna_backup_{name}"), help)
    }

    pub(super) fn keep<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        made: prometheus::Result<C>,
    ) -> prometheus::Result<C> {
        let made = made?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.keep(IntGaugeVec::new(Self::opts(name, help), labels))
    }

    pub(super) fn ratios(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.keep(GaugeVec::new(Self::opts(name, help), labels))
    }

    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.keep(IntCounterVec::new(Self::opts(name, help), labels))
    }

    pub(super) fn times(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        let opts = HistogramOpts::new(format!("rna_backup_{name}"), help).buckets(buckets.to_vec());
        self.keep(HistogramVec::new(opts, labels))
    }
}
