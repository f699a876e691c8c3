//! A proxy or an upstream as the labels name it: on Kubernetes with its namespace and workload.

use super::OTHER;
use crate::verdict::Party;

/// Three labels of one party. Those that are not known are empty, which Prometheus takes for absent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Who {
    name: String,
    namespace: String,
    workload: String,
}

impl Who {
    /// One of whom no more is known, or that is in no cluster.
    pub fn named(name: impl Into<String>) -> Who {
        Who {
            name: name.into(),
            namespace: String::new(),
            workload: String::new(),
        }
    }

    /// A proxy by its process's name.
    pub fn proxy(name: &str, home: &Party) -> Who {
        // A workload without a namespace is a service of systemd's.
        let Some(namespace) = home.namespace.clone() else {
            return Who::named(name);
        };
        Who {
            name: name.to_owned(),
            namespace,
            workload: home.workload.clone().unwrap_or_default(),
        }
    }

    /// An upstream by its workload where that is known, else by this address.
    pub fn upstream(address: &str, home: &Party) -> Who {
        let workload = home.qualified_workload();
        Who::proxy(workload.as_deref().unwrap_or(address), home)
    }

    /// Those that have no place of their own.
    pub(super) fn other() -> Who {
        Who::named(OTHER)
    }

    pub(super) fn is_in_cluster(&self) -> bool {
        !self.namespace.is_empty()
    }

    /// All proxies of this name in a cluster that have no place of their own.
    pub(super) fn rest(&self) -> Who {
        Who {
            name: self.name.clone(),
            namespace: OTHER.to_owned(),
            workload: OTHER.to_owned(),
        }
    }

    pub(super) fn labels(&self) -> [String; 3] {
        [&self.name, &self.namespace, &self.workload].map(Clone::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_names_an_upstream_and_no_proxy_and_a_service_neither() {
        let home = |namespace: Option<&str>, workload: Option<&str>| Party {
            namespace: namespace.map(str::to_owned),
            workload: workload.map(str::to_owned),
            pod: Some("orders-7c9d8b6f5-x2x4z".to_owned()),
            ..Party::default()
        };
        let labels = |namespace, workload| {
            let home = home(namespace, workload);
            let [proxy, upstream] = [
                Who::proxy("nginx", &home),
                Who::upstream("10.0.0.1:80", &home),
            ];
            (proxy.labels(), upstream.labels())
        };
        let of = |proxy: [&str; 3], upstream: [&str; 3]| {
            (proxy.map(str::to_owned), upstream.map(str::to_owned))
        };
        assert_eq!(
            labels(Some("shop"), Some("orders")),
            of(
                ["nginx", "shop", "orders"],
                ["shop/orders", "shop", "orders"]
            )
        );
        assert_eq!(
            labels(Some("shop"), None),
            of(["nginx", "shop", ""], ["10.0.0.1:80", "shop", ""])
        );
        let outside = of(["nginx", "", ""], ["10.0.0.1:80", "", ""]);
        assert_eq!(labels(None, Some("nginx.service")), outside);
        assert_eq!(labels(None, None), outside);
    }
}
