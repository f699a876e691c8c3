//! Which lines are joined by nothing but their moment, so that a line whose path fits can have its own.
//! Pure.

use std::collections::HashMap;

use super::ToldId;
use crate::signal::{LogLine, Logged, Nanos};
use crate::track::told::{Told, port};

/// A line, and when it was written.
pub(super) type Line = (Nanos, Logged);

/// Apache's error line names its client's port and perhaps no path, its access line a path and no port.
#[derive(Debug, Default)]
pub(super) struct ByMoment {
    /// Exchanges of which a single line has come.
    first: HashMap<ToldId, Line>,
    pairs: HashMap<ToldId, Pair>,
}

#[derive(Debug)]
struct Pair {
    access: Line,
    nameless: Line,
}

impl ByMoment {
    /// The exchange has begun with this line.
    pub(super) fn began(&mut self, id: ToldId, at: Nanos, line: &Logged) {
        if is_access(line) || is_nameless(line) {
            self.first.insert(id, (at, line.clone()));
        }
    }

    /// A further line was joined to it: with a third one it is not to be parted any more.
    pub(super) fn joined(&mut self, id: ToldId, at: Nanos, line: &Logged) {
        self.pairs.remove(&id);
        let Some(first) = self.first.remove(&id) else {
            return;
        };
        let second = (at, line.clone());
        let (access, nameless) = match is_access(line) {
            true => (second, first),
            false => (first, second),
        };
        if is_access(&access.1) && is_nameless(&nameless.1) {
            self.pairs.insert(id, Pair { access, nameless });
        }
    }

    /// Whether its access line can be that of this line, which names a path.
    pub(super) fn is_owed(&self, id: ToldId, at: Nanos, line: &Logged) -> bool {
        let pair = self.pairs.get(&id);
        pair.is_some_and(|pair| Told::new(pair.access.0, &pair.access.1).fits(at, line))
    }

    /// The access line, and the one without a path.
    pub(super) fn both(&self, id: ToldId) -> Option<(&Line, &Line)> {
        let pair = self.pairs.get(&id)?;
        Some((&pair.access, &pair.nameless))
    }

    /// Parts the two: the access line, and the one without a path.
    pub(super) fn part(&mut self, id: ToldId) -> Option<(Line, Line)> {
        let Pair { access, nameless } = self.pairs.remove(&id)?;
        Some((access, nameless))
    }

    pub(super) fn forget(&mut self, id: ToldId) {
        self.first.remove(&id);
        self.pairs.remove(&id);
    }
}

fn is_access(line: &Logged) -> bool {
    let portless = port(line.client.as_ref()).is_none() && line.connection.is_none();
    line.line == LogLine::Access && line.request.is_some() && portless
}

fn is_nameless(line: &Logged) -> bool {
    line.line == LogLine::Error && line.request.is_none()
}
