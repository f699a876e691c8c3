//! What the names of a process's control groups say: a container's id, a pod's, a systemd service.
//! Pure.
//!
//! The groups' names are made by container engines, each with two drivers:
//!
//! | engine | cgroupfs | systemd |
//! |---|---|---|
//! | Docker | `/docker/ID` | `/system.slice/docker-ID.scope` |
//! | Podman | `/libpod_parent/libpod-ID` | `/machine.slice/libpod-ID.scope`, `/SLICE/X.service/libpod-payload-ID` |
//! | containerd | `/kubepods/QOS/podUID/ID` | `/kubepods.slice/…-podUID.slice/cri-containerd-ID.scope` |
//! | CRI-O | `/kubepods/QOS/podUID/crio-ID` | `/kubepods.slice/…-podUID.slice/crio-ID.scope` |
//!
//! Whoever reads from within a cgroup namespace sees `/../..` before what is not below its root.

/// Digits of a container's id.
const ID: usize = 64;

/// What the names say, the innermost first where containers are nested.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    /// The container's id: 64 hexadecimal digits.
    pub container: Option<String>,
    /// The pod's UID, with dashes; of a static pod 32 digits without.
    pub pod: Option<String>,
    /// The systemd service, where there is no container.
    pub service: Option<String>,
}

/// `/proc/PID/cgroup`: of version 1 there is a line for each hierarchy, and not every engine uses all.
pub(super) fn parse(text: &str) -> Group {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths
        .map(of_path)
        .reduce(|best, next| {
            if rank(&next) > rank(&best) {
                next
            } else {
                best
            }
        })
        .unwrap_or_default()
}

fn rank(group: &Group) -> (bool, bool, bool) {
    (
        group.container.is_some(),
        group.pod.is_some(),
        group.service.is_some(),
    )
}

fn of_path(path: &str) -> Group {
    let mut group = Group::default();
    for name in path.split('/').rev() {
        if group.container.is_none() && group.pod.is_none() {
            match container(name) {
                Some(Member::Inside(id)) => group.container = Some(id.to_owned()),
                // What belongs to the container's engine is in the host's files, not in it.
                Some(Member::Monitor) => return Group::default(),
                None => {}
            }
        }
        if group.pod.is_none() {
            group.pod = pod(name);
        }
    }
    if group.container.is_none() && group.pod.is_none() {
        group.service = service(path).map(ToOwned::to_owned);
    }
    group
}

enum Member<'a> {
    Inside(&'a str),
    Monitor,
}

/// `ID`, `docker-ID.scope`, `libpod-payload-ID`, `kubepods-….slice:cri-containerd:ID`.
fn container(name: &str) -> Option<Member<'_>> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let at = name.rfind(['-', ':']).map_or(0, |dash| dash + 1);
    let (engine, id) = name.split_at(at);
    let hexadecimal = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if id.len() != ID || !id.bytes().all(hexadecimal) {
        return None;
    }
    Some(match engine.ends_with("conmon-") {
        true => Member::Monitor,
        false => Member::Inside(id),
    })
}

/// `podUID`, `kubepods-burstable-podU_I_D.slice`, the latter also with a container behind it.
fn pod(name: &str) -> Option<String> {
    let name = name.split_once(".slice").map_or(name, |(slice, _)| slice);
    let (before, uid) = name.rsplit_once("pod")?;
    if !before.is_empty() && !before.ends_with('-') {
        return None;
    }
    let uid = uid.replace('_', "-");
    let lengths: Vec<usize> = uid.split('-').map(str::len).collect();
    let shape = matches!(lengths.as_slice(), [8, 4, 4, 4, 12] | [32]);
    (shape && uid.bytes().all(|c| c.is_ascii_hexdigit() || c == b'-')).then_some(uid)
}

