//! The metrics as OTLP has them: the same names, labels and values as in Prometheus' format.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus::proto::{self, MetricFamily, MetricType};

use super::record::text;

/// Nanoseconds since 1970: since when counters count, and until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) from: u64,
    pub(super) to: u64,
}

pub(super) fn request(
    families: &[MetricFamily],
    span: Span,
    resource: Resource,
    scope: InstrumentationScope,
) -> ExportMetricsServiceRequest {
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope),
                metrics: families.iter().map(|f| metric(f, span)).collect(),
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    }
}

fn metric(family: &MetricFamily, span: Span) -> Metric {
    let metrics = family.get_metric().iter();
    let temporality = AggregationTemporality::Cumulative.into();
    let data = match family.get_field_type() {
        MetricType::COUNTER => Data::Sum(Sum {
            data_points: metrics
                .map(|one| number(one, one.get_counter().get_value(), span))
                .collect(),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        MetricType::HISTOGRAM => Data::Histogram(Histogram {
            data_points: metrics.map(|one| histogram(one, span)).collect(),
            aggregation_temporality: temporality,
        }),
        _ => Data::Gauge(Gauge {
            data_points: metrics
                .map(|one| number(one, one.get_gauge().get_value(), span))
                .collect(),
        }),
    };
    Metric {
        name: family.name().to_owned(),
        description: family.help().to_owned(),
        unit: unit(family.name()).to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// As the name says it; who turns OTLP into Prometheus' format again adds no second suffix then.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name {
        _ if name.ends_with("_seconds") => "s",
        _ if name.ends_with("_bytes") => "By",
        _ => "",
    }
}

fn attributes(metric: &proto::Metric) -> Vec<KeyValue> {
    let labels = metric.get_label().iter();
    labels.map(|l| text(l.name(), l.value())).collect()
}

fn number(metric: &proto::Metric, value: f64, span: Span) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(metric),
        start_time_unix_nano: span.from,
        time_unix_nano: span.to,
        value: Some(Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

/// Prometheus' buckets count what is in those below as well, OTLP's do not, and have one above all.
fn histogram(metric: &proto::Metric, span: Span) -> HistogramDataPoint {
    let histogram = metric.get_histogram();
    let count = histogram.get_sample_count();
    let mut below = 0;
    let mut counts = Vec::new();
    let mut bounds = Vec::new();
    for bucket in histogram.get_bucket() {
        counts.push(bucket.cumulative_count() - below);
        bounds.push(bucket.upper_bound());
        below = bucket.cumulative_count();
    }
    counts.push(count - below);
    HistogramDataPoint {
        attributes: attributes(metric),
        start_time_unix_nano: span.from,
        time_unix_nano: span.to,
        count,
        sum: Some(histogram.get_sample_sum()),
        bucket_counts: counts,
        explicit_bounds: bounds,
        ..HistogramDataPoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::metrics::Metrics;
    use crate::sinks::sample;

    #[test]
    fn a_metric_is_the_same_as_in_prometheus_format() {
        let metrics = Metrics::new();
        metrics.on_verdict(&sample::verdict());
        let span = Span { from: 1, to: 9 };
        let sent = request(
            &metrics.export(),
            span,
            Resource::default(),
            InstrumentationScope::default(),
        );
        let sent = &sent.resource_metrics[0].scope_metrics[0].metrics;
        let of = |name: &str| {
            let found = sent.iter().find(|metric| metric.name == name).unwrap();
            (found.data.clone().unwrap(), found.unit.clone())
        };
        let (Data::Sum(failed), _) = of("why502_failed_responses_total") else {
            panic!("no counter")
        };
        assert!(failed.is_monotonic);
        let counted: Vec<_> = failed
            .data_points
            .iter()
            .filter(|point| point.value == Some(Value::AsDouble(1.0)))
            .collect();
        let [point] = counted[..] else {
            panic!("{counted:?}")
        };
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 9));
        let labels =
            ["proxy", "status", "cause"]
                .into_iter()
                .zip(["nginx", "502", "keepalive_race"]);
        for label in labels.map(|(name, value)| text(name, value)) {
            assert!(point.attributes.contains(&label), "{:?}", point.attributes);
        }
        let (Data::Histogram(delay), unit) = of("why502_verdict_delay_seconds") else {
            panic!("no histogram")
        };
        let delay = &delay.data_points[0];
        assert_eq!(
            (unit.as_str(), delay.count, delay.sum),
            ("s", 1, Some(0.04))
        );
        assert_eq!(delay.bucket_counts.len(), delay.explicit_bounds.len() + 1);
        // 40 ms, between 25 and 50.
        let at = delay.bucket_counts.iter().position(|count| *count == 1);
        assert_eq!(delay.explicit_bounds[at.unwrap()], 0.05);
        assert_eq!(delay.bucket_counts.iter().sum::<u64>(), 1);
        assert!(matches!(of("why502_build_info").0, Data::Gauge(_)));
        assert_eq!(of("process_cpu_seconds_total").1, "s");
        assert_eq!(of("process_resident_memory_bytes").1, "By");
    }

    #[test]
    fn what_is_sent_here_takes_nothing_from_a_scrape() {
        let metrics = Metrics::new();
        let _ = metrics.render("");
        metrics.on_verdict(&sample::verdict());
        let _ = metrics.export();
        // A new series still shows 0 for one scrape first.
        let series = "why502_upstream_failed_responses_total{proxy=\"nginx\",upstream=\"10.9.0.2:9000\",cause=\"keepalive_race\"}";
        for expected in ["0", "1"] {
            let text = metrics.render("");
            assert!(text.contains(&format!("{series} {expected}\n")), "{text}");
        }
    }
}
