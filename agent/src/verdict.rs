//! The result for one failed exchange, in the shape of the JSON contract.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize};

use crate::cause::{Cause, Variant};
use crate::signal::{Address, InitialSequenceNumbers, Nanos};

pub const VERSION: u32 = 1;

/// A name of the program's own. (Written as a reference, serde would borrow it from what it reads.)
pub type Name = &'static str;

/// How sure a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// No cause is claimed.
    Unknown,
    /// One cause fits best; a named fact is missing.
    Likely,
    /// The evidence admits no other cause.
    Proven,
}

impl Confidence {
    pub const ALL: [Confidence; 3] = [Confidence::Proven, Confidence::Likely, Confidence::Unknown];

    pub fn name(self) -> &'static str {
        match self {
            Confidence::Unknown => "unknown",
            Confidence::Likely => "likely",
            Confidence::Proven => "proven",
        }
    }
}

/// `verdict`: the proxy failed this exchange. `near_miss`: an attempt failed without a failed
/// response. `truncated`: the response had begun when the upstream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Verdict,
    NearMiss,
    Truncated,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Verdict => "verdict",
            Kind::NearMiss => "near_miss",
            Kind::Truncated => "truncated",
        }
    }
}

/// One exchange that failed, or nearly did, and why. Serialises to one JSON line of the contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    #[serde(rename = "type")]
    pub kind: Kind,
    pub version: u32,
    /// ULID.
    pub id: String,
    /// RFC 3339, UTC, nanoseconds: when the response was sent (near miss: when the attempt ended).
    pub time: String,
    pub node: String,
    pub status: Option<u16>,
    /// `kernel`, `packets`, `log` or null.
    pub status_source: Option<crate::signal::Source>,
    pub status_rewritten: bool,
    pub cause: Cause,
    pub variant: Option<Variant>,
    pub confidence: Confidence,
    /// From the request's first byte at the proxy to the response.
    pub duration_us: Option<u64>,
    pub proxy: Party,
    pub client: Client,
    pub request: Request,
    pub upstream: Party,
    pub attempts: Vec<AttemptLine>,
    pub evidence: Vec<Evidence>,
    /// The facts that would have decided, by name.
    pub missing: Vec<String>,
    pub advice: Advice,
    /// Signals lost in the window of this exchange.
    pub lost_signals: u64,
    /// The proxy's log says otherwise, which the evidence shows; not part of the JSON.
    #[serde(skip)]
    pub contradicted: bool,
    /// The same moment on the monotonic clock; not part of the JSON.
    #[serde(skip)]
    pub at: Nanos,
    /// From the response to the verdict.
    #[serde(skip)]
    pub delay_ns: u64,
}

/// A proxy or an upstream: an address and the process behind it. The proxy's name is `name`, the
/// upstream's is `process`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Party {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub address: Option<Address>,
    #[serde(
        default,
        deserialize_with = "even_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub process: Option<Option<String>>,
    pub pid: Option<u32>,
    pub container: Option<String>,
    pub namespace: Option<String>,
    pub workload: Option<String>,
    pub pod: Option<String>,
}

impl Party {
    /// `namespace/workload`, where both are known.
    pub fn qualified_workload(&self) -> Option<String> {
        let (namespace, workload) = (self.namespace.as_ref()?, self.workload.as_ref()?);
        Some(format!("{namespace}/{workload}"))
    }

