//! The pinned kernels, from `kernels.toml`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::arch::Arch;

const FILE: &str = include_str!("kernels.toml");

/// One kernel of the matrix.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kernel {
    #[serde(default)]
    pub(super) arch: Arch,
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
    /// `6.12`, `6.12-aarch64`: of its files here.
    pub(super) fn id(&self) -> String {
        match self.arch {
            Arch::X86_64 => self.series.clone(),
            other => format!("{}-{}", self.series, other.name()),
        }
    }

    /// `6.12`, `6.12 arm64`: for people.
    pub(super) fn name(&self) -> String {
        self.named(&self.series)
    }

    /// The same with its whole version.
    pub(super) fn title(&self) -> String {
        self.named(&self.release)
    }

    fn named(&self, version: &str) -> String {
        match self.arch {
            Arch::X86_64 => version.to_owned(),
            other => format!("{version} {}", other.debian()),
        }
    }

    /// Before 5.12 nothing is proven, so right verdicts are to be `likely`.
    pub(super) fn proves(&self) -> bool {
        !self.blind.contains("socket_identity")
    }
}

/// All of them, each kind of machine's oldest first.
pub(super) fn all() -> Result<Vec<Kernel>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        kernel: Vec<Kernel>,
    }
    let file: File = toml::from_str(FILE).context("read xtask/src/vm/kernels.toml")?;
    Ok(file.kernel)
}

/// The oldest and the newest of this kind of machine.
pub(super) fn ends(arch: Arch) -> Result<Vec<Kernel>> {
    let mut all = chosen(&[], Some(arch))?;
    let newest = all.pop();
    all.truncate(1);
    all.extend(newest);
    Ok(all)
}

/// Those that a person names, or all: of this kind of machine, or of any.
pub(super) fn chosen(names: &[String], arch: Option<Arch>) -> Result<Vec<Kernel>> {
    let mut all = all()?;
    all.retain(|kernel| arch.is_none_or(|arch| kernel.arch == arch));
    for name in names {
        if !all.iter().any(|kernel| kernel.series == *name) {
            let known: Vec<_> = all.iter().map(Kernel::name).collect();
            bail!("no kernel {name}; there are {}", known.join(", "));
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
                assert!(name.ends_with(kernel.arch.debian()), "{name}");
                assert_eq!(checksum.len(), 64, "{name}");
            }
        }
    }
}
