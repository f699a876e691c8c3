//! One verdict as the page's script reads it: the contract's fields, and its ladder.

use std::collections::HashMap;

use serde::Serialize;

use super::embed;
use super::ladder::{self, Section};
use crate::cause::{Cause, Variant};
use crate::packet::PacketSeen;
use crate::signal::Address;
use crate::verdict::*;

/// Different advices that are remembered to be told once.
const MAX_ADVICE: usize = 4_096;

#[derive(Serialize)]
struct Row<'a> {
    kind: Kind,
    id: &'a str,
    time: &'a str,
    node: &'a str,
    status: Option<u16>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    status_rewritten: bool,
    cause: Cause,
    variant: Option<Variant>,
    confidence: Confidence,
    duration_us: Option<u64>,
    proxy: &'a Party,
    client: Option<&'a Address>,
    request: &'a Request,
    upstream: &'a Party,
    attempts: &'a [AttemptLine],
    evidence: &'a [Evidence],
    missing: &'a [String],
    advice: Told<'a>,
    lost_signals: u64,
    ladder: Vec<Section>,
}

/// A storm's advice is the same a thousand times over: then only the row that has it is named.
#[derive(Serialize)]
#[serde(untagged)]
enum Told<'a> {
    Here(&'a Advice),
    InRow(usize),
}

/// Verdicts as JSON, one after another.
#[derive(Debug, Default)]
pub(super) struct Rows {
    count: usize,
    advice: HashMap<Vec<u8>, usize>,
}

impl Rows {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn next(
        &mut self,
        verdict: &Verdict,
        packets: &[PacketSeen],
    ) -> std::io::Result<Vec<u8>> {
        let advice = embed::json(&verdict.advice)?;
        let told = match self.advice.get(&advice) {
            Some(row) => Told::InRow(*row),
            None => {
                if self.advice.len() < MAX_ADVICE {
                    self.advice.insert(advice, self.count);
                }
                Told::Here(&verdict.advice)
            }
        };
        let row = embed::json(&Row {
            kind: verdict.kind,
            id: &verdict.id,
            time: &verdict.time,
            node: &verdict.node,
            status: verdict.status,
            status_rewritten: verdict.status_rewritten,
            cause: verdict.cause,
            variant: verdict.variant,
            confidence: verdict.confidence,
            duration_us: verdict.duration_us,
            proxy: &verdict.proxy,
            client: verdict.client.address.as_ref(),
            request: &verdict.request,
            upstream: &verdict.upstream,
            attempts: &verdict.attempts,
            evidence: &verdict.evidence,
            missing: &verdict.missing,
            advice: told,
            lost_signals: verdict.lost_signals,
            ladder: ladder::of(verdict, packets),
        })?;
        self.count += 1;
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::sinks::sample;

    #[test]
    fn advice_that_repeats_is_told_once() {
        let mut rows = Rows::default();
        let mut verdict = sample::verdict();
        let mut next = || -> Value {
            let row: Value = serde_json::from_slice(&rows.next(&verdict, &[]).unwrap()).unwrap();
            verdict.advice.text += if row["advice"] == 1 { " More." } else { "" };
            row
        };
        let settings = next()["advice"]["settings"].as_array().unwrap().len();
        assert_eq!(settings, 2);
        assert_eq!(next()["advice"], 0);
        let mut verdict = sample::verdict();
        verdict.advice.text.push('!');
        let other: Value = serde_json::from_slice(&rows.next(&verdict, &[]).unwrap()).unwrap();
        assert!(other["advice"]["text"].as_str().unwrap().ends_with('!'));
        assert_eq!(rows.count(), 3);
    }

    #[test]
    fn a_row_has_the_contracts_fields_and_a_ladder() {
        let row = Rows::default().next(&sample::verdict(), &[]).unwrap();
        let row: Value = serde_json::from_slice(&row).unwrap();
        assert_eq!(row["cause"], "keepalive_race");
        assert_eq!(row["evidence"][1]["fact"], "peer_closed");
        assert_eq!(row["ladder"][0]["idle_us"], 968_123);
        assert!(row.get("status_rewritten").is_none());
    }
}
