//! The end of a scenario: what everyone said is held against the truth.

use anyhow::Result;

use super::Run;
use crate::agent::Captured;
use crate::expect::{Expect, Kind};
use crate::judge::{self, Judgement};
use crate::ledger::Sent;
use crate::packets;
use crate::prometheus::Watched;

impl Run {
    /// Ends why502 and judges.
    pub fn finish(mut self) -> Result<Judgement> {
        self.note_proxies();
        let entries = self.ledger.entries();
        let count = |kind| {
            entries
                .iter()
                .filter(|(_, truth)| truth.kind == kind)
                .count()
        };
        let (verdicts, near_misses) = (count(Kind::Verdict), count(Kind::NearMiss));
        let mut captured: Option<Captured> = self
            .capture
            .take()
            .map(|capture| capture.finish(verdicts.saturating_sub(self.said.len()), near_misses))
            .transpose()?;
        if let Some(captured) = &mut captured {
            captured.lines.splice(..0, std::mem::take(&mut self.said));
        }
        let lines = captured.as_ref().map(|captured| captured.lines.as_slice());
        let counted_since = self.watched.as_ref().map_or(0, Watched::began);
        let mut judged = judge::judge(&self.ledger, lines, &self.proxies, counted_since);
        for (cell, count) in &self.minimum {
            let requests = judged.cells.get(cell).map_or(0, |cell| cell.requests);
            if requests < *count {
                judged.problems.push(format!(
                    "cell {cell}: {requests} requests, {count} wanted: the fault did not happen often enough"
                ));
            }
        }
        if let Some(captured) = &captured {
            if captured.exit != 0 {
                judged
                    .problems
                    .push(format!("why502 capture: exit status {}", captured.exit));
            }
            let may_lose = self.options.lossy && !self.losing;
            check_losses(captured, self.losing, may_lose, &mut judged);
        }
        for (name, capture) in std::mem::take(&mut self.beside) {
            let captured = capture.finish(verdicts, near_misses)?;
            let beside = judge::judge(&self.ledger, Some(&captured.lines), &self.proxies, 0);
            let right: u32 = beside.cells.values().map(|cell| cell.right).sum();
            judged.notes.push(format!("agent {name}: right {right}"));
            let problems = beside.problems.into_iter();
            let named = problems.map(|problem| format!("agent {name}: {problem}"));
            judged.problems.extend(named);
            if captured.exit != 0 {
                let problem = format!("agent {name}: exit status {}", captured.exit);
                judged.problems.push(problem);
            }
        }
        if let Some(why) = self.uncounted(&entries) {
            judged.notes.push(format!("counters not compared: {why}"));
        } else if let Some(watched) = self.watched.take() {
            let seen = watched.increase(&self.ledger, &self.proxies, |seen| {
                judged.miscounted(seen).is_none()
            })?;
            judged.problems.extend(judged.miscounted(&seen));
        }
        let dumps = std::mem::take(&mut self.dumps);
        if let (Some(why502), Some(since)) = (
            self.options.why502.clone(),
            dumps.iter().map(|dump| dump.began).min(),
        ) {
            // Each proxy is seen in its own namespace, and nothing of it in the others.
            let mut packets = Vec::new();
            for dump in dumps {
                packets.extend(dump.explain(&why502)?);
            }
            let scores = packets::score(&self.ledger, &packets, lines, since);
            let problems = scores.never().map(|wrong| format!("packets: {wrong}"));
            judged.problems.extend(problems);
            judged.packets.add(&scores);
        }
        if let Some((live_since, live)) = self.live.take() {
            let packets = live.finish(verdicts, near_misses)?;
            let scores = packets::score(&self.ledger, &packets.lines, lines, live_since);
            // Packets show the causes of these scenarios: a mistake is one.
            for wrong in scores.never().chain(&scores.mistakes) {
                judged.problems.push(format!("live packets: {wrong}"));
            }
            for (truth, score) in &scores.by_truth {
                let proof = ["keepalive_race", "connection_refused"];
                let unread = truth.contains("closed_unread");
                let proves = !unread && proof.iter().any(|cause| truth.starts_with(cause));
                if score.missing > 0 || proves && score.proven < score.failed {
                    judged
                        .problems
                        .push(format!("live packets: {truth}: {score:?}"));
                }
            }
            check_losses(&packets, self.losing, false, &mut judged);
            judged.packets.add(&scores);
        }
        judged.problems.append(&mut self.problems);
        judged.notes.append(&mut self.notes);
        Ok(judged)
    }

    /// Why an agent's counters cannot be held against the truth.
    fn uncounted(&self, entries: &[(Sent, Expect)]) -> Option<&'static str> {
        let began = self.watched.as_ref().map_or(0, Watched::began);
        let apart = |(sent, truth): &(Sent, Expect)| {
            truth.kind == Kind::Apart && sent.failed() && sent.ended > began
        };
        if self.options.why502.is_none() || self.options.prometheus.is_none() {
            // Said once for all.
            None
        } else if self.watched.is_none() {
            Some("the scenario is about agents of its own")
        } else if entries.iter().any(apart) {
            Some("of some failures the truth is not stated")
        } else {
            None
        }
    }
}

fn check_losses(captured: &Captured, losing: bool, may_lose: bool, judged: &mut Judgement) {
    let lost = captured
        .lines
        .last()
        .and_then(|summary| summary["lost"]["signals"].as_u64());
    if lost.is_none() || (lost != Some(0)) != losing && !may_lose {
        judged.problems.push(format!("signals lost: {lost:?}"));
    }
}
