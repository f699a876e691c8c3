//! Kernels' packages, from suites that this system does not use: through a configuration of apt of our
//! own, which leaves the system's alone. What has been fetched once is kept and checked each time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use super::arch::Arch;
use super::kernels::Kernel;
use crate::shell;

pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel, unpacked.
pub(super) struct Unpacked {
    /// As its own `uname -r` gives it.
    pub(super) release: String,
    pub(super) image: PathBuf,
    /// The folder with its modules.
    pub(super) modules: PathBuf,
}

/// Fetches what is not there yet and unpacks it.
pub(super) fn unpack(kernel: &Kernel) -> Result<Unpacked> {
    let cache = folder().join("packages");
    fs::create_dir_all(&cache)?;
    let pinned: Vec<PathBuf> = kernel
        .packages
        .iter()
        .map(|(name, sum)| {
            cache.join(format!(
                "{}-{}.deb",
                name.replace("{}", &kernel.release),
                &sum[..12]
            ))
        })
        .collect();
    if pinned.iter().all(|file| file.is_file()) {
        for (file, sum) in pinned.iter().zip(kernel.packages.values()) {
            verify(file, sum)?;
        }
        return extract(kernel, &kernel.release, &pinned);
    }
    let apt = Apt::new(&[&kernel.suite], kernel.arch)?;
    if let Ok(()) = apt.fetch_pinned(kernel, &pinned) {
        return extract(kernel, &kernel.release, &pinned);
    }
    let (release, files) = apt.fetch_newest(kernel, &cache)?;
    extract(kernel, &release, &files)
}

pub(super) fn folder() -> PathBuf {
    shell::target().join("vm")
}

fn verify(file: &Path, wanted: &str) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let sum: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    ensure!(
        sum == wanted,
        "{} has the SHA-256 {sum}, pinned is {wanted}: delete it, it will be fetched again",
        file.display()
    );
    Ok(())
}

fn extract(kernel: &Kernel, release: &str, packages: &[PathBuf]) -> Result<Unpacked> {
    let place = folder().join("kernels").join(kernel.id());
    let done = place.join("release");
    if fs::read_to_string(&done).unwrap_or_default() != release {
        crate::process::fresh_folder(&place)?;
        for package in packages {
            shell::run(
                shell::command("dpkg-deb")
                    .arg("-x")
                    .arg(package)
                    .arg(&place),
            )?;
        }
        fs::write(&done, release)?;
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
    })
}

/// apt, for some suites and one kind of machine, with lists of its own.
pub(crate) struct Apt {
    configuration: PathBuf,
    place: PathBuf,
}

