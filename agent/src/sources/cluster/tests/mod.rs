//! The thread beside a real API over TLS.

#[allow(unreachable_pub, reason = "it is shared with the lab")]
mod server;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use server::Server;

const NODE: &str = "node-1";
const QUICK: Limits = Limits {
    first_pause: Duration::from_millis(10),
    longest_pause: Duration::from_millis(40),
    answer: Duration::from_secs(5),
    watch: Duration::from_secs(60),
};

struct Cluster {
    account: tempfile::TempDir,
    server: Server,
    pods: Pods,
}

impl Cluster {
    fn with(pods: &[(&str, &str, &str)]) -> Cluster {
        let account = tempfile::tempdir().unwrap();
        let server = serve(&account, "127.0.0.1:0");
        for (uid, name, workload) in pods {
            server.add(pod(uid, name, workload));
        }
        let port = server.address().port().to_string();
        let api = Api::new(account.path(), "127.0.0.1", &port);
        let pods = Pods::ask(api, NODE, QUICK).unwrap();
        Cluster {
            account,
            server,
            pods,
        }
    }

    fn workload(&self, uid: &str) -> Option<String> {
        self.pods.find(Some(uid), None)?.workload
    }

    fn becomes(&self, uid: &str, workload: Option<&str>) {
        until(&format!("{uid} to be of {workload:?}"), || {
            self.workload(uid).as_deref() == workload
        });
    }

    fn asked(&self, what: &str) -> usize {
        let requests = self.server.requests();
        requests
            .iter()
            .filter(|target| target.contains(what))
            .count()
    }
}

fn serve(account: &tempfile::TempDir, address: &str) -> Server {
    Server::start(TcpListener::bind(address).unwrap(), account.path(), NODE).unwrap()
}

fn pod(uid: &str, name: &str, workload: &str) -> Value {
    json!({"uid": uid, "name": name, "namespace": "shop", "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": workload, "uid": "o", "controller": true}]})
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let late = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < late, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn pods_are_listed_and_what_becomes_of_them_is_followed() {
    let cluster = Cluster::with(&[("1", "db-0", "db"), ("2", "cache-0", "cache")]);
    cluster.becomes("1", Some("db"));
    cluster.becomes("2", Some("cache"));
    let heard = cluster.pods.heard();
    cluster.server.add(pod("3", "web-0", "web"));
    cluster.becomes("3", Some("web"));
    assert!(cluster.pods.heard() > heard);
    // Replaced under its name: each process keeps the pod that it ran in.
    cluster.server.remove("1");
    cluster.server.add(pod("4", "db-0", "other-db"));
    cluster.becomes("4", Some("other-db"));
    assert_eq!(cluster.workload("1").as_deref(), Some("db"));
    let last = cluster.pods.find(None, Some(("shop", "db-0"))).unwrap();
    assert_eq!(last.workload.as_deref(), Some("other-db"));
    until("the API to be up", || cluster.pods.up() == Some(true));
    assert!(cluster.pods.messages().is_empty());
    assert_eq!((cluster.asked("watch=true"), cluster.asked("")), (1, 2));
}

#[test]
fn while_the_api_is_away_names_stay_and_it_is_said_once() {
    let cluster = Cluster::with(&[("1", "db-0", "db")]);
    until("the API to be up", || cluster.pods.up() == Some(true));
    let Cluster {
        account,
        server,
        pods,
    } = cluster;
    let address = server.address().to_string();
    drop(server);
    until("its absence", || pods.up() == Some(false));
    let said = pods.messages();
    assert!(
        matches!(said.as_slice(), [one] if one.contains("keep the names")),
        "{said:?}"
    );
    let workload = |uid: &str| pods.find(Some(uid), None).and_then(|pod| pod.workload);
    assert_eq!(workload("1").as_deref(), Some("db"));
    // Another one, with another certificate, and other pods meanwhile.
    let server = serve(&account, &address);
    server.add(pod("2", "db-0", "db"));
    until("it to answer again", || pods.up() == Some(true));
    assert_eq!(pods.messages(), ["the Kubernetes API answers again"]);
    assert_eq!(workload("2").as_deref(), Some("db"));
    assert_eq!(workload("1").as_deref(), Some("db"));
}

#[test]
fn a_version_that_is_not_known_any_more_is_no_absence() {
    let cluster = Cluster::with(&[("1", "db-0", "db")]);
    until("the API to be watched", || cluster.pods.up() == Some(true));
    cluster.server.forget();
    cluster.server.add(pod("2", "web-0", "web"));
    cluster.becomes("2", Some("web"));
    until("another watch", || cluster.asked("watch=true") > 1);
    assert!(cluster.pods.messages().is_empty());
    assert_eq!(cluster.pods.up(), Some(true));
}

#[test]
fn who_may_not_ask_is_told_what_is_lacking() {
    let cluster = Cluster::with(&[("1", "db-0", "db")]);
    until("the API to be up", || cluster.pods.up() == Some(true));
    // A token that is replaced is read anew.
    std::fs::write(cluster.account.path().join("token"), "another").unwrap();
    cluster.server.forget();
    until("its refusal", || cluster.pods.up() == Some(false));
    let said = cluster.pods.messages().concat();
    assert!(
        said.contains("401") && said.contains("list and watch pods"),
        "{said}"
    );
    std::fs::write(cluster.account.path().join("token"), server::TOKEN).unwrap();
    until("it to answer again", || cluster.pods.up() == Some(true));
    cluster.server.refuse(Some("500 Internal Server Error"));
    cluster.server.forget();
    until("its refusal", || cluster.pods.up() == Some(false));
    assert_eq!(cluster.workload("1").as_deref(), Some("db"));
}

#[test]
fn nobody_is_asked_without_a_service_account() {
    let none = Pods::default();
    assert!(!none.are_asked_for());
    assert_eq!(
        (none.find(Some("1"), None), none.up(), none.heard()),
        (None, None, 0)
    );
    let ipv6 = Api::new(Path::new("/a"), "fd00::1", "443");
    assert_eq!(ipv6.authority, "[fd00::1]:443");
}
