//! Reading numbers out of Prometheus's text format.

/// The sum of a metric's samples that have all these labels.
pub(crate) fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    samples(text, name)
        .filter(|(set, _)| {
            labels
                .iter()
                .all(|(label, value)| set.contains(&format!("{label}=\"{value}\"")))
        })
        .map(|(_, value)| value)
        // `sum` of nothing is -0, which looks odd in a table.
        .fold(0.0, |total, value| total + value)
}

/// The buckets of a histogram, summed over its series: upper edge and cumulative count.
pub(crate) fn buckets(text: &str, name: &str) -> Vec<(f64, f64)> {
    let mut all: Vec<(f64, f64)> = Vec::new();
    for (set, value) in samples(text, &format!("{name}_bucket")) {
        let edge = set
            .split("le=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        let Some(edge) = edge.and_then(|edge| edge.parse::<f64>().ok()) else {
            continue;
        };
        match all
            .iter_mut()
            .find(|(seen, _)| seen.total_cmp(&edge).is_eq())
        {
            Some((_, count)) => *count += value,
            None => all.push((edge, value)),
        }
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all
}

/// What came between two readings of a histogram.
pub(crate) fn increase(before: &[(f64, f64)], after: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let at = |edge: f64| {
        before
            .iter()
            .find(|(seen, _)| seen.total_cmp(&edge).is_eq())
            .map_or(0.0, |(_, n)| *n)
    };
    after
        .iter()
        .map(|&(edge, count)| (edge, count - at(edge)))
        .collect()
}

/// The upper edge of the bucket that holds this share of the observations: the quantile is at
/// most this. `None` where there is none.
pub(crate) fn at_most(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let total = buckets.last()?.1;
    let wanted = total * share;
    buckets
        .iter()
        .find(|(_, count)| total > 0.0 && *count >= wanted)
        .map(|(edge, _)| *edge)
}

fn samples<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (set, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            // Another metric whose name begins the same has no blank here.
            None => ("", rest.strip_prefix(' ')?),
        };
        Some((set, value.trim().parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE a counter\na{x=\"1\",y=\"p}q\"} 2\na{x=\"2\"} 3\nab 9\nb 4\n\
        d_bucket{le=\"0.1\"} 90\nd_bucket{le=\"1\"} 99\nd_bucket{le=\"+Inf\"} 100\n";

    #[test]
    fn samples_are_summed_by_name_and_label() {
        assert!((sum(TEXT, "a", &[]) - 5.0).abs() < 1e-9);
        assert!((sum(TEXT, "a", &[("x", "1")]) - 2.0).abs() < 1e-9);
        assert!((sum(TEXT, "b", &[]) - 4.0).abs() < 1e-9);
        assert!(sum(TEXT, "c", &[]).abs() < 1e-9);
    }

    #[test]
    fn a_quantile_is_at_most_its_buckets_edge() {
        let all = buckets(TEXT, "d");
        assert_eq!(at_most(&all, 0.5), Some(0.1));
        assert_eq!(at_most(&all, 0.99), Some(1.0));
        assert_eq!(at_most(&increase(&all, &all), 0.99), None);
        assert_eq!(at_most(&[], 0.99), None);
    }
}
