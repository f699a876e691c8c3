//! The live source: logs that were named, and the proxies' own (files that they hold open, what their containers
//! write, their services' journals), on a thread of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::datagrams::{self, Datagrams};
use super::find::{self, Found};
use super::follow::Followed;
use super::formats::Formats;
use super::journal::services::Journals;
use super::{Counts, Template, Timed, Zone};
use crate::clock::{self, Clock};
use crate::privileges;
use crate::signal::{Fact, LogLine, Logged, Nanos, Signal, Source, tried_again};
use crate::sources::process::Homes;

/// How often logs are looked at.
const EVERY: Duration = Duration::from_millis(25);
/// How often proxies are asked for further logs.
const SEARCH: Nanos = 2_000_000_000;
/// The same where a process has written that may be a new one of a proxy's.
const AGAIN: Nanos = 250_000_000;
/// How late a line comes by way of a journal.
const LATE: Duration = Duration::from_millis(500);
/// Logs followed at once.
const LOGS: usize = 256;
/// One that was found, and has had no file for so long, makes room for others: its container is gone, say.
const GONE: Nanos = 600_000_000_000;
/// A healthy exchange's line is of interest where an error of that client came so shortly before.
const RECENT: Nanos = 120_000_000_000;
/// After so many lines of no known format a log is told of as one that is not understood.
const STRANGE: u64 = 20;
/// Clients with recent errors that are remembered.
const CLIENTS: usize = 16_384;

/// What is followed, and how its lines are read.
pub struct Request {
    pub named: Vec<PathBuf>,
    pub formats: Formats,
    /// The processes of proxies that run now; `None`: only named logs are followed.
    pub proxies: Option<Box<dyn Fn() -> Vec<u32> + Send>>,
    /// Signals are on the host's monotonic clock; else nanoseconds since 1970.
    pub monotonic: bool,
    /// There is no other source to tell the time.
    pub alone: bool,
}

/// A log that is followed, or why one is not; told once, when that is known.
#[derive(Debug)]
pub enum News {
    Followed {
        path: PathBuf,
        format: String,
    },
    /// Named, but not there or not readable.
    Unreadable {
        path: PathBuf,
        error: String,
    },
    /// Its lines are of no format that is known.
    NotALog {
        path: PathBuf,
        named: bool,
    },
    /// A journal cannot be followed, or no longer.
    Lost {
        path: PathBuf,
        error: std::io::Error,
    },
    /// Lines were left out that a client may have written.
    Distrusted {
        path: PathBuf,
        count: u64,
    },
}

/// Starts the thread, and waits until it follows what is there: from then on no line is missed. It
/// ends when `end` is set.
pub fn start(
    request: Request,
    sender: SyncSender<Signal>,
    news: impl Fn(News) + Send + 'static,
    end: Arc<AtomicBool>,
) -> Result<JoinHandle<()>> {
    let named = request.formats.of_named();
    let zone = Zone::Host(clock::seconds_east);
    let addresses = request
        .named
        .iter()
        .filter(|n| datagrams::address(n).is_some());
    let datagrams = addresses
        .map(|address| Datagrams::bind(address, &named, zone))
        .collect::<Result<_>>()?;
    let mut live = Live {
        logs: Vec::new(),
        datagrams,
        journals: Journals::default(),
        homes: Homes::default(),
        known: BTreeSet::new(),
        told: BTreeMap::new(),
        sees: BTreeSet::new(),
        errors: HashMap::new(),
        searched: 0,
        request,
    };
    let (follow, follows) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("logs".into())
        .spawn(move || {
            privileges::keep(&privileges::of_log_source());
            let templates = live.request.formats.of_named();
            for path in live.request.named.clone() {
                if datagrams::address(&path).is_none() {
                    live.add(path, &templates);
                }
            }
            let mut over: Option<Instant> = None;
            loop {
                if end.load(Ordering::Relaxed) && over.is_none() {
                    let late = live.journals.are_read().then_some(LATE);
                    over = Some(Instant::now() + late.unwrap_or_default());
                }
                let last = over.is_some_and(|over| over <= Instant::now());
                if !live.turn(&sender, &news, last) || last {
                    return;
                }
                // Only the first time does anybody wait for it.
                let _ = follow.send(());
                std::thread::sleep(EVERY);
            }
        })
        .context("start the log source")?;
    // An error is the thread's end, which is noticed elsewhere.
    let _ = follows.recv();
    Ok(thread)
}

