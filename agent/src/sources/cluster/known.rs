//! The pods that are known, and some of those that are gone. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::pod::Pod;

/// Pods that are remembered: a node has a few hundred at most.
const PODS: usize = 4096;
/// Of these, pods that are gone: what they did last may be decided only now.
const GONE: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Known {
    by_uid: HashMap<String, Pod>,
    /// The last one of each name.
    by_name: BTreeMap<(String, String), String>,
    /// UIDs, the first one gone first.
    gone: VecDeque<String>,
    heard: u64,
}

impl Known {
    /// The pod with this UID; where none is known, the last one of this name. A pod that replaces
    /// another may have its name, never its UID.
    pub(super) fn find(&self, uid: Option<&str>, name: Option<(&str, &str)>) -> Option<&Pod> {
        if let Some(uid) = uid {
            return self.by_uid.get(uid);
        }
        let (namespace, name) = name?;
        let uid = self.by_name.get(&(namespace.to_owned(), name.to_owned()))?;
        self.by_uid.get(uid)
    }

    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// The pods that there are now: all others are gone.
    pub(super) fn replace(&mut self, pods: Vec<(String, Pod)>) {
        let left = |uid: &&String| !pods.iter().any(|(there, _)| there == *uid);
        let left: Vec<String> = self.by_uid.keys().filter(left).cloned().collect();
        for uid in left {
            self.remove(&uid);
        }
        for (uid, pod) in pods {
            self.add(uid, pod);
        }
    }

    pub(super) fn add(&mut self, uid: String, pod: Pod) {
        if self.by_uid.get(&uid) == Some(&pod) {
            return;
        }
        if self.by_uid.len() >= PODS && !self.by_uid.contains_key(&uid) {
            return;
        }
        self.heard += 1;
        self.gone.retain(|gone| *gone != uid);
        let name = (pod.namespace.clone(), pod.name.clone());
        self.by_name.insert(name, uid.clone());
        self.by_uid.insert(uid, pod);
    }

    /// It keeps its name for those who ask about it later, until many others are gone.
    pub(super) fn remove(&mut self, uid: &str) {
        if !self.by_uid.contains_key(uid) || self.gone.iter().any(|gone| gone == uid) {
            return;
        }
        self.gone.push_back(uid.to_owned());
        while self.gone.len() > GONE {
            let Some(uid) = self.gone.pop_front() else {
                return;
            };
            self.by_uid.remove(&uid);
            self.by_name.retain(|_, of| *of != uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, workload: &str) -> Pod {
        Pod {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            workload: Some(workload.to_owned()),
        }
    }

    fn workload<'a>(known: &'a Known, uid: Option<&str>, name: &str) -> Option<&'a str> {
        let found = known.find(uid, Some(("shop", name)));
        found.and_then(|pod| pod.workload.as_deref())
    }

    #[test]
    fn who_replaces_a_pod_under_its_name_does_not_take_its_workload() {
        let mut known = Known::default();
        known.add("1".to_owned(), pod("db-0", "db"));
        known.remove("1");
        known.add("2".to_owned(), pod("db-0", "other-db"));
        assert_eq!(workload(&known, Some("1"), "db-0"), Some("db"));
        assert_eq!(workload(&known, Some("2"), "db-0"), Some("other-db"));
        assert_eq!(workload(&known, None, "db-0"), Some("other-db"));
        // One whose UID is known is not guessed by its name.
        assert_eq!(workload(&known, Some("3"), "db-0"), None);
        assert_eq!(known.find(None, Some(("else", "db-0"))), None);
    }

    #[test]
    fn a_list_replaces_all_and_only_what_is_new_is_heard() {
        let mut known = Known::default();
        let list = || {
            vec![
                ("1".to_owned(), pod("a", "a")),
                ("2".to_owned(), pod("b", "b")),
            ]
        };
        known.replace(list());
        let heard = known.heard();
        assert!(heard > 0);
        known.replace(list());
        assert_eq!(known.heard(), heard);
        known.replace(vec![("2".to_owned(), pod("b", "b"))]);
        assert_eq!(
            (known.heard(), &known.gone),
            (heard, &["1".to_owned()].into())
        );
        assert_eq!(workload(&known, Some("1"), "a"), Some("a"));
        // It was gone in an older list alone.
        known.add("1".to_owned(), pod("a", "c"));
        assert!(known.gone.is_empty() && known.heard() > heard);
    }

    #[test]
    fn pods_that_come_and_go_for_years_do_not_stay() {
        let mut known = Known::default();
        known.add("stays".to_owned(), pod("stays", "stays"));
        for number in 0..3 * PODS {
            let uid = format!("uid-{number}");
            known.add(uid.clone(), pod(&format!("p-{number}"), "w"));
            known.remove(&uid);
        }
        assert_eq!(known.by_uid.len(), GONE + 1);
        assert_eq!(known.by_name.len(), GONE + 1);
        assert_eq!(workload(&known, Some("stays"), "stays"), Some("stays"));
        let newest = format!("uid-{}", 3 * PODS - 1);
        assert_eq!(workload(&known, Some(&newest), ""), Some("w"));
        for number in 0..2 * PODS {
            known.add(
                format!("more-{number}"),
                pod(&format!("more-{number}"), "w"),
            );
        }
        assert_eq!(known.by_uid.len(), PODS);
    }
}
