//! Pictures of counts over time, as SVG that needs no script: stacked bars, and a row's own bars.

use maud::{Markup, html};

use super::words::{clock_time, grouped};

/// The chart's own units; it is as wide as the page.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 46.0;
const TOP: f64 = 12.0;
const BASE: f64 = 160.0;
/// A bar is never wider: three bars across the page say nothing.
const WIDEST: f64 = 44.0;

/// What stands for a cause where colours cannot be told apart; the last is for all others.
pub(super) const MARKS: &[&str] = &["●", "■", "▲", "◆", "▼", "✚", "★", "○"];

/// One part of every bar.
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) rank: usize,
    pub(super) counts: Vec<u64>,
}

/// Bars of all series on top of each other; `starts_ms` is when each bucket begins.
pub(super) fn stacked(series: &[Series], starts_ms: &[i64]) -> Markup {
    let totals: Vec<u64> = (0..starts_ms.len())
        .map(|i| series.iter().map(|s| s.counts[i]).sum())
        .collect();
    let top = nice(totals.iter().copied().max().unwrap_or(0));
    let room = (WIDTH - LEFT - 6.0) / starts_ms.len().max(1) as f64;
    let width = (room - 2.0).clamp(2.0, WIDEST);
    let y = |count: u64| BASE - (BASE - TOP) * count as f64 / top as f64;
    let every = starts_ms.len().div_ceil(6).max(1);
    html! {
        svg class="chart" viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img"
            aria-label="Failed responses over time by cause; the same as a table below" {
            @for count in grid(top) {
                line class="grid" x1=(LEFT) x2=(WIDTH - 4.0) y1=(px(y(count))) y2=(px(y(count))) {}
                text class="tick" x=(LEFT - 8.0) y=(px(y(count) + 4.0)) text-anchor="end" { (grouped(count)) }
            }
            @for (i, start) in starts_ms.iter().enumerate() {
                @let x = LEFT + room * i as f64 + (room - width) / 2.0;
                @for (below, one) in stack(series, i) {
                    @let (low, high) = (y(below), y(below + one.counts[i]));
                    rect class=(rank_class(one.rank)) x=(px(x)) width=(px(width)) y=(px(high))
                        height=(px((low - high - 0.8).max(0.8))) {
                        title { (clock_time(*start)) ": " (one.counts[i]) " × " (one.name) }
                    }
                }
                @if i % every == 0 {
                    text class="tick" x=(px(x + width / 2.0)) y=(BASE + 18.0) text-anchor="middle" {
                        (clock_time(*start))
                    }
                }
            }
        }
    }
}

/// The series that a bar is made of, each with the sum of those below it.
fn stack(series: &[Series], bucket: usize) -> Vec<(u64, &Series)> {
    let mut below = 0;
    let mut parts = Vec::new();
    for one in series.iter().filter(|s| s.counts[bucket] > 0) {
        parts.push((below, one));
        below += one.counts[bucket];
    }
    parts
}

/// A row's counts as small bars of its cause's colour.
pub(super) fn spark(counts: &[u64], rank: usize) -> Markup {
    let most = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let room = 120.0 / counts.len().max(1) as f64;
    let width = (room - 0.6).clamp(0.8, 9.0);
    html! {
        svg class=(format!("spark {}", rank_class(rank))) viewBox="0 0 120 24" aria-hidden="true" {
            line class="grid" x1="0" x2="120" y1="23.5" y2="23.5" {}
            @for (i, count) in counts.iter().enumerate() {
                @if *count > 0 {
                    @let height = (22.0 * *count as f64 / most).max(2.0);
                    rect class=(rank_class(rank)) x=(px(room * i as f64)) y=(px(23.0 - height))
                        width=(px(width)) height=(px(height)) {}
                }
            }
        }
    }
}

/// What stands for a cause beside its colour.
pub(super) fn mark(rank: usize) -> Markup {
    let class = format!("mark {}", rank_class(rank));
    html! { span class=(class) aria-hidden="true" { (MARKS[rank.min(MARKS.len() - 1)]) } }
}

fn rank_class(rank: usize) -> String {
    format!("c{}", rank.min(MARKS.len() - 1))
}

/// The next number that reads well on an axis.
fn nice(most: u64) -> u64 {
    let mut power = 1;
    loop {
        for step in [1, 2, 3, 4, 6, 8] {
            if step * power >= most.max(2) {
                return step * power;
            }
        }
        power *= 10;
    }
}

fn grid(top: u64) -> Vec<u64> {
    match top % 2 {
        0 => vec![0, top / 2, top],
        _ => vec![0, top],
    }
}

fn px(value: f64) -> String {
    format!("{value:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_on_each_other_and_none_is_lost() {
        let series = [
            Series {
                name: "a",
                rank: 0,
                counts: vec![3, 0, 1],
            },
            Series {
                name: "b",
                rank: 1,
                counts: vec![1, 0, 0],
            },
        ];
        let svg = stacked(&series, &[0, 1_000, 2_000]).into_string();
        assert_eq!(svg.matches("<rect").count(), 3);
        assert!(svg.contains("3 × a") && svg.contains("1 × b"), "{svg}");
        assert_eq!(
            spark(&[0, 2, 5], 1).into_string().matches("<rect").count(),
            2
        );
    }

    #[test]
    fn axes_end_at_numbers_that_read_well() {
        for (most, top) in [
            (0, 2),
            (1, 2),
            (3, 3),
            (5, 6),
            (23, 30),
            (9, 10),
            (41, 60),
            (999, 1_000),
        ] {
            assert_eq!(nice(most), top);
        }
    }
}