struct Live {
    request: Request,
    logs: Vec<Followed>,
    datagrams: Vec<Datagrams>,
    journals: Journals,
    homes: Homes,
    known: BTreeSet<PathBuf>,
    /// What was told of a log last.
    told: BTreeMap<PathBuf, Told>,
    sees: BTreeSet<&'static str>,
    /// When each client had its last error.
    errors: HashMap<String, Nanos>,
    searched: Nanos,
}

/// What is told of a log, or of a journal.
struct State<'a> {
    path: &'a Path,
    counts: Counts,
    format: Option<String>,
}

impl State<'_> {
    fn of(path: &Path, counts: Counts, format: Option<String>) -> State<'_> {
        State {
            path,
            counts,
            format,
        }
    }
}

#[derive(Default)]
struct Told {
    kind: bool,
    missing: bool,
    distrusted: u64,
}

impl Live {
    fn add(&mut self, path: PathBuf, templates: &Arc<[Template]>) {
        if self.known.contains(&path) {
            return;
        }
        // In another mount namespace each process of a proxy is a way of its own to the same log.
        if self.logs.iter().any(|log| log.reads(&path)) {
            return;
        }
        if self.logs.len() < LOGS && self.known.insert(path.clone()) {
            let zone = Zone::Host(clock::seconds_east);
            self.logs.push(Followed::new(&path, templates, zone));
        }
    }

    /// The logs of these processes, read by the formats of each. Who names logs has the lines of a journal
    /// there, it may be.
    fn find(&mut self, pids: &[u32], now: Nanos, news: &impl Fn(News)) {
        self.request.formats.know(pids);
        let mut of_services: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for (templates, pids) in self.request.formats.groups(pids) {
            let Found {
                files, services, ..
            } = find::logs_of(&pids, &self.homes);
            for path in files {
                self.add(path, &templates);
            }
            for (service, pids) in services {
                of_services.entry(service).or_default().extend(pids);
            }
        }
        if !self.request.named.is_empty() {
            of_services.clear();
        }
        let formats = &self.request.formats;
        let templates = |pids: &BTreeSet<u32>| formats.of(pids.first().copied().unwrap_or(0));
        self.journals
            .find(&of_services, now, templates, |service, error| {
                let path = PathBuf::from(format!("journal of {service}"));
                news(News::Lost { path, error });
            });
    }

