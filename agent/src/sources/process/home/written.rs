//! Where engines, kubelets and systemd keep what a container or a service writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::group::{self, Group};
use super::{Homes, bytes};

/// Links from a kubelet's name for a log to the engine's file.
const LINKS: usize = 8;

impl Homes {
    /// The files with what the containers of these processes write to their standard output and error, as
    /// this process can reach them.
    pub fn logs(&self, pids: &[u32]) -> BTreeSet<PathBuf> {
        let mut ids = BTreeSet::new();
        let mut found = BTreeSet::new();
        for pid in pids {
            let container = self.group(*pid).container;
            let Some(id) = container.filter(|id| ids.insert(id.clone())) else {
                continue;
            };
            found.extend(self.monitors_log(*pid, &id).or_else(|| self.log_of(&id)));
        }
        found
    }

    /// The host's systemd services that these processes are part of, with those of each. A user's services
    /// may have the same names.
    pub fn services(&self, pids: &[u32]) -> BTreeMap<String, BTreeSet<u32>> {
        let mut services: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for pid in pids {
            let text = self.groups(*pid);
            let service = group::parse(&text).service;
            if let Some(service) = service.filter(|_| text.contains(":/system.slice/")) {
                services.entry(service).or_default().insert(*pid);
            }
        }
        services
    }

    pub(super) fn group(&self, pid: u32) -> Group {
        group::parse(&self.groups(pid))
    }

    fn groups(&self, pid: u32) -> String {
        let text = bytes(&self.proc.join(format!("{pid}/cgroup"))).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Where the host's own `conmon` writes it: `-l k8s-file:PATH`. A user's may name any file.
    fn monitors_log(&self, pid: u32, id: &str) -> Option<PathBuf> {
        let (monitor, arguments) = self.monitor(pid, id)?;
        let file = arguments.iter().find_map(|a| a.strip_prefix("k8s-file:"))?;
        let owner = fs::metadata(self.proc.join(monitor.to_string()))
            .ok()?
            .uid();
        let hosts = |root: &&PathBuf| fs::metadata(root).is_ok_and(|root| root.uid() == owner);
        let mut roots = self.roots.iter().filter(hosts);
        roots.find_map(|root| within(root, Path::new(file)))
    }

    /// By the names that kubelets and Docker give it.
    fn log_of(&self, id: &str) -> Option<PathBuf> {
        let end = format!("-{id}.log");
        let of = |root: &PathBuf| {
            let folder = Path::new("/var/log/containers");
            let names = fs::read_dir(below(root, folder)).into_iter().flatten();
            let mut names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let name = names.find(|name| name.ends_with(&end));
            let of_kubelet = name.and_then(|name| within(root, &folder.join(name)));
            of_kubelet.or_else(|| {
                let file = format!("/var/lib/docker/containers/{id}/{id}-json.log");
                within(root, Path::new(&file))
            })
        };
        self.roots.iter().find_map(of)
    }
}

/// A file of the host whose root this is, also where its name is a link there; the owner of the root's alone.
fn within(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut path = below(root, path);
    for _ in 0..LINKS {
        match fs::read_link(&path) {
            Ok(target) if target.is_absolute() => path = below(root, &target),
            Ok(target) => path = path.parent()?.join(target),
            Err(_) => {
                let file = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
                let owner = fs::metadata(root).ok()?.uid();
                return (file.uid() == owner).then_some(path);
            }
        }
    }
    None
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const ID: &str = "9687bac58d5c4d1606aa46af33d1a21c1d1652e0ac9fb3fc0fc86e3495f42869";

    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Host {
            Host(tempfile::tempdir().unwrap())
        }

        fn path(&self, path: &str) -> PathBuf {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        }

        fn with(self, path: &str, text: &str) -> Host {
            fs::write(self.path(path), text).unwrap();
            self
        }

        fn process(self, pid: u32, name: &str, parent: u32, arguments: &str, group: &str) -> Host {
            let stat =
                format!("{pid} ({name}) S {parent} 1 1 0 -1 0 1 0 0 0 1 2 0 0 20 0 1 0 99 1 2 3");
            let group = format!("0::{}\n", group.replace("{ID}", ID));
            self.with(&format!("proc/{pid}/stat"), &stat)
                .with(
                    &format!("proc/{pid}/cmdline"),
                    &arguments.replace(' ', "\0"),
                )
                .with(&format!("proc/{pid}/cgroup"), &group)
        }

        fn homes(&self) -> Homes {
            Homes::new(self.0.path().join("proc"), &[self.0.path()])
        }

        fn logs(&self, pids: &[u32]) -> Vec<PathBuf> {
            let strip = |path: PathBuf| path.strip_prefix(self.0.path()).unwrap().to_owned();
            self.homes().logs(pids).into_iter().map(strip).collect()
        }
    }

    #[test]
    fn of_a_pods_container_by_way_of_links() {
        let file = "var/log/pods/shop_web-0_uid/nginx/3.log";
        let host = Host::new()
            .process(11, "nginx", 1, "", "/kubepods/poduid/{ID}")
            .process(12, "nginx", 11, "", "/kubepods/poduid/{ID}")
            .with(file, "");
        assert_eq!(host.logs(&[11]), [""; 0].map(PathBuf::from));
        let link = host.path(&format!("var/log/containers/web-0_shop_nginx-{ID}.log"));
        symlink(format!("/{file}"), &link).unwrap();
        assert_eq!(host.logs(&[11, 12]), [PathBuf::from(file)]);
        // Docker's own file, which the kubelet links to.
        let docker = format!("var/lib/docker/containers/{ID}/{ID}-json.log");
        let host = host.with(&docker, "");
        fs::remove_file(host.path(file)).unwrap();
        symlink(format!("/{docker}"), host.path(file)).unwrap();
        assert_eq!(host.logs(&[12]), [PathBuf::from(&docker)]);
        fs::remove_file(&link).unwrap();
        assert_eq!(host.logs(&[12]), [PathBuf::from(&docker)]);
    }

    #[test]
    fn of_podman_by_its_monitor() {
        let monitor = format!("conmon -c {ID} -n web -l k8s-file:/var/ctr.log --log-level warning");
        let host = Host::new()
            .process(10, "conmon", 1, &monitor, "/libpod-conmon-{ID}.scope")
            .process(11, "nginx", 10, "nginx", "/libpod-{ID}.scope");
        assert_eq!(host.logs(&[11]).len(), 0);
        let host = host.with("var/ctr.log", "");
        assert_eq!(host.logs(&[11]), [PathBuf::from("var/ctr.log")]);
    }

    #[test]
    fn links_that_lead_nowhere() {
        let host = Host::new().process(11, "nginx", 1, "", "/docker/{ID}");
        let link = host.path(&format!("var/log/containers/a_b_c-{ID}.log"));
        symlink(link.file_name().unwrap(), &link).unwrap();
        assert_eq!(host.logs(&[11]).len(), 0);
    }

    #[test]
    fn services() {
        let host = Host::new()
            .process(11, "caddy", 1, "caddy", "/system.slice/caddy.service")
            .process(12, "nginx", 1, "nginx", "/docker/{ID}");
        let users = "/user.slice/user@1.service/app.slice/nginx.service";
        let host = host.process(13, "nginx", 1, "nginx", users);
        let services = host.homes().services(&[11, 12, 13, 99]);
        let caddy = ("caddy.service".to_owned(), BTreeSet::from([11]));
        assert_eq!(services.into_iter().collect::<Vec<_>>(), [caddy]);
    }
}
