//! Pods by the names of their logs, which the kubelet makes on every node: no API is asked.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Names in a folder that are looked at: a node has a few hundred pods at most.
const NAMES: usize = 20_000;
/// A DNS name, which namespaces, pods and containers have.
const NAME: usize = 253;

/// Who a container or a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub namespace: String,
    pub name: String,
    /// The container's name in it, where it is known.
    pub container: Option<String>,
}

/// What the node's logs name.
#[derive(Debug, Default)]
pub(super) struct Pods {
    by_container: HashMap<String, Pod>,
    by_uid: HashMap<String, Pod>,
}

impl Pods {
    /// `log` is the node's `/var/log`.
    pub(super) fn read(log: &Path) -> Pods {
        let containers = names(&log.join("containers"));
        let pods = names(&log.join("pods"));
        Pods {
            by_container: containers.iter().filter_map(|n| of_container(n)).collect(),
            by_uid: pods
                .iter()
                .filter_map(|name| {
                    let (uid, mut pod) = of_pod(name)?;
                    pod.container = only(&log.join("pods").join(name));
                    Some((uid, pod))
                })
                .collect(),
        }
    }

    pub(super) fn find(&self, container: Option<&str>, uid: Option<&str>) -> Option<&Pod> {
        let by_container = container.and_then(|id| self.by_container.get(id));
        by_container.or_else(|| self.by_uid.get(uid?))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    entries.filter_map(name).take(NAMES).collect()
}

/// The one container of a pod that has but one, among those that have begun.
fn only(pod: &Path) -> Option<String> {
    let mut containers = fs::read_dir(pod).ok()?.filter_map(Result::ok);
    let (first, second) = (containers.next()?, containers.next());
    let name = first.file_name();
    let name = name.to_str().filter(|name| is_name(name))?;
    second.is_none().then(|| name.to_owned())
}

/// `POD_NAMESPACE_CONTAINER-ID.log`
fn of_container(file: &str) -> Option<(String, Pod)> {
    let (names, id) = file.strip_suffix(".log")?.rsplit_once('-')?;
    let [name, namespace, container] = parts(names)?;
    let pod = Pod {
        namespace,
        name,
        container: Some(container),
    };
    Some((id.to_owned(), pod))
}

/// `NAMESPACE_POD_UID`
fn of_pod(folder: &str) -> Option<(String, Pod)> {
    let [namespace, name, uid] = parts(folder)?;
    let pod = Pod {
        namespace,
        name,
        container: None,
    };
    Some((uid, pod))
}

/// What a container's name says that was made for the kubelet: `k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT`.
pub(super) fn of_kubelets_name(name: &str) -> Option<Pod> {
    let names = name.strip_prefix("k8s_")?;
    let [container, name, namespace, _uid, _attempt] = parts(names)?;
    Some(Pod {
        namespace,
        name,
        container: Some(container),
    })
}

fn parts<const N: usize>(text: &str) -> Option<[String; N]> {
    let parts: Vec<String> = text.split('_').map(ToOwned::to_owned).collect();
    let all = parts.iter().all(|part| is_name(part));
    all.then(|| parts.try_into().ok()).flatten()
}

fn is_name(text: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-.".contains(&c);
    !text.is_empty() && text.len() <= NAME && text.bytes().all(allowed)
}

/// The Deployment of a pod, where its name admits nothing else.
///
/// A Deployment's ReplicaSets end in a hash, written with ten of the characters that Kubernetes uses
/// for what it generates: no number of a CronJob's Job and no word has only these. What DaemonSets,
/// Jobs and StatefulSets add to their names, a person may have written as well.
pub(super) fn workload(pod: &str) -> Option<&str> {
    const GENERATED: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const HASH: &[u8] = b"456789bcdf";
    let (replica_set, suffix) = pod.rsplit_once('-')?;
    let (deployment, hash) = replica_set.rsplit_once('-')?;
    let of = |text: &str, set: &[u8]| text.bytes().all(|c| set.contains(&c));
    let generated = suffix.len() == 5 && of(suffix, GENERATED);
    let hashed = (8..=10).contains(&hash.len()) && of(hash, HASH);
    let number = hash.bytes().any(|c| c.is_ascii_digit());
    (generated && hashed && number && !deployment.is_empty()).then_some(deployment)
}

/// Whether this is a folder in which a kubelet keeps the logs of pods.
pub(super) fn is_there(log: &Path) -> bool {
    ["pods", "containers"]
        .iter()
        .any(|name| log.join(name).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "e8c29da1a2f6c4bb032304f7dfbc5a767e026092c4a2fcbc830e58565f972f54";
    const UID: &str = "40934a46-d409-4f4a-bb8b-1ec0b0436320";

    #[test]
    fn names_of_logs() {
        let (id, pod) =
            of_container(&format!("web-66b6c48dd5-7xk2p_shop_istio-proxy-{ID}.log")).unwrap();
        assert_eq!(
            (id.as_str(), pod.container.as_deref()),
            (ID, Some("istio-proxy"))
        );
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str()),
            ("shop", "web-66b6c48dd5-7xk2p")
        );
        let (uid, pod) = of_pod(&format!("kube-system_etcd-node.example_{UID}")).unwrap();
        assert_eq!(uid, UID);
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str()),
            ("kube-system", "etcd-node.example")
        );
        let pod = of_kubelets_name(&format!("k8s_nginx_web-0_shop_{UID}_12")).unwrap();
        assert_eq!(
            (pod.name.as_str(), pod.namespace.as_str()),
            ("web-0", "shop")
        );
        for other in [
            "",
            "_",
            "a_b",
            "a_b_c_d",
            "A_b_c",
            "a_b_",
            "a_\u{1b}_c",
            "../_b_c",
        ] {
            assert_eq!(of_pod(other), None, "{other:?}");
            assert_eq!(
                of_container(&format!("{other}-{ID}.log")),
                None,
                "{other:?}"
            );
        }
    }

    #[test]
    fn workloads_only_where_nothing_else_is_possible() {
        for (pod, deployment) in [
            // Hashes and suffixes as clusters made them.
            (
                "nginx-deployment-66b6c48dd5-7xk2p",
                Some("nginx-deployment"),
            ),
            ("coredns-5d78c9869d-fb5fs", Some("coredns")),
            ("vcuda-test-5cdd4c8cb8-bjn2l", Some("vcuda-test")),
            ("a-b-c-75675f5897-q8zsk", Some("a-b-c")),
            // A DaemonSet, a StatefulSet, a Job, a CronJob's Job, a static pod.
            ("kube-proxy-8xt2z", None),
            ("web-0", None),
            ("db-migrate-x7w9k", None),
            ("backup-29400000-x7w9k", None),
            ("etcd-node-1", None),
            // A hash that was cut with its ReplicaSet's long name, or never was one.
            ("long-name-66b6c48dabcde", None),
            ("web-bcdfbcdf-7xk2p", None),
            ("-66b6c48dd5-7xk2p", None),
            ("gateway-http2", None),
            ("", None),
        ] {
            assert_eq!(workload(pod), deployment, "{pod}");
        }
    }
}
