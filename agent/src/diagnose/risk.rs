//! The `risk` line's text: an upstream that closes idle connections before the proxy does.

use super::text;
use crate::track::host::ClosesEarly;

pub fn risk_text(risk: &ClosesEarly) -> String {
    let after = risk.closes_after_us;
    let reuse = match risk.longest_reuse_us {
        0 => String::new(),
        longest => format!(
            "; the longest idle time after which one was used again is {}",
            text::duration(longest * 1000)
        ),
    };
    format!(
        "The upstream closes idle connections after {} (5 % to 95 %: {} to {}, {} closes), before the \
         proxy does{reuse}. A request that meets such a close fails. Let the upstream keep idle \
         connections longer than the proxy.",
        text::duration(after.median * 1000),
        text::duration(after.p5 * 1000),
        text::duration(after.p95 * 1000),
        after.n,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Spread;

    #[test]
    fn a_reuse_that_never_was_is_not_told() {
        let text = |longest_reuse_us| {
            risk_text(&ClosesEarly {
                closes_after_us: Spread {
                    median: 2_000_000,
                    p5: 1_990_000,
                    p95: 2_010_000,
                    n: 20,
                },
                longest_reuse_us,
            })
        };
        assert!(text(1_500_000).contains("used again is 1.50 s. A request"));
        let never = text(0);
        assert!(
            never.contains("before the proxy does. A request"),
            "{never}"
        );
    }
}