    /// One look at every log; false when nobody listens any more.
    fn turn(&mut self, sender: &SyncSender<Signal>, news: &impl Fn(News), last: bool) -> bool {
        let unix = clock::unix_now();
        // Whichever way the clock was set meanwhile.
        let every = if self.journals.any_waits() {
            AGAIN
        } else {
            SEARCH
        };
        if unix.abs_diff(self.searched) >= every {
            self.searched = unix;
            self.forget_gone(unix);
            if let Some(proxies) = &self.request.proxies {
                let pids = proxies();
                self.find(&pids, unix, news);
            }
            self.errors.retain(|_, at| *at + RECENT > unix);
        }
        let mut lines: Vec<Timed> = Vec::new();
        let (named, told) = (&self.request.named, &mut self.told);
        let mut hear = |state: &State<'_>, error| {
            let told = told.entry(state.path.to_owned()).or_default();
            tell(state, told, error, (named, last), news);
        };
        // Twice at the end: what is quiet is whole.
        for _ in 0..=usize::from(last) {
            for log in &mut self.logs {
                let error = log.look(unix, &mut lines).err();
                hear(&State::of(log.path(), log.counts(), log.format()), error);
            }
            for log in &mut self.datagrams {
                let error = log.look(unix, &mut lines).err();
                hear(&State::of(log.path(), log.counts(), log.format()), error);
            }
        }
        self.journals.look(unix, &mut lines, |journal, error| {
            let told = self.told.entry(journal.path().to_owned()).or_default();
            let state = State::of(journal.path(), journal.counts(), journal.format());
            tell(&state, told, None, (&self.request.named, last), news);
            if let Some(error) = error {
                told.kind = false;
                let path = journal.path().to_owned();
                news(News::Lost { path, error });
            }
        });
        let clock = match self.request.monotonic {
            true => Clock::of_host(),
            false => Clock::from_offset(0),
        };
        let now = clock.of_unix(unix).unwrap_or(0);
        let before = self.sees.len();
        self.sees.extend(self.logs.iter().flat_map(Followed::tells));
        self.sees
            .extend(self.datagrams.iter().flat_map(Datagrams::tells));
        self.sees.extend(self.journals.tells());
        if self.sees.len() > before {
            let sees = self.sees.iter().map(|s| (*s).to_owned()).collect();
            let fact = Fact::SourceStarted {
                sees,
                blind: Vec::new(),
            };
            if !send(sender, now, fact) {
                return false;
            }
        }
        lines.sort_by_key(|timed| (timed.at, is_access(&timed.fact)));
        for timed in lines {
            if !self.wanted(&timed, unix) {
                continue;
            }
            let Some(at) = clock.of_unix(timed.at) else {
                continue;
            };
            if !send(sender, at, timed.fact) {
                return false;
            }
        }
        !self.request.alone || send(sender, now, Fact::Tick)
    }

    fn forget_gone(&mut self, now: Nanos) {
        let (named, known, told) = (&self.request.named, &mut self.known, &mut self.told);
        self.logs.retain(|log| {
            let path = log.path();
            let stays = log.gone_for(now) < GONE || named.iter().any(|named| named == path);
            if !stays {
                known.remove(path);
                told.remove(path);
            }
            stays
        });
    }

    /// Healthy exchanges go unsaid, but for those that had an error before.
    fn wanted(&mut self, timed: &Timed, now: Nanos) -> bool {
        let Fact::Logged(line) = &timed.fact else {
            return true;
        };
        let client = line.client.as_ref().map_or("", |c| c.ip()).to_owned();
        if is_healthy(line) {
            return self.errors.contains_key(&client);
        }
        if line.line == LogLine::Error && self.errors.len() < CLIENTS {
            self.errors.insert(client, now);
        }
        true
    }
}

fn tell(
    log: &State<'_>,
    told: &mut Told,
    error: Option<std::io::Error>,
    (named, last): (&[PathBuf], bool),
    news: &impl Fn(News),
) {
    let path = log.path.to_owned();
    let distrusted = log.counts.distrusted;
    if distrusted > told.distrusted {
        let count = distrusted - told.distrusted;
        told.distrusted = distrusted;
        news(News::Distrusted {
            path: path.clone(),
            count,
        });
    }
    if told.kind {
        return;
    }
    let is_named = named.contains(&path);
    let lines = log.counts.lines;
    // Until there are many, the next one may tell.
    let strange = lines > STRANGE || last && lines > 0;
    match (log.format.clone(), error) {
        (Some(format), _) => news(News::Followed { path, format }),
        (None, Some(error)) if is_named => {
            let error = error.to_string();
            if !std::mem::replace(&mut told.missing, true) {
                news(News::Unreadable { path, error });
            }
            return;
        }
        (None, None) if strange => {
            let named = is_named;
            news(News::NotALog { path, named });
        }
        _ => return,
    }
    told.kind = true;
}

fn send(sender: &SyncSender<Signal>, at: Nanos, fact: Fact) -> bool {
    let source = Source::Log;
    sender.send(Signal { at, source, fact }).is_ok()
}

fn is_access(fact: &Fact) -> bool {
    matches!(fact, Fact::Logged(line) if line.line == LogLine::Access)
}

