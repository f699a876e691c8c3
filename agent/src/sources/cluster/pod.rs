//! A pod, from the metadata that the API has of it. Pure.

use kube::core::ObjectMeta;

/// By which the kubelet names the control group of a pod that it was told of by a file.
const HASH: &str = "kubernetes.io/config.hash";
/// What the Deployment's controller adds to the name of a ReplicaSet.
const TEMPLATE: &str = "pod-template-hash";
/// A CronJob's Jobs end in the minute for which they were planned; their pods may be tried again for
/// so many minutes.
const PLANNED_WITHIN: i64 = 7 * 24 * 60;

/// A pod, and what runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    /// Its Deployment, StatefulSet, DaemonSet, Job, CronJob, or whatever else controls it.
    pub workload: Option<String>,
}

impl Pod {
    /// And the UID that is in its control groups' names.
    pub(super) fn of(meta: ObjectMeta) -> Option<(String, Pod)> {
        let workload = workload(&meta);
        let hash = meta.annotations.and_then(|mut all| all.remove(HASH));
        let pod = Pod {
            namespace: meta.namespace?,
            name: meta.name?,
            workload,
        };
        Some((hash.or(meta.uid)?, pod))
    }
}

fn workload(meta: &ObjectMeta) -> Option<String> {
    let mut owners = meta.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true))?;
    let name = owner.name.as_str();
    let of_more = match owner.kind.as_str() {
        // The kubelet's own, of a file.
        "Node" => return None,
        "ReplicaSet" => deployment(name, meta),
        "Job" => cron_job(name, meta),
        _ => None,
    };
    Some(of_more.unwrap_or(name).to_owned())
}

/// A ReplicaSet without a Deployment has no such label.
fn deployment<'a>(replica_set: &'a str, meta: &ObjectMeta) -> Option<&'a str> {
    let hash = meta.labels.as_ref()?.get(TEMPLATE)?;
    replica_set.strip_suffix(hash.as_str())?.strip_suffix('-')
}

/// Of a Job that a person has made, no number is a minute shortly before it.
fn cron_job<'a>(job: &'a str, meta: &ObjectMeta) -> Option<&'a str> {
    let (name, minute) = job.rsplit_once('-')?;
    let minute: i64 = minute.parse().ok()?;
    let created = meta.creation_timestamp.as_ref()?.0.as_second() / 60;
    (created - PLANNED_WITHIN..=created)
        .contains(&minute)
        .then_some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn workload_of(owner: Value, more: Value) -> Option<String> {
        let mut meta = json!({"name": "p", "namespace": "shop", "uid": "u",
            "creationTimestamp": "2026-11-22T10:00:30Z", "ownerReferences": [owner]});
        let fields = meta.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        let (uid, pod) = Pod::of(serde_json::from_value(meta).unwrap()).unwrap();
        assert_eq!((uid.as_str(), pod.name.as_str()), ("u", "p"));
        pod.workload
    }

    fn owner(kind: &str, name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "o", "controller": true})
    }

    #[test]
    fn what_controls_a_pod_is_its_workload() {
        let of = |kind: &str, name: &str| workload_of(owner(kind, name), json!({}));
        for kind in ["StatefulSet", "DaemonSet", "ReplicationController", "Fleet"] {
            assert_eq!(of(kind, "db").as_deref(), Some("db"), "{kind}");
        }
        assert_eq!(of("Node", "node-1"), None);
        // What owns a pod without controlling it only wants it gone with itself.
        let mut other = owner("ConfigMap", "db");
        other["controller"] = json!(false);
        assert_eq!(workload_of(other, json!({})), None);
    }

    #[test]
    fn a_replica_set_is_its_deployment_only_by_the_hash_that_it_has() {
        let labels = |hash: &str| json!({"labels": {"pod-template-hash": hash}});
        let of = |name: &str, more: Value| workload_of(owner("ReplicaSet", name), more);
        assert_eq!(
            of("web-66b6c48dd5", labels("66b6c48dd5")).as_deref(),
            Some("web")
        );
        for (name, more) in [
            ("web-66b6c48dd5", json!({})),
            ("web-66b6c48dd5", labels("5d78c9869d")),
            ("66b6c48dd5", labels("66b6c48dd5")),
        ] {
            assert_eq!(of(name, more).as_deref(), Some(name));
        }
    }

    #[test]
    fn a_job_is_its_cron_job_where_it_ends_in_a_minute_shortly_before_its_pod() {
        // 2026-11-22T10:00 is minute 29,922,360.
        let of = |name: &str| workload_of(owner("Job", name), json!({}));
        assert_eq!(of("backup-29922360").as_deref(), Some("backup"));
        assert_eq!(of("backup-29912281").as_deref(), Some("backup"));
        for job in [
            "backup-29912279",
            "backup-29922361",
            "migrate-2026",
            "migrate",
            "29922360",
        ] {
            assert_eq!(of(job).as_deref(), Some(job));
        }
    }

    #[test]
    fn a_static_pod_has_the_uid_of_its_control_group() {
        let meta = json!({"name": "etcd-node-1", "namespace": "kube-system", "uid": "of-the-mirror",
            "annotations": {"kubernetes.io/config.hash": "187bff14cccb94f179e943eacce55bb3"},
            "ownerReferences": [owner("Node", "node-1")]});
        let (uid, pod) = Pod::of(serde_json::from_value(meta).unwrap()).unwrap();
        assert_eq!(uid, "187bff14cccb94f179e943eacce55bb3");
        assert_eq!((pod.name.as_str(), pod.workload), ("etcd-node-1", None));
    }
}
