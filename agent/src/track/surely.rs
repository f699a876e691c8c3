//! Whether lines surely tell of an exchange, though others fit them as well: by counting both. Pure.

use super::exchange::Exchange;
use super::lines::{ALIKE, CROWD};
use super::seen::{Fit, Seen, wrote};
use super::told::Told;
use super::{Key, Tracker};
use crate::signal::Software;

impl Tracker {
    /// Whether its line says this of it, whichever of those that come into question it is: they all say
    /// the same of the same upstream, and there are as many as exchanges that they may be about. More
    /// would be about some that were not seen, and one of these may be missing. Lines that name no request
    /// fit whatever was near: those that fit these exchanges, and so on, are counted as well.
    pub(super) fn surely_told(&self, exchange: &Exchange, told: &Told) -> bool {
        let errors = self.errors_are_read();
        let Some(this) = self.fit(exchange, told, errors) else {
            return false;
        };
        let near = |fit: Fit| this.as_near(fit);
        let fits = |line: &Told| self.fit(exchange, line, errors).is_some_and(near);
        let all = || self.logs.free().map(|(_, line)| line);
        let mut lines: Vec<&Told> = all().filter(|line| fits(line)).take(ALIKE).collect();
        self.without_further_tries(&mut lines, |told| told);
        let sure = |lines: &[&Told]| {
            lines.len() < ALIKE && lines.iter().all(|line| says_surely(line, told))
        };
        if told.ambiguous || !sure(&lines) || self.may_be_of_unseen(exchange, told) {
            return false;
        }
        let (answered, unanswered) = self.others(exchange, told, this);
        loop {
            let told_of = |other: &&&Seen| {
                let mut lines = lines.iter();
                lines.any(|line| self.fit_seen(other, line, errors).is_some_and(near))
            };
            let meant: Vec<&Seen> = answered.iter().filter(told_of).copied().collect();
            // An attempt of which no answer is known may have led to an answer that has none.
            let untried = meant.iter().filter(|other| other.is_untried()).count();
            if meant.len() + unanswered.saturating_sub(untried) == lines.len() {
                return true;
            }
            let of_these = |line: &&Told| {
                let mut meant = meant.iter();
                meant.any(|other| {
                    let fits = self.fit_seen(other, line, errors).is_some_and(near);
                    // It fits lines of whatever kind.
                    fits && (!other.is_untried() || says_surely(line, told))
                })
            };
            if !told.names_nothing() || all().nth(CROWD).is_some() {
                return false;
            }
            let more: Vec<&Told> = all().filter(of_these).take(ALIKE).collect();
            if more.len() <= lines.len() || !sure(&more) {
                return false;
            }
            lines = more;
        }
    }

    /// A line that names no request says otherwise at this moment, and no other exchange is there for it: it
    /// may be the one of this, and what was seen of an attempt that of a request which shows nowhere here.
    fn may_be_of_unseen(&self, exchange: &Exchange, told: &Told) -> bool {
        if !told.names_nothing() {
            return false;
        }
        let errors = self.errors_are_read();
        let otherwise = |line: &&Told| {
            let near = exchange.seen().may_be_nameless(line);
            let same = line.says_the_same(told) && line.upstream() == told.upstream();
            near && !same && !line.client_left()
        };
        let is_of_another = |line: &Told| {
            let open = self.open.iter().filter(|(key, other)| {
                !matches!(key, Key::Logged(_)) && !std::ptr::eq(*other, exchange)
            });
            let mut open = open.map(|(_, other)| other);
            let mut recent = self.recent.iter();
            open.any(|other| self.fit(other, line, errors).is_some())
                || recent.any(|seen| self.fit_seen(seen, line, errors).is_some())
        };
        let mut lines = self.logs.free().map(|(_, line)| line).filter(otherwise);
        lines.any(|line| !is_of_another(line))
    }

    /// The exchanges with a response, this one among them, whose lines may be like it; and how many are there
    /// without one: those have no line yet, unless all speaks for this one as well. An earlier try of the
    /// same request has none of its own.
    fn others(&self, exchange: &Exchange, told: &Told, this: Fit) -> (Vec<&Seen>, usize) {
        let errors = self.errors_are_read();
        let open = self.open.iter();
        let open = open.filter(|(key, _)| !matches!(key, Key::Logged(_)));
        let (answered, unanswered): (Vec<_>, Vec<_>) =
            open.partition(|(_, other)| other.response.is_some());
        let its = |other: &Exchange| wrote(self.proxy_of(other), told.proxy);
        let answered = answered
            .into_iter()
            .filter(|(_, other)| !other.led_by_no_request() && its(other))
            .map(|(_, other)| other.seen());
        let unanswered = unanswered.into_iter().filter(|(_, other)| {
            self.fit(other, told, errors) == Some(this) && !other.is_try_of(exchange)
        });
        (answered.chain(&self.recent).collect(), unanswered.count())
    }
}

/// Whether it says the same of the same upstream, and is no guess.
fn says_surely(line: &Told, told: &Told) -> bool {
    // Go names no request in any line, and writes one for each.
    let unnamed = line.request.is_none() && line.proxy != Some(Software::Go);
    let doubtful = line.ambiguous || line.guessed || unnamed;
    !doubtful && line.says_the_same(told) && line.upstream() == told.upstream()
}
