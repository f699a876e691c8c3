//! The proxies that run here, and by what the status of their responses is seen where it is in TLS.
//!
//! What may not be seen is said to be unseen: without rights a proxy's logs and libraries look like none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;

use crate::clock;
use crate::config::KNOWN_PROXIES;
use crate::privileges::{self, Held};
use crate::sinks::visible;
use crate::sources::kernel::{Selection, openssl};
use crate::sources::logs::follow::Followed;
use crate::sources::logs::formats::Formats;
use crate::sources::logs::{Template, Zone, find, journal};
use crate::sources::process::Homes;

/// What is told of the proxies of this host.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    pub(super) found: Vec<Proxy>,
    /// Others' processes are not listed, among which there may be more.
    pub(super) hidden: bool,
}

/// What of a proxy may not be seen here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Unseen {
    /// Which files it has open.
    Files,
    /// What its container writes.
    Container,
    /// What its service writes.
    Journal,
    /// Which libraries it has loaded.
    Libraries,
}

/// One program's processes in one container, or outside of any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Proxy {
    proxy: String,
    container: Option<String>,
    processes: BTreeSet<u32>,
    /// Its logs, as far as they are files, and others that it appends to.
    logs: BTreeSet<String>,
    /// What each of these was recognised as, or why it was not.
    recognised: BTreeMap<String, String>,
    /// One of them has the status of each response.
    tells_status: bool,
    /// The services whose journals are followed.
    journals: BTreeSet<String>,
    /// The libraries that `--tls-status` would probe.
    openssl: BTreeSet<String>,
    /// What would be probed may be: the right to it is here.
    may_probe: bool,
    unseen: BTreeSet<Unseen>,
}

/// Those that are watched where none is named.
pub(super) fn running(held: &Held) -> Proxies {
    let selection = Selection {
        names: KNOWN_PROXIES.iter().map(ToString::to_string).collect(),
        ..Selection::default()
    };
    let pids: Vec<u32> = selection.running().into_iter().collect();
    let formats = Formats::of_host(&pids);
    let mut homes = Homes::default();
    let mut proxies: BTreeMap<(String, Option<String>), Proxy> = BTreeMap::new();
    for &pid in &pids {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let (name, container) = (name.trim_end(), homes.find(pid).home.container);
        let proxy = proxies
            .entry((name.to_owned(), container.clone()))
            .or_insert_with(|| Proxy {
                proxy: name.to_owned(),
                container,
                may_probe: privileges::has(held, privileges::UPROBES),
                ..Proxy::default()
            });
        proxy.processes.insert(pid);
        proxy.loaded(openssl::loaded_by(pid));
    }
    for proxy in proxies.values_mut() {
        proxy.look_for_logs(held, &formats, &homes);
    }
    Proxies {
        found: proxies.into_values().collect(),
        hidden: fs::read("/proc/1/stat").is_err(),
    }
}

impl Proxy {
    fn loaded(&mut self, library: io::Result<Option<String>>) {
        match library {
            Ok(library) => self.openssl.extend(library),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.unseen.insert(Unseen::Libraries);
            }
            // It has ended.
            Err(_) => {}
        }
    }

    /// As `run` finds them, and what it would take them for.
    fn look_for_logs(&mut self, held: &Held, formats: &Formats, homes: &Homes) {
        let pids: Vec<u32> = self.processes.iter().copied().collect();
        for (templates, pids) in formats.groups(&pids) {
            let found = find::logs_of(&pids, homes);
            for path in &found.files {
                self.log(path, &templates);
            }
            self.journals.extend(found.services.into_keys());
            if !found.unseen.is_empty() {
                self.unseen.insert(Unseen::Files);
            }
        }
        if self.container.is_some() && !privileges::has(held, &privileges::of_log_source()) {
            self.unseen.insert(Unseen::Container);
        }
        if !self.journals.is_empty() && !journal::is_readable() {
            self.unseen.insert(Unseen::Journal);
        }
    }

    fn log(&mut self, path: &Path, templates: &Arc<[Template]>) {
        let path = &by_own_name(path);
        let known = |known: &String| is_same_file(Path::new(known), path);
        if self.logs.iter().any(known) {
            return;
        }
        let mut log = Followed::new(path, templates, Zone::Host(clock::seconds_east));
        let looked = log.look(0, &mut Vec::new());
        let name = path.display().to_string();
        let is = match (looked, log.format()) {
            (Err(error), _) => format!("cannot be read: {error}"),
            (Ok(()), Some(format)) => format,
            (Ok(()), None) => "of no format that is known, or empty".to_owned(),
        };
        self.tells_status |= log.tells().contains(&"access_log");
        self.recognised.insert(name.clone(), is);
        self.logs.insert(name);
    }

    /// Nothing that was seen tells the status, and the probe would.
    fn wants_probe(&self) -> bool {
        !self.tells_status && !self.openssl.is_empty()
    }
}

