//! What a process runs in: its container, its pod, its systemd service. Read from the node's own
//! files, and what runs a pod from the Kubernetes API where that is asked; no container engine is.

mod group;
mod pods;
mod written;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{bytes, stat, strings};
use crate::signal::Home;
use crate::sources::cluster;
use group::Group;
use pods::{Pod, Pods};

/// Digits of an id that people know a container by.
const SHORT_ID: usize = 12;
/// The logs are not listed again sooner than this for a container that they did not have.
const AGAIN: Duration = Duration::from_secs(1);
/// Parents that are asked whether they are the container's monitor.
const PARENTS: usize = 64;
/// Characters of a name that some process or engine chose.
const NAME: usize = 253;

/// A container or pod that a person has named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// Its name, or the beginning of its id.
    Container(String),
    Pod {
        namespace: String,
        name: String,
    },
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wanted::Container(name) => write!(f, "container {name}"),
            Wanted::Pod { namespace, name } => write!(f, "pod {namespace}/{name}"),
        }
    }
}

/// What a process runs in, and the container's whole id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub home: Home,
    id: Option<String>,
    /// The Kubernetes API has not told of its pod yet.
    pub untold: bool,
}

impl Found {
    pub fn is(&self, wanted: &Wanted) -> bool {
        match wanted {
            Wanted::Container(name) => {
                let short = || self.id.as_ref().filter(|_| name.len() >= SHORT_ID);
                self.home.container.as_ref() == Some(name)
                    || short().is_some_and(|id| id.starts_with(name.as_str()))
            }
            Wanted::Pod { namespace, name } => {
                self.home.namespace.as_ref() == Some(namespace)
                    && self.home.pod.as_ref() == Some(name)
            }
        }
    }

    /// Its names may be there a moment later: a container's log is named after its start.
    pub fn may_be_named_later(&self) -> bool {
        self.id.is_some() && self.home.container == self.id.as_deref().map(short)
    }
}

/// Finds homes; remembers what the node's logs name.
#[derive(Debug)]
pub struct Homes {
    proc: PathBuf,
    /// The host's root, or what of it this process sees; the first with what is looked for counts.
    roots: Vec<PathBuf>,
    pods: Pods,
    listed: Option<Instant>,
    cluster: cluster::Pods,
    heard: u64,
}

impl Default for Homes {
    fn default() -> Homes {
        // In a container of our own, the host's files are those of its first process, or where
        // `kubectl debug node` puts them.
        Homes::new("/proc", &["/", "/proc/1/root", "/host"])
    }
}

impl Homes {
    /// The same, and what the Kubernetes API says.
    pub fn with(cluster: &cluster::Pods) -> Homes {
        Homes {
            cluster: cluster.clone(),
            ..Homes::default()
        }
    }

    /// Whether the Kubernetes API has told of pods since this was asked last.
    pub fn has_news(&mut self) -> bool {
        let heard = self.cluster.heard();
        std::mem::replace(&mut self.heard, heard) != heard
    }

    fn new(proc: impl Into<PathBuf>, roots: &[impl AsRef<Path>]) -> Homes {
        Homes {
            proc: proc.into(),
            roots: roots.iter().map(|root| root.as_ref().to_owned()).collect(),
            pods: Pods::default(),
            listed: None,
            cluster: cluster::Pods::default(),
            heard: 0,
        }
    }

    /// Where nothing is known, or the process is gone, nothing is said.
    pub fn find(&mut self, pid: u32) -> Found {
        let group = self.group(pid);
        self.named(pid, group)
    }

    fn named(&mut self, pid: u32, group: Group) -> Found {
        let mut home = Home::default();
        let (id, uid) = (group.container, group.pod);
        let known = id.as_ref().map(|id| self.engines_name(pid, id));
        let pod = self.pod(id.as_deref(), uid.as_deref());
        let name = match known.flatten() {
            None => None,
            Some(name) => match pods::of_kubelets_name(&name) {
                // What a kubelet made it for; a pod's name is the same as in the logs.
                Some(pod) => {
                    home.place(&pod);
                    pod.container
                }
                None => Some(name),
            },
        };
        home.container = name;
        if let Some(pod) = pod {
            home.place(&pod);
            home.container = pod.container.or(home.container.take());
        }
        home.container = home.container.take().or_else(|| id.as_deref().map(short));
        home.workload = match &home.pod {
            Some(pod) => pods::workload(pod).map(ToOwned::to_owned),
            None => group.service.filter(|name| is_name(name)),
        };
        let untold = !self.ask_cluster(&mut home, uid.as_deref());
        Found { home, id, untold }
    }

