//! Joins lines of logs into exchanges, and keeps what servers' logs say. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use self::accounted::Accounted;
use self::by_moment::{ByMoment, Line};
use super::told::{Asked, Told, port};
use crate::signal::{LogLine, Logged, Nanos, ServerLine, Software};
use crate::track::host::SECOND;

mod accounted;
mod by_moment;

/// Exchanges that wait for further lines; the oldest goes.
const OPEN: usize = 20_000;
/// After its access line: for lines of other logs.
const SETTLE: Nanos = 2 * SECOND;
/// An error line waits for its exchange's end, an early access line for its error.
const UNFINISHED: Nanos = 120 * SECOND;

/// Between Apache's line that says why, and the next one of that thread, which names the path.
const NAMED_SOON: Nanos = SECOND / 100;
/// Lines that wait for the one which names their request.
const NAMELESS: usize = 1024;
/// Exchanges over whose further error lines may still be read.
const OVER: usize = 4096;

pub(super) type ToldId = u64;

/// Exchanges of which lines have come.
#[derive(Debug, Default)]
pub(super) struct Logs {
    open: HashMap<ToldId, Told>,
    due: BTreeSet<(Nanos, ToldId)>,
    due_of: HashMap<ToldId, Nanos>,
    /// By the client's address, in order of arrival.
    by_client: BTreeMap<String, VecDeque<ToldId>>,
    /// Not found to be about another source's exchange.
    free: BTreeSet<ToldId>,
    next: ToldId,
    /// Error lines that name no request, and when they came.
    nameless: VecDeque<(Nanos, Nanos, Logged)>,
    by_moment: ByMoment,
    accounted: Accounted,
    /// One whose access line turned out to be another's.
    displaced: Option<Line>,
    /// What was asked, on which connection, in exchanges that are over.
    over: VecDeque<(Nanos, Asked)>,
    /// The same of those found to be about another source's exchange.
    claimed: VecDeque<(Nanos, Asked)>,
    pub(super) dropped: u64,
}

/// Which lines are to be expected at all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Followed {
    pub access: bool,
    pub error_of_apache: bool,
}

impl Logs {
    pub(super) fn get(&self, id: ToldId) -> Option<&Told> {
        self.open.get(&id)
    }

    /// Those not found to be about another source's exchange, in order of arrival.
    pub(super) fn free(&self) -> impl Iterator<Item = (ToldId, &Told)> {
        let told = |id: &ToldId| Some((*id, self.open.get(id)?));
        self.free.iter().filter_map(told)
    }

    pub(super) fn is_free(&self, id: ToldId) -> bool {
        self.free.contains(&id)
    }

    /// Other exchanges' lines may be these.
    pub(super) fn doubt(&mut self, ids: &[ToldId]) {
        for id in ids {
            if let Some(told) = self.open.get_mut(id) {
                told.ambiguous = true;
            }
        }
    }

    /// These lines are about an exchange that is decided.
    pub(super) fn claim(&mut self, id: ToldId) {
        self.free.remove(&id);
        let told = self.open.get(&id);
        if let Some((to, asked)) = told.and_then(|told| Some((told.to, told.asked()?))) {
            self.claimed.truncate(OVER - 1);
            self.claimed.push_front((to, asked));
        }
    }

    /// The lines to be taken in now that this one has come: Apache names the request in the line after
    /// the one that says why it failed.
    pub(super) fn completed(
        &mut self,
        now: Nanos,
        at: Nanos,
        line: &Logged,
    ) -> Vec<(Nanos, Logged)> {
        let mut due = self.named_too_late(now);
        let apache = line.proxy == Some(Software::Apache) && line.line == LogLine::Error;
        if !apache {
            due.push((at, line.clone()));
        } else if line.request.is_none() && !line.tries.is_empty() {
            if self.nameless.len() >= NAMELESS {
                due.extend(self.nameless.pop_front().map(|(_, at, line)| (at, line)));
            }
            self.nameless.push_back((now, at, line.clone()));
        } else {
            let thread = |other: &Logged| {
                (other.pid, other.connection, &other.client)
                    == (line.pid, line.connection, &line.client)
            };
            let mut whole = line.clone();
            let place = self.nameless.iter().position(|(.., other)| thread(other));
            let why = place.and_then(|place| self.nameless.remove(place));
            if let Some((.., why)) = why {
                whole.tries.splice(..0, why.tries);
            }
            due.push((at, whole));
        }
        due
    }

    /// Lines for which no name has come in time.
    pub(super) fn named_too_late(&mut self, now: Nanos) -> Vec<(Nanos, Logged)> {
        let late = |(came, ..): &(Nanos, Nanos, Logged)| *came + NAMED_SOON < now;
        let mut due = Vec::new();
        while self.nameless.front().is_some_and(late) {
            due.extend(self.nameless.pop_front().map(|(_, at, line)| (at, line)));
        }
        due
    }

