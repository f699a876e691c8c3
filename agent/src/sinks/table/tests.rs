//! The table as a person sees it.

use super::*;
use crate::cause::Cause;
use crate::sinks::sample::{other, verdict};
use crate::sinks::summary::Totals;
use crate::verdict::{Confidence, Kind, Party, Spread};

const SCREEN: Display = Display {
    terminal: Some(|| Size {
        columns: 80,
        lines: 24,
    }),
    colour: false,
    live: true,
};

fn risk() -> Risk {
    Risk {
        kind: "risk",
        time: "2026-11-20T13:48:20.000000000Z".to_owned(),
        proxy: Party {
            name: Some("nginx".to_owned()),
            ..Party::default()
        },
        upstream: verdict().upstream,
        closes_after_us: Spread {
            median: 1_000_000,
            p5: 999_000,
            p95: 1_002_000,
            n: 40,
        },
        longest_reuse_us: 998_000,
        text: "it closes connections that were idle for 1.0 s; nginx has reused one after 998 ms"
            .to_owned(),
    }
}

/// Shows the same failures in a display; gives what was written.
fn show(display: Display) -> String {
    let mut out = Vec::new();
    let mut totals = Totals::default();
    let mut table = Table::new(&mut out, display, 0);
    let mut failures = vec![verdict(), verdict()];
    for ms in 0..201 {
        failures.push(other(
            Cause::UnixAcceptQueueFull,
            "unix:/run/gunicorn/gunicorn.sock",
            ms,
        ));
    }
    failures[5].confidence = Confidence::Likely;
    let mut retried = verdict();
    retried.kind = Kind::NearMiss;
    retried.status = Some(200);
    retried.advice = Default::default();
    failures.push(retried);
    for failure in &failures {
        totals.on_verdict(failure);
        table.on_verdict(failure).unwrap();
    }
    table.on_risk(&risk()).unwrap();
    table.on_tick(12_000_000_000).unwrap();
    table.on_tick(12_100_000_000).unwrap();
    totals.blind("request_reads", "no socket storage before Linux 5.11");
    table.finish(&totals.finish(0, 60_000_000_000)).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn without_a_terminal_lines_come_once_and_the_table_at_the_end() {
    insta::assert_snapshot!(show(Display::plain()));
}

#[test]
fn on_a_terminal_the_live_table_is_replaced_by_the_report() {
    let shown = show(SCREEN);
    let (live, report) = shown.split_once("\x1b[").unwrap();
    insta::assert_snapshot!(live);
    let lines = live.lines().count();
    assert!(report.starts_with(&format!("{lines}A\r\x1b[J203 failed responses in 60.0 s")));
    assert_eq!(
        report.matches('\x1b').count(),
        1,
        "drawn once within a quarter of a second"
    );
}

#[test]
fn nothing_is_wider_than_a_small_terminal() {
    for line in show(Display::plain()).lines() {
        let columns = unicode_width::UnicodeWidthStr::width(line);
        // Lines of the log at the beginning are not cut: they are searched and copied.
        assert!(
            columns <= 80 || line.starts_with("13:48:"),
            "{columns}: {line}"
        );
    }
}

#[test]
fn colours_say_the_same() {
    let plain = show(Display::plain());
    let coloured = show(Display {
        colour: true,
        ..Display::plain()
    });
    assert!(coloured.contains("\x1b[1m"));
    let mut stripped = String::new();
    let mut parts = coloured.split("\x1b[");
    stripped += parts.next().unwrap();
    for part in parts {
        stripped += part.split_once('m').unwrap().1;
    }
    let trimmed: Vec<&str> = stripped.lines().map(str::trim_end).collect();
    assert_eq!(trimmed, plain.lines().collect::<Vec<_>>());
}

#[test]
fn a_table_longer_than_the_screen_is_cut() {
    let small = Display {
        terminal: Some(|| Size {
            columns: 80,
            lines: 10,
        }),
        ..SCREEN
    };
    let mut out = Vec::new();
    let mut table = Table::new(&mut out, small, 0);
    for port in 0..50 {
        let failure = other(Cause::ConnectionRefused, &format!("10.0.0.1:{port}"), 0);
        table.on_verdict(&failure).unwrap();
    }
    table.on_tick(1).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.lines().count(), 8);
    assert!(text.ends_with("… 96 more lines\n"), "{text}");
}

