//! The upstream's half of a failure whose proxy is on another node: what this node saw of the end of its
//! connection, under the names that the other's verdict has.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::community;
use crate::signal::{self, Address, ClosedBy, InitialSequenceNumbers, Software};
use crate::sinks::privacy::Privacy;
use crate::track::render::Stamp;
use crate::verdict::{Name, Party};

/// As the body of its record has it.
#[derive(Debug, Serialize)]
pub struct UpstreamEnd {
    #[serde(rename = "type")]
    pub(super) kind: Name,
    pub(super) id: String,
    time: String,
    node: String,
    /// `process_ended`, `not_accepted`, `unread`, `unanswered` or `idle`: the first that holds.
    pub(super) end: Name,
    pub(super) closed_by: Name,
    pub(super) reset: bool,
    pub(super) accepted: bool,
    pub(super) unanswered: bool,
    pub(super) unread_bytes: u64,
    pub(super) idle_us: u64,
    pub(super) waited_us: u64,
    pub(super) exit_signal: Option<u8>,
    pub(super) exit_status: Option<u8>,
    pub(super) oom_killed: bool,
    pub(super) upstream: Party,
    pub(super) caller: Option<Address>,
    /// Its community id.
    #[serde(skip)]
    pub(super) flow: Option<String>,
    /// They tell nobody's address.
    #[serde(skip)]
    pub(super) isn: InitialSequenceNumbers,
}

impl UpstreamEnd {
    pub(super) const IDLE: Name = "idle";

    /// Whether a proxy's request may have failed of it. Who is not known to speak HTTP may be a
    /// database, whose clients leave without an answer, or close what is idle.
    pub fn is_wanted(end: &signal::UpstreamEnd) -> bool {
        const LONG: u64 = 1_000_000_000;
        let server = end.server.as_ref();
        let known = server.is_some_and(|process| process.software != Software::Other);
        let died = end.exit_signal.is_some();
        known || died || end.unread > 0 || end.unanswered && end.waited_ns >= LONG
    }

    pub fn new(
        end: &signal::UpstreamEnd,
        stamp: Stamp,
        upstream: Party,
        oom_killed: bool,
        privacy: Privacy,
    ) -> UpstreamEnd {
        // A caller with a public address may be a person's, where no proxy is in front; of theirs a
        // hash is found again by whoever tries them all.
        let shown = privacy == Privacy::Full || is_private(&end.caller);
        let flow = || community::id(Some(&end.upstream), Some(&end.caller));
        UpstreamEnd {
            kind: "upstream_end",
            id: stamp.id,
            time: stamp.time,
            node: stamp.node,
            end: word(end),
            closed_by: match end.by {
                ClosedBy::Upstream => "upstream",
                ClosedBy::Proxy => "caller",
            },
            reset: end.reset,
            accepted: end.accepted,
            unanswered: end.unanswered,
            unread_bytes: end.unread,
            idle_us: end.idle_ns / 1000,
            waited_us: end.waited_ns / 1000,
            exit_signal: end.exit_signal,
            exit_status: end.exit_status,
            oom_killed,
            upstream,
            caller: match shown {
                true => Some(end.caller.clone()),
                false => privacy.caller(&end.caller),
            },
            flow: shown.then(flow).flatten(),
            isn: end.isn,
        }
    }
}

fn word(end: &signal::UpstreamEnd) -> Name {
    if end.exit_signal.is_some() {
        "process_ended"
    } else if end.unread > 0 && !end.accepted {
        "not_accepted"
    } else if end.unread > 0 {
        "unread"
    } else if end.unanswered {
        "unanswered"
    } else {
        UpstreamEnd::IDLE
    }
}

/// An address that means nothing outside of a network, as nodes and pods have.
fn is_private(address: &Address) -> bool {
    let Ok(address) = address.0.parse::<SocketAddr>() else {
        return false;
    };
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            // 100.64.0.0/10 is what providers and clusters share.
            let shared = a == 100 && b & 0xc0 == 64;
            ip.is_private() || ip.is_link_local() || ip.is_loopback() || shared
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::sample::{self, address};

    type End = signal::UpstreamEnd;

    fn told(end: &End, privacy: Privacy) -> UpstreamEnd {
        let stamp = Stamp {
            id: String::new(),
            time: String::new(),
            node: String::new(),
        };
        UpstreamEnd::new(end, stamp, Party::default(), false, privacy)
    }

    #[test]
    fn an_end_is_called_by_what_weighs_most() {
        let of = |change: &dyn Fn(&mut End)| {
            let mut end = sample::end();
            change(&mut end);
            told(&end, Privacy::Full).end
        };
        assert_eq!(of(&|_| {}), "unanswered");
        assert_eq!(of(&|end| end.unanswered = false), "idle");
        assert_eq!(of(&|end| end.unread = 1), "unread");
        let waits = |end: &mut End| (end.unread, end.accepted) = (1, false);
        assert_eq!(of(&waits), "not_accepted");
        let dies = |end: &mut End| (end.unread, end.exit_signal) = (1, Some(0));
        assert_eq!(of(&dies), "process_ended");
    }

    #[test]
    fn of_servers_that_may_speak_anything_only_what_looks_failed_is_told() {
        let wanted = |change: &dyn Fn(&mut End)| {
            let mut end = sample::end();
            change(&mut end);
            let known = UpstreamEnd::is_wanted(&end);
            end.server.as_mut().unwrap().software = Software::Other;
            let other = UpstreamEnd::is_wanted(&end);
            end.server = None;
            assert_eq!(UpstreamEnd::is_wanted(&end), other);
            (known, other)
        };
        assert_eq!(wanted(&|end| end.waited_ns = 999_999_999), (true, false));
        assert_eq!(wanted(&|end| end.waited_ns = 1_000_000_000), (true, true));
        let idle = |end: &mut End| (end.unanswered, end.waited_ns) = (false, 5_000_000_000);
        assert_eq!(wanted(&idle), (true, false));
        assert_eq!(wanted(&|end| end.unread = 1), (true, true));
        assert_eq!(wanted(&|end| end.exit_signal = Some(9)), (true, true));
    }

    #[test]
    fn a_caller_that_may_be_a_person_is_shown_as_privacy_says() {
        let mut end = sample::end();
        let shown = |end: &End, privacy| {
            let told = told(end, privacy);
            let caller = told.caller.map(|caller| caller.0);
            (caller, told.flow.is_some())
        };
        let whole = |end: &End| (Some(end.caller.0.clone()), true);
        for own in ["10.9.0.1:40112", "100.64.7.1:40112", "[fd00::1]:40112"] {
            end.caller = address(own);
            for privacy in [Privacy::Full, Privacy::Template, Privacy::Minimal] {
                assert_eq!(shown(&end, privacy), whole(&end));
            }
        }
        end.caller = address("66.35.250.204:40112");
        assert_eq!(shown(&end, Privacy::Full), whole(&end));
        let cut = Some("66.35.250.0/24".to_owned());
        assert_eq!(shown(&end, Privacy::Template), (cut, false));
        assert_eq!(shown(&end, Privacy::Minimal), (None, false));
        let told = told(&end, Privacy::Template);
        let record = super::super::record::of_upstream_end(&told, 1);
        let text = format!("{record:?}");
        assert!(
            !text.contains("66.35.250.204") && !text.contains("40112"),
            "{text}"
        );
    }
}
