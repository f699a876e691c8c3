//! What each packet of a failed exchange shows, in words. Pure.

use crate::packet::{Connection, PacketSeen, What};
use crate::signal::Source;
use crate::sinks::report::deciding_evidence;
use crate::verdict::{Confidence, Evidence, Kind, Verdict};

/// The comments of each packet; the verdict stands at the one that decides.
pub fn of(verdict: &Verdict, packets: &[PacketSeen]) -> Vec<Vec<String>> {
    let mut comments: Vec<Vec<String>> = packets
        .iter()
        .map(|packet| words(verdict, packet).into_iter().collect())
        .collect();
    let deciding = deciding_evidence(verdict);
    let mut decides = None;
    for (i, evidence) in verdict.evidence.iter().enumerate() {
        let Some(place) = shown_by(verdict, packets, evidence) else {
            continue;
        };
        let fact = evidence.fact.replace('_', " ");
        let mut comment = format!("{fact}: {}", evidence.text);
        if deciding == Some(i) {
            decides = Some(place);
            comment += match verdict.confidence {
                Confidence::Proven => ": this decides",
                _ => ": this points to it",
            };
        }
        comments[place].push(comment);
    }
    if let Some(place) = decides.or_else(|| last_word(packets)) {
        comments[place].push(conclusion(verdict));
    }
    comments
}

fn conclusion(verdict: &Verdict) -> String {
    let what = match (verdict.kind, verdict.status) {
        (Kind::NearMiss, _) => "near miss".to_owned(),
        (_, Some(status)) => status.to_string(),
        (_, None) => "status not seen".to_owned(),
    };
    let variant = verdict.variant.map(|v| format!(" ({v})"));
    format!(
        "why502: {what}: {}{}, {} [{}]",
        verdict.cause,
        variant.unwrap_or_default(),
        verdict.confidence.name(),
        verdict.id
    )
}

/// Where the verdict stands when no packet is the deciding fact: at the failed response, else at
/// the end of what is there.
fn last_word(packets: &[PacketSeen]) -> Option<usize> {
    let response = |p: &PacketSeen| {
        p.connection == Connection::Downstream && matches!(p.what, What::Response(_))
    };
    let ends = |p: &PacketSeen| matches!(p.what, What::Fin | What::Reset | What::Unreachable);
    let last = packets.len().checked_sub(1);
    let found = packets.iter().rposition(response);
    found.or(packets.iter().rposition(ends)).or(last)
}

/// The packet that a piece of evidence tells of. Packets' own is of the packet's very time; what
/// probes saw happened a moment before or after it.
fn shown_by(verdict: &Verdict, packets: &[PacketSeen], evidence: &Evidence) -> Option<usize> {
    const MOMENT_US: u64 = 2000;
    let apart = |packet: &PacketSeen| packet.at_us(verdict.at).abs_diff(evidence.at_us);
    let candidates = packets.iter().enumerate();
    let mut candidates = candidates.filter(|(_, packet)| can_show(packet, evidence));
    let found = match evidence.source {
        Source::Packets => candidates.find(|(_, packet)| apart(packet) == 0),
        Source::Kernel | Source::Log => candidates
            .filter(|(_, packet)| apart(packet) <= MOMENT_US)
            .min_by_key(|(_, packet)| apart(packet)),
    };
    found.map(|(place, _)| place)
}

/// Whether a packet may be what a piece of evidence tells of, if they are of one moment.
fn can_show(packet: &PacketSeen, evidence: &Evidence) -> bool {
    let upstream = matches!(packet.connection, Connection::Attempt(_));
    let by_server = upstream && !packet.from_client;
    match evidence.fact {
        "downstream_closed" => !upstream && packet.from_client,
        "peer_closed" => by_server && packet.fin,
        "reset_received" => by_server && packet.what == What::Reset,
        "connect_failed" => by_server,
        "upstream_answered" | "upstream_protocol" => by_server && packet.length > 0,
        "request_sent" => upstream && packet.from_client && packet.length > 0,
        // Of what no packet shows probes tell too.
        _ => upstream && evidence.source == Source::Packets,
    }
}