    /// What its process runs in, for people: the innermost name, and what that belongs to.
    pub fn home(&self) -> Option<String> {
        match (&self.namespace, &self.pod, &self.container, &self.workload) {
            (Some(namespace), Some(pod), Some(container), _) => {
                Some(format!("container {container} of pod {namespace}/{pod}"))
            }
            (Some(namespace), Some(pod), None, _) => Some(format!("pod {namespace}/{pod}")),
            (_, _, Some(container), _) => Some(format!("container {container}")),
            (_, _, _, workload) => workload.clone(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Client {
    pub address: Option<Address>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub method: Option<String>,
    pub host: Option<String>,
    /// Without query.
    pub path: Option<String>,
}

/// One attempt of the exchange, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptLine {
    pub upstream: Address,
    pub local: Option<Address>,
    /// From the response; before it is negative.
    pub at_us: i64,
    pub reused: bool,
    pub requests_before: u32,
    pub idle_us: Option<u64>,
    pub connect_us: Option<u64>,
    pub duration_us: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// `connect_failed`, `connect_given_up`, `peer_closed`, `reset`, `send_failed`, `given_up`, `answered`.
    #[serde(deserialize_with = "name")]
    pub outcome: Name,
    pub cause: Option<Cause>,
    /// For the export alone.
    #[serde(skip)]
    pub isn: Option<InitialSequenceNumbers>,
}

/// One fact that supports the verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub at_us: i64,
    /// snake_case name of the fact.
    #[serde(deserialize_with = "name")]
    pub fact: Name,
    pub text: String,
    pub source: crate::signal::Source,
}

/// What to change, with the observed numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    pub text: String,
    pub settings: Vec<Setting>,
}

/// One setting that would have prevented the failure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    pub software: String,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
    pub observed_seconds: Option<f64>,
    /// `wire`, `kernel`, `command_line`, `environment`, `configuration`; null if not observed.
    #[serde(deserialize_with = "name_or_null")]
    pub observed_from: Option<Name>,
    pub suggested: String,
    /// The name of the setting this one could be used instead of.
    pub alternative_to: Option<String>,
    pub risk: Option<String>,
}

/// An upstream that closes idle connections earlier than the proxy reuses them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Risk {
    #[serde(rename = "type", deserialize_with = "name")]
    pub kind: Name,
    pub time: String,
    pub proxy: Party,
    pub upstream: Party,
    pub closes_after_us: Spread,
    pub longest_reuse_us: u64,
    pub text: String,
}

/// Median, 5th and 95th percentile of `n` observations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: u64,
    pub p5: u64,
    pub p95: u64,
    pub n: u64,
}

/// A key that is there is told from one that is not, whatever its value.
fn even_null<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// A name that is one of the program's own where a verdict is made.
fn name<'de, D: Deserializer<'de>>(value: D) -> Result<&'static str, D::Error> {
    known(String::deserialize(value)?).map_err(serde::de::Error::custom)
}

fn name_or_null<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'static str>, D::Error> {
    let name: Option<String> = Option::deserialize(value)?;
    let name = name.map(known).transpose();
    name.map_err(serde::de::Error::custom)
}

/// Keeps a name for good. The program has about a hundred; a file that was made up may have any.
fn known(name: String) -> Result<&'static str, &'static str> {
    const MAX: usize = 1_000;
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name.as_str()) {
        return Ok(known);
    }
    if names.len() >= MAX {
        return Err("more names of facts than there are");
    }
    let kept: &'static str = name.leak();
    names.insert(kept);
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::sample;

    #[test]
    fn what_a_process_runs_in_is_said_in_words() {
        let party = |namespace: &str, pod: &str, container: &str, workload: &str| {
            let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let party = Party {
                namespace: some(namespace),
                pod: some(pod),
                container: some(container),
                workload: some(workload),
                ..Party::default()
            };
            (party.home().unwrap_or_default(), party.qualified_workload())
        };
        let pod = "web-66b6c48dd5-7xk2p";
        assert_eq!(
            party("shop", pod, "nginx", "web"),
            (
                format!("container nginx of pod shop/{pod}"),
                Some("shop/web".to_owned())
            )
        );
        assert_eq!(
            party("shop", "web-0", "", ""),
            ("pod shop/web-0".to_owned(), None)
        );
        assert_eq!(party("", "", "db", ""), ("container db".to_owned(), None));
        let service = "nginx.service";
        assert_eq!(party("", "", "", service), (service.to_owned(), None));
        assert_eq!(party("", "", "", ""), (String::new(), None));
    }

    #[test]
    fn a_line_read_back_is_the_line_that_was_written() {
        let mut verdict = sample::verdict();
        verdict.upstream.process = Some(None);
        let line = serde_json::to_string(&verdict).unwrap();
        let back: Verdict = serde_json::from_str(&line).unwrap();
        assert_eq!(back.upstream.process, Some(None));
        assert_eq!(back.proxy.process, None);
        assert_eq!(serde_json::to_string(&back).unwrap(), line);
    }
}