/// The innermost unit, if it is a service. A user's own manager is one only in name.
fn service(path: &str) -> Option<&str> {
    let unit = path
        .split('/')
        .rev()
        .find(|name| name.ends_with(".service") || name.ends_with(".scope"))?;
    (unit.ends_with(".service") && !unit.starts_with("user@")).then_some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "3d6f0b9f1f5e5b6a4e93d0b8a2f1c7e6d5948372615049382716a5b4c3d2e1f0";
    const B: &str = "9687bac58d5c4d1606aa46af33d1a21c1d1652e0ac9fb3fc0fc86e3495f42869";
    const UID: &str = "40934a46-d409-4f4a-bb8b-1ec0b0436320";

    fn found(text: &str) -> (String, String, String) {
        let text = text.replace("{A}", A).replace("{B}", B);
        let group = parse(&text);
        let name = |id: Option<String>| match id.as_deref() {
            Some(A) => "A".to_owned(),
            Some(B) => "B".to_owned(),
            other => other.unwrap_or_default().to_owned(),
        };
        (
            name(group.container),
            group.pod.unwrap_or_default(),
            group.service.unwrap_or_default(),
        )
    }

    /// Lines as engines write them, with their ids made short.
    #[test]
    fn every_engine_and_driver() {
        let static_pod = "187bff14cccb94f179e943eacce55bb3";
        for (text, container, pod) in [
            // Docker: version 2, version 1, cgroupfs and systemd.
            ("0::/docker/{A}\n", "A", ""),
            ("0::/system.slice/docker-{A}.scope\n", "A", ""),
            (
                "12:pids:/docker/{A}\n2:blkio:/docker/{A}\n1:name=systemd:/docker/{A}\n\
                 0::/system.slice/containerd.service\n",
                "A",
                "",
            ),
            (
                "10:devices:/system.slice/docker-{A}.scope\n\
                 2:cpuacct,cpu:/system.slice/docker-{A}.scope\n",
                "A",
                "",
            ),
            // cri-dockerd.
            (
                "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod40934a46_d409_\
                 4f4a_bb8b_1ec0b0436320.slice/docker-{A}.scope\n",
                "A",
                UID,
            ),
            // Podman: cgroupfs, systemd, crun's group below, rootless, in a pod, split by Quadlet.
            (
                "13:pids:/libpod_parent/libpod-{A}\n0::/user.slice\n",
                "A",
                "",
            ),
            ("0::/machine.slice/libpod-{A}.scope\n", "A", ""),
            ("0::/machine.slice/libpod-{A}.scope/container\n", "A", ""),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container\n",
                "A",
                "",
            ),
            (
                "0::/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope\n",
                "A",
                "",
            ),
            ("11:memory:/libpod_parent/{B}/libpod-{A}\n", "A", ""),
            ("0::/system.slice/web.service/libpod-payload-{A}\n", "A", ""),
            // containerd: systemd, guaranteed and not; cgroupfs; a static pod; kind; k3s; minikube.
            (
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod40934a46_d409_\
                 4f4a_bb8b_1ec0b0436320.slice/cri-containerd-{A}.scope\n",
                "A",
                UID,
            ),
            (
                "12:hugetlb:/kubepods.slice/kubepods-pod40934a46_d409_4f4a_bb8b_1ec0b0436320.slice/\
                 cri-containerd-{A}.scope\n",
                "A",
                UID,
            ),
            (
                "0::/kubepods/burstable/pod40934a46-d409-4f4a-bb8b-1ec0b0436320/{A}\n",
                "A",
                UID,
            ),
            (
                "0::/kubepods/pod40934a46-d409-4f4a-bb8b-1ec0b0436320/{A}\n",
                "A",
                UID,
            ),
            (
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-\
                 pod187bff14cccb94f179e943eacce55bb3.slice/cri-containerd-{A}.scope\n",
                "A",
                static_pod,
            ),
            (
                "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-\
                 kubepods-besteffort-pod40934a46_d409_4f4a_bb8b_1ec0b0436320.slice/\
                 cri-containerd-{A}.scope\n",
                "A",
                UID,
            ),
            (
                "0::/system.slice/docker-{B}.scope/kubepods/burstable/\
                 pod40934a46-d409-4f4a-bb8b-1ec0b0436320/{A}\n",
                "A",
                UID,
            ),
            // containerd told of systemd's names, but not to use it.
            (
                "12:cpu,cpuacct:/system.slice/containerd.service/kubepods-besteffort-pod40934a46_d409_\
                 4f4a_bb8b_1ec0b0436320.slice:cri-containerd:{A}\n",
                "A",
                UID,
            ),
            // CRI-O: systemd, crun's group below, cgroupfs.
            (
                "0::/kubepods.slice/kubepods-pod40934a46_d409_4f4a_bb8b_1ec0b0436320.slice/\
                 crio-{A}.scope/container\n",
                "A",
                UID,
            ),
            (
                "4:cpu:/kubepods/besteffort/pod40934a46-d409-4f4a-bb8b-1ec0b0436320/crio-{A}\n",
                "A",
                UID,
            ),
            // Seen from within another cgroup namespace.
            ("0::/../cri-containerd-{A}.scope\n", "A", ""),
            (
                "0::/../../kubepods-burstable-pod40934a46_d409_4f4a_bb8b_1ec0b0436320.slice/\
                 cri-containerd-{A}.scope\n",
                "A",
                UID,
            ),
            (
                "0::/../../pod40934a46-d409-4f4a-bb8b-1ec0b0436320/{A}\n",
                "A",
                UID,
            ),
            // nerdctl, and systemd in a container.
            ("0::/default/{A}\n", "A", ""),
            ("0::/docker/{A}/system.slice/nginx.service\n", "A", ""),
        ] {
            let (id, uid, service) = found(text);
            assert_eq!(
                (id.as_str(), uid.as_str(), service.as_str()),
                (container, pod, ""),
                "{text}"
            );
        }
    }

    #[test]
    fn services_without_a_container() {
        for (text, service) in [
            ("0::/system.slice/nginx.service\n", "nginx.service"),
            (
                "1:name=systemd:/system.slice/nginx.service\n0::/system.slice/nginx.service\n",
                "nginx.service",
            ),
            (
                "0::/system.slice/system-gunicorn.slice/gunicorn@shop.service\n",
                "gunicorn@shop.service",
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service\n",
                "shop.service",
            ),
            // A service with groups of its own.
            ("0::/system.slice/web.service/supervisor\n", "web.service"),
            ("0::/user.slice/user-0.slice/session-3.scope\n", ""),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope\n",
                "",
            ),
            ("0::/user.slice/user-1000.slice/user@1000.service\n", ""),
            ("0::/init.scope\n", ""),
            ("0::/\n", ""),
        ] {
            let found = found(text);
            assert_eq!(found, (String::new(), String::new(), service.to_owned()));
        }
    }

    #[test]
    fn what_is_no_container() {
        for text in [
            // The engines' own processes.
            "0::/machine.slice/libpod-conmon-{A}.scope\n",
            "0::/system.slice/crio-conmon-{A}.scope\n",
            "0::/kubepods.slice/kubepods-pod40934a46_d409_4f4a_bb8b_1ec0b0436320.slice/crio-conmon-{A}.scope\n",
            // Not an id, not a UID.
            "0::/docker/3d6f0b9f1f5e\n",
            "0::/docker/{A}0\n",
            "0::/docker/3D6F0B9F1F5E5B6A4E93D0B8A2F1C7E6D5948372615049382716A5B4C3D2E1F0\n",
            "0::/kubepods/tripod40934a46-d409-4f4a-bb8b-1ec0b0436320\n",
            "0::/kubepods/pod40934a46-d409\n",
            "",
            "0::",
            "rubbish\n::\n:",
        ] {
            let found = found(text);
            assert_eq!(found, Default::default(), "{text}");
        }
    }
}