/// What a packet shows alone; acknowledgements and the rest of bodies need no word.
fn words(verdict: &Verdict, packet: &PacketSeen) -> Option<String> {
    let (asks, answers, attempt) = match packet.connection {
        Connection::Downstream => ("client", "proxy", String::new()),
        Connection::Attempt(i) => {
            let attempts = verdict.attempts.len();
            let nth = format!(" (attempt {} of {attempts})", i + 1);
            (
                "proxy",
                "upstream",
                if attempts > 1 { nth } else { String::new() },
            )
        }
    };
    let (from, to) = match packet.from_client {
        true => (asks, answers),
        false => (answers, asks),
    };
    let bytes = packet.length;
    let text = match packet.what {
        What::Request if packet.again => format!("request sent again, {bytes} bytes"),
        What::Request => format!("request sent, {bytes} bytes"),
        What::Response(status) => {
            let made = packet.connection == Connection::Downstream
                && verdict.kind == Kind::Verdict
                && verdict.status == Some(status)
                && verdict.cause != crate::cause::Cause::UpstreamAnswered;
            let made = if made { ", made by the proxy" } else { "" };
            let fin = if packet.fin { ", with FIN" } else { "" };
            format!("response {status}{made}{fin}")
        }
        What::Syn => "connect".to_owned(),
        What::SynAck => "connected".to_owned(),
        What::Fin => "FIN".to_owned(),
        What::Reset => "reset".to_owned(),
        What::Unreachable => "ICMP error: unreachable".to_owned(),
        What::Data if packet.again => format!("{bytes} bytes sent again"),
        What::Data | What::Ack => return None,
    };
    Some(format!("{from} to {to}: {text}{attempt}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::sample;

    fn packet(verdict: &Verdict, at_us: i64, from_client: bool, what: What) -> PacketSeen {
        PacketSeen {
            at: verdict.at.saturating_add_signed(at_us * 1000),
            frame: 1,
            connection: Connection::Attempt(0),
            from_client,
            what,
            length: 0,
            fin: what == What::Fin,
            again: false,
        }
    }

    #[test]
    fn what_probes_saw_stands_at_the_nearest_packet_that_can_show_it() {
        let mut verdict = sample::verdict();
        verdict.at = 1_000_000_000_000;
        let place = deciding_evidence(&verdict).unwrap();
        assert_eq!(verdict.evidence[place].source, Source::Kernel);
        let at = verdict.evidence[place].at_us;
        let packets = [
            packet(&verdict, at, true, What::Fin),
            packet(&verdict, at - 300, false, What::Fin),
            packet(&verdict, at - 1, false, What::Ack),
        ];
        let comments = of(&verdict, &packets);
        assert!(comments[1][1].ends_with("this decides"), "{comments:?}");
        assert!(!comments[0].concat().contains("decides") && comments[2].is_empty());
        // Further away it is another one.
        let far = [packet(&verdict, at - 3000, false, What::Fin)];
        assert!(!of(&verdict, &far).concat().concat().contains("decides"));
    }

    #[test]
    fn the_deciding_packet_has_the_fact_and_the_verdict() {
        let mut verdict = sample::verdict();
        verdict.at = 1_000_000_000_000;
        let place = deciding_evidence(&verdict).unwrap();
        verdict.evidence[place].source = Source::Packets;
        let evidence = verdict.evidence[place].clone();
        assert_eq!(evidence.fact, "peer_closed");
        let packets = [
            packet(&verdict, evidence.at_us, true, What::Ack),
            packet(&verdict, evidence.at_us, false, What::Fin),
            packet(&verdict, evidence.at_us + 1, false, What::Reset),
        ];
        let comments = of(&verdict, &packets);
        assert!(comments[0].is_empty());
        assert_eq!(comments[1].len(), 3, "{comments:?}");
        assert!(comments[1][1].ends_with(&format!("{}: this decides", evidence.text)));
        assert!(comments[1][2].starts_with("why502: 502: keepalive_race"));
        assert_eq!(comments[2], ["upstream to proxy: reset"]);
        // Without it, the verdict is told all the same, and no packet claims to decide.
        let rest = of(&verdict, &packets[2..]);
        assert_eq!(rest[0].len(), 2);
        assert!(!rest.concat().concat().contains("decides"));
    }
}
