//! The export against a receiver that is there, away, full of objections, or silent.

mod receiver;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Counts, Endpoint, Limits, Otlp};
use crate::sinks::metrics::Metrics;
use crate::sinks::sample;
use receiver::{Manner, Receiver};

/// What is awaited comes at once; what is counted is the usual.
fn soon() -> Limits {
    Limits {
        gather: Duration::from_millis(5),
        first_pause: Duration::from_millis(2),
        longest_pause: Duration::from_millis(20),
        metrics: Duration::from_secs(3600),
        ..Limits::default()
    }
}

fn export(to: &Receiver, limits: Limits) -> Otlp {
    let endpoint: Endpoint = format!("http://{}", to.address).parse().unwrap();
    Otlp::start(&endpoint, "web-3", &Arc::new(Metrics::new()), limits).unwrap()
}

/// Hands over verdicts that differ as a storm's do, and no faster than the thread takes them: the
/// queue is what is tested, not this machine.
fn produce(otlp: &mut Otlp, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let mut verdict = sample::verdict();
        verdict.id = format!("{number:026}");
        verdict.request.path = Some(format!("/orders/{}", number.wrapping_mul(0x9e37_79b9_7f4a)));
        verdict.attempts[0].local = Some(sample::address(&format!(
            "10.9.0.1:{}",
            1_024 + number % 60_000
        )));
        while otlp.intake.capacity() == 0 {
            std::thread::yield_now();
        }
        otlp.on_verdict(&verdict, 1_795_182_504_000_000_000 + number * 1_000_000);
    }
}

/// Each that was sent has come, and once.
fn once_each(receiver: &Receiver, counts: &Counts) {
    let came = receiver.until(|received| {
        let came = received.ids.len() as u64;
        (came >= counts.sent).then(|| (came, received.ids.values().all(|times| *times == 1)))
    });
    assert_eq!(came, (counts.sent, true));
}

#[test]
fn nothing_is_lost_while_the_receiver_is_away_for_30_seconds_at_1000_a_second() {
    const STORM: u64 = 30_000;
    let mut receiver = Receiver::away(Manner::Takes);
    let mut otlp = export(&receiver, soon());
    produce(&mut otlp, 0..STORM);
    let away = otlp.counts();
    assert_eq!((away.waiting(), away.lost()), (STORM, 0));
    receiver.listen();
    receiver.until(|received| (received.ids.len() as u64 == STORM).then_some(()));
    let (counts, messages) = otlp.finish();
    assert_eq!((counts.produced, counts.sent), (STORM, STORM));
    assert_eq!((counts.lost(), counts.up), (0, Some(true)));
    once_each(&receiver, &counts);
    let [message] = &messages[..] else {
        panic!("{messages:?}")
    };
    assert!(message.contains("it is tried again"), "{message}");
    receiver.until(|received| (received.service == "why502").then_some(()));
}

