//! Attempts for another path than the client's: ties them where a proxy cuts a prefix off, or puts
//! one before it (`proxy_pass http://upstream/;`).
//!
//! Content does not tell, so this is for failed responses that nothing else is tied to. The attempt
//! lies within the request's time and fails with it, its method is the same, and one target ends
//! with the other from a `/` on. Where that fits another request or attempt as well, neither is
//! taken, and what is taken is never firm: the verdict is `likely` at most.

use crate::signal::Nanos;

use super::exchange::Exchange;
use super::ties::Tie;
use super::{AT_ONCE, LOOKED_THROUGH, Packets, SKEW, TRIED};

impl Packets {
    /// The attempts behind a failed response, in order, if they were made for a rewritten path.
    pub(super) fn rewritten_of(&self, id: u32) -> Vec<Tie> {
        let exchange = self.exchanges.at(id);
        let (Some(over), false) = (exchange.over_at(), self.is_crowded()) else {
            return Vec::new();
        };
        if exchange.status < 500 || exchange.content == 0 {
            return Vec::new();
        }
        let fits = |u: &u32| self.may_be_rewritten(*u, id);
        let mut own: Vec<u32> = self.exchanges.ids().filter(fits).collect();
        own.sort_unstable_by_key(|u| (self.exchanges.at(*u).at, *u));
        let ended = |u: u32| self.exchanges.at(u).over_at().unwrap_or(Nanos::MAX);
        // A proxy makes one after the other, and answers when the last has failed.
        let in_turn = own
            .windows(2)
            .all(|w| ended(w[0]) <= self.exchanges.at(w[1]).at);
        let at_once = own
            .last()
            .is_some_and(|u| ended(*u).saturating_add(AT_ONCE) >= over);
        if !in_turn || !at_once || own.iter().any(|u| self.rewritten_for(*u) != Some(id)) {
            return Vec::new();
        }
        own.into_iter().map(|id| Tie { id, firm: false }).collect()
    }

    /// The only request that this failed attempt may have been made for.
    fn rewritten_for(&self, attempt: u32) -> Option<u32> {
        let fits = |d: &u32| self.may_be_rewritten(attempt, *d);
        let mut all = self.exchanges.ids().filter(fits);
        all.next().filter(|_| all.next().is_none())
    }

    /// Whether the response that this failed attempt may have led to is still to be looked at.
    pub(super) fn waits_for_rewritten(&self, attempt: u32) -> bool {
        let exchange = self.exchanges.at(attempt);
        let ended = exchange.ended.as_ref().map_or(0, |ended| ended.at);
        if exchange.content == 0 || self.now > ended + TRIED || self.is_crowded() {
            return false;
        }
        let to_come = |d: u32| {
            let downstream = self.exchanges.at(d);
            let open = downstream.over_at().is_none() || downstream.is(Exchange::QUEUED);
            open && !downstream.is(Exchange::JUDGED)
        };
        self.rewritten_for(attempt).is_some_and(to_come)
    }

    /// Whether this response may be what a proxy answered to a request for another path.
    pub(super) fn may_be_passed_on(&self, id: u32) -> bool {
        !self.is_crowded() && self.rewritten_for(id).is_some()
    }

    fn is_crowded(&self) -> bool {
        self.exchanges.live() > LOOKED_THROUGH
    }

    /// Whether a good response may be what an upstream answered to a request for another path.
    pub(super) fn is_answered_elsewhere(&self, id: u32) -> bool {
        let Some(over) = self.exchanges.at(id).over_at() else {
            return false;
        };
        let well = |u: &u32| {
            let tried = self.exchanges.at(*u);
            let well = tried.ended.is_none() && (1..500).contains(&tried.status);
            well && tried.answered_at <= over + SKEW
        };
        let mut answered = self.exchanges.ids().filter(well);
        self.is_crowded() || answered.any(|u| self.is_for_other_path(u, id))
    }

    /// By time, address, method and target, an attempt that failed may be this request's.
    fn may_be_rewritten(&self, attempt: u32, id: u32) -> bool {
        let (tried, asked) = (self.exchanges.at(attempt), self.exchanges.at(id));
        let answered = tried.ended.is_none() && tried.answered_at != 0;
        if answered && tried.status < 500 {
            return false;
        }
        let together = match (tried.over_at(), asked.over_at()) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(ended), Some(over)) if answered => ended <= over + SKEW,
            // What the proxy gives up it closes before or after it answers.
            (Some(ended), Some(over)) => ended <= over + AT_ONCE,
        };
        together && self.is_for_other_path(attempt, id)
    }

    /// By its beginning, addresses, method and target an attempt may be this request's.
    fn is_for_other_path(&self, attempt: u32, id: u32) -> bool {
        let (tried, asked) = (self.exchanges.at(attempt), self.exchanges.at(id));
        let comparable = |e: &Exchange| e.content != 0 && !e.is(Exchange::CUT | Exchange::BARE);
        if !comparable(tried) || !comparable(asked) || !self.in_time_of(attempt, id) {
            return false;
        }
        let (Some(to), Some(from)) = (self.flow_of(tried), self.flow_of(asked)) else {
            return false;
        };
        let (client, proxy) = (to.client_ip(), from.server_ip());
        // Whoever is asked on loopback may ask from any of the host's addresses.
        let outside = proxy.is_loopback() && !client.is_loopback();
        (self.hosts.same(client, proxy) || outside)
            && self.hosts.may_be_proxy(proxy)
            && same_end(tried.line(), asked.line())
            && !self.is_attempt(attempt)
    }
}

/// Whether two request lines have one method, and one target ends with the other from a `/` on, at
/// which more than that begins.
fn same_end(a: &[u8], b: &[u8]) -> bool {
    let (Some((method, a)), Some((other, b))) = (
        super::http::method_and_target(a),
        super::http::method_and_target(b),
    ) else {
        return false;
    };
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let names = matches!(short, [b'/', first, ..] if !b"/?".contains(first));
    method == other && names && long.len() > short.len() && long.ends_with(short)
}

#[cfg(test)]
mod tests {
    use super::same_end;

    #[test]
    fn a_prefix_may_be_cut_off_or_put_before() {
        for (a, b, same) in [
            ("GET /x/y?q=1 HTTP/1.1", "GET /api/x/y?q=1 HTTP/1.1", true),
            ("GET /app/x HTTP/1.1", "GET /x HTTP/1.1", true),
            ("GET /x HTTP/1.1", "POST /api/x HTTP/1.1", false),
            ("GET /x?q=1 HTTP/1.1", "GET /api/x?q=2 HTTP/1.1", false),
            ("GET /y HTTP/1.1", "GET /api/xy HTTP/1.1", false),
            ("GET / HTTP/1.1", "GET /api/ HTTP/1.1", false),
            ("GET /?q HTTP/1.1", "GET /api/?q HTTP/1.1", false),
            ("GET /x HTTP/1.1", "GET /x HTTP/1.1", false),
            ("GET * HTTP/1.1", "GET /api/x* HTTP/1.1", false),
        ] {
            assert_eq!(same_end(a.as_bytes(), b.as_bytes()), same, "{a} {b}");
        }
    }
}
