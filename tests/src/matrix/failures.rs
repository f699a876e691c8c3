//! When a pair has enough failed responses. Pure.

use crate::ledger::Sent;

/// The most requests that are sent for one failure that is wanted: some are tried again with success.
const TRIES: usize = 3;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
