//! `explain`: captures, recordings and logs, one after the other, to the end or to where they are damaged.

use std::io::{BufReader, BufWriter, Write};

use anyhow::{Result, bail};

use super::again::{self, Again};
use super::excerpt::{self, Awaited, PcapOut};
use super::logs::{self, Beside};
use super::packets;
use super::pipeline::Pipeline;
use crate::cli::{Exit, warning};
use crate::clock::Clock;
use crate::config::{Explain, Input};
use crate::signal::Nanos;
use crate::sinks::json::JsonLines;
use crate::sinks::report::Report;
use crate::sinks::results::Results;
use crate::sinks::table::{Display, Table};
use crate::sinks::visible;
use crate::sources::packets::file;
use crate::sources::recording::{ReadError, Recording};

/// `why502 explain`.
pub fn explain(settings: &Explain, node: &str) -> Result<Exit> {
    let out = BufWriter::new(std::io::stdout().lock());
    let results = if settings.json {
        Results::Json(JsonLines::all(out))
    } else {
        Results::Table(Box::new(Table::new(
            out,
            Display::of_stdout().report_only(),
            0,
        )))
    };
    let mut pipeline = Pipeline::new(results, settings.privacy, node, Clock::from_offset(0));
    let mut seconds = (Nanos::MAX, 0);
    if let Some(path) = &settings.kept.report {
        let named = [settings.inputs.clone(), settings.logs.inputs()].concat();
        let names = Input::names(&named);
        pipeline.report = Some(Report::create(path, &names, &format!("from {names}"))?);
    }
    if let Some(path) = &settings.kept.pcap {
        no_recording(&settings.inputs)?;
        let pcap = PcapOut::create(path, settings.privacy, settings.kept.with_payload)?;
        pipeline.pcap = Some(pcap);
    }
    let templates = logs::templates(&settings.logs)?;
    let mut strange = None;
    if settings.inputs.is_empty() {
        let (alone, not_a_log) = Beside::open(&settings.logs, &templates)?;
        strange = not_a_log;
        logs::explain(&mut pipeline, alone, &mut seconds)?;
    }
    let read_again = settings.kept.report.is_some() || settings.kept.pcap.is_some();
    let mut damaged = Vec::new();
    for input in &settings.inputs {
        if !settings.logs.files.is_empty() {
            let (beside, not_a_log) = Beside::open(&settings.logs, &templates)?;
            strange = not_a_log;
            pipeline.beside = Some(beside);
        }
        // What came before the damage is explained all the same.
        let damage = match again::open(input, read_again) {
            Ok(opened) => explain_input(&mut pipeline, settings, opened, &mut seconds)?,
            Err(error) => Some(Damage::of(error)),
        };
        damaged.extend(damage);
    }
    damaged.extend(strange.map(Damage::of));
    let (began, ended) = seconds;
    pipeline.finish(began.min(ended), ended)?;
    let mut exit = Ok(Exit::Done);
    for Damage { error, harmless } in damaged {
        if harmless {
            warning!("{error:#}");
        } else if exit.is_ok() {
            exit = Err(error);
        } else {
            eprintln!("error: {}", visible(&format!("{error:#}")));
        }
    }
    exit
}

const HOLDS_NO_PACKETS: &str = "{} is a recording, which holds signals and no packets: \
    --pcap needs a packet capture; leave it away, or explain the recording alone";

/// Says so before anything is written or explained.
fn no_recording(inputs: &[Input]) -> Result<()> {
    for input in inputs {
        let Input::File(path) = input else { continue };
        let regular = path.metadata().is_ok_and(|m| m.is_file());
        if regular && file::Input::open(path).is_ok_and(|i| i.kind() == file::Kind::Recording) {
            bail!(HOLDS_NO_PACKETS.replace("{}", &path.display().to_string()));
        }
    }
    Ok(())
}

/// Why an input was not explained to its end.
struct Damage {
    error: anyhow::Error,
    /// All that there was to explain has been.
    harmless: bool,
}

impl Damage {
    fn of(error: impl Into<anyhow::Error>) -> Damage {
        Damage {
            error: error.into(),
            harmless: false,
        }
    }
}

fn explain_input<W: Write>(
    pipeline: &mut Pipeline<W>,
    settings: &Explain,
    (input, again): (file::Input, Option<Again>),
    seconds: &mut (Nanos, Nanos),
) -> Result<Option<Damage>> {
    if matches!(input.kind(), file::Kind::Pcap | file::Kind::PcapNg) {
        let progress = input.progress();
        let capture = match file::Capture::from_input(input) {
            Ok(capture) => capture,
            Err(error) => return Ok(Some(Damage::of(error))),
        };
        let name = capture.name().to_owned();
        pipeline.awaited = again.is_some().then(Awaited::default);
        let proxies = &settings.proxies;
        let damage = packets::explain(pipeline, capture, &progress, proxies, seconds)?;
        if let (Some(awaited), Some(again)) = (pipeline.awaited.take(), again) {
            excerpt::finish(pipeline, awaited, || again.open(&name))?;
        }
        return Ok(damage.map(Damage::of));
    }
    let name = input.name().to_owned();
    if input.kind() != file::Kind::Recording {
        let kind = input.kind();
        return Ok(Some(Damage::of(file::OpenError::NotACapture {
            name,
            kind,
        })));
    }
    if pipeline.pcap.is_some() {
        bail!(HOLDS_NO_PACKETS.replace("{}", &name));
    }
    let damage = replay(pipeline, BufReader::new(input), &name, seconds)?;
    // A recorder that was killed leaves its last line cut: all before it was explained.
    Ok(damage.map(|error| Damage {
        harmless: error.is_truncation(),
        error: error.into(),
    }))
}

fn replay<W: Write>(
    pipeline: &mut Pipeline<W>,
    input: impl std::io::BufRead,
    name: &str,
    (began, ended): &mut (Nanos, Nanos),
) -> Result<Option<ReadError>> {
    let recording = match Recording::open(input, name) {
        Ok(recording) => recording,
        Err(error) => return Ok(Some(error)),
    };
    // Another recording may be another host's.
    pipeline.begin_source(recording.clock());
    pipeline.node.clone_from(&recording.header().node);
    let mut damage = None;
    for signal in recording {
        match signal {
            Ok(signal) => {
                *began = (*began).min(signal.at);
                *ended = (*ended).max(signal.at);
                pipeline.signal(&signal)?;
            }
            Err(error) => {
                damage = Some(error);
                break;
            }
        }
    }
    pipeline.end_source()?;
    Ok(damage)
}
