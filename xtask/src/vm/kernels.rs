//! The pinned kernels, from `kernels.toml`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

const FILE: &str = include_str!("kernels.toml");

/// One kernel of the matrix.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kernel {
    /// `6.12`: what a person calls it.
    pub(super) series: String,
    /// Of Debian, in which its packages are.
    pub(super) suite: String,
    /// What stands for `{}` in the packages' names.
    pub(super) release: String,
    /// The packages' version.
    pub(super) version: String,
    /// Names of packages, and the SHA-256 of each.
    pub(super) packages: BTreeMap<String, String>,
    /// Facts that it may be blind to.
    pub(super) blind: BTreeSet<String>,
    /// It interrupts probes, and leaves out runs of one that is interrupted: these losses are told.
    #[serde(default)]
    pub(super) lossy: bool,
}

impl Kernel {
    /// Before 5.12 nothing is proven, so right verdicts are to be `likely`.
    pub(super) fn proves(&self) -> bool {
        !self.blind.contains("socket_identity")
    }
}

/// All of them, oldest first.
pub(super) fn all() -> Result<Vec<Kernel>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        kernel: Vec<Kernel>,
    }
    let file: File = toml::from_str(FILE).context("read xtask/src/vm/kernels.toml")?;
    Ok(file.kernel)
}

/// The oldest and the newest.
pub(super) fn ends() -> Result<Vec<Kernel>> {
    let mut all = all()?;
    let newest = all.pop();
    all.truncate(1);
    all.extend(newest);
    Ok(all)
}

/// Those that a person names, or all.
pub(super) fn chosen(names: &[String]) -> Result<Vec<Kernel>> {
    let all = all()?;
    let known = || {
        let known: Vec<_> = all.iter().map(|kernel| kernel.series.as_str()).collect();
        known.join(", ")
    };
    for name in names {
        if !all.iter().any(|kernel| kernel.series == *name) {
            bail!("no kernel {name}; there are {}", known());
        }
    }
    let wanted = |kernel: &Kernel| names.is_empty() || names.contains(&kernel.series);
    Ok(all
        .iter()
        .filter(|kernel| wanted(kernel))
        .cloned()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pins_can_be_read() {
        let all = all().unwrap();
        assert!(all.len() > 1);
        for kernel in all {
            assert!(kernel.release.starts_with(&kernel.series), "{kernel:?}");
            for (name, checksum) in kernel.packages {
                assert!(name.contains("{}"), "{name}");
                assert_eq!(checksum.len(), 64, "{name}");
            }
        }
    }
}
