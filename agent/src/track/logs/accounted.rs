//! Which requests of those whose lines are open have an access line, found without looking at all. Pure.

use std::collections::HashMap;

use super::ToldId;
use crate::track::told::{Asked, Told};

/// Of nginx, which numbers its connections.
#[derive(Debug, Default)]
pub(super) struct Accounted {
    of: HashMap<ToldId, Asked>,
    asked: HashMap<Asked, u32>,
    /// The same on whatever connection.
    alike: HashMap<(String, String), u32>,
}

impl Accounted {
    /// A line was taken in, or the exchange is over (`None`).
    pub(super) fn set(&mut self, id: ToldId, told: Option<&Told>) {
        if let Some(before) = self.of.remove(&id) {
            less(&mut self.alike, before.request());
            less(&mut self.asked, before);
        }
        let told = told.filter(|told| told.has_access);
        if let Some(asked) = told.and_then(Told::asked) {
            *self.alike.entry(asked.request()).or_default() += 1;
            *self.asked.entry(asked.clone()).or_default() += 1;
            self.of.insert(id, asked);
        }
    }

    pub(super) fn has(&self, asked: &Asked) -> bool {
        self.asked.contains_key(asked)
    }

    pub(super) fn has_like(&self, asked: &Asked) -> bool {
        self.alike.contains_key(&asked.request())
    }
}

fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: K) {
    if let std::collections::hash_map::Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(connection: u64, path: &str, access: bool) -> Told {
        let line = |kind: &str| {
            let line = json!({
                "proxy": "nginx", "line": kind, "pid": 1, "connection": connection,
                "client": "10.0.0.7", "within": 1, "took": null, "said": null, "status": 502,
                "tries": [], "request": {
                    "protocol": "http_request", "method": "GET", "path": path,
                    "path_complete": true, "host": null,
                },
            });
            serde_json::from_value(line).unwrap()
        };
        let mut told = Told::new(1, &line("error"));
        if access {
            told.add(1, &line("access"));
        }
        told
    }

    #[test]
    fn a_request_is_accounted_for_as_long_as_one_like_it_is() {
        let mut all = Accounted::default();
        let (first, second) = (told(1, "/a", true), told(2, "/a", true));
        let (one, two) = (first.asked().unwrap(), second.asked().unwrap());
        all.set(1, Some(&first));
        all.set(2, Some(&second));
        all.set(2, Some(&second));
        all.set(3, Some(&told(3, "/b", false)));
        assert!(all.has(&one) && all.has(&two) && all.has_like(&one));
        all.set(1, None);
        assert!(!all.has(&one) && all.has(&two) && all.has_like(&one));
        // Its access line was another's.
        all.set(2, Some(&told(2, "/a", false)));
        assert!(!all.has(&two) && !all.has_like(&one));
        assert!(all.of.is_empty() && all.asked.is_empty() && all.alike.is_empty());
    }
}
