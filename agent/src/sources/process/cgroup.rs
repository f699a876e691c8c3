//! A process's control groups: how long the quota has throttled them, and whether the freezer holds them.

/// Where a process is, per hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups {
    /// Version 2.
    pub unified: Option<String>,
    /// Version 1.
    pub cpu: Option<String>,
    pub freezer: Option<String>,
}

/// `/proc/PID/cgroup`.
pub(super) fn parse(text: &str) -> Groups {
    let mut groups = Groups::default();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let path = path.to_owned();
        if controllers.is_empty() {
            groups.unified = Some(path);
        } else if controllers.split(',').any(|c| c == "cpu") {
            groups.cpu = Some(path);
        } else if controllers.split(',').any(|c| c == "freezer") {
            groups.freezer = Some(path);
        }
    }
    groups
}

/// A group and those around it, itself first, without the root: a quota may be set on any.
pub(super) fn upwards(path: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut path = path.trim_end_matches('/');
    // Outside our own namespace there is nothing to read.
    while !path.is_empty() && !path.contains("/..") && out.len() < 16 {
        out.push(path);
        path = path.rsplit_once('/').map_or("", |(above, _)| above);
    }
    out
}

/// Microseconds throttled so far, from either version's `cpu.stat`.
pub(super) fn throttled_us(text: &str) -> Option<u64> {
    text.lines().find_map(|line| match line.split_once(' ')? {
        ("throttled_usec", value) => value.trim().parse().ok(),
        ("throttled_time", value) => value.trim().parse::<u64>().ok().map(|ns| ns / 1000),
        _ => None,
    })
}

/// From `cgroup.events` (version 2) or `freezer.state` (version 1).
pub(super) fn frozen(text: &str) -> bool {
    text.lines()
        .any(|line| matches!(line.trim(), "frozen 1" | "FROZEN"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions() {
        let groups = parse("4:cpu,cpuacct:/a\n3:freezer:/f:x\n0::/u/v\nrubbish\n");
        assert_eq!(groups.unified.as_deref(), Some("/u/v"));
        assert_eq!(groups.cpu.as_deref(), Some("/a"));
        assert_eq!(groups.freezer.as_deref(), Some("/f:x"));
        assert_eq!(throttled_us("usage_usec 5\nthrottled_usec 17\n"), Some(17));
        assert_eq!(
            throttled_us("nr_throttled 5\nthrottled_time 17000\n"),
            Some(17)
        );
        assert_eq!(throttled_us("usage_usec 5\n"), None);
        assert!(frozen("populated 1\nfrozen 1\n") && frozen("FROZEN\n") && !frozen("frozen 0\n"));
    }

    #[test]
    fn all_groups_around() {
        assert_eq!(upwards("/a/b/c"), ["/a/b/c", "/a/b", "/a"]);
        assert_eq!(upwards("/"), Vec::<&str>::new());
        assert_eq!(upwards("/../x"), Vec::<&str>::new());
    }
}
