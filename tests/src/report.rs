//! What the lab prints and writes: a line per cell, the confusion table, results as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::judge::Judgement;
use crate::packets::Scores;

const SHOWN: usize = 5;
const LONGEST: usize = 300;

pub enum Outcome {
    Judged(Box<Judgement>),
    /// The scenario itself could not be carried out.
    Broken(String),
    Skipped(String),
}

#[derive(Default)]
pub struct Report {
    confusion: BTreeMap<(String, String), u32>,
    packets: Scores,
    results: Vec<Value>,
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
}

impl Report {
    pub fn add(&mut self, row: u8, name: &str, took: Duration, agent: bool, outcome: Outcome) {
        let title = format!("row {row:>2} {name}");
        let mut result = json!({"row": row, "scenario": name, "seconds": took.as_secs_f64()});
        match outcome {
            Outcome::Skipped(reason) => {
                self.skipped += 1;
                println!("{title:<34} SKIPPED: {reason}");
                result["skipped"] = reason.into();
            }
            Outcome::Broken(reason) => {
                self.failed += 1;
                println!("{title:<34} FAILED: {reason}");
                result["failed"] = reason.into();
            }
            Outcome::Judged(judged) => {
                print_cells(&title, &judged, agent);
                let word = if judged.passed() { "passed" } else { "FAILED" };
                println!("{title:<34} {word} in {:.1} s", took.as_secs_f64());
                for note in &judged.notes {
                    println!("    note: {note}");
                }
                for problem in judged.problems.iter().take(SHOWN) {
                    println!("    {}", shortened(problem));
                }
                if judged.problems.len() > SHOWN {
                    println!("    and {} more", judged.problems.len() - SHOWN);
                }
                if judged.passed() {
                    self.passed += 1;
                } else {
                    self.failed += 1;
                }
                for (key, count) in &judged.confusion {
                    *self.confusion.entry(key.clone()).or_default() += count;
                }
                self.packets.add(&judged.packets);
                result["judgement"] = serde_json::to_value(&judged).unwrap_or_default();
            }
        }
        self.results.push(result);
    }

    /// Something that is checked over the whole run.
    pub fn check(&mut self, title: &str, result: Result<String, String>) {
        match result {
            Ok(text) => {
                self.passed += 1;
                println!("{title:<34} passed: {text}");
            }
            Err(problem) => {
                self.failed += 1;
                println!("{title:<34} FAILED: {problem}");
            }
        }
    }

    /// The same where it cannot be done here.
    pub fn skip(&mut self, title: &str, reason: &str) {
        self.skipped += 1;
        println!("{title:<34} SKIPPED: {reason}");
    }

    /// What packets alone show, where they were captured; of the `whole` lab nearly all has to be
    /// right, for there are scenarios made of what packets show badly.
    pub fn check_packets(&mut self, whole: bool) {
        if self.packets.by_truth.is_empty() {
            return;
        }
        self.packets.print();
        for mistake in self.packets.mistakes.iter().take(SHOWN) {
            println!("    {}", shortened(mistake));
        }
        match (self.packets.passed(), whole) {
            (result, true) => self.check("packets alone", result),
            (Ok(text) | Err(text), false) => println!("packets alone: {text}"),
        }
    }

    /// Truth down, verdicts across; `.` on the diagonal's side means none.
    pub fn print_confusion(&self) {
        if self.confusion.is_empty() {
            return;
        }
        println!("\nconfusion table (truth: verdicts given)");
        let truths: BTreeSet<&String> = self.confusion.keys().map(|(truth, _)| truth).collect();
        for truth in truths {
            let given: Vec<String> = self
                .confusion
                .iter()
                .filter(|((of, _), _)| of == truth)
                .map(|((_, given), count)| {
                    let mark = if given == truth {
                        ""
                    } else {
                        "  <-- off the diagonal"
                    };
                    format!("{given} {count}{mark}")
                })
                .collect();
            println!("  {truth:<42} {}", given.join(", "));
        }
        println!();
    }

    pub fn json(&self, options: Value) -> Value {
        let confusion: Vec<Value> = self
            .confusion
            .iter()
            .map(|((truth, given), count)| json!({"truth": truth, "given": given, "count": count}))
            .collect();
        json!({
            "options": options,
            "passed": self.passed, "failed": self.failed, "skipped": self.skipped,
            "confusion": confusion,
            "packets": self.packets,
            "scenarios": self.results,
        })
    }
}

/// A whole verdict is in the results; here its beginning has to do.
fn shortened(problem: &str) -> String {
    match problem.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &problem[..end]),
        None => problem.to_owned(),
    }
}

fn print_cells(title: &str, judged: &Judgement, agent: bool) {
    for (name, cell) in &judged.cells {
        let statuses: Vec<String> = cell
            .by_status
            .iter()
            .map(|(status, count)| match status {
                0 => format!("none {count}"),
                _ => format!("{status} {count}"),
            })
            .collect();
        let said = if !agent {
            String::new()
        } else if *name == "healthy" {
            format!("flagged {}", cell.flagged)
        } else {
            format!(
                "right {} wrong {} missing {} unproven {} flagged {}",
                cell.right, cell.wrong, cell.missing, cell.unproven, cell.flagged
            )
        };
        let said = match cell.unsure_by_loss {
            0 => said,
            count => format!("{said} unsure by loss {count}"),
        };
        let missed = match cell.fault_missed {
            0 => String::new(),
            count => format!(" not as injected {count}"),
        };
        println!(
            "{title:<34} {name:<26} requests {:>5} failed {:>4} ({}) {said}{missed}",
            cell.requests,
            cell.failed,
            statuses.join(", ")
        );
    }
}
