//! What a request's outcome has to be: the client's status and why502's verdict, as data.

use serde::Serialize;
use serde_json::Value;

/// The client saw no status: it gave up, or the connection ended without a response.
pub const NO_STATUS: u16 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A failed response: exactly one verdict.
    Verdict,
    /// A failure without a failed response: near misses, no verdict.
    NearMiss,
    /// Nothing happened: no verdict.
    Healthy,
    /// What was said of it is looked at by the scenario itself.
    Apart,
}

/// The truth about one request.
#[derive(Clone, Debug, Serialize)]
pub struct Expect {
    pub kind: Kind,
    /// The name under which requests of one kind are counted.
    pub cell: &'static str,
    /// What the client may see.
    pub statuses: &'static [u16],
    pub cause: &'static str,
    pub variant: Option<&'static str>,
    pub confidence: &'static str,
    /// Or surer, where it hangs on the moment what could be seen.
    pub or_proven: bool,
    /// Or `likely`, where the verdict says that signals were lost.
    pub may_lose: bool,
    /// Where the truth itself cannot tell labels apart (a timer and a read within milliseconds), the
    /// others.
    pub or: Vec<(&'static str, Option<&'static str>)>,
    /// At most this many near misses (attempts of one request).
    pub at_most: usize,
    /// No source can see the request (TLS in front, nothing sent behind): the verdict is found by
    /// its label instead of its path.
    pub pathless: bool,
    pub checks: Vec<Check>,
}

pub const HEALTHY: Expect = Expect {
    kind: Kind::Healthy,
    cell: "healthy",
    statuses: &[200],
    cause: "",
    variant: None,
    confidence: "",
    or_proven: false,
    may_lose: false,
    or: Vec::new(),
    at_most: 0,
    pathless: false,
    checks: Vec::new(),
};

impl Expect {
    pub fn verdict(cell: &'static str, statuses: &'static [u16], cause: &'static str) -> Expect {
        Expect {
            kind: Kind::Verdict,
            cell,
            statuses,
            cause,
            confidence: "proven",
            ..HEALTHY
        }
    }

    pub fn near_miss(cell: &'static str, statuses: &'static [u16], cause: &'static str) -> Expect {
        Expect {
            kind: Kind::NearMiss,
            at_most: 1,
            ..Expect::verdict(cell, statuses, cause)
        }
    }

    pub fn healthy(cell: &'static str, statuses: &'static [u16]) -> Expect {
        Expect {
            cell,
            statuses,
            ..HEALTHY
        }
    }

    /// Only the client's status is judged.
    pub fn apart(cell: &'static str, statuses: &'static [u16]) -> Expect {
        Expect {
            kind: Kind::Apart,
            ..Expect::healthy(cell, statuses)
        }
    }

    pub fn variant(mut self, variant: &'static str) -> Expect {
        self.variant = Some(variant);
        self
    }

    pub fn likely(mut self) -> Expect {
        self.confidence = "likely";
        self
    }

    pub fn at_least_likely(mut self) -> Expect {
        self.or_proven = true;
        self.likely()
    }

    pub fn or(mut self, cause: &'static str, variant: Option<&'static str>) -> Expect {
        self.or.push((cause, variant));
        self
    }

    pub fn up_to(mut self, near_misses: usize) -> Expect {
        self.at_most = near_misses;
        self
    }

    pub fn pathless(mut self) -> Expect {
        self.pathless = true;
        self
    }

    pub fn with(mut self, check: Check) -> Expect {
        self.checks.push(check);
        self
    }

    /// The cause that a counter has to show: the one that was said, if the truth admits it.
    pub fn admits(&self, said: Option<&str>) -> &'static str {
        let other = self.or.iter().find(|(other, _)| said == Some(other));
        other.map_or(self.cause, |(other, _)| other)
    }

    /// As in the confusion table.
    pub fn label(&self) -> String {
        label(self.cause, self.variant)
    }
}

pub fn label(cause: &str, variant: Option<&str>) -> String {
    match variant {
        Some(variant) => format!("{cause}/{variant}"),
        None => cause.to_owned(),
    }
}

