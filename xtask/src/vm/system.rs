//! A whole Debian with its own process 1 in a machine, for what can be tried under systemd alone.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::arch::Arch;
use super::packages::{self, Found};
use super::{image, kernels, machine};
use crate::process;

/// The kernel of the Debian that the package is made for.
const SERIES: &str = "6.1";

const BYTES: u64 = 2 << 30;

/// No login is asked for on the console, and units tell nothing of themselves there.
const SYSTEMD: &str = "/lib/systemd/systemd systemd.getty_auto=no systemd.show_status=no";

/// What became of the machine with this system.
pub(crate) enum Booted {
    /// It came to its end (a line `vm: done`, then off), and told this on its console.
    Done(String),
    /// Its kernel cannot be had, and why.
    Skipped(String),
}

/// Boots a system from a copy of its root: what is written there is gone with the machine.
pub(crate) fn boot(root: &Path, place: &Path, limit: Duration) -> Result<Booted> {
    let arch = Arch::default();
    if let Some(lacking) = super::lacking(arch) {
        return Ok(Booted::Skipped(lacking));
    }
    let kernels = kernels::chosen(&[SERIES.to_owned()], Some(arch))?;
    let kernel = kernels.first().context("no such kernel")?;
    let unpacked = match packages::unpack(kernel)? {
        Found::Unpacked(unpacked) => unpacked,
        Found::Nowhere(why) => return Ok(Booted::Skipped(why)),
    };
    process::fresh_folder(place)?;
    let disk = place.join("disk");
    image::ext4(root, &disk, BYTES)?;
    let console = place.join("console");
    let ran = machine::run(arch, &unpacked, &disk, SYSTEMD, &console, limit)?;
    let said = std::fs::read(&console).context("read the console")?;
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut problems: Vec<_> = ran.too_long.into_iter().collect();
    problems.extend(ran.told.lacks(&[]));
    if !problems.is_empty() {
        bail!("{}; its console:\n{said}", problems.join("; "));
    }
    std::fs::remove_file(&disk).context("remove the disk's image")?;
    Ok(Booted::Done(said))
}