    /// Whether all is known that can be: what is in no pod, or nobody is asked about, is.
    fn ask_cluster(&self, home: &mut Home, uid: Option<&str>) -> bool {
        let name = home.namespace.as_deref().zip(home.pod.as_deref());
        if !self.cluster.are_asked_for() || (uid.is_none() && name.is_none()) {
            return true;
        }
        let Some(pod) = self.cluster.find(uid, name) else {
            return false;
        };
        // It knows what a name only suggests.
        home.workload = pod.workload;
        if home.pod.is_none() {
            (home.namespace, home.pod) = (Some(pod.namespace), Some(pod.name));
        }
        true
    }

    fn pod(&mut self, container: Option<&str>, uid: Option<&str>) -> Option<Pod> {
        if container.is_none() && uid.is_none() {
            return None;
        }
        // A pod that is known by its UID alone may have another container now.
        let known = self.pods.find(container, uid).cloned();
        if known.as_ref().is_some_and(|pod| pod.container.is_some())
            || self.listed.is_some_and(|at| at.elapsed() < AGAIN)
        {
            return known;
        }
        self.listed = Some(Instant::now());
        let logs = self.roots.iter().map(|root| root.join("var/log"));
        let log = logs.into_iter().find(|log| pods::is_there(log))?;
        self.pods = Pods::read(&log);
        self.pods.find(container, uid).cloned()
    }

    /// What Docker's file of the container, or the monitor of Podman and CRI-O, calls it.
    fn engines_name(&self, pid: u32, id: &str) -> Option<String> {
        let monitors = || after(&self.monitor(pid, id)?.1, "-n").map(ToOwned::to_owned);
        let name = monitors().or_else(|| self.dockers(id));
        name.filter(|name| is_name(name))
    }

    /// `conmon`, which every container of Podman and CRI-O is a child of, and what it is told of this container.
    fn monitor(&self, pid: u32, id: &str) -> Option<(u32, Vec<String>)> {
        let mut pid = pid;
        for _ in 0..PARENTS {
            let of = |name: &str| bytes(&self.proc.join(format!("{pid}/{name}")));
            let stat = stat::parse(&of("stat").ok()?)?;
            if stat.name == "conmon" {
                let group = group::parse(&String::from_utf8_lossy(&of("cgroup").ok()?));
                // Within the container anybody may call himself so.
                if group.container.as_deref() != Some(id) {
                    let arguments = strings(&of("cmdline").ok()?);
                    return (after(&arguments, "-c") == Some(id)).then_some((pid, arguments));
                }
            }
            pid = stat.parent;
            if pid <= 1 {
                return None;
            }
        }
        None
    }

    fn dockers(&self, id: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Container {
            #[serde(rename = "Name")]
            name: String,
        }
        let file = format!("var/lib/docker/containers/{id}/config.v2.json");
        let mut files = self.roots.iter().map(|root| bytes(&root.join(&file)));
        let text = files.find_map(Result::ok)?;
        let container: Container = serde_json::from_slice(&text).ok()?;
        Some(container.name.trim_start_matches('/').to_owned())
    }
}

impl Home {
    fn place(&mut self, pod: &Pod) {
        self.namespace = Some(pod.namespace.clone());
        self.pod = Some(pod.name.clone());
    }
}

fn after<'a>(arguments: &'a [String], option: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == option)?;
    arguments.get(at + 1).map(String::as_str)
}

