//! Podman with everything of its own in a folder, for the lab and `cargo xtask`.

use std::path::Path;
use std::process::Command;

/// A person's containers are let alone. cgroupfs and runc serve on any host, whatever manages its control
/// groups.
pub(crate) fn keep_in(podman: &mut Command, folder: &Path) {
    podman.args(["--runtime", "runc", "--cgroup-manager", "cgroupfs"]);
    for (option, name) in [
        ("--root", "storage"),
        ("--runroot", "run"),
        ("--tmpdir", "tmp"),
    ] {
        podman.arg(option).arg(folder.join(name));
    }
}
