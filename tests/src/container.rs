//! Real containers of Podman, with the host's own programs in them: no image has to be had.

mod podman;

use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::keeper::{self, Made};
use crate::process;
use crate::wait;

static NEXT: AtomicU32 = AtomicU32::new(0);
const START: Duration = Duration::from_secs(20);

/// Where containers of one scenario are kept; gone, with them, when dropped.
pub struct Engine {
    folder: PathBuf,
    /// The control group around those of its containers: Podman's own would stay.
    group: String,
    /// Folders that are seen in them at the same place.
    shared: Vec<PathBuf>,
}

impl Engine {
    pub fn new(folder: &Path, shared: &[&Path]) -> Result<Engine> {
        keeper::note(Made::Engine, folder)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let group = format!("why502-lab-{}-engine-{number}", std::process::id());
        for place in places(&group) {
            keeper::note(Made::Group, &place)?;
        }
        let root = folder.join("root");
        for name in ["usr", "etc", "proc", "sys", "dev", "run", "tmp", "var"] {
            std::fs::create_dir_all(root.join(name))?;
        }
        for name in ["bin", "lib", "lib64", "sbin"] {
            let link = root.join(name);
            std::os::unix::fs::symlink(Path::new("usr").join(name), &link)
                .with_context(|| format!("link {}", link.display()))?;
        }
        // What is seen in a container is mounted somewhere in its root.
        for path in shared {
            std::fs::create_dir_all(root.join(path.strip_prefix("/")?))?;
        }
        Ok(Engine {
            folder: folder.to_owned(),
            group,
            shared: shared.iter().map(|path| (*path).to_owned()).collect(),
        })
    }

    fn podman(&self) -> Command {
        podman_in(&self.folder)
    }

    /// Runs `program` as the only one of a new container in a network namespace of ours.
    pub(crate) fn run(&self, name: &str, ns: RawFd, program: &Path) -> Command {
        let mut run = self.podman();
        run.args([
            "run",
            "--name",
            name,
            "--read-only",
            "--read-only-tmpfs=false",
        ]);
        let own = std::process::id();
        run.args(["--log-driver", "k8s-file"]);
        run.args(["--cgroup-parent", &format!("/{}", self.group)]);
        run.args(["--network", &format!("ns:/proc/{own}/fd/{ns}")]);
        // Limits that whoever may not raise them has, too.
        run.args([
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=4096:4096",
        ]);
        for variable in ["APP_LOG", "PYTHONDONTWRITEBYTECODE", keeper::MARK] {
            run.args(["--env", variable]);
        }
        run.args(["--volume", "/usr:/usr:ro", "--volume", "/etc:/etc:ro"]);
        for path in &self.shared {
            run.arg("--volume");
            run.arg(format!("{0}:{0}", path.display()));
        }
        run.arg("--rootfs")
            .arg(self.folder.join("root"))
            .arg(program);
        run
    }

    /// The first process of a container that runs.
    pub fn pid(&self, name: &str) -> Result<u32> {
        let found = Cell::new(None);
        wait::until(&format!("the container {name}"), START, || {
            let mut inspect = self.podman();
            inspect.args(["inspect", "--format", "{{.State.Pid}}", name]);
            let pid = inspect.output().ok().and_then(|output| {
                let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                text.parse().ok().filter(|pid| *pid > 0)
            });
            found.set(pid);
            pid.is_some()
        })?;
        found.get().context("no process")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        remove_all(&self.folder);
        // Whoever was in them has been killed, and may need a moment.
        let left = || places(&self.group).find(|place| place.exists());
        let gone = wait::until("the end of an engine's groups", START, || {
            places(&self.group).for_each(|place| drop(std::fs::remove_dir(place)));
            left().is_none()
        });
        if let (Err(error), Some(place)) = (gone, left()) {
            eprintln!("lab: {}: {error}", place.display());
        }
    }
}

/// Where an engine's group may be, in each hierarchy, that of its helpers before its own.
fn places(group: &str) -> impl Iterator<Item = PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten();
    let hierarchies = hierarchies.map(|entry| entry.path());
    let own = hierarchies
        .chain([root.to_owned()])
        .map(move |place| place.join(group));
    own.collect::<Vec<_>>()
        .into_iter()
        .flat_map(|own| [own.join("conmon"), own])
}

/// With all its files in one folder.
fn podman_in(folder: &Path) -> Command {
    let mut podman = Command::new("podman");
    podman::keep_in(&mut podman, folder);
    podman
}

/// Removes the containers of an engine, whoever has begun it.
pub(crate) fn remove_all(folder: &Path) {
    let _ = podman_in(folder)
        .args(["rm", "--all", "--force", "--time", "0"])
        .output();
    // Podman mounts it on itself and leaves it: the folder could not be removed.
    let overlay = folder.join("storage/overlay");
    if let Ok(overlay) = CString::new(overlay.as_os_str().as_bytes()) {
        // SAFETY: a string that lives in this frame.
        unsafe { libc::umount2(overlay.as_ptr(), libc::MNT_DETACH) };
    }
}

/// Why no container can be run here; `None` where one did.
pub fn unusable() -> Option<String> {
    let attempt = || -> Result<()> {
        for program in ["podman", "runc", "conmon"] {
            if process::program(program).is_none() {
                bail!("{program} is not installed");
            }
        }
        let folder = keeper::temporary()?;
        let engine = Engine::new(folder.path(), &[])?;
        let ns = crate::netns::NetNs::new()?;
        let output = engine
            .run("try", ns.descriptor(), Path::new("/usr/bin/true"))
            .output()?;
        if !output.status.success() {
            bail!(
                "{}",
                String::from_utf8_lossy(&output.stderr).trim().to_owned()
            );
        }
        Ok(())
    };
    attempt().err().map(|error| format!("{error:#}"))
}