    /// Whether these error lines are of a try of an exchange whose lines are whole without them: nginx
    /// tries the same server again where a pooled connection has failed.
    pub(super) fn is_further_try(&self, told: &Told) -> bool {
        let Some(asked) = told.asked().filter(|_| told.has_error) else {
            return false;
        };
        let since = told.from.saturating_sub(UNFINISHED);
        let near = |at: Nanos| at.abs_diff(told.from) <= SETTLE;
        let is_known = |(at, other): &(Nanos, Asked)| near(*at) && other.is_like(&asked);
        if told.ambiguous && self.claimed.iter().any(is_known) {
            // Of two tries of requests alike, all of them seen, this one got an access line.
            return true;
        }
        if told.has_access {
            return false;
        }
        // Whose access line it was is not known where several ask for the same at once.
        let same = |other: &Asked| match told.ambiguous {
            true => other.is_like(&asked),
            false => *other == asked,
        };
        let now = match told.ambiguous {
            true => self.accounted.has_like(&asked),
            false => self.accounted.has(&asked),
        };
        now || (self.over.iter()).any(|(at, other)| *at >= since && same(other))
    }

    /// Takes in a line; gives the exchange that it is about, if anything failed in it. `of_decided`: it
    /// names the connection of an exchange that is decided.
    pub(super) fn line(
        &mut self,
        now: Nanos,
        at: Nanos,
        line: &Logged,
        of_decided: bool,
        followed: Followed,
    ) -> Option<ToldId> {
        let client = line.client.as_ref().map_or("", |c| c.ip()).to_owned();
        let mut fitting: Vec<ToldId> = Vec::new();
        for id in self.by_client.get(&client).into_iter().flatten() {
            if self.open.get(id).is_some_and(|told| told.fits(at, line)) {
                fitting.push(*id);
            }
        }
        // Each of Caddy's is of a request that failed, whatever its words.
        let adds_nothing = line.line == LogLine::Error
            && line.proxy != Some(Software::Caddy)
            && line.tries.is_empty()
            && line.said.is_none();
        if fitting.is_empty() && !adds_nothing {
            fitting.extend(self.take_back(&client, at, line));
        }
        // An error without a path is of what is not told yet, unless its own exchange is.
        if line.line == LogLine::Error && line.request.is_none() {
            fitting.sort_by_key(|id| self.is_free(*id) == of_decided);
        }
        // An error that names the path comes before one that fits by its moment alone.
        if line.line == LogLine::Access {
            let nameless = |id: &ToldId| self.open.get(id).is_some_and(|t| t.request.is_none());
            fitting.sort_by_key(nameless);
        }
        // Of requests alike, one that has none: of each connection a single access line.
        if line.line == LogLine::Access
            && fitting.len() > 1
            && let Some(place) = fitting.iter().position(|id| self.wants_access_line(*id))
        {
            fitting.swap(0, place);
        }
        let id = match fitting.first() {
            Some(&id) => id,
            None if adds_nothing => return None,
            None => {
                let told = Told::new(at, line);
                if !told.failed() {
                    return None;
                }
                self.add(client, told)
            }
        };
        let differ = fitting.iter().skip(1).any(|other| self.differ(id, *other));
        let told = self.open.get_mut(&id)?;
        if fitting.is_empty() {
            self.by_moment.began(id, at, line);
        } else {
            self.by_moment.joined(id, at, line);
            let portless = port(told.client.as_ref()).is_none();
            told.add(at, line);
            // The port is of one line, the method of another, and which of them are one exchange's?
            told.guessed |= portless && fitting.len() > 1 && port(told.client.as_ref()).is_some();
        }
        self.accounted.set(id, Some(told));
        told.ambiguous |= differ;
        if differ {
            for other in &fitting {
                if let Some(other) = self.open.get_mut(other) {
                    other.ambiguous = true;
                }
            }
        }
        self.schedule(now, id, followed);
        Some(id)
    }

    /// The exchange whose access line is this line's, by its path, and was given to one that names none.
    fn take_back(&mut self, client: &str, at: Nanos, line: &Logged) -> Option<ToldId> {
        if line.line != LogLine::Error || line.request.is_none() {
            return None;
        }
        let owed = |id: &&ToldId| self.is_free(**id) && self.by_moment.is_owed(**id, at, line);
        let id = *self.by_client.get(client)?.iter().find(owed)?;
        self.displaced = Some(self.part_by_moment(id)?);
        Some(id)
    }

    /// What an access line and an error line that only their moment joined tell each by itself.
    pub(super) fn apart(&self, id: ToldId) -> Option<(Told, Told)> {
        let ((from, access), (at, nameless)) = self.by_moment.both(id)?;
        Some((Told::new(*from, access), Told::new(*at, nameless)))
    }

