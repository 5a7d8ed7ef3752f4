//! Creates and registers metrics, with the prefix `rna_backup_`.

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Creates metrics with the prefix `rna_backup_`, and registers each in the registry.
pub(super) struct MetricFactory<'a>(pub(super) &'a Registry);

impl MetricFactory<'_> {
    pub(super) fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("rna_backup_{name}"), help)
    }

    pub(super) fn register<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: prometheus::Result<C>,
    ) -> prometheus::Result<C> {
        let metric = metric?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(Self::opts(name, help), labels))
    }

    pub(super) fn ratios(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.register(GaugeVec::new(Self::opts(name, help), labels))
    }

    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(Self::opts(name, help), labels))
    }

    pub(super) fn times(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        let opts = HistogramOpts::new(format!("rna_backup_{name}"), help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(opts, labels))
    }
}
