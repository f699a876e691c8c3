//! Metric families as the `prometheus` crate's encoder takes them; the one place to know its model.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::series::Buckets;

/// The values of no labels.
pub(super) const NONE: [String; 0] = [];

pub(super) fn counters<L: AsRef<[String]>>(
    name: &str,
    help: &str,
    labels: &[&str],
    values: impl IntoIterator<Item = (L, f64)>,
) -> MetricFamily {
    let metrics = values.into_iter().map(|(label_values, value)| {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = metric(labels, label_values.as_ref());
        metric.set_counter(counter);
        metric
    });
    family(name, help, MetricType::COUNTER, metrics)
}

pub(super) fn gauges<L: AsRef<[String]>>(
    name: &str,
    help: &str,
    labels: &[&str],
    values: impl IntoIterator<Item = (L, f64)>,
) -> MetricFamily {
    let metrics = values.into_iter().map(|(label_values, value)| {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = metric(labels, label_values.as_ref());
        metric.set_gauge(gauge);
        metric
    });
    family(name, help, MetricType::GAUGE, metrics)
}

/// A counter without labels.
pub(super) fn counter(name: &str, help: &str, value: f64) -> MetricFamily {
    counters(name, help, &[], [(NONE, value)])
}

/// One gauge with fixed labels.
pub(super) fn gauge(name: &str, help: &str, labels: &[(&str, &str)], value: f64) -> MetricFamily {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let (names, values): (Vec<&str>, Vec<String>) = labels
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
        .unzip();
    let mut metric = metric(&names, &values);
    metric.set_gauge(gauge);
    family(name, help, MetricType::GAUGE, [metric])
}

pub(super) fn histogram<'a, L: AsRef<[String]>>(
    name: &str,
    help: &str,
    labels: &[&str],
    values: impl IntoIterator<Item = (L, &'a Buckets)>,
) -> MetricFamily {
    let metrics = values.into_iter().map(|(label_values, buckets)| {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(buckets.count());
        histogram.set_sample_sum(buckets.sum());
        histogram.set_bucket(
            buckets
                .cumulative()
                .map(|(edge, count)| {
                    let mut bucket = Bucket::default();
                    bucket.set_upper_bound(edge);
                    bucket.set_cumulative_count(count);
                    bucket
                })
                .collect(),
        );
        let mut metric = metric(labels, label_values.as_ref());
        metric.set_histogram(histogram);
        metric
    });
    family(name, help, MetricType::HISTOGRAM, metrics)
}

fn metric(names: &[&str], values: &[String]) -> Metric {
    debug_assert_eq!(names.len(), values.len());
    // To Prometheus a label without a value is none.
    let labels = names
        .iter()
        .zip(values)
        .filter(|(_, value)| !value.is_empty());
    let pairs = labels.map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.clone());
        pair
    });
    Metric::from_label(pairs.collect())
}

fn family(
    name: &str,
    help: &str,
    kind: MetricType,
    metrics: impl IntoIterator<Item = Metric>,
) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics.into_iter().collect());
    family
}
