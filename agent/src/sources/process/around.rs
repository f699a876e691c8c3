//! The control groups around a process, as far as they can be read from here.

use std::fs;
use std::path::{Path, PathBuf};

use super::{cgroup, file, path};

/// What they say, and whether they could be asked: silence of a group that cannot be read says nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Around {
    /// What tells of throttling.
    pub(super) stats: Vec<PathBuf>,
    pub(super) frozen: bool,
    pub(super) throttling_unseen: bool,
    pub(super) freezing_unseen: bool,
}

/// Files of the groups around a process in one hierarchy.
struct Files {
    /// The innermost first.
    paths: Vec<PathBuf>,
    /// Of these groups; else it is what the process itself sees at the top, whatever that is.
    theirs: bool,
}

impl Around {
    pub(super) fn of(pid: u32) -> Around {
        let Ok(text) = file(pid, "cgroup") else {
            return Around {
                throttling_unseen: true,
                freezing_unseen: true,
                ..Around::default()
            };
        };
        let groups = cgroup::parse(&String::from_utf8_lossy(&text));
        Around::below(&[PathBuf::from("/"), path(pid, "root")], &groups, pid)
    }

    /// The same, where the groups are seen below one of these roots. In a container of our own the host's
    /// are not: there they are where the process itself sees them, which in a container is its own group
    /// alone, and outside of containers all.
    fn below(roots: &[PathBuf], groups: &cgroup::Groups, pid: u32) -> Around {
        let files = |hierarchies: &[&str], group: &Option<String>, name: &str| match group {
            Some(group) => files(roots, hierarchies, group, name, pid),
            // There is no such hierarchy.
            None => Files {
                paths: Vec::new(),
                theirs: true,
            },
        };
        let tells = |files: &Files| {
            let told = |path: &PathBuf| cgroup::throttled_us(&fs::read_to_string(path).ok()?);
            files.theirs || files.paths.iter().any(|path| told(path).is_some())
        };
        let unified: &[&str] = &["", "/unified"];
        let two = files(unified, &groups.unified, "cpu.stat");
        let one = files(&["/cpu,cpuacct", "/cpu"], &groups.cpu, "cpu.stat");
        // A controller is in one hierarchy.
        let throttling_unseen = match groups.cpu {
            Some(_) => !tells(&one),
            None => !tells(&two),
        };
        let held = |hierarchies: &[&str], group: &Option<String>, name: &str| {
            let files = files(hierarchies, group, name);
            // The innermost: what holds one around it is told there as well.
            let text = files.paths.first().and_then(|p| fs::read_to_string(p).ok());
            let seen = files.theirs || text.is_some();
            (text.is_some_and(|text| cgroup::frozen(&text)), seen)
        };
        let held = [
            held(unified, &groups.unified, "cgroup.events"),
            held(&["/freezer"], &groups.freezer, "freezer.state"),
        ];
        Around {
            stats: [two.paths, one.paths].concat(),
            frozen: held.iter().any(|(frozen, _)| *frozen),
            throttling_unseen,
            freezing_unseen: held.iter().any(|(_, seen)| !seen),
        }
    }
}

fn files(roots: &[PathBuf], hierarchies: &[&str], group: &str, name: &str, pid: u32) -> Files {
    let ours = |group: &str| {
        let of_root = |root: &PathBuf| {
            let mut places = hierarchies.iter();
            places.find_map(|in_it| at(root, in_it, group, name))
        };
        roots.iter().find_map(of_root)
    };
    let ours: Vec<PathBuf> = cgroup::upwards(group)
        .into_iter()
        .filter_map(ours)
        .collect();
    let Some(own) = roots.last().filter(|_| ours.is_empty()) else {
        return Files {
            paths: ours,
            theirs: true,
        };
    };
    // Its name goes up from our own group, and down again: below the top that the process sees it may
    // be the same, if that group has the process.
    let down = group.trim_start_matches("/..");
    for in_it in hierarchies.iter().filter(|_| down.len() < group.len()) {
        let members = at(own, in_it, down, "cgroup.procs");
        let members = members.and_then(|path| fs::read_to_string(path).ok());
        let is_member = |text: String| text.lines().any(|line| line.parse() == Ok(pid));
        if !down.is_empty() && members.is_some_and(is_member) {
            let around = cgroup::upwards(down).into_iter();
            return Files {
                paths: around.filter_map(|one| at(own, in_it, one, name)).collect(),
                theirs: true,
            };
        }
    }
    let top = hierarchies
        .iter()
        .find_map(|in_it| at(own, in_it, "", name));
    Files {
        paths: top.into_iter().collect(),
        // Nothing is around the root.
        theirs: group == "/",
    }
}

