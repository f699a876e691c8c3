//! Requests that met the proxy's own close of an idle connection, as the tier in front saw them: an attempt
//! of that tier, whose upstream the proxy is.

use agent_ebpf::Late;

use super::*;
use crate::signal::{
    Attempt, DownstreamState, End, Fin, Link, LinkOrder, Opening, Peer, PeerClose, Place,
    RequestSent, ResetBy, TcpFacts,
};

/// What closes sooner after its last answer was not idle: what comes then may belong to that.
const IDLE_NS: u64 = 100_000_000;

impl Watch {
    pub(super) fn late(&mut self, late: &Late) {
        if let Some(attempt) = attempt(late, clock::tick_ns()) {
            self.signal(Signal {
                at: late.header.at,
                source: Source::Kernel,
                fact: Fact::RequestMetClose(Box::new(attempt)),
            });
        }
    }
}

fn attempt(late: &Late, tick_ns: u64) -> Option<Attempt> {
    let way = &late.way;
    let proxy = decode::inet(way.to.family, &way.to.address, way.to.port);
    let front = decode::inet(way.to.family, &way.from, way.to.from_port);
    let idle_when_closed = u64::from(late.idle_ticks) * tick_ns;
    if idle_when_closed < IDLE_NS {
        return None;
    }
    let (at, closed) = (late.header.at, late.closed);
    Some(Attempt {
        flow: 0,
        proxy: late.header.tgid,
        thread: 0,
        downstream: Some(Link {
            flow: 0,
            ordinal: late.requests + 1,
            order: LinkOrder::AfterRead,
            client: Some(front.clone()),
            proxy_address: Some(proxy.clone()),
            request: None,
            state: DownstreamState::Unknown,
            read_before_ns: None,
        }),
        retry_of: None,
        upstream: proxy.clone(),
        local: Some(front),
        began: at,
        connected: None,
        reused: true,
        requests_before: late.requests,
        idle_ns: Some(idle_when_closed + at.saturating_sub(closed)),
        request: Some(RequestSent {
            at,
            bytes: u64::from(late.data),
            opening: Opening::Unseen,
            write_errno: None,
        }),
        received: 0,
        response: None,
        sealed: false,
        tickets: false,
        unasked: false,
        end: End::Reset,
        tcp: Some(TcpFacts {
            fin: Some(Fin {
                at: closed,
                acked: 0,
                after_request: late.knew == 0,
            }),
            reset_at: Some(at),
            ..TcpFacts::default()
        }),
        peer: Some(Peer {
            accepted: true,
            closed: Some(PeerClose {
                at: closed,
                pid: late.header.tgid,
                accepted: true,
                reset: true,
                taken: Some(0),
                reset_by: Some(ResetBy::LateData),
                ..PeerClose::default()
            }),
            ..Peer::default()
        }),
        queue: None,
        netns: 0,
        upstream_end: Some(Place {
            address: proxy,
            netns: late.netns,
        }),
        spoke_http: true,
        fault: None,
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    fn late() -> Late {
        let mut late = Late::new_zeroed();
        (late.header.at, late.header.tgid, late.closed) = (2_010_000_000, 7, 2_000_000_000);
        late.way.to.family = 2;
        (late.way.to.port, late.way.to.from_port) = (8080, 40_112);
        late.way.to.address[..4].copy_from_slice(&[10, 9, 0, 2]);
        late.way.from[..4].copy_from_slice(&[10, 9, 0, 1]);
        (late.requests, late.idle_ticks, late.data) = (3, 250, 124);
        late
    }

    #[test]
    fn it_is_told_as_the_tier_in_front_saw_it() {
        let told = attempt(&late(), 4_000_000).unwrap();
        assert_eq!(told.upstream.0, "10.9.0.2:8080");
        assert_eq!(
            told.local.as_ref().map(|a| a.0.as_str()),
            Some("10.9.0.1:40112")
        );
        assert_eq!((told.proxy, told.requests_before), (7, 3));
        assert_eq!(told.idle_ns, Some(1_010_000_000));
        assert!(told.tcp.unwrap().fin.unwrap().after_request);
        assert_eq!(
            told.peer.unwrap().closed.unwrap().reset_by,
            Some(ResetBy::LateData)
        );
    }

    #[test]
    fn what_was_not_idle_is_not_told() {
        assert!(
            attempt(
                &Late {
                    idle_ticks: 24,
                    ..late()
                },
                4_000_000
            )
            .is_none()
        );
        assert!(
            attempt(
                &Late {
                    idle_ticks: 25,
                    ..late()
                },
                4_000_000
            )
            .is_some()
        );
    }
}