/// Nothing failed in the exchange that this line tells of, as far as it tells.
fn is_healthy(line: &Logged) -> bool {
    let failed = |status: u16| status >= 499;
    let said = line.said.is_some() || line.tries.iter().any(|t| t.said.is_some());
    let tries = line.tries.iter().filter_map(|t| t.status).any(failed);
    let again = tried_again(line.proxy, line.tries.iter());
    let healthy = line.status.is_some_and(|s| !failed(s));
    line.line == LogLine::Access && !said && !tries && !again && healthy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_two_processes_of_a_container_hold_is_followed_once_and_forgotten_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.log");
        std::fs::write(&path, "").unwrap();
        let mut live = Live {
            request: Request {
                named: Vec::new(),
                formats: Formats::given(Vec::new().into()),
                proxies: None,
                monotonic: false,
                alone: false,
            },
            logs: Vec::new(),
            datagrams: Vec::new(),
            journals: Journals::default(),
            homes: Homes::default(),
            known: BTreeSet::new(),
            told: BTreeMap::new(),
            sees: BTreeSet::new(),
            errors: HashMap::new(),
            searched: 0,
        };
        for process in ["self".to_owned(), std::process::id().to_string()] {
            let path = PathBuf::from(format!("/proc/{process}/root{}", path.display()));
            live.add(path, &Vec::new().into());
        }
        assert_eq!(live.logs.len(), 1);
        // The container ends.
        let look_at = |live: &mut Live, unix| {
            let mut lines = Vec::new();
            for log in &mut live.logs {
                let _ = log.look(unix, &mut lines);
            }
            live.forget_gone(unix);
            (live.logs.len(), live.known.len())
        };
        assert_eq!(look_at(&mut live, 1), (1, 1));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look_at(&mut live, 2), (1, 1));
        assert_eq!(look_at(&mut live, 1 + GONE), (1, 1));
        assert_eq!(look_at(&mut live, 2 + GONE), (0, 0));
    }

    #[test]
    fn a_log_is_gone_until_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.log");
        let mut log = Followed::new(&path, &Vec::new().into(), Zone::Fixed(0));
        let mut lines = Vec::new();
        assert!(log.look(1, &mut lines).is_err());
        assert_eq!(log.gone_for(3), 2);
        std::fs::write(&path, "").unwrap();
        log.look(4, &mut lines).unwrap();
        assert_eq!(log.gone_for(5), 0);
    }

    #[test]
    fn every_log_that_is_not_understood_is_told_of_once() {
        let named = [PathBuf::from("/named"), PathBuf::from("/few")];
        let mut told: BTreeMap<&str, Told> = BTreeMap::new();
        let heard = std::cell::RefCell::new(Vec::new());
        let news = |news: News| {
            if let News::NotALog { path, named } = news {
                heard.borrow_mut().push((path.display().to_string(), named));
            }
        };
        let mut look = |path: &'static str, lines: u64, last: bool| {
            let state = State {
                path: Path::new(path),
                counts: Counts {
                    lines,
                    ..Counts::default()
                },
                format: None,
            };
            tell(
                &state,
                told.entry(path).or_default(),
                None,
                (&named, last),
                &news,
            );
            heard.borrow_mut().drain(..).collect::<Vec<_>>()
        };
        assert_eq!(
            look("/named", STRANGE + 1, false),
            [("/named".to_owned(), true)]
        );
        assert_eq!(
            look("/found", STRANGE + 1, false),
            [("/found".to_owned(), false)]
        );
        assert_eq!(look("/few", 1, false), []);
        assert_eq!(look("/empty", 0, true), []);
        // What it was is known at the end.
        assert_eq!(look("/few", 1, true), [("/few".to_owned(), true)]);
        assert_eq!(look("/named", 99, true), []);
    }

    #[test]
    fn what_was_tried_again_is_not_healthy() {
        const LINE: &str = r#"10.0.0.7:5000 [22/Nov/2026:19:40:45.100] front back/s1 0/0/0/3/3 200 52 - - ---- 1/1/0/0/N 0/0 "GET /x HTTP/1.1""#;
        let healthy = |retries: &str| {
            let mut parser = super::super::Parser::new(Vec::new().into(), Zone::Fixed(0));
            let mut out = Vec::new();
            let line = LINE.replace("/N ", &format!("/{retries} "));
            parser.line(line.as_bytes(), None, &mut out);
            match &out[..] {
                [
                    Timed {
                        fact: Fact::Logged(line),
                        ..
                    },
                ] => is_healthy(line),
                other => panic!("{other:?}"),
            }
        };
        assert!(healthy("0"));
        assert!(!healthy("1") && !healthy("+2"));
    }
}