impl Apt {
    pub(crate) fn new(suites: &[&str], arch: Arch) -> Result<Apt> {
        let mut name = suites.join("+");
        if arch != Arch::default() {
            name = format!("{name}-{}", arch.name());
        }
        let place = folder().join("apt").join(&name);
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(place.join(part))?;
        }
        let mut sources = String::new();
        let arch = arch.debian();
        for suite in suites {
            let base = archive(suite.ends_with("-security"))?;
            sources += &format!("deb [arch={arch} signed-by={KEYRING}] {base} {suite} main\n");
        }
        fs::write(place.join("sources.list"), sources)?;
        // Nothing is installed: what a package depends on is fetched with it.
        fs::write(place.join("status"), [])?;
        let configuration = place.join("apt.conf");
        let show = place.display();
        fs::write(
            &configuration,
            format!(
                "Dir::Etc::sourcelist \"{show}/sources.list\";\n\
                 Dir::Etc::sourceparts \"/dev/null\";\n\
                 Dir::State::lists \"{show}/lists\";\n\
                 Dir::State::status \"{show}/status\";\n\
                 Dir::Cache \"{show}/cache\";\n\
                 APT::Architecture \"{arch}\";\n\
                 APT::Architectures {{ \"{arch}\"; }};\n\
                 APT::Install-Recommends \"false\";\n\
                 Debug::NoLocking \"true\";\n\
                 Acquire::Languages \"none\";\n\
                 Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
                 // A suite that is only looked into may be older than it would like to be.\n\
                 Acquire::Check-Valid-Until \"false\";\n\
                 APT::Sandbox::User \"root\";\n"
            ),
        )?;
        let apt = Apt {
            configuration,
            place,
        };
        println!("asking the archive for {name}");
        shell::run(apt.command("apt-get").args(["-q=2", "update"]))
            .with_context(|| format!("read the package lists of {name}"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = shell::command(program);
        command.env("APT_CONFIG", &self.configuration);
        command
    }

    /// The pinned packages, into these files.
    fn fetch_pinned(&self, kernel: &Kernel, files: &[PathBuf]) -> Result<()> {
        for ((name, sum), file) in kernel.packages.iter().zip(files) {
            let name = name.replace("{}", &kernel.release);
            let fetched = self.download(&format!("{name}={}", kernel.version))?;
            verify(&fetched, sum)?;
            fs::rename(&fetched, file)?;
        }
        Ok(())
    }

    /// What the suite has now of the same series: apt checks it against the archive's signature.
    fn fetch_newest(&self, kernel: &Kernel, cache: &Path) -> Result<(String, Vec<PathBuf>)> {
        let mut common: Option<Vec<String>> = None;
        for name in kernel.packages.keys() {
            let (before, after) = name
                .split_once("{}")
                .context("a package's name has no {}")?;
            let prefix = format!("{before}{}.", kernel.series);
            let listed = shell::ask(self.command("apt-cache").args(["pkgnames", &prefix]))
                .context("ask apt-cache for names")?;
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
        println!(
            "vm: FALL-BACK: Linux {} {} is not to be had from {}; taking {release}, whose checksum is \
             the archive's, not ours",
            kernel.release, kernel.version, kernel.suite
        );
        let mut files = Vec::new();
        for name in kernel.packages.keys() {
            let name = name.replace("{}", &release);
            let file = cache.join(format!("{name}.deb"));
            fs::rename(self.download(&name)?, &file)?;
            files.push(file);
        }
        Ok((release, files))
    }

    /// The packages and all that they depend on, each checked against the archive's signature.
    pub(super) fn fetch_whole(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let archives = self.place.join("cache/archives");
        for old in debs(&archives)? {
            fs::remove_file(old)?;
        }
        let mut apt = self.command("apt-get");
        apt.args(["-q=2", "install", "--yes", "--download-only"]);
        shell::run(apt.args(packages))?;
        debs(&archives)
    }

    pub(crate) fn download(&self, package: &str) -> Result<PathBuf> {
        let place = folder().join("download");
        crate::process::fresh_folder(&place)?;
        let mut apt = self.command("apt-get");
        apt.current_dir(&place);
        shell::run(apt.args(["-q=2", "download", package]))?;
        debs(&place)?
            .pop()
            .with_context(|| format!("apt left no package of {package}"))
    }
}

pub(super) fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let files = files.flatten().map(|entry| entry.path());
    Ok(files
        .filter(|path| path.extension().is_some_and(|end| end == "deb"))
        .collect())
}

/// Where this system gets Debian from: of what its own sources name, what is of the archive or of its
/// security updates.
pub(crate) fn archive(security: bool) -> Result<String> {
    let format = "$(RELEASE)|$(COMPONENT)|$(REPO_URI)";
    let text = shell::ask(shell::command("apt-get").args(["indextargets", "--format", format]))
        .context("ask apt-get for the system's sources")?;
    base(&text, security).with_context(|| {
        let what = if security {
            "security updates"
        } else {
            "archive"
        };
        format!("this system's apt sources name no Debian {what}")
    })
}

fn base(targets: &str, security: bool) -> Option<String> {
    const CODENAMES: [&str; 6] = [
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "stable",
        "oldstable",
    ];
    targets.lines().find_map(|line| {
        let mut fields = line.split('|');
        let (release, component, base) = (fields.next()?, fields.next()?, fields.next()?);
        let name = match security {
            true => release.strip_suffix("-security")?,
            false => release,
        };
        (component == "main" && CODENAMES.contains(&name)).then(|| base.to_owned())
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
    use super::*;

    #[test]
    fn the_archive_is_found_among_the_systems_sources() {
        let targets = "nodistro|main|https://other.example/node/\n\
                       bookworm|contrib|http://a.example/debian/\n\
                       bookworm-updates|main|http://a.example/debian/\n\
                       bookworm|main|http://a.example/debian/\n\
                       bookworm-security|main|http://a.example/security/\n";
        assert_eq!(base(targets, false).unwrap(), "http://a.example/debian/");
        assert_eq!(base(targets, true).unwrap(), "http://a.example/security/");
        assert_eq!(base("x|main|http://b.example/", false), None);
    }

    #[test]
    fn releases_are_compared_by_their_numbers() {
        assert!(numbers("6.12.117+deb12") > numbers("6.12.95+deb12"));
        assert!(numbers("5.10.0-46") > numbers("5.10.0-9"));
    }
}