fn short(id: &str) -> String {
    id.chars().take(SHORT_ID).collect()
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME && name.bytes().all(|c| c.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ID: &str = "9687bac58d5c4d1606aa46af33d1a21c1d1652e0ac9fb3fc0fc86e3495f42869";
    const UID: &str = "40934a46-d409-4f4a-bb8b-1ec0b0436320";

    /// A host's files.
    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Host {
            Host(tempfile::tempdir().unwrap())
        }

        fn with(self, path: &str, text: &str) -> Host {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn process(
            self,
            pid: u32,
            name: &str,
            parent: u32,
            arguments: &[&str],
            group: &str,
        ) -> Host {
            let stat =
                format!("{pid} ({name}) S {parent} 1 1 0 -1 0 1 0 0 0 1 2 0 0 20 0 1 0 99 1 2 3");
            let group = group
                .replace("{ID}", ID)
                .replace("{UID}", &UID.replace('-', "_"));
            let arguments: String = arguments.iter().map(|a| format!("{a}\0")).collect();
            self.with(&format!("proc/{pid}/stat"), &stat)
                .with(&format!("proc/{pid}/cmdline"), &arguments)
                .with(&format!("proc/{pid}/cgroup"), &format!("0::{group}\n"))
        }

        fn homes(&self) -> Homes {
            Homes::new(self.0.path().join("proc"), &[self.0.path()])
        }

        /// Container, namespace, workload, pod.
        fn home(&self, pid: u32) -> [String; 4] {
            let home = self.homes().find(pid).home;
            [home.container, home.namespace, home.workload, home.pod].map(Option::unwrap_or_default)
        }
    }

    #[test]
    fn podman_and_what_only_calls_itself_so() {
        let host = Host::new()
            .process(1, "systemd", 0, &[], "/init.scope")
            .process(
                10,
                "conmon",
                1,
                &[
                    "/usr/bin/conmon",
                    "--api-version",
                    "1",
                    "-c",
                    ID,
                    "-u",
                    ID,
                    "-n",
                    "shop-web",
                ],
                "/machine.slice/libpod-conmon-{ID}.scope",
            )
            .process(
                11,
                "nginx",
                10,
                &["nginx"],
                "/machine.slice/libpod-{ID}.scope",
            )
            .process(
                12,
                "nginx",
                11,
                &["nginx"],
                "/machine.slice/libpod-{ID}.scope",
            )
            // Within the container, and one that has lost its monitor.
            .process(
                13,
                "conmon",
                11,
                &["-c", ID, "-n", "other"],
                "/machine.slice/libpod-{ID}.scope",
            )
            .process(
                14,
                "node",
                13,
                &["node"],
                "/machine.slice/libpod-{ID}.scope",
            )
            .process(15, "node", 1, &["node"], "/machine.slice/libpod-{ID}.scope");
        for pid in [11, 12, 14] {
            assert_eq!(host.home(pid), ["shop-web", "", "", ""], "{pid}");
        }
        assert_eq!(host.home(10), ["", "", "", ""]);
        let found = host.homes().find(15);
        assert_eq!(found.home.container.as_deref(), Some(&ID[..12]));
        assert!(found.may_be_named_later());
        assert!(
            found.is(&Wanted::Container(ID[..12].into()))
                && found.is(&Wanted::Container(ID.into()))
        );
        assert!(!found.is(&Wanted::Container(ID[..11].into())));
        let named = host.homes().find(12);
        assert!(named.is(&Wanted::Container("shop-web".into())) && !named.may_be_named_later());
        assert!(!named.is(&Wanted::Container("shop".into())));
    }

    #[test]
    fn docker_by_hand_and_for_a_kubelet() {
        let file = format!("var/lib/docker/containers/{ID}/config.v2.json");
        let of = |name: &str| {
            let json =
                format!("{{\"State\":{{\"Running\":true}},\"ID\":\"{ID}\",\"Name\":\"{name}\"}}");
            Host::new()
                .process(
                    11,
                    "nginx",
                    1,
                    &["nginx"],
                    "/system.slice/docker-{ID}.scope",
                )
                .with(&file, &json)
                .home(11)
        };
        assert_eq!(of("/web"), ["web", "", "", ""]);
        assert_eq!(
            of(&format!("/k8s_nginx_web-66b6c48dd5-7xk2p_shop_{UID}_0")),
            ["nginx", "shop", "web", "web-66b6c48dd5-7xk2p"]
        );
        // What cannot be a name is none.
        for bad in ["", "/", "/a\\nb", "/a b"] {
            assert_eq!(of(bad)[0], ID[..12], "{bad:?}");
        }
        let damaged = Host::new()
            .process(11, "nginx", 1, &["nginx"], "/docker/{ID}")
            .with(&file, "{\"Name\":");
        assert_eq!(damaged.home(11)[0], ID[..12]);
    }

    #[test]
    fn pods_by_their_logs() {
        let group = "/kubepods.slice/kubepods-pod{UID}.slice/cri-containerd-{ID}.scope";
        let node = || Host::new().process(11, "nginx", 1, &["nginx"], group);
        assert_eq!(
            node().home(11),
            [&ID[..12], "", "", ""],
            "a pod of which nothing is said"
        );
        let pod = format!("var/log/pods/shop_web-66b6c48dd5-7xk2p_{UID}");
        let one = node().with(&format!("{pod}/nginx/0.log"), "");
        assert_eq!(
            one.home(11),
            ["nginx", "shop", "web", "web-66b6c48dd5-7xk2p"]
        );
        // Which of two containers it is says its own log.
        let two = one.with(&format!("{pod}/istio-proxy/0.log"), "");
        assert_eq!(
            two.home(11),
            [&ID[..12], "shop", "web", "web-66b6c48dd5-7xk2p"]
        );
        let mut homes = two.homes();
        assert!(homes.find(11).may_be_named_later());
        let log = format!("var/log/containers/web-66b6c48dd5-7xk2p_shop_istio-proxy-{ID}.log");
        let named = two.with(&log, "");
        assert_eq!(
            named.home(11),
            ["istio-proxy", "shop", "web", "web-66b6c48dd5-7xk2p"]
        );
        // The logs are listed anew when a second has passed, not for every process.
        assert!(homes.find(11).may_be_named_later());
        homes.listed = None;
        let found = homes.find(11);
        assert!(!found.may_be_named_later());
        let wanted = |namespace: &str, name: &str| Wanted::Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        assert!(found.is(&wanted("shop", "web-66b6c48dd5-7xk2p")));
        assert!(
            !found.is(&wanted("shop", "web")) && !found.is(&wanted("", "web-66b6c48dd5-7xk2p"))
        );
    }

    #[test]
    fn a_container_whose_pod_is_outside_our_cgroup_namespace() {
        let log = format!("var/log/containers/web-0_shop_nginx-{ID}.log");
        let host = Host::new()
            .process(11, "nginx", 1, &["nginx"], "/../cri-containerd-{ID}.scope")
            .with(&log, "");
        // What made a pod that is called so is not certain.
        assert_eq!(host.home(11), ["nginx", "shop", "", "web-0"]);
    }

    #[test]
    fn cri_o_by_its_monitor() {
        let name = format!("k8s_app_web-66b6c48dd5-7xk2p_shop_{UID}_0");
        let host = Host::new()
            .process(
                10,
                "conmon",
                1,
                &["conmon", "-c", ID, "-n", &name],
                "/system.slice/crio-conmon-{ID}.scope",
            )
            .process(
                11,
                "node",
                10,
                &["node"],
                "/kubepods.slice/kubepods-pod{UID}.slice/crio-{ID}.scope/container",
            );
        assert_eq!(
            host.home(11),
            ["app", "shop", "web", "web-66b6c48dd5-7xk2p"]
        );
    }

    #[test]
    fn what_runs_a_pod_says_the_api_and_its_name_only_until_then() {
        let pod = |name: &str, workload: Option<&str>| cluster::Pod {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            workload: workload.map(str::to_owned),
        };
        let told = |host: &Host, pods: &[(&str, cluster::Pod)]| {
            let mut homes = host.homes();
            homes.cluster = cluster::Pods::of(pods);
            let Found { home, untold, .. } = homes.find(11);
            let home = [home.container, home.namespace, home.workload, home.pod];
            (home.map(Option::unwrap_or_default), untold)
        };
        let home = |names: [&str; 4]| names.map(str::to_owned);
        let group = "/kubepods.slice/kubepods-pod{UID}.slice/cri-containerd-{ID}.scope";
        let host = |name: &str, group: &str| {
            Host::new()
                .process(11, "nginx", 1, &["nginx"], group)
                .with(&format!("var/log/pods/shop_{name}_{UID}/nginx/0.log"), "")
        };
        let stateful = host("web-0", group);
        assert_eq!(
            told(&stateful, &[]),
            (home(["nginx", "shop", "", "web-0"]), true)
        );
        assert_eq!(
            told(&stateful, &[(UID, pod("web-0", Some("web")))]),
            (home(["nginx", "shop", "web", "web-0"]), false)
        );
        // Another pod has its name now.
        let next = ("another", pod("web-0", Some("other-web")));
        assert_eq!(
            told(&stateful, std::slice::from_ref(&next)),
            (home(["nginx", "shop", "", "web-0"]), true)
        );
        // A person's own pod that is named as a Deployment's.
        let name = "web-66b6c48dd5-7xk2p";
        let own = host(name, group);
        assert_eq!(
            told(&own, &[(UID, pod(name, None))]),
            (home(["nginx", "shop", "", name]), false)
        );
        // The files cannot be read, the UID can; then the other way round.
        let unread = Host::new().process(11, "nginx", 1, &["nginx"], group);
        assert_eq!(
            told(&unread, &[(UID, pod("web-0", Some("web")))]),
            (home([&ID[..12], "shop", "web", "web-0"]), false)
        );
        let log = format!("var/log/containers/web-0_shop_nginx-{ID}.log");
        let hidden = Host::new()
            .process(11, "nginx", 1, &["nginx"], "/../cri-containerd-{ID}.scope")
            .with(&log, "");
        assert_eq!(
            told(&hidden, &[next]),
            (home(["nginx", "shop", "other-web", "web-0"]), false)
        );
        // In no pod there is nothing to wait for.
        let service = Host::new().process(11, "nginx", 1, &["x"], "/system.slice/nginx.service");
        assert_eq!(
            told(&service, &[]),
            (home(["", "", "nginx.service", ""]), false)
        );
    }

    #[test]
    fn services_and_nobody() {
        let host = Host::new()
            .process(11, "nginx", 1, &["nginx"], "/system.slice/nginx.service")
            .process(12, "x", 1, &["x"], "/user.slice/a\u{1b}b.service");
        assert_eq!(host.home(11), ["", "", "nginx.service", ""]);
        assert_eq!(host.home(12), ["", "", "", ""]);
        assert_eq!(host.home(99), ["", "", "", ""]);
    }
}
