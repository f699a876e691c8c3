//! Which failed responses are a pair's own, and when it has enough of them. Pure.

use std::collections::BTreeMap;

use super::beside;
use super::pairs::Pair;
use crate::expect::{Expect, Kind};
use crate::ledger::Sent;

/// The most requests that are sent for one failure that is wanted: some are tried again with success.
const TRIES: usize = 3;

/// Whether it failed of the pair's own fault.
pub(super) fn is_own((sent, truth): &(Sent, Expect)) -> bool {
    sent.failed() && truth.kind == Kind::Verdict && truth.cell != beside::CELL
}

/// How many more requests to send after these until so many have failed. Where none does, no more are
/// tried than are wanted: most pairs of which that is true never fail, and some take seconds for it.
pub(super) fn missing(sent: &[Sent], wanted: usize) -> usize {
    let failed = sent.iter().filter(|sent| sent.failed()).count();
    let most = match failed {
        0 => wanted,
        _ => TRIES * wanted,
    };
    let left = most.saturating_sub(sent.len());
    wanted.saturating_sub(failed).min(left)
}

/// How often each pair, by proxy and cause, has failed in a run so far.
#[derive(Default)]
pub(super) struct Failures(BTreeMap<(&'static str, &'static str), usize>);

impl Failures {
    pub(super) fn count(&mut self, pair: &Pair, entries: &[(Sent, Expect)]) {
        let own = entries.iter().filter(|entry| is_own(entry)).count();
        *self
            .0
            .entry((pair.proxy.name, pair.cause.name))
            .or_default() += own;
    }

    /// Those of these pairs that have failed fewer than `wanted` times.
    pub(super) fn few(&self, mut pairs: Vec<Pair>, wanted: usize) -> Vec<Pair> {
        let failed = |pair: &Pair| self.0.get(&(pair.proxy.name, pair.cause.name));
        pairs.retain(|pair| failed(pair).is_none_or(|failed| *failed < wanted));
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::super::{causes, proxies};
    use super::*;
    use crate::expect::HEALTHY;

    fn sent(failed: usize, well: usize) -> Vec<Sent> {
        let status = |status| Sent {
            status,
            ..Sent::default()
        };
        let failed = std::iter::repeat_n(status(Some(502)), failed);
        failed
            .chain(std::iter::repeat_n(status(None), well))
            .collect()
    }

    #[test]
    fn it_goes_on_until_enough_have_failed_or_too_many_did_not() {
        assert_eq!(missing(&[], 6), 6);
        assert_eq!(missing(&sent(2, 0), 6), 4);
        assert_eq!(missing(&sent(6, 0), 6), 0);
        // What was saved is made up for.
        assert_eq!(missing(&sent(2, 4), 6), 4);
        assert_eq!(missing(&sent(5, 12), 6), 1);
        assert_eq!(missing(&sent(2, 15), 6), 1);
        assert_eq!(missing(&sent(2, 16), 6), 0);
        // What never fails costs no more than what always does.
        assert_eq!(missing(&sent(0, 5), 6), 1);
        assert_eq!(missing(&sent(0, 6), 6), 0);
        assert_eq!(missing(&[], 0), 0);
    }

    #[test]
    fn a_pair_is_over_once_it_has_failed_often_enough_of_its_own_fault() {
        let pair = |cause| Pair {
            number: 0,
            proxy: &proxies::ALL[0],
            cause: &causes::ALL[cause],
            upstream: None,
            repetition: 0,
        };
        let still = |failures: &Failures, wanted| {
            let few = failures.few(vec![pair(0), pair(1)], wanted).into_iter();
            few.map(|pair| pair.cause.name).collect::<Vec<_>>()
        };
        let (first, second) = (causes::ALL[0].name, causes::ALL[1].name);
        let own = || Expect::verdict("c", &[502], "c");
        let beside = Expect::verdict(beside::CELL, &[502], "d");
        let apart = Expect::apart("raced", &[]);
        let mut entries: Vec<(Sent, Expect)> =
            sent(2, 1).into_iter().map(|sent| (sent, own())).collect();
        for other in [beside, apart, HEALTHY] {
            entries.extend(sent(1, 0).into_iter().map(|sent| (sent, other.clone())));
        }
        let mut failures = Failures::default();
        assert_eq!(still(&failures, 1), [first, second]);
        failures.count(&pair(0), &entries);
        assert_eq!(still(&failures, 2), [second]);
        assert_eq!(still(&failures, 3), [first, second]);
        failures.count(&pair(0), &entries);
        assert_eq!(still(&failures, 4), [second]);
        assert_eq!(still(&failures, 5), [first, second]);
    }
}
