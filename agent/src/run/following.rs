//! Logs that are followed beside the source that watches live, or in its place.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Result, bail};

use super::logs;
use crate::cli::{detail, note, warning};
use crate::config::Watch;
use crate::signal::Signal;
use crate::sources::kernel::Selection;
use crate::sources::logs::live::{self, News, Request};

/// Logs under way beside another source.
pub(super) struct Following {
    lines: Receiver<Signal>,
    thread: JoinHandle<()>,
}

impl Following {
    /// Follows logs, if any are wanted; with signals on the clock of the other source.
    pub(super) fn beside(
        watch: &Watch,
        selection: Selection,
        channel: usize,
        monotonic: bool,
        end: &Arc<AtomicBool>,
    ) -> Result<Option<Following>> {
        if !watch.find_logs && watch.logs.files.is_empty() {
            return Ok(None);
        }
        let (sender, lines) = sync_channel(channel);
        let request = Request {
            monotonic,
            ..request(watch, selection)?
        };
        let thread = live::start(request, sender, news, Arc::clone(end))?;
        Ok(Some(Following { lines, thread }))
    }

    /// What they have told since this was asked last.
    pub(super) fn lines(&self) -> impl Iterator<Item = Signal> + '_ {
        self.lines.try_iter()
    }

    /// After their end was asked for: what they tell last.
    pub(super) fn join(self, mut take: impl FnMut(&Signal) -> Result<()>) -> Result<()> {
        while let Ok(line) = self.lines.recv() {
            take(&line)?;
        }
        if self.thread.join().is_err() {
            bail!("the log source failed");
        }
        Ok(())
    }
}

/// Logs in the place of another source: time is told as well.
pub(super) fn alone(
    watch: &Watch,
    selection: Selection,
    sender: SyncSender<Signal>,
    end: &Arc<AtomicBool>,
) -> Result<JoinHandle<()>> {
    let request = Request {
        alone: true,
        ..request(watch, selection)?
    };
    live::start(request, sender, news, Arc::clone(end))
}

fn request(watch: &Watch, selection: Selection) -> Result<Request> {
    let running = move || selection.running().into_iter().collect();
    let pids: Vec<u32> = running();
    Ok(Request {
        named: watch.logs.files.clone(),
        formats: logs::formats(&watch.logs, &pids)?,
        proxies: watch.find_logs.then(|| Box::new(running) as Box<_>),
        monotonic: false,
        alone: false,
    })
}

fn news(news: News) {
    match news {
        News::Followed { path, format } => detail!("{}: {format}", path.display()),
        News::Unreadable { path, error } => {
            warning!("{}: {error}; it is looked for again", path.display());
        }
        News::NotALog { path, named: true } => {
            warning!("{}: not a log that is understood", path.display());
        }
        // What a proxy writes to may be no log at all.
        News::NotALog { path, .. } if path.is_absolute() => note!(
            "{}: a proxy writes to it, in no format that is understood; an access log of nginx may need \
             --log-format or --nginx-config",
            path.display()
        ),
        News::NotALog { path, .. } => detail!("{}: no lines that are understood", path.display()),
        News::Lost { path, error } => detail!("{}: {error}; not read for a minute", path.display()),
        News::Distrusted { path, count } => warning!(
            "{}: {count} lines are left out: a client may have written them",
            path.display()
        ),
    }
}
