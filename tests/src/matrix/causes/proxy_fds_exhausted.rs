//! The proxy may open one file more: a client's connection, and none to the upstream.
//!
//! One request at a time: where two wait, one of them may get the other's descriptor.

use std::collections::BTreeSet;
use std::fs;
use std::io::Error;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{By, Cause, Stage};
use crate::client::Request;
use crate::matrix::failures;
use crate::matrix::stage::WELL;
use crate::process;
use crate::software::Scripted;
use crate::upstream::Mode;
use crate::wait;

/// Looks that have to find the same before the proxy is taken to be at rest.
const STILL: usize = 25;
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) const CAUSE: Cause = Cause {
    name: "proxy_fds_exhausted",
    by: By::Itself,
    unix: false,
    spares: &[],
    inject: |stage| {
        // Others' requests would fail, too, and checks take the one that is left.
        stage.alone = true;
        stage.draw.checks = None;
        stage.draw.workers = 1;
        stage.apart(Duration::ZERO)?;
        let (ns, to) = stage.there();
        let address = to.to_string();
        let server = Scripted::start(&stage.run, ns, "server", &address, Mode::CloseOnSignal, 128)?;
        stage.front(&to)?;
        // What it opens once, it has opened then.
        let first = Request::get(stage.run.path(WELL));
        stage.burst(vec![(Duration::ZERO, first)])?;
        let mut sent = Vec::new();
        while failures::missing(&sent, stage.wanted) > 0 {
            limit(stage)?;
            let request = stage.failing("");
            let one = stage.burst(vec![(Duration::ZERO, request)])?;
            if one.iter().any(|sent| !sent.failed()) {
                // It found one after all. What it opened must not serve the next request.
                server.signal(libc::SIGUSR1);
            }
            sent.extend(one);
        }
        stage.run.hold(server);
        Ok(())
    },
};

/// Waits until nobody is served, and lets each process have one file more than it has.
fn limit(stage: &Stage) -> Result<()> {
    let serving = serving(stage)?;
    let (mut open, mut still) = (Vec::new(), 0);
    wait::until("the proxy's rest", PATIENCE, || {
        let now: Vec<_> = serving.iter().map(|pid| numbers(*pid)).collect();
        still = match now == open {
            true => still + 1,
            false => 0,
        };
        open = now;
        still >= STILL
    })?;
    for (pid, numbers) in serving.into_iter().zip(open) {
        // One that has ended has none.
        let Some(numbers) = numbers else { continue };
        let free = (0..).find(|number| !numbers.contains(number));
        let below = free.unwrap_or(0) + 1;
        allow_below(pid, below).with_context(|| format!("limit process {pid}"))?;
    }
    Ok(())
}

/// The proxy's processes but those that start others like them.
fn serving(stage: &Stage) -> Result<BTreeSet<u32>> {
    let inode = stage.near.inode()?;
    let mut serving = BTreeSet::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let here = fs::metadata(entry.path().join("ns/net")).is_ok_and(|ns| ns.ino() == inode);
        if here && name.starts_with(stage.proxy.process) {
            add_leaves(pid, &mut serving);
        }
    }
    Ok(serving)
}

fn add_leaves(pid: u32, found: &mut BTreeSet<u32>) {
    let program = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let own = program(pid);
    // What runs another program is a helper.
    let mut children = process::children(pid);
    children.retain(|child| program(*child) == own);
    if children.is_empty() {
        found.insert(pid);
    }
    for child in children {
        add_leaves(child, found);
    }
}

/// Of the files that a process has open.
fn numbers(pid: u32) -> Option<BTreeSet<u64>> {
    let number = |file: fs::DirEntry| file.file_name().to_str()?.parse().ok();
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    Some(files.flatten().filter_map(number).collect())
}

/// A process has no file from this number on. Who asks has to be its user, as root may lack the right to
/// limit others.
fn allow_below(pid: u32, number: u64) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let id = |name: &str| -> Option<libc::uid_t> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let (user, group) = id("Uid:").zip(id("Gid:")).context("its user and group")?;
    let limited = thread::scope(|scope| {
        scope
            .spawn(|| {
                become_user(user, group)?;
                set_limit(pid, number)
            })
            .join()
            .expect("thread that limits it")
    });
    Ok(limited?)
}

/// This thread alone.
fn become_user(user: libc::uid_t, group: libc::gid_t) -> Result<(), Error> {
    // SAFETY: plain system calls on numbers; the library's would change all threads.
    let failed = unsafe {
        libc::syscall(libc::SYS_setresgid, group, group, group) != 0
            || libc::syscall(libc::SYS_setresuid, user, user, user) != 0
    };
    match failed {
        true => Err(Error::last_os_error()),
        false => Ok(()),
    }
}

fn set_limit(pid: u32, number: u64) -> Result<(), Error> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let (pid, what) = (pid as libc::pid_t, libc::RLIMIT_NOFILE);
    // SAFETY: the structure lives through the calls.
    let failed = unsafe {
        libc::prlimit(pid, what, std::ptr::null(), &raw mut limit) != 0 || {
            limit.rlim_cur = number;
            libc::prlimit(pid, what, &raw const limit, std::ptr::null_mut()) != 0
        }
    };
    match failed {
        true => Err(Error::last_os_error()),
        false => Ok(()),
    }
}
