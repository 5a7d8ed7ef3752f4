//! Declarations of metrics: name, labels, help text and the series at 0 of each stand in one place.

use prometheus::core::Collector;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    Result,
};

/// Declares the struct `Metrics`, with a field for each metric.
///
/// The comment on a metric is its help text, and its name gets the prefix `rna_backup_`. After `zero` come the values
/// of each label: all series of these values exist from the start, at 0.
macro_rules! metrics {
    ($(
        #[doc = $help:literal]
        $field:ident: $kind:ident = $name:literal [$($label:literal),*]
        $(buckets $buckets:ident)?
        $(zero [$($values:expr),*])?;
    )*) => {
        /// The metrics of the process. Clones share the same metrics.
        #[derive(Debug, Clone)]
        pub struct Metrics {
            registry: Registry,
            last_looks: LastLooks,
            $(#[doc = $help] $field: $kind,)*
        }

        impl Metrics {
            /// Creates all metrics, in a registry.
            fn registered(registry: Registry) -> prometheus::Result<Self> {
                let metrics = Self {
                    $($field: register(&registry, $name, $help, &[$($label),*], &[$(&$buckets)?])?,)*
                    last_looks: LastLooks::default(),
                    registry,
                };
                $($(for values in combinations(&[$($values),*]) {
                    metrics.$field.with_label_values(&values);
                })?)*
                Ok(metrics)
            }
        }
    };
}
pub(super) use metrics;

/// A kind of metric.
pub(super) trait Metric: Collector + Clone + 'static {
    /// Creates a metric. Buckets are for histograms alone, and labels for kinds of several series.
    fn create(opts: Opts, labels: &[&str], buckets: &[&[f64]]) -> Result<Self>;
}

/// Implements [`Metric`] for a kind.
macro_rules! kind {
    ($kind:ident, |$opts:ident, $labels:ident, $buckets:ident| $create:expr) => {
        impl Metric for $kind {
            fn create($opts: Opts, $labels: &[&str], $buckets: &[&[f64]]) -> Result<Self> {
                $create
            }
        }
    };
}

kind!(IntCounter, |opts, _labels, _buckets| Self::with_opts(opts));
kind!(IntGauge, |opts, _labels, _buckets| Self::with_opts(opts));
kind!(IntCounterVec, |opts, labels, _buckets| Self::new(opts, labels));
kind!(IntGaugeVec, |opts, labels, _buckets| Self::new(opts, labels));
kind!(GaugeVec, |opts, labels, _buckets| Self::new(opts, labels));
kind!(HistogramVec, |opts, labels, buckets| {
    Self::new(HistogramOpts::from(opts).buckets(buckets.concat()), labels)
});

/// Creates a metric, and registers it.
pub(super) fn register<M: Metric>(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[&[f64]],
) -> Result<M> {
    let opts = Opts::new(format!("rna_backup_{name}"), help.trim());
    let metric = M::create(opts, labels, buckets)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// Returns each combination of one value of each label.
pub(super) fn combinations(labels: &[Vec<&'static str>]) -> Vec<Vec<&'static str>> {
    let mut all = vec![Vec::new()];
    for values in labels {
        let begun = |head: &Vec<&'static str>| {
            values.iter().map(|value| [head.as_slice(), &[*value]].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(begun).collect();
    }
    all
}