    /// Leaves the exchange its access line; gives the error line that was joined to it.
    pub(super) fn part_by_moment(&mut self, id: ToldId) -> Option<Line> {
        let ((from, access), nameless) = self.by_moment.part(id)?;
        let told = self.open.get_mut(&id)?;
        let ambiguous = told.ambiguous;
        *told = Told::new(from, &access);
        told.ambiguous = ambiguous;
        self.accounted.set(id, Some(told));
        Some(nameless)
    }

    /// The line that a better one has taken the place of: it is still to be told of.
    pub(super) fn take_displaced(&mut self) -> Option<(Nanos, Logged)> {
        self.displaced.take()
    }

    fn wants_access_line(&self, id: ToldId) -> bool {
        let asked = self.open.get(&id).and_then(Told::asked);
        asked.is_none_or(|asked| !self.accounted.has(&asked))
    }

    fn differ(&self, a: ToldId, b: ToldId) -> bool {
        match (self.open.get(&a), self.open.get(&b)) {
            (Some(a), Some(b)) => !a.says_the_same(b),
            _ => false,
        }
    }

    fn add(&mut self, client: String, told: Told) -> ToldId {
        if self.open.len() >= OPEN
            && let Some(&(_, oldest)) = self.due.first()
        {
            self.dropped += 1;
            self.remove(oldest);
        }
        self.next += 1;
        let id = self.next;
        self.open.insert(id, told);
        self.free.insert(id);
        self.by_client.entry(client).or_default().push_back(id);
        id
    }

    fn schedule(&mut self, now: Nanos, id: ToldId, followed: Followed) {
        let Some(told) = self.open.get(&id) else {
            return;
        };
        let begun_then = told.proxy != Some(Software::Nginx) && followed.error_of_apache;
        let wait = match (told.has_access, told.has_error) {
            (true, true) => SETTLE,
            (true, false) if begun_then && told.why().next().is_none() => UNFINISHED,
            (true, false) => SETTLE,
            (false, _) if followed.access => UNFINISHED,
            (false, _) => SETTLE,
        };
        let due = now.max(told.to).saturating_add(wait);
        self.postpone(id, due);
    }

    /// The next exchange that waits no longer.
    pub(super) fn overdue(&mut self, now: Nanos) -> Option<(Nanos, ToldId)> {
        self.due.first().copied().filter(|(due, _)| *due <= now)
    }

    /// Lets it wait once more.
    pub(super) fn postpone(&mut self, id: ToldId, until: Nanos) {
        if let Some(before) = self.due_of.insert(id, until) {
            self.due.remove(&(before, id));
        }
        self.due.insert((until, id));
    }

    pub(super) fn remove(&mut self, id: ToldId) -> Option<Told> {
        if let Some(due) = self.due_of.remove(&id) {
            self.due.remove(&(due, id));
        }
        self.free.remove(&id);
        self.by_moment.forget(id);
        self.accounted.set(id, None);
        let told = self.open.remove(&id)?;
        if let Some(asked) = told.asked().filter(|_| told.has_access && told.has_error) {
            self.over.truncate(OVER - 1);
            self.over.push_front((told.to, asked));
        }
        let client = told.client.as_ref().map_or("", |c| c.ip()).to_owned();
        if let Some(ids) = self.by_client.get_mut(&client) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_client.remove(&client);
            }
        }
        Some(told)
    }

    /// All that are left, in order of time.
    pub(super) fn ids(&self) -> Vec<ToldId> {
        let mut all: Vec<(Nanos, ToldId)> = self.open.iter().map(|(id, t)| (t.from, *id)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id).collect()
    }
}

/// Lines of servers' logs, the latest of them.
#[derive(Debug, Default)]
pub(crate) struct ServerLines(VecDeque<(Nanos, ServerLine)>);

impl ServerLines {
    const KEPT: usize = 1024;

    pub(super) fn add(&mut self, at: Nanos, line: &ServerLine) -> u64 {
        let lost = u64::from(self.0.len() >= Self::KEPT);
        if lost > 0 {
            self.0.pop_front();
        }
        self.0.push_back((at, line.clone()));
        lost
    }

    /// What was told of this time: the two overlap, as cut as each is.
    pub(crate) fn around(
        &self,
        from: Nanos,
        to: Nanos,
    ) -> impl Iterator<Item = &(Nanos, ServerLine)> {
        let near = move |(at, line): &&(Nanos, ServerLine)| {
            let until = at.saturating_add(line.within);
            // A moment that is exact has no width.
            *at == from || (*at < to && until > from)
        };
        self.0.iter().filter(near)
    }
}
