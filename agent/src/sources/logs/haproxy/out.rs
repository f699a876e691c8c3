//! Which of HAProxy's servers are out because their name has no address, as lines about servers say. Pure.

use std::collections::{BTreeMap, HashMap};

/// Backends of which servers are remembered, and servers of each.
const BACKENDS: usize = 1024;
const SERVERS: usize = 64;
/// Why a server goes into maintenance by itself.
const UNRESOLVED: [&str; 3] = ["(No IP for server", "(DNS ", "(unspecified DNS error"];

/// Servers that are out, and whether that is for their name.
#[derive(Debug, Default)]
pub(super) struct Out(HashMap<String, BTreeMap<String, bool>>);

impl Out {
    /// Takes in what follows `Server ` in a line.
    pub(super) fn told(&mut self, rest: &str) {
        let Some((name, rest)) = rest.split_once(' ') else {
            return;
        };
        let Some((backend, server)) = name.split_once('/') else {
            return;
        };
        let maintained = rest.starts_with("is going DOWN for maintenance")
            || rest.starts_with("was DOWN and now enters maintenance");
        let unresolved = maintained && UNRESOLVED.iter().any(|why| rest.contains(why));
        // Its name has an address again: `('a.example') is UP/READY`, or it is down for its checks.
        let named =
            |state: &str| rest.starts_with("('") && rest.contains(&format!("') is {state}/READY"));
        if maintained || rest.starts_with("is DOWN") || named("DOWN") {
            self.is_out(backend, server, unresolved);
        } else if (rest.starts_with("is UP") || named("UP"))
            && let Some(servers) = self.0.get_mut(backend)
        {
            servers.remove(server);
            if servers.is_empty() {
                self.0.remove(backend);
            }
        }
    }

    fn is_out(&mut self, backend: &str, server: &str, unresolved: bool) {
        if self.0.len() >= BACKENDS && !self.0.contains_key(backend) {
            return;
        }
        let servers = self.0.entry(backend.to_owned()).or_default();
        if servers.len() < SERVERS || servers.contains_key(server) {
            servers.insert(server.to_owned(), unresolved);
        }
    }

    /// Whether all of a backend's servers that are known to be out are so for their names.
    pub(super) fn unresolved(&self, backend: &str) -> bool {
        let servers = self.0.get(backend);
        servers.is_some_and(|servers| servers.values().all(|unresolved| *unresolved))
    }
}
