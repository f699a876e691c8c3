//! A request that met the proxy's own close of an idle connection: a near miss of this proxy, whatever the
//! tier in front makes of it. Nothing else is known of it, and nothing will be. Pure.

use super::{Decided, Tracker};
use crate::diagnose::{self, Case, Tried};
use crate::signal::{Attempt, Signal};
use crate::verdict::{Confidence, Kind};

/// Bytes came for a connection that had been idle, and nobody has read them.
const UNREAD: &str = "request: that what came was one; nobody has read it";

impl Tracker {
    pub(super) fn met_close(&self, signal: &Signal, attempt: &Attempt) -> Decided {
        let attempts = vec![Tried {
            at: signal.at,
            source: signal.source,
            attempt: attempt.clone(),
            closed: None,
            said: None,
        }];
        let case = Case {
            attempts: &attempts,
            response: None,
            source: signal.source,
            host: &self.host,
            told: None,
            surely_told: false,
            named: false,
            answered_at: signal.at,
            lost: self.host.lost_since(attempt.began),
            deadline_passed: true,
        };
        let mut diagnosis = diagnose::diagnose(&case);
        if diagnosis.confidence == Confidence::Proven {
            diagnosis.confidence = Confidence::Likely;
            diagnosis.missing = vec![UNREAD.to_owned()];
        }
        let (advice, lost) = (diagnose::advise_in_front(&case, &diagnosis), case.lost);
        Decided {
            kind: Kind::NearMiss,
            causes: vec![Some(diagnosis.clone())],
            attempts,
            response: None,
            diagnosis,
            advice,
            lost,
            told: None,
            status_of_log: false,
            at: signal.at,
            decided: signal.at,
        }
    }
}
