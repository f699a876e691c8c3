//! Which listeners' queues are told each second: those that are not empty, and once more when they are.

use std::collections::{HashMap, HashSet};

use super::super::listeners::Listeners;
use crate::signal::{Address, Listener};

#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Told last with somebody waiting, by their sockets' identity.
    busy: HashSet<u64>,
}

impl Queues {
    /// Whether a reading is worth its price: somebody was seen waiting since the last one, or had been.
    pub(super) fn wanted(&self, peaks: &HashMap<u64, u32>) -> bool {
        !peaks.is_empty() || !self.busy.is_empty()
    }

    /// What to tell of a fresh reading. `peaks`: the longest queue that a connect met, by listener. Of
    /// those that share an address the one with the longest queue.
    pub(super) fn due(
        &mut self,
        listeners: &Listeners,
        peaks: &HashMap<u64, u32>,
    ) -> Vec<Listener> {
        let known = listeners.iter().filter_map(|known| {
            let cookie = known.socket.cookie;
            let peak = peaks.get(&cookie).copied();
            let peak = peak.or(self.busy.contains(&cookie).then_some(0))?;
            Some((cookie, known.seen(known.address.clone(), peak, false)))
        });
        let mut busy = HashSet::new();
        let mut told: HashMap<(Address, u32), Listener> = HashMap::new();
        for (cookie, listener) in known {
            if listener.peak > 0 {
                busy.insert(cookie);
            }
            let key = (listener.address.clone(), listener.netns);
            let longest = told
                .get(&key)
                .is_none_or(|other| (listener.peak, listener.length) > (other.peak, other.length));
            if longest {
                told.insert(key, listener);
            }
        }
        self.busy = busy;
        told.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::Socket;
    use zerocopy::FromZeros as _;

    use super::*;

    fn listening(queues: &[(u64, u32)]) -> Listeners {
        let mut listeners = Listeners::default();
        listeners.update(queues.iter().map(|queue| socket(*queue)).collect(), 0);
        listeners
    }

    /// At 127.0.0.1, on a port of its own for each ten.
    fn socket((cookie, length): (u64, u32)) -> (Socket, Vec<u32>) {
        let mut socket = Socket::new_zeroed();
        (socket.cookie, socket.queue_length, socket.queue_limit) = (cookie, length, 128);
        (socket.ends.family, socket.ends.netns) = (2, 7);
        socket.ends.local_port = 9000 + cookie as u16 / 10;
        socket.ends.local[..4].copy_from_slice(&[127, 0, 0, 1]);
        (socket, vec![std::process::id()])
    }

    fn told(queues: &mut Queues, now: &[(u64, u32)], peaks: &[(u64, u32)]) -> Vec<[u32; 3]> {
        let peaks = peaks.iter().copied().collect();
        if !queues.wanted(&peaks) {
            return Vec::new();
        }
        let told = queues.due(&listening(now), &peaks);
        told.iter().map(|l| [l.length, l.limit, l.peak]).collect()
    }

    #[test]
    fn a_queue_that_has_emptied_is_told_once_more() {
        let queues = &mut Queues::default();
        assert!(told(queues, &[(1, 0)], &[]).is_empty());
        assert_eq!(told(queues, &[(1, 90)], &[(1, 129)]), [[90, 128, 129]]);
        // Nobody connects any more; those who wait are still there.
        assert_eq!(told(queues, &[(1, 40)], &[]), [[40, 128, 40]]);
        assert_eq!(told(queues, &[(1, 0)], &[]), [[0, 128, 0]]);
        assert!(told(queues, &[(1, 0)], &[]).is_empty());
    }

    #[test]
    fn of_several_at_one_address_the_fullest_is_told() {
        let queues = &mut Queues::default();
        let peaks = [(11, 3), (12, 129), (21, 5)];
        let mut both = told(queues, &[(11, 3), (12, 128), (21, 0)], &peaks);
        both.sort_unstable();
        assert_eq!(both, [[0, 128, 5], [128, 128, 129]]);
    }
}
