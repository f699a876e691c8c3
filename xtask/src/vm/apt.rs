//! apt for suites and kinds of machines that this system does not use: through a configuration of our own,
//! which leaves the system's alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::arch::Arch;
use super::packages;
use crate::shell;

pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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
        let place = packages::folder().join("apt").join(&name);
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

    /// The names of packages that begin so.
    pub(super) fn names(&self, prefix: &str) -> Result<String> {
        shell::ask(self.command("apt-cache").args(["pkgnames", prefix]))
            .context("ask apt-cache for names")
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
        let place = packages::folder().join("download");
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
}