#[test]
fn rows_are_bounded() {
    let mut table = Table::new(Vec::new(), SCREEN, 0);
    for port in 0..5_000 {
        let failure = other(Cause::ConnectionRefused, &format!("10.0.0.1:{port}"), 0);
        table.on_verdict(&failure).unwrap();
    }
    let rows = table.rows.of(Kind::Verdict);
    assert_eq!(rows.len(), 201);
    assert_eq!(rows[0].upstream, "(other upstreams)");
    assert_eq!(table.rows.count(Kind::Verdict), 5_000);
}

#[test]
fn traffic_cannot_forge_or_move_anything() {
    let mut forged = verdict();
    let attack = "/x → nginx proxy_read_timeout: 0\n  → nginx proxy_read_timeout: 0\r\x1b[2J\x1b[1A\u{202e}\u{9b}31m";
    forged.request.path = Some(attack.to_owned());
    forged.evidence[0].text = attack.to_owned();
    forged.advice.text = attack.to_owned();
    forged.missing = vec![attack.to_owned()];
    forged.upstream.address = Some(crate::signal::Address(format!("unix:{attack}")));
    forged.upstream.process = Some(Some(attack.to_owned()));
    for display in [Display::plain(), SCREEN] {
        let mut out = Vec::new();
        let mut totals = Totals::default();
        let mut table = Table::new(&mut out, display, 0);
        totals.on_verdict(&forged);
        table.on_verdict(&forged).unwrap();
        table.on_tick(1).unwrap();
        table.finish(&totals.finish(0, 1)).unwrap();
        let text = String::from_utf8(out).unwrap();
        let own = match text.split_once("\r\x1b[J") {
            Some((live, report)) => format!("{}{report}", &live[..live.rfind("\x1b[").unwrap()]),
            None => text,
        };
        assert!(!own.contains(['\x1b', '\r', '\u{202e}', '\u{9b}']), "{own}");
        assert!(
            !own.lines().any(|line| line.contains("→ nginx proxy_read")),
            "{own}"
        );
    }
}

#[test]
fn a_message_can_be_written_while_the_table_is_live() {
    let mut out = Vec::new();
    let mut table = Table::new(&mut out, SCREEN, 0);
    table.make_room().unwrap();
    table.on_tick(1).unwrap();
    table.make_room().unwrap();
    table.on_tick(1_000_000_000).unwrap();
    let text = String::from_utf8(out).unwrap();
    let (first, second) = text.split_once("\x1b[1A\r\x1b[J").unwrap();
    assert_eq!(first, "why502  0:00  0 failed responses  (times in UTC)\n");
    assert_eq!(second, "why502  0:01  0 failed responses  (times in UTC)\n");
}

#[test]
fn a_report_alone_has_nothing_before_it() {
    for display in [Display::plain(), SCREEN] {
        let shown = show(display.report_only());
        assert!(
            shown.starts_with("203 failed responses in 60.0 s"),
            "{shown}"
        );
    }
}

#[test]
fn no_failure_is_said_as_plainly() {
    let mut out = Vec::new();
    let mut table = Table::new(&mut out, Display::plain(), 0);
    let mut totals = Totals::default();
    totals.lost("ring_buffer", "full", 7);
    table.finish(&totals.finish(0, 1_500_000_000)).unwrap();
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
}

#[test]
fn what_is_not_followed_is_said_beside_what_is_lost() {
    let mut out = Vec::new();
    let mut table = Table::new(&mut out, Display::plain(), 0);
    let mut totals = Totals::default();
    totals.lost("capture", "gaps", 3);
    table.finish(&totals.finish(0, 1_500_000_000)).unwrap();
    let shown = String::from_utf8(out).unwrap();
    let (lost, not_followed) = (
        "No signal was lost.",
        "Packets not followed (capture_gaps 3)",
    );
    assert!(
        shown.contains(lost) && shown.contains(not_followed),
        "{shown}"
    );
}
