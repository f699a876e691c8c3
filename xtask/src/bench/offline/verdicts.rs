//! Verdicts against the truth of the generated capture.

use std::collections::HashMap;
use std::fmt;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::session::Truth;
use super::text;
use super::wire::CANARY;

/// Enough complaints to see what is wrong.
const SHOWN: usize = 10;

#[derive(Default, Debug)]
pub(super) struct Judged {
    failed: usize,
    right: usize,
    wrong: usize,
    /// Verdicts about exchanges that did not fail, and second ones.
    extra: usize,
    /// Wrong or extra ones that called themselves proven.
    false_proven: usize,
    /// Right ones that were `likely` though packets prove them.
    unproven: usize,
    pub(super) complaints: Vec<String>,
}

impl Judged {
    pub(super) fn all_right(&self) -> bool {
        self.right == self.failed && self.wrong == 0 && self.extra == 0
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "failed": self.failed,
            "right": self.right,
            "wrong": self.wrong,
            "extra": self.extra,
            "false_proven": self.false_proven,
            "unproven": self.unproven,
        })
    }

    fn complain(&mut self, text: impl FnOnce() -> String) {
        if self.complaints.len() < SHOWN {
            self.complaints.push(text());
        }
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {}, {}, {}, {}",
            self.failed, self.right, self.wrong, self.extra, self.false_proven
        )
    }
}

pub(super) fn judge(truths: &[Truth], output: &[u8]) -> Result<Judged> {
    let output = std::str::from_utf8(output).context("explain wrote no text")?;
    if output.contains(CANARY) {
        bail!("explain wrote a header, a query or a body of the capture");
    }
    let mut open: HashMap<&str, &Truth> = truths
        .iter()
        .map(|truth| (truth.path.as_str(), truth))
        .collect();
    let mut judged = Judged {
        failed: truths.len(),
        ..Judged::default()
    };
    for line in output.lines() {
        let verdict: Value =
            serde_json::from_str(line).with_context(|| format!("explain wrote {line}"))?;
        if text(&verdict, "type") != "verdict" {
            continue;
        }
        let path = text(&verdict["request"], "path");
        let proven = text(&verdict, "confidence") == "proven";
        let right = match open.remove(path) {
            None => {
                judged.extra += 1;
                judged.complain(|| format!("no failure: {line}"));
                false
            }
            Some(truth) if agrees(truth, &verdict) => {
                judged.right += 1;
                judged.unproven += usize::from(truth.proven && !proven);
                true
            }
            Some(truth) => {
                judged.wrong += 1;
                judged.complain(|| format!("{truth:?}, but {line}"));
                false
            }
        };
        judged.false_proven += usize::from(proven && !right);
    }
    let mut unseen: Vec<_> = open.into_values().collect();
    unseen.sort_by(|one, other| one.path.cmp(&other.path));
    for truth in unseen {
        judged.complain(|| format!("no verdict: {truth:?}"));
    }
    Ok(judged)
}

fn agrees(truth: &Truth, verdict: &Value) -> bool {
    let variant = truth.variant.as_deref();
    text(verdict, "cause").starts_with(&truth.cause)
        && verdict["status"].as_u64() == Some(u64::from(truth.status))
        && variant.is_none_or(|variant| text(verdict, "variant") == variant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(path: &str) -> Truth {
        Truth {
            path: path.to_owned(),
            status: 504,
            cause: "read_timeout".to_owned(),
            variant: None,
            proven: false,
        }
    }

    fn verdict(path: &str, cause: &str, confidence: &str) -> String {
        json!({"type": "verdict", "status": 504, "cause": cause, "variant": null,
               "confidence": confidence, "request": {"path": path}})
        .to_string()
    }

    #[test]
    fn each_way_to_be_wrong_is_told_apart() {
        let truths = [truth("/a"), truth("/b"), truth("/c")];
        let output = [
            verdict("/a", "read_timeout_no_reply", "likely"),
            verdict("/b", "upstream_reset", "proven"),
            verdict("/a", "read_timeout_no_reply", "likely"),
            verdict("/x", "unknown", "unknown"),
            json!({"type": "summary"}).to_string(),
        ]
        .join("\n");
        let judged = judge(&truths, output.as_bytes()).unwrap();
        assert_eq!(judged.to_string(), "3, 1, 1, 2, 1");
        assert!(!judged.all_right());
        assert_eq!(judged.complaints.len(), 4);
        let all = truths.map(|truth| verdict(&truth.path, "read_timeout_no_reply", "likely"));
        let truths = [truth("/a"), truth("/b"), truth("/c")];
        assert!(
            judge(&truths, all.join("\n").as_bytes())
                .unwrap()
                .all_right()
        );
    }

    #[test]
    fn what_is_private_in_the_output_is_an_error() {
        assert!(judge(&[], format!("{{\"x\":\"{CANARY}\"}}").as_bytes()).is_err());
    }
}
