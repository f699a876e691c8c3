//! Kernels' packages: the pinned ones, kept and checked each time, unpacked; where the archive has them no
//! more, what it has instead, which is said.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::apt::Apt;
use super::kernels::Kernel;
use crate::shell;

/// A kernel, unpacked.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// As its own `uname -r` gives it.
    pub(super) release: String,
    pub(super) image: PathBuf,
    /// The folder with its modules.
    pub(super) modules: PathBuf,
    /// What it is, where it is not the pinned kernel.
    pub(super) instead: Option<String>,
}

impl Unpacked {
    /// What is recorded is of the pinned kernel: why this one may not be.
    pub(super) fn unrecordable(&self) -> Option<String> {
        let instead = self.instead.as_ref()?;
        Some(format!(
            "--record is for the pinned kernel, and this is {instead}: pin that in \
             xtask/src/vm/kernels.toml, or run it without --record"
        ))
    }
}

/// What became of a kernel's packages. One that is not what was pinned is an error.
pub(super) enum Found {
    Unpacked(Unpacked),
    /// Neither the pinned ones nor others can be had, and why.
    Nowhere(String),
}

/// Fetches what is not there yet and unpacks it.
pub(super) fn unpack(kernel: &Kernel) -> Result<Found> {
    let cache = folder().join("packages");
    fs::create_dir_all(&cache)?;
    let pins = pins(kernel, &cache);
    if !pins.iter().all(|pin| pin.file.is_file()) {
        let apt = match Apt::new(&[&kernel.suite], kernel.arch) {
            Ok(apt) => apt,
            Err(error) => return Ok(Found::Nowhere(format!("{error:#}"))),
        };
        if let Some(why) = fetch(&pins, |package| apt.download(package))? {
            let newest = match newest(&apt, kernel, &cache) {
                Ok(newest) => newest,
                Err(error) => return Ok(Found::Nowhere(format!("{error:#} ({why})"))),
            };
            let instead = format!(
                "{}, not the pinned {} {} ({why})",
                newest.named, kernel.release, kernel.version
            );
            println!("vm: FALL-BACK: {instead}; its checksum is the archive's, not ours");
            let unpacked = extract(kernel, &newest.release, &newest.files, Some(instead))?;
            return Ok(Found::Unpacked(unpacked));
        }
    }
    for pin in &pins {
        pin.check_kept()?;
    }
    let files: Vec<_> = pins.into_iter().map(|pin| pin.file).collect();
    let unpacked = extract(kernel, &kernel.release, &files, None)?;
    Ok(Found::Unpacked(unpacked))
}

pub(super) fn folder() -> PathBuf {
    shell::target().join("vm")
}

/// A package as it is pinned, and where it is kept.
struct Pin {
    package: String,
    version: String,
    sum: String,
    file: PathBuf,
}

fn pins(kernel: &Kernel, cache: &Path) -> Vec<Pin> {
    let pin = |(name, sum): (&String, &String)| {
        let package = name.replace("{}", &kernel.release);
        Pin {
            file: cache.join(kept(&package, &kernel.version, sum)),
            package,
            version: kernel.version.clone(),
            sum: sum.clone(),
        }
    };
    kernel.packages.iter().map(pin).collect()
}

/// A kept package's name: another version or content is another file.
fn kept(package: &str, version: &str, sum: &str) -> String {
    let beginning = sum.get(..12).unwrap_or(sum);
    format!("{package}_{version}_{beginning}.deb")
}

impl Pin {
    fn check_kept(&self) -> Result<()> {
        self.check(&self.file, "delete it, and it is fetched again")
    }

    /// What it is if it is not as pinned, and the way out of that.
    fn check(&self, file: &Path, way_out: &str) -> Result<()> {
        let sum = sum(file)?;
        if sum != self.sum {
            bail!(
                "{} {}: {} has the SHA-256 {sum}, pinned is {}: {way_out}",
                self.package,
                self.version,
                file.display(),
                self.sum
            );
        }
        Ok(())
    }
}