/// As an outage goes, ten times as fast unless asked otherwise: requests under way break off, pauses
/// grow, and verdicts come before, meanwhile and afterwards.
#[test]
fn an_outage_in_the_middle_of_a_storm_loses_nothing() {
    const A_SECOND: u64 = 1_000;
    const OUTAGE: std::ops::Range<u64> = 5..35;
    let faster = match std::env::var_os("WHY502_TEST_REAL_TIME") {
        Some(_) => 1,
        None => 10,
    };
    let usual = Limits::default();
    let limits = Limits {
        gather: usual.gather / faster,
        first_pause: usual.first_pause / faster,
        longest_pause: usual.longest_pause / faster,
        answer: usual.answer / faster,
        metrics: usual.metrics / faster,
        ..usual
    };
    let receiver = Receiver::start(Manner::Takes);
    let mut otlp = export(&receiver, limits);
    let began = Instant::now();
    for second in 0..40 {
        if second == OUTAGE.start {
            // It was there, and some has been sent.
            receiver.until(|received| (!received.ids.is_empty()).then_some(()));
            receiver.becomes(Manner::Breaks);
        }
        if second == OUTAGE.end {
            let counts = otlp.counts();
            assert_eq!((counts.up, counts.lost()), (Some(false), 0));
            assert!(counts.waiting() >= 25 * A_SECOND, "{counts:?}");
            println!("{} wait when the receiver is back", counts.waiting());
            receiver.becomes(Manner::Takes);
        }
        produce(&mut otlp, second * A_SECOND..(second + 1) * A_SECOND);
        let next = began + Duration::from_secs(second + 1) / faster;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    println!("{} wait at the end", otlp.counts().waiting());
    let (counts, _) = otlp.finish();
    assert_eq!((counts.produced, counts.sent), (40_000, 40_000));
    once_each(&receiver, &counts);
}

#[test]
fn beyond_the_queue_sent_and_dropped_are_produced_exactly() {
    let bounds = [
        (
            "queue_full",
            Limits {
                records: 1_000,
                ..soon()
            },
        ),
        (
            "queue_bytes",
            Limits {
                bytes: 64 << 10,
                ..soon()
            },
        ),
    ];
    for (reason, limits) in bounds {
        let receiver = Receiver::start(Manner::Status(503));
        let mut otlp = export(&receiver, limits);
        produce(&mut otlp, 0..5_000);
        let full = otlp.counts();
        assert_eq!(full.produced, 5_000);
        assert!(full.lost() > 0 && full.sent == 0, "{full:?}");
        receiver.becomes(Manner::Takes);
        // What comes when there is room again is sent again.
        let (counts, _) = otlp.finish();
        assert_eq!(counts.sent + counts.lost(), 5_000);
        assert_eq!(counts.dropped.keys().collect::<Vec<_>>(), [&reason]);
        assert!(counts.sent > 0, "{counts:?}");
        once_each(&receiver, &counts);
    }
}

#[test]
fn what_the_receiver_does_not_want_is_dropped_and_counted() {
    let receiver = Receiver::start(Manner::Status(400));
    let mut otlp = export(&receiver, soon());
    let requests = |wanted| {
        receiver.until(|received| (received.requests >= wanted).then_some(received.requests))
    };
    produce(&mut otlp, 0..1);
    requests(1);
    receiver.becomes(Manner::Rejects(1));
    // One request, full, so that it is known what of it is rejected.
    produce(&mut otlp, 1..513);
    let (counts, messages) = otlp.finish();
    assert_eq!(counts.dropped["refused"], 1);
    let rejected = counts.dropped["rejected"];
    assert_eq!(rejected, requests(2) - 1);
    assert_eq!(counts.sent, 512 - rejected);
    once_each(&receiver, &counts);
    assert!(messages[0].contains("400"), "{messages:?}");
}

#[test]
fn a_receiver_that_never_answers_is_left_and_asked_again() {
    let receiver = Receiver::start(Manner::Hangs);
    let mut otlp = export(
        &receiver,
        Limits {
            answer: Duration::from_millis(50),
            ..soon()
        },
    );
    produce(&mut otlp, 0..3);
    receiver.until(|received| (received.requests >= 2).then_some(()));
    receiver.becomes(Manner::Takes);
    receiver.until(|received| (received.ids.len() == 3).then_some(()));
    let (counts, _) = otlp.finish();
    assert_eq!((counts.sent, counts.lost()), (3, 0));
    once_each(&receiver, &counts);
}

#[test]
fn what_waits_at_the_end_is_sent_or_counted() {
    let receiver = Receiver::start(Manner::Takes);
    // Nothing is due before the end.
    let patient = Limits {
        gather: Duration::from_secs(3600),
        ..soon()
    };
    let mut otlp = export(&receiver, patient);
    produce(&mut otlp, 0..700);
    let (counts, messages) = otlp.finish();
    assert_eq!((counts.sent, counts.lost()), (700, 0));
    once_each(&receiver, &counts);
    // The metrics come last, and say so.
    let named = |name: &str| receiver.until(|r| Some(r.metrics.iter().any(|one| one == name)));
    assert!(named("why502_build_info") && named("why502_verdicts_total"));
    assert_eq!(messages, Vec::<String>::new());

    let away = Receiver::away(Manner::Takes);
    let hasty = Limits {
        end: Duration::from_millis(20),
        ..soon()
    };
    let mut otlp = export(&away, hasty);
    produce(&mut otlp, 0..700);
    let (counts, _) = otlp.finish();
    assert_eq!(
        counts.dropped.into_iter().collect::<Vec<_>>(),
        [("ended", 700)]
    );
}

#[test]
fn metrics_come_every_so_often() {
    let receiver = Receiver::start(Manner::Takes);
    let often = Limits {
        metrics: Duration::from_millis(5),
        ..soon()
    };
    let _otlp = export(&receiver, often);
    receiver.until(|received| (!received.metrics.is_empty()).then_some(()));
}

#[test]
fn the_counts_reach_the_metrics_each_once() {
    let metrics = Metrics::new();
    let mut counts = Counts {
        produced: 9,
        sent: 4,
        up: Some(false),
        ..Counts::default()
    };
    counts.dropped.insert("queue_full", 3);
    metrics.otlp(counts.clone());
    counts.dropped.insert("refused", 1);
    metrics.otlp(counts);
    let text = metrics.render("");
    for line in [
        "why502_otlp_records_total{outcome=\"produced\"} 9",
        "why502_otlp_records_total{outcome=\"sent\"} 4",
        "why502_otlp_records_total{outcome=\"dropped\"} 4",
        "why502_signals_lost_total{stage=\"otlp\",reason=\"queue_full\"} 3",
        "why502_signals_lost_total{stage=\"otlp\",reason=\"refused\"} 1",
        "why502_otlp_up 0",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}