/// One more thing that a verdict has to say.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The value at this JSON pointer.
    Equals(&'static str, Value),
    /// The number at this pointer, within a fraction of itself.
    Near(&'static str, f64, f64),
    /// The texts below this pointer hold these words.
    Says(&'static str, String),
    NeverSays(&'static str, String),
    /// The words stand in the evidence or in the advice.
    SaysAnywhere(String),
    /// The status, where a source can see it at all.
    StatusUnseen,
    /// The status is this one, or unseen.
    StatusUnseenOr(u16),
}

impl Check {
    /// `None` when it holds, else what is wrong.
    pub fn failure(&self, verdict: &Value) -> Option<String> {
        match self {
            Check::Equals(pointer, want) => {
                let got = verdict.pointer(pointer).unwrap_or(&Value::Null);
                (got != want).then(|| format!("{pointer} is {got}, not {want}"))
            }
            Check::Near(pointer, want, fraction) => {
                let got = last_attempt(verdict, pointer).and_then(Value::as_f64);
                let near = got.is_some_and(|got| (got - want).abs() <= want.abs() * fraction);
                (!near).then(|| format!("{pointer} is {got:?}, not {want:.0} ± {fraction}"))
            }
            Check::Says(pointer, words) => {
                let text = texts(verdict.pointer(pointer).unwrap_or(&Value::Null));
                (!text.contains(words.as_str()))
                    .then(|| format!("{pointer} does not say `{words}`: {text}"))
            }
            Check::NeverSays(pointer, words) => {
                let text = texts(verdict.pointer(pointer).unwrap_or(&Value::Null));
                text.contains(words.as_str())
                    .then(|| format!("{pointer} says `{words}`: {text}"))
            }
            Check::SaysAnywhere(words) => {
                let text = texts(&verdict["evidence"]) + &texts(&verdict["advice"]);
                (!text.contains(words.as_str()))
                    .then(|| format!("neither evidence nor advice says `{words}`: {text}"))
            }
            Check::StatusUnseenOr(status) => {
                let got = &verdict["status"];
                (!got.is_null() && *got != *status)
                    .then(|| format!("status is {got}, not {status}"))
            }
            Check::StatusUnseen => (!verdict["status"].is_null())
                .then(|| format!("status is {}, where TLS hides it", verdict["status"])),
        }
    }
}

/// `/attempts/last/…` means the attempt that decided the response.
fn last_attempt<'a>(verdict: &'a Value, pointer: &str) -> Option<&'a Value> {
    match pointer.strip_prefix("/attempts/last") {
        Some(rest) => verdict["attempts"].as_array()?.last()?.pointer(rest),
        None => verdict.pointer(pointer),
    }
}

/// All strings and numbers below a value, as one text.
fn texts(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text} "),
        Value::Number(number) => format!("{number} "),
        Value::Array(items) => items.iter().map(texts).collect(),
        Value::Object(fields) => fields.values().map(texts).collect(),
        Value::Null | Value::Bool(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Check;

    #[test]
    fn checks_hold_and_fail() {
        let verdict = json!({
            "status": null,
            "attempts": [{"idle_us": 1}, {"idle_us": 1_000_000}],
            "evidence": [{"text": "limit 128, length 129"}],
            "advice": {"text": "", "settings": [{"name": "--backlog"}]}
        });
        let near = |want| Check::Near("/attempts/last/idle_us", want, 0.05).failure(&verdict);
        assert_eq!(near(1_040_000.0), None);
        assert!(near(1_100_000.0).is_some());
        assert_eq!(
            Check::SaysAnywhere("--backlog".into()).failure(&verdict),
            None
        );
        assert_eq!(
            Check::Says("/evidence", "129".into()).failure(&verdict),
            None
        );
        assert!(
            Check::Says("/evidence", "130".into())
                .failure(&verdict)
                .is_some()
        );
        assert!(
            Check::NeverSays("/evidence", "129".into())
                .failure(&verdict)
                .is_some()
        );
        assert_eq!(Check::StatusUnseen.failure(&verdict), None);
        assert!(
            Check::Equals("/status", json!(502))
                .failure(&verdict)
                .is_some()
        );
    }
}