fn sum(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let sum = Sha256::digest(&bytes);
    Ok(sum.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Fetches what is not kept yet; why, if one cannot be had. One with another checksum is an error: whoever
/// pinned it meant another kernel than the archive gives.
fn fetch(pins: &[Pin], download: impl Fn(&str) -> Result<PathBuf>) -> Result<Option<String>> {
    for pin in pins.iter().filter(|pin| !pin.file.is_file()) {
        let fetched = match download(&format!("{}={}", pin.package, pin.version)) {
            Ok(fetched) => fetched,
            Err(error) => return Ok(Some(format!("{error:#}"))),
        };
        pin.check(
            &fetched,
            "if Debian's signed index has that one too, pin it in xtask/src/vm/kernels.toml",
        )?;
        fs::rename(&fetched, &pin.file)?;
    }
    Ok(None)
}

/// What a suite has instead of a pinned kernel.
struct Newest {
    release: String,
    /// With its version.
    named: String,
    files: Vec<PathBuf>,
}

/// What the suite has now of the same series: apt checks it against the archive's signature.
fn newest(apt: &Apt, kernel: &Kernel, cache: &Path) -> Result<Newest> {
    let mut common: Option<Vec<String>> = None;
    for name in kernel.packages.keys() {
        let (before, after) = name
            .split_once("{}")
            .context("a package's name has no {}")?;
        let listed = apt.names(&format!("{before}{}.", kernel.series))?;
        let releases: Vec<String> = listed
            .lines()
            .filter_map(|line| line.strip_prefix(before)?.strip_suffix(after))
            .map(str::to_owned)
            .collect();
        common = Some(match common {
            Some(known) => known.into_iter().filter(|r| releases.contains(r)).collect(),
            None => releases,
        });
    }
    let mut releases = common.unwrap_or_default();
    releases.sort_by_key(|release| numbers(release));
    let Some(release) = releases.pop() else {
        bail!(
            "{} has neither the pinned Linux {} nor another {}: pin one in xtask/src/vm/kernels.toml",
            kernel.suite,
            kernel.release,
            kernel.series
        );
    };
    let mut files = Vec::new();
    let mut named = release.clone();
    for name in kernel.packages.keys() {
        let package = name.replace("{}", &release);
        let fetched = apt.download(&package)?;
        let mut field = shell::command("dpkg-deb");
        let version = shell::ask(field.arg("--field").arg(&fetched).arg("Version"))
            .with_context(|| format!("ask {package} for its version"))?;
        let file = cache.join(kept(&package, version.trim(), &sum(&fetched)?));
        fs::rename(&fetched, &file)?;
        files.push(file);
        named = format!("{release} {}", version.trim());
    }
    Ok(Newest {
        release,
        named,
        files,
    })
}

fn extract(
    kernel: &Kernel,
    release: &str,
    packages: &[PathBuf],
    instead: Option<String>,
) -> Result<Unpacked> {
    let place = folder().join("kernels").join(kernel.id());
    let done = place.join("packages");
    // Of one release there may be several versions.
    let names = packages.iter().filter_map(|package| package.file_name());
    let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
    let names = names.join("\n");
    if fs::read_to_string(&done).unwrap_or_default() != names {
        crate::process::fresh_folder(&place)?;
        for package in packages {
            shell::run(
                shell::command("dpkg-deb")
                    .arg("-x")
                    .arg(package)
                    .arg(&place),
            )?;
        }
        fs::write(&done, names)?;
    }
    let name = format!("{release}-cloud-{}", kernel.arch.debian());
    let first = |candidates: &[String]| {
        let mut paths = candidates.iter().map(|path| place.join(path));
        paths.find(|path| path.exists())
    };
    let image = first(&[
        format!("boot/vmlinuz-{name}"),
        format!("usr/lib/modules/{name}/vmlinuz"),
    ]);
    let modules = first(&[
        format!("usr/lib/modules/{name}/kernel"),
        format!("lib/modules/{name}/kernel"),
    ]);
    Ok(Unpacked {
        image: image.with_context(|| format!("no vmlinuz in the packages of {name}"))?,
        modules: modules.with_context(|| format!("no modules in the packages of {name}"))?,
        release: name,
        instead,
    })
}

/// The numbers in a version, to compare by.
fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::kernels;
    use super::*;

    /// The SHA-256 of `abc`.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn pin(folder: &Path) -> Pin {
        Pin {
            package: "linux-image".to_owned(),
            version: "6.1-1".to_owned(),
            sum: ABC.to_owned(),
            file: folder.join(kept("linux-image", "6.1-1", ABC)),
        }
    }

    #[test]
    fn releases_are_compared_by_their_numbers() {
        assert!(numbers("6.12.117+deb12") > numbers("6.12.95+deb12"));
        assert!(numbers("5.10.0-46") > numbers("5.10.0-9"));
    }

    #[test]
    fn another_version_or_content_of_a_kernel_is_kept_apart() {
        let mut kernel = kernels::all().unwrap().remove(0);
        let files = |kernel: &Kernel| -> Vec<PathBuf> {
            let pins = pins(kernel, Path::new("/kept"));
            pins.into_iter().map(|pin| pin.file).collect()
        };
        let before = files(&kernel);
        kernel.version += "+b1";
        let rebuilt = files(&kernel);
        assert_ne!(rebuilt, before);
        for sum in kernel.packages.values_mut() {
            *sum = ABC.to_owned();
        }
        assert_ne!(files(&kernel), rebuilt);
    }

    #[test]
    fn a_package_that_is_not_what_was_pinned_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let pins = [pin(folder.path())];
        let fetched = folder.path().join("fetched");
        let fetch_of = |content: &str| {
            fs::write(&fetched, content).unwrap();
            let fetched = fetch(&pins, |package| {
                assert_eq!(package, "linux-image=6.1-1");
                Ok(fetched.clone())
            });
            fetched.map_err(|error| error.to_string())
        };
        let refused = fetch_of("other").unwrap_err();
        for words in ["linux-image 6.1-1", ABC, "xtask/src/vm/kernels.toml"] {
            assert!(refused.contains(words), "{refused}");
        }
        assert!(!pins[0].file.exists());
        assert_eq!(fetch_of("abc"), Ok(None));
        pins[0].check_kept().unwrap();
        fs::write(&pins[0].file, "abd").unwrap();
        let refused = pins[0].check_kept().unwrap_err().to_string();
        for words in ["linux-image 6.1-1", "delete it"] {
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn why_a_package_cannot_be_had_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let why = fetch(&[pin(folder.path())], |_| bail!("no such version"));
        assert_eq!(why.unwrap().as_deref(), Some("no such version"));
    }

    #[test]
    fn nothing_is_recorded_of_another_kernel_than_the_pinned_one() {
        let mut unpacked = Unpacked {
            release: "6.1.0-57-cloud-amd64".to_owned(),
            image: PathBuf::new(),
            modules: PathBuf::new(),
            instead: None,
        };
        assert_eq!(unpacked.unrecordable(), None);
        unpacked.instead = Some("6.1.0-57 6.1.193-1, not the pinned 6.1.0-56".to_owned());
        let refused = unpacked.unrecordable().unwrap();
        for words in [
            "--record",
            "6.1.0-57 6.1.193-1",
            "xtask/src/vm/kernels.toml",
        ] {
            assert!(refused.contains(words), "{refused}");
        }
    }
}
