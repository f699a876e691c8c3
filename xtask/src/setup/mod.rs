//! `cargo xtask setup`: finds what this machine lacks and installs it.
//!
//! A need is met when its proof is there, however it came to be installed; only what is missing
//! is asked of apt. Nothing is installed when everything is there, so no root is needed then.

mod apt;
mod bpf;
pub(crate) mod browser;
pub(crate) mod machines;
mod matrix;
mod newer;
mod node;
pub(crate) mod pingora;
pub(crate) mod prometheus;
pub(crate) mod wheel;

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::shell;

pub(crate) use self::node::WHEEL as NODE;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only say what is missing; status 1 if anything is
    #[arg(long)]
    check: bool,
}

/// What shows that a package is there.
enum Proof {
    Program(&'static str),
    File(&'static str),
    /// A Python module that can be imported.
    Module(&'static str),
}

impl Proof {
    fn holds(&self) -> bool {
        match *self {
            Proof::Program(name) => shell::find(name).is_some(),
            Proof::File(path) => Path::new(path).exists(),
            Proof::Module(name) => {
                shell::ask(shell::command("python3").args(["-c", &format!("import {name}")]))
                    .is_some()
            }
        }
    }
}

/// Debian's packages and what shows that each is there.
const PACKAGES: &[(&str, Proof)] = &[
    // The kernel half's compiler, and the source of its `core`.
    ("rustc-web", Proof::File("/usr/bin/rustc")),
    (
        "rust-web-src",
        Proof::File("/usr/lib/rustlib/src/rust/library/Cargo.lock"),
    ),
    ("libpcap-dev", Proof::File("/usr/include/pcap/pcap.h")),
    ("pkg-config", Proof::Program("pkg-config")),
    // What the lab and the demo break.
    ("nginx-light", Proof::Program("nginx")),
    ("haproxy", Proof::Program("haproxy")),
    ("apache2", Proof::Program("apache2")),
    ("caddy", Proof::Program("caddy")),
    ("golang-go", Proof::Program("go")),
    ("python3", Proof::Program("python3")),
    ("python3-venv", Proof::Module("ensurepip")),
    ("gunicorn", Proof::Program("gunicorn")),
    ("uwsgi-core", Proof::Program("uwsgi-core")),
    (
        "uwsgi-plugin-python3",
        Proof::File("/usr/lib/uwsgi/plugins/python3_plugin.so"),
    ),
    ("podman", Proof::Program("podman")),
    ("runc", Proof::Program("runc")),
    // What they are broken with, and judged by.
    ("iproute2", Proof::Program("ip")),
    ("iptables", Proof::Program("iptables")),
    ("procps", Proof::Program("sysctl")),
    ("util-linux", Proof::Program("unshare")),
    ("tcpdump", Proof::Program("tcpdump")),
    ("tshark", Proof::Program("tshark")),
    ("curl", Proof::Program("curl")),
    ("openssl", Proof::Program("openssl")),
    ("prometheus", Proof::Program("promtool")),
    // What the cost is measured with.
    ("wrk", Proof::Program("wrk")),
    ("bpftool", Proof::Program("bpftool")),
    // Clean systems that packages are tried in.
    ("mmdebstrap", Proof::Program("mmdebstrap")),
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    let missing = missing();
    if args.check {
        let mut all: Vec<String> = missing
            .iter()
            .map(|name| format!("package {name}"))
            .collect();
        all.extend(bpf::missing());
        all.extend(node::missing());
        all.extend(matrix::missing());
        all.extend(browser::missing());
        all.extend(machines::missing());
        all.extend(prometheus::missing());
        if all.is_empty() {
            println!("setup: everything is there");
            return Ok(());
        }
        bail!("setup: missing: {}", all.join(", "));
    }
    apt::install(&missing)?;
    let llvm = bpf::llvm_package();
    if let Some(package) = &llvm {
        apt::install(&[package.as_str()])?;
    }
    bpf::install()?;
    node::install()?;
    matrix::install();
    browser::install();
    machines::install();
    prometheus::install();
    if missing.is_empty() && llvm.is_none() {
        println!(
            "setup: everything is there ({} ms)",
            start.elapsed().as_millis()
        );
    } else {
        println!("setup: done in {} s", start.elapsed().as_secs());
    }
    Ok(())
}

fn missing() -> Vec<&'static str> {
    PACKAGES
        .iter()
        .filter(|(_, proof)| !proof.holds())
        .map(|&(name, _)| name)
        .collect()
}
