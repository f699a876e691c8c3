//! The table of how soon verdicts come.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::Cells;
use super::super::delays::Delays;
use super::super::observers::Source;

pub(super) fn write(text: &mut String, results: &[(Source, Cells)]) {
    let mut by_proxy: BTreeMap<&str, Delays> = BTreeMap::new();
    let mut all = Delays::default();
    let live = results.iter().filter(|(of, _)| *of == Source::Kernel);
    for ((proxy, _), cell) in live.flat_map(|(_, cells)| cells) {
        by_proxy.entry(proxy).or_default().add(&cell.delays);
        all.add(&cell.delays);
    }
    if all.count() == 0 {
        return;
    }
    let _ = writeln!(
        text,
        "\n## Time to verdict\n\n\
         From the moment at which the client had all of a failed response to the one at which the live \
         agent's line about it was read, in whole milliseconds, rounded down; 0 also where the line was \
         first. Of source `kernel`, which alone is live here, without logs to wait for (the others are read afterwards), all \
         verdicts that are scored below, on a machine that runs several pairs at once.\n\n\
         | proxy | verdicts | median | 90 % within | 99 % within | longest |\n\
         |---|---:|---:|---:|---:|---:|"
    );
    for (proxy, delays) in &by_proxy {
        row(text, proxy, delays);
    }
    row(text, "all", &all);
}

fn row(text: &mut String, name: &str, delays: &Delays) {
    let within = |percent| match delays.percentile(percent) {
        Some(ms) => ms.to_string(),
        None => "–".to_owned(),
    };
    let _ = writeln!(
        text,
        "| {name} | {} | {} | {} | {} | {} |",
        delays.count(),
        within(50),
        within(90),
        within(99),
        within(100)
    );
}
