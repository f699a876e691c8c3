//! When signals were told to be lost, and how many.

use std::collections::VecDeque;

use crate::signal::Nanos;

/// Losses may be told in quick succession; what finds no room here counts as told a little later.
const CAP: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Losses {
    /// In order of time.
    told: VecDeque<(Nanos, u64)>,
}

impl Losses {
    pub(super) fn told(&mut self, at: Nanos, count: u64) {
        let place = self.told.partition_point(|(t, _)| *t <= at);
        self.told.insert(place, (at, count));
        if self.told.len() > CAP
            && let Some((_, oldest)) = self.told.pop_front()
            && let Some((_, next)) = self.told.front_mut()
        {
            // Rather too late than forgotten.
            *next += oldest;
        }
    }

    pub(super) fn since(&self, at: Nanos) -> u64 {
        self.told
            .iter()
            .rev()
            .take_while(|(told, _)| *told >= at)
            .map(|(_, count)| count)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_count_from_a_moment_on_and_none_is_forgotten() {
        let mut losses = Losses::default();
        for at in (1..=1000).rev() {
            losses.told(at, 2);
        }
        assert_eq!(losses.since(991), 20);
        assert_eq!(losses.since(1001), 0);
        assert_eq!(losses.since(0), 2000);
    }
}