/// A group's file, where it is there.
fn at(root: &Path, in_it: &str, group: &str, name: &str) -> Option<PathBuf> {
    let path = root.join(format!("sys/fs/cgroup{in_it}{group}/{name}"));
    path.exists().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host's files, of which a process sees those below `its`.
    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Host {
            Host(tempfile::tempdir().unwrap())
        }

        fn roots(&self) -> [PathBuf; 2] {
            ["ours", "its"].map(|name| self.0.path().join(name))
        }

        fn write(&self, path: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        }

        fn around(&self, groups: &str) -> Around {
            Around::below(&self.roots(), &cgroup::parse(groups), 7)
        }
    }

    #[test]
    fn groups_are_found_where_the_process_sees_them() {
        let host = Host::new();
        // Of version 2, our own group; of the process, its container's alone.
        host.write("ours/sys/fs/cgroup/cpu.stat", "throttled_usec 1\n");
        let own = host.write("its/sys/fs/cgroup/cpu.stat", "throttled_usec 2\n");
        host.write("its/sys/fs/cgroup/cgroup.events", "frozen 1\n");
        for path in ["/kubepods/pod1/a", "/../../pod1/a"] {
            let expected = Around {
                stats: vec![own.clone()],
                frozen: true,
                ..Around::default()
            };
            assert_eq!(host.around(&format!("0::{path}\n")), expected, "{path}");
        }
        // Of version 1, the host's, which a process outside of containers sees.
        let around = ["a/b", "a"].map(|group| {
            let path = format!("its/sys/fs/cgroup/cpu/{group}/cpu.stat");
            host.write(&path, "throttled_time 3\n")
        });
        host.write("its/sys/fs/cgroup/freezer/a/b/freezer.state", "THAWED\n");
        let groups = "4:cpu,cpuacct:/a/b\n3:freezer:/a/b\n";
        let expected = Around {
            stats: around.to_vec(),
            ..Around::default()
        };
        assert_eq!(host.around(groups), expected);
        // Where we see them ourselves, nobody else is asked.
        let ours = host.write("ours/sys/fs/cgroup/cpu/a/b/cpu.stat", "throttled_time 4\n");
        assert_eq!(host.around(groups).stats[0], ours);
    }

    /// The host's root tells neither of throttling nor of freezing: a service's own group does.
    #[test]
    fn silence_of_groups_that_cannot_be_read_is_told() {
        let unseen = Around {
            throttling_unseen: true,
            freezing_unseen: true,
            ..Around::default()
        };
        let host = Host::new();
        let service = "0::/../../system.slice/app.service\n";
        assert_eq!(host.around(service), unseen);
        let top = host.write("its/sys/fs/cgroup/cpu.stat", "usage_usec 5\n");
        let expected = Around {
            stats: vec![top.clone()],
            ..unseen
        };
        assert_eq!(host.around(service), expected);
        let group = "its/sys/fs/cgroup/system.slice/app.service";
        let stat = host.write(&format!("{group}/cpu.stat"), "usage_usec 5\n");
        host.write(&format!("{group}/cgroup.events"), "frozen 0\n");
        // Another's of the same name.
        let procs = format!("{group}/cgroup.procs");
        host.write(&procs, "70\n17\n");
        assert_eq!(host.around(service), expected);
        host.write(&procs, "70\n7\n");
        let expected = Around {
            stats: vec![stat],
            ..Around::default()
        };
        assert_eq!(host.around(service), expected);
        // Nothing is around who is in no group.
        let expected = Around {
            stats: vec![top],
            ..Around::default()
        };
        assert_eq!(host.around("0::/\n"), expected);
        // The controller is in the other hierarchy, whose group is the root.
        assert!(!host.around("1:cpu:/\n0::/../x\n").throttling_unseen);
    }

    #[test]
    fn a_process_that_is_gone_tells_nothing() {
        let gone = Around::of(u32::MAX);
        assert!(gone.throttling_unseen && gone.freezing_unseen && !gone.frozen);
    }
}
