//! Interleaved pairs: the same load with and without the agent, and what that says about both.

/// A ratio with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) middle: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// The geometric mean of with/without, each pair being one observation: what drifts over minutes
/// is the same for both halves of a pair. Student's t, on the logarithms.
pub(crate) fn ratio(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Ratio> {
    let logs: Vec<f64> = pairs
        .into_iter()
        .filter(|(with, without)| *with > 0.0 && *without > 0.0)
        .map(|(with, without)| (with / without).ln())
        .collect();
    let count = u32::try_from(logs.len()).ok().filter(|count| *count >= 2)?;
    let mean = logs.iter().sum::<f64>() / f64::from(count);
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / f64::from(count - 1);
    let half = t95(count - 1) * (variance / f64::from(count)).sqrt();
    Some(Ratio {
        middle: mean.exp(),
        low: (mean - half).exp(),
        high: (mean + half).exp(),
    })
}

/// The 97.5th percentile of Student's t.
fn t95(degrees: u32) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    let index = degrees.saturating_sub(1) as usize;
    // Beyond the table, its largest entry is a little too wide, which is the safe side.
    TABLE.get(index).copied().unwrap_or(TABLE[TABLE.len() - 1])
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_pairs_leave_no_doubt() {
        let ratio = ratio([(98.0, 100.0), (49.0, 50.0), (196.0, 200.0)]).unwrap();
        for value in [ratio.middle, ratio.low, ratio.high] {
            assert!((value - 0.98).abs() < 1e-9, "{ratio:?}");
        }
    }

    #[test]
    fn the_interval_is_students() {
        // Logarithms -0.1 and 0.1: mean 0, standard error 0.1, one degree of freedom.
        let ratio = ratio([((-0.1f64).exp(), 1.0), (0.1f64.exp(), 1.0)]).unwrap();
        assert!((ratio.middle - 1.0).abs() < 1e-9);
        assert!((ratio.high.ln() - 1.2706).abs() < 1e-9, "{ratio:?}");
    }

    #[test]
    fn one_pair_says_nothing() {
        assert_eq!(ratio([(1.0, 1.0)]), None);
        assert_eq!(ratio([]), None);
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
