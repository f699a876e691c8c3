//! Equal failures folded together: what one row of the table stands for.

use std::collections::BTreeMap;

use crate::cause::{Cause, Variant};
use crate::verdict::{Confidence, Kind, Verdict};

/// Rows with a place of their own; more upstreams share one row per cause.
const MAX_ROWS: usize = 200;

/// All verdicts of one kind, cause and upstream.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) kind: Kind,
    pub(super) cause: Cause,
    pub(super) upstream: String,
    pub(super) count: u64,
    /// RFC 3339.
    pub(super) first: String,
    pub(super) last: String,
    pub(super) statuses: BTreeMap<Option<u16>, u64>,
    pub(super) confidences: BTreeMap<Confidence, u64>,
    pub(super) variants: BTreeMap<Variant, u64>,
    /// The latest of the surest: its evidence and advice stand for all.
    pub(super) example: Verdict,
}

/// The rows, in order of their first verdict.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    rows: Vec<Row>,
    places: BTreeMap<(u8, Cause, String), usize>,
}

impl Rows {
    /// Folds a verdict in; true if it is the first of its row.
    pub(super) fn add(&mut self, verdict: &Verdict) -> bool {
        self.fold(verdict, 1, &verdict.time)
    }

    /// Folds in `count` like this one, the latest of them; the first was at `first`.
    pub(super) fn fold(&mut self, verdict: &Verdict, count: u64, first: &str) -> bool {
        let upstream = match &verdict.upstream.address {
            Some(address) => address.0.as_str(),
            None => "-",
        };
        let mut key = (verdict.kind as u8, verdict.cause, upstream.to_owned());
        if self.rows.len() >= MAX_ROWS && !self.places.contains_key(&key) {
            key.2 = "(other upstreams)".to_owned();
        }
        let place = self.places.get(&key).copied();
        let new = place.is_none();
        let place = place.unwrap_or_else(|| {
            self.rows.push(Row {
                kind: verdict.kind,
                cause: verdict.cause,
                upstream: key.2.clone(),
                count: 0,
                first: first.to_owned(),
                last: String::new(),
                statuses: BTreeMap::new(),
                confidences: BTreeMap::new(),
                variants: BTreeMap::new(),
                example: verdict.clone(),
            });
            self.places.insert(key, self.rows.len() - 1);
            self.rows.len() - 1
        });
        let row = &mut self.rows[place];
        row.count += count;
        if first < row.first.as_str() {
            first.clone_into(&mut row.first);
        }
        if verdict.time > row.last {
            row.last.clone_from(&verdict.time);
        }
        *row.statuses.entry(verdict.status).or_default() += count;
        *row.confidences.entry(verdict.confidence).or_default() += count;
        if let Some(variant) = verdict.variant {
            *row.variants.entry(variant).or_default() += count;
        }
        if !new && verdict.confidence >= row.example.confidence {
            row.example = verdict.clone();
        }
        new
    }

    /// The rows of one kind, most frequent first.
    pub(super) fn of(&self, kind: Kind) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().filter(|row| row.kind == kind).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.count));
        rows
    }

    pub(super) fn count(&self, kind: Kind) -> u64 {
        self.rows
            .iter()
            .filter(|row| row.kind == kind)
            .map(|row| row.count)
            .sum()
    }
}

impl Row {
    /// `502 · proven 20, likely 1 · fin_in_flight`: a single value stands without its count.
    pub(super) fn tally(&self) -> [String; 3] {
        let status = |status: &Option<u16>| match status {
            Some(status) => status.to_string(),
            None => "status unseen".to_owned(),
        };
        [
            list(self.statuses.iter().map(|(s, n)| (status(s), *n))),
            list(
                self.confidences
                    .iter()
                    .rev()
                    .map(|(c, n)| (c.name().to_owned(), *n)),
            ),
            list(self.variants.iter().map(|(v, n)| (v.name().to_owned(), *n))),
        ]
    }
}

fn list(items: impl Iterator<Item = (String, u64)>) -> String {
    let items: Vec<(String, u64)> = items.collect();
    match items.as_slice() {
        [(only, _)] => only.clone(),
        _ => {
            let parts: Vec<String> = items
                .iter()
                .map(|(name, count)| format!("{name} ×{count}"))
                .collect();
            parts.join(", ")
        }
    }
}
