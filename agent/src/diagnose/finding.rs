//! What a rule finds: a cause, how sure, what is missing, and whether a later fact could change it.

use crate::cause::{Cause, Variant};
use crate::signal::{Nanos, Source};
use crate::track::host::Past;
use crate::verdict::Confidence;

use super::Fact;

#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub cause: Cause,
    pub variant: Option<Variant>,
    pub confidence: Confidence,
    pub missing: Vec<String>,
    /// Evidence beyond what every attempt shows.
    pub facts: Vec<Fact>,
    pub settled: bool,
    /// A process that must exit within this time has not been seen to yet.
    pub awaits_exit: Option<Nanos>,
    /// The proxy's log does not admit this cause.
    pub contradicted: bool,
}

impl Finding {
    /// The evidence admits no other cause, and no later fact can change that.
    pub(super) fn proven(cause: Cause) -> Self {
        Self {
            cause,
            variant: None,
            confidence: Confidence::Proven,
            missing: Vec::new(),
            facts: Vec::new(),
            settled: true,
            awaits_exit: None,
            contradicted: false,
        }
    }

    /// One cause fits best; `missing` would decide, and may still come.
    pub(super) fn likely(cause: Cause, missing: impl Into<String>) -> Self {
        Self {
            confidence: Confidence::Likely,
            missing: vec![missing.into()],
            settled: false,
            ..Self::proven(cause)
        }
    }

    /// No cause is claimed; `missing` would decide, and may still come.
    pub(super) fn unknown(missing: impl Into<String>) -> Self {
        Self {
            confidence: Confidence::Unknown,
            ..Self::likely(Cause::Unknown, missing)
        }
    }

    pub(super) fn proven_if(proven: bool, cause: Cause, else_missing: &str) -> Self {
        if proven {
            Self::proven(cause)
        } else {
            Self::likely(cause, else_missing)
        }
    }

    pub(super) fn variant(mut self, variant: impl Into<Option<Variant>>) -> Self {
        self.variant = variant.into();
        self
    }

    pub(super) fn also_missing(mut self, missing: impl Into<String>) -> Self {
        self.missing.push(missing.into());
        self
    }

    /// Nothing later can tell more.
    pub(super) fn settled(mut self) -> Self {
        self.settled = true;
        self
    }

    pub(super) fn settled_if(mut self, settled: bool) -> Self {
        self.settled = settled;
        self
    }

    /// A fact that speaks against what would else be proven.
    pub(super) fn at_most_likely(mut self, missing: impl Into<String>) -> Self {
        if self.confidence == Confidence::Proven {
            self.confidence = Confidence::Likely;
            self.missing.push(missing.into());
        }
        self
    }

    pub(super) fn fact<T>(mut self, past: &Past<T>, name: &'static str, text: String) -> Self {
        self.facts.push(Fact {
            at: past.at,
            name,
            text,
            source: past.source,
        });
        self
    }

    /// What lines of logs say.
    pub(super) fn with_log_facts(mut self, facts: Vec<(Nanos, Source, String)>) -> Self {
        for (at, source, text) in facts {
            self = self.fact_at(at, source, "log_line", text);
        }
        self
    }

    pub(super) fn fact_at(
        mut self,
        at: Nanos,
        source: Source,
        name: &'static str,
        text: String,
    ) -> Self {
        self.facts.push(Fact {
            at,
            name,
            text,
            source,
        });
        self
    }
}
