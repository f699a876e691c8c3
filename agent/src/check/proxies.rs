//! The proxies that run here, and by what the status of their responses is seen where it is in TLS.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use crate::config::KNOWN_PROXIES;
use crate::sinks::visible;
use crate::sources::kernel::{Selection, openssl};
use crate::sources::logs::find;
use crate::sources::process::Homes;

/// One program's processes in one container, or outside of any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Proxy {
    proxy: String,
    container: Option<String>,
    processes: BTreeSet<u32>,
    /// Files that it appends to: its logs are among them.
    logs: BTreeSet<String>,
    /// The libraries that `--tls-status` would probe.
    openssl: BTreeSet<String>,
}

/// Those that are watched where none is named.
pub(super) fn running() -> Vec<Proxy> {
    let selection = Selection {
        names: KNOWN_PROXIES.iter().map(ToString::to_string).collect(),
        ..Selection::default()
    };
    let mut homes = Homes::default();
    let mut proxies: BTreeMap<(String, Option<String>), Proxy> = BTreeMap::new();
    for pid in selection.running() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let (name, container) = (name.trim_end(), homes.find(pid).home.container);
        let proxy = proxies
            .entry((name.to_owned(), container.clone()))
            .or_insert_with(|| Proxy {
                proxy: name.to_owned(),
                container,
                ..Proxy::default()
            });
        proxy.processes.insert(pid);
        proxy.openssl.extend(openssl::loaded_by(pid));
        let logs = find::open_logs([pid]);
        let names = logs.iter().map(|path| path.display().to_string());
        proxy.logs.extend(names);
    }
    proxies.into_values().collect()
}

pub(super) fn table(out: &mut impl Write, proxies: &[Proxy]) -> Result<()> {
    if proxies.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    writeln!(
        out,
        "{:<17} {:<9} status in TLS, where its client uses that",
        "proxy", "processes"
    )?;
    for proxy in proxies {
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
        for (what, list) in [("log", &proxy.logs), ("with --tls-status", &proxy.openssl)] {
            for name in list {
                writeln!(out, "{:>17}   {what}: {}", "", visible(name))?;
            }
        }
    }
    Ok(())
}

/// By what it is seen.
fn ways(proxy: &Proxy) -> &'static str {
    match (proxy.logs.is_empty(), proxy.openssl.is_empty()) {
        (false, false) => "from its logs, where they tell it, or with --tls-status",
        (false, true) => "from its logs, where they tell it",
        (true, false) => "with --tls-status, or from a log that --log names",
        (true, true) => "from a log that --log names",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_by_what_each_proxy_is_seen() {
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let nginx = Proxy {
            proxy: "nginx".to_owned(),
            container: Some("web\n".to_owned()),
            processes: [7, 8].into(),
            logs: names(&["/var/log/nginx/access.log"]),
            openssl: names(&["/usr/lib/libssl.so.3"]),
        };
        let envoy = Proxy {
            proxy: "envoy".to_owned(),
            processes: [9].into(),
            ..Proxy::default()
        };
        let mut out = Vec::new();
        table(&mut out, &[nginx, envoy]).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        
        proxy             processes status in TLS, where its client uses that
        nginx             2         from its logs, where they tell it, or with --tls-status in container web\n
                            log: /var/log/nginx/access.log
                            with --tls-status: /usr/lib/libssl.so.3
        envoy             1         from a log that --log names
        ");
    }

    #[test]
    fn where_no_proxy_runs_nothing_is_said() {
        let mut out = Vec::new();
        table(&mut out, &[]).unwrap();
        assert!(out.is_empty());
    }
}
