//! All requests that may still matter: kept until they are answered and a while after, and found by
//! content.

use std::collections::VecDeque;

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::signal::Nanos;

use super::arena::Arena;
use super::exchange::Exchange;
use super::prefetch::{self, prefetch};

/// An answered request is compared with its other side for so long; a failed one for longer.
const KEPT: Nanos = 1_000_000_000;
const KEPT_FAILED: Nanos = 30_000_000_000;
/// Answered ones kept at most.
const RING: usize = 8192;
/// Forgotten together.
const AT_ONCE: usize = 32;

fn tag(content: u64) -> u32 {
    (content >> 16) as u32
}

/// Some exchanges. Equal requests are few, nearly always: none of this needs an allocation.
pub(super) type Ids = SmallVec<[u32; 8]>;

/// Part of the content beside the exchange's number: others are nearly never looked at in vain.
#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    id: u32,
}

/// All exchanges that may still matter.
#[derive(Default)]
pub(super) struct Exchanges {
    all: Arena<Exchange, 16384>,
    /// Those with a content, by it.
    by_content: HashTable<Slot>,
    /// Answered ones, by the time at which they may go.
    recent: VecDeque<(Nanos, u32)>,
    recent_failed: VecDeque<(Nanos, u32)>,
}

impl Exchanges {
    pub(super) fn live(&self) -> usize {
        self.all.in_use()
    }

    pub(super) fn at(&self, id: u32) -> &Exchange {
        self.all.at(id)
    }

    pub(super) fn at_mut(&mut self, id: u32) -> &mut Exchange {
        self.all.at_mut(id)
    }

    /// A new one, its buffers those of one that is gone.
    pub(super) fn begin(&mut self, flow: u32, flow_id: u64, at: Nanos) -> u32 {
        let id = self.all.take();
        self.all.at_mut(id).begin(flow, flow_id, at);
        id
    }

    /// Asks for so many entries that will be taken next, and for half as many of the heads that they
    /// will be given: those entries were asked for before.
    pub(super) fn prefetch_next(&self, count: usize) {
        self.all.next(count).for_each(prefetch);
        for Exchange { head, .. } in self.all.next(count / 2) {
            prefetch::bytes(head.as_ptr(), head.capacity());
        }
    }

    #[inline]
    pub(super) fn prefetch(&self, id: u32) {
        prefetch(self.at(id));
    }

    /// Enters it under its content; says whether there are others.
    pub(super) fn index(&mut self, id: u32) -> bool {
        let content = self.at(id).content;
        if content == 0 {
            return false;
        }
        // Looked for first: what was just written would be waited for.
        let alike = self
            .by_content
            .find(content, |slot| self.holds(slot, content))
            .is_some();
        let tag = tag(content);
        let all = &self.all;
        self.by_content
            .insert_unique(content, Slot { tag, id }, |slot| all.at(slot.id).content);
        alike
    }

    fn holds(&self, slot: &Slot, content: u64) -> bool {
        slot.tag == tag(content) && self.at(slot.id).content == content
    }