/// The name that this file has here, where it was reached by way of a process: each worker is a way of its own.
fn by_own_name(path: &Path) -> PathBuf {
    let mut parts = path.strip_prefix("/proc").unwrap_or(path).components();
    let _process = parts.next();
    let named = parts.as_path().strip_prefix("root").ok();
    let here = named.map(|rest| Path::new("/").join(rest));
    let here = here.filter(|here| is_same_file(here, path));
    here.unwrap_or_else(|| path.to_owned())
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|m| (m.dev(), m.ino()));
    identity(a).is_some_and(|a| Some(a) == identity(b))
}

pub(super) fn table(out: &mut impl Write, proxies: &Proxies) -> Result<()> {
    if proxies.hidden {
        writeln!(out)?;
        writeln!(
            out,
            "other users' processes cannot be seen here (/proc has hidepid): proxies among them are not named"
        )?;
    }
    if proxies.found.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    writeln!(
        out,
        "{:<17} {:<9} status in TLS, where its client uses that",
        "proxy", "processes"
    )?;
    for proxy in &proxies.found {
        let home = proxy.container.as_ref();
        let home = home.map(|name| format!(" in container {}", visible(name)));
        writeln!(
            out,
            "{:<17} {:<9} {}{}",
            visible(&proxy.proxy),
            proxy.processes.len(),
            ways(proxy),
            home.unwrap_or_default()
        )?;
        for line in details(proxy) {
            writeln!(out, "{:>17}   {line}", "")?;
        }
    }
    Ok(())
}

fn details(proxy: &Proxy) -> Vec<String> {
    let mut lines = Vec::new();
    for name in &proxy.logs {
        let is = proxy.recognised.get(name).map(String::as_str);
        let is = is.unwrap_or("not looked at");
        lines.push(format!("log: {} ({})", visible(name), visible(is)));
    }
    for service in &proxy.journals {
        lines.push(format!("journal: {}", visible(service)));
    }
    if proxy.wants_probe() {
        let right = match proxy.may_probe {
            true => "",
            false => " (needs CAP_SYS_ADMIN)",
        };
        for name in &proxy.openssl {
            lines.push(format!("with --tls-status{right}: {}", visible(name)));
        }
    }
    for unseen in &proxy.unseen {
        lines.push(format!("cannot be seen: {}", unseen.words()));
    }
    lines
}

impl Unseen {
    fn words(self) -> &'static str {
        match self {
            Unseen::Files => {
                "which logs it has open; needs root or CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
            }
            Unseen::Container => {
                "what its container writes; needs root or CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
            }
            Unseen::Journal => "the journal; needs root or the group systemd-journal",
            Unseen::Libraries => "whether --tls-status would tell it; needs root or CAP_SYS_PTRACE",
        }
    }
}

/// By what it is seen.
fn ways(proxy: &Proxy) -> &'static str {
    let logs = !proxy.logs.is_empty() || !proxy.journals.is_empty();
    let of_logs = [Unseen::Files, Unseen::Container];
    let unseen = of_logs.iter().any(|one| proxy.unseen.contains(one));
    match (proxy.tells_status, proxy.wants_probe()) {
        (true, _) => "from its logs",
        (false, true) if logs => "with --tls-status, or from its logs, where they tell it",
        (false, true) => "with --tls-status, or from a log that --log names",
        (false, false) if logs => "from its logs, where they tell it",
        (false, false) if unseen => "from logs that cannot be seen here, or one that --log names",
        (false, false) => "from a log that --log names",
    }
}

#[cfg(test)]
mod tests;
