//! The `risk` line's text: an upstream that closes idle connections before the proxy does.

use super::text;
use crate::track::host::ClosesEarly;

pub fn risk_text(risk: &ClosesEarly) -> String {
    let after = risk.closes_after_us;
    format!(
        "The upstream closes idle connections after {} (5 % to 95 %: {} to {}, {} closes), before the \
         proxy does; the longest idle time after which one was used again is {}. A request that \
         meets such a close fails. Let the upstream keep idle connections longer than the proxy.",
        text::duration(after.median * 1000),
        text::duration(after.p5 * 1000),
        text::duration(after.p95 * 1000),
        after.n,
        text::duration(risk.longest_reuse_us * 1000),
    )
}