    /// All with this content, in no order.
    pub(super) fn any_alike(&self, content: u64) -> impl Iterator<Item = u32> + '_ {
        self.by_content
            .iter_hash(content)
            .filter(move |slot| self.holds(slot, content))
            .map(|slot| slot.id)
    }

    /// All with this content, in the order of their times.
    pub(super) fn alike(&self, content: u64) -> Ids {
        let mut ids: Ids = self.any_alike(content).collect();
        ids.sort_unstable_by_key(|id| self.time(*id));
        ids
    }

    /// Those of them that had begun by then, the latest ones if they are more than so many. Of thousands
    /// alike only these are put in order.
    pub(super) fn alike_by(&self, content: u64, at: Nanos, most: usize) -> Ids {
        let begun = |id: &u32| self.at(*id).at <= at;
        let mut ids: Ids = self.any_alike(content).filter(begun).collect();
        if ids.len() > most {
            let older = ids.len() - most;
            ids.select_nth_unstable_by_key(older, |id| self.time(*id));
            ids.drain(..older);
        }
        ids.sort_unstable_by_key(|id| self.time(*id));
        ids
    }

    fn time(&self, id: u32) -> (Nanos, u32) {
        (self.at(id).at, id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.all.used()).filter(|id| self.at(*id).is(Exchange::USED))
    }

    /// Its response is whole: it is kept for a while, in case its other side asks for it.
    pub(super) fn answered(&mut self, id: u32, now: Nanos) {
        let exchange = self.at_mut(id);
        exchange.set(Exchange::DONE | Exchange::KEPT);
        if exchange.status >= 500 {
            self.recent_failed.push_back((now + KEPT_FAILED, id));
        } else {
            self.recent.push_back((now + KEPT, id));
        }
    }

    /// Forgets those whose time is over.
    pub(super) fn expire(&mut self, now: Nanos) {
        for failed in [false, true] {
            while self.fetch_over(failed, now) {
                for _ in 0..AT_ONCE {
                    let ring = self.ring(failed);
                    let crowded = ring.len() > RING;
                    match ring.front() {
                        Some(&(at, id)) if crowded || at <= now => {
                            ring.pop_front();
                            self.at_mut(id).clear(Exchange::KEPT);
                            self.release(id);
                        }
                        _ => break,
                    }
                }
            }
        }
    }

    fn ring(&mut self, failed: bool) -> &mut VecDeque<(Nanos, u32)> {
        match failed {
            true => &mut self.recent_failed,
            false => &mut self.recent,
        }
    }

    /// Those of a ring that will be forgotten next come from memory together; false when there are
    /// none.
    fn fetch_over(&self, failed: bool, now: Nanos) -> bool {
        let ring = match failed {
            true => &self.recent_failed,
            false => &self.recent,
        };
        let crowded = ring.len() > RING;
        let over = || {
            let over = ring.iter().take_while(|(at, _)| crowded || *at <= now);
            over.take(AT_ONCE).map(|(_, id)| *id)
        };
        let sum = over().fold(0, |sum, id| sum ^ self.at(id).fetch());
        let slot = |id: u32| self.by_content.find(self.at(id).content, |s| s.id == id);
        let sum = over().fold(sum, |sum, id| sum ^ slot(id).map_or(0, |slot| slot.tag));
        std::hint::black_box(sum);
        over().next().is_some()
    }

    /// Frees it, unless something still needs it.
    pub(super) fn release(&mut self, id: u32) {
        let exchange = self.at(id);
        let needed = Exchange::QUEUED | Exchange::KEPT | Exchange::AWAITED;
        if exchange.bits & needed != 0
            || !exchange.is(Exchange::DONE)
            || !exchange.is(Exchange::USED)
        {
            return;
        }
        let content = exchange.content;
        if content != 0
            && let Ok(entry) = self.by_content.find_entry(content, |slot| slot.id == id)
        {
            entry.remove();
        }
        let exchange = self.at_mut(id);
        exchange.bits = 0;
        exchange.ended = None;
        exchange.content = 0;
        self.all.give_back(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_alike_the_latest_are_given_in_order() {
        let mut all = Exchanges::default();
        // In an order that is neither that of their times nor of their numbers.
        for i in 0..1000_u64 {
            let id = all.begin(0, 1, i * 7 % 1000 / 2);
            all.at_mut(id).content = 5;
            all.index(id);
        }
        let alike = all.alike(5);
        assert_eq!(alike.len(), 1000);
        assert!(
            alike
                .windows(2)
                .all(|two| all.time(two[0]) < all.time(two[1]))
        );
        for (at, most) in [(499, 128), (200, 128), (200, 1), (30, 128), (200, 2000)] {
            let begun = alike.partition_point(|id| all.at(*id).at <= at);
            let latest = &alike[begun.saturating_sub(most)..begun];
            assert_eq!(&all.alike_by(5, at, most)[..], latest, "{at} {most}");
        }
        assert!(all.alike(0).is_empty() && all.alike_by(7, 499, 128).is_empty());
    }
}
