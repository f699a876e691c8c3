//! Whose requests a proxy has passed on lately, as its log tells: bounded memory. Pure.

use std::collections::HashMap;

use super::SECOND;
use crate::signal::{Address, LogLine, Logged, Nanos, Opening, Software};

const KEPT: usize = 4096;
/// What was so long ago says nothing of a limit.
const LATELY: Nanos = 60 * SECOND;

/// By proxy, client and the first part of the path.
type Whose = (Software, String, String);

#[derive(Debug, Default)]
pub(super) struct Passed {
    last_at: HashMap<Whose, Nanos>,
    /// When all was looked through for what is old.
    swept: Nanos,
}

impl Passed {
    /// Takes in a line about a request that an upstream answered well. Where there are too many clients, new
    /// ones are not remembered: their limits are told as what is configured.
    pub(super) fn told(&mut self, at: Nanos, line: &Logged) {
        let well = line.status.is_some_and(|status| status < 500) && !line.tries.is_empty();
        if line.line != LogLine::Access || !well {
            return;
        }
        let Some(whose) = whose(line.proxy, line.client.as_ref(), line.request.as_ref()) else {
            return;
        };
        if self.last_at.len() >= KEPT && !self.last_at.contains_key(&whose) {
            // Looking through all costs time.
            if at >= self.swept.saturating_add(SECOND) {
                self.swept = at;
                self.last_at
                    .retain(|_, last| last.saturating_add(LATELY) >= at);
            }
            if self.last_at.len() >= KEPT {
                return;
            }
        }
        let last = self.last_at.entry(whose).or_default();
        *last = at.max(*last);
    }

    /// When this proxy last passed on what this client asked for below the same folder, before.
    pub(super) fn before(
        &self,
        at: Nanos,
        proxy: Option<Software>,
        client: Option<&Address>,
        request: Option<&Opening>,
    ) -> Option<Nanos> {
        let last = *self.last_at.get(&whose(proxy, client, request)?)?;
        (last <= at && last.saturating_add(LATELY) >= at).then_some(last)
    }
}

/// The first part of the path that is asked for.
pub(in crate::track) fn folder(request: Option<&Opening>) -> Option<&str> {
    match request? {
        Opening::HttpRequest { path, .. } => Some(path.split('/').nth(1).unwrap_or_default()),
        _ => None,
    }
}

fn whose(
    proxy: Option<Software>,
    client: Option<&Address>,
    request: Option<&Opening>,
) -> Option<Whose> {
    Some((proxy?, client?.ip().to_owned(), folder(request)?.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(client: &str, path: &str, status: u16, tries: usize) -> Logged {
        let request = json!({"protocol": "http_request", "method": "GET", "path": path,
            "path_complete": true, "host": null});
        serde_json::from_value(json!({"proxy": "haproxy", "line": "access", "pid": null,
            "connection": null, "client": client, "request": request, "within": 0, "took": null,
            "status": status, "said": null, "tries": vec![json!({"upstream": "b/s", "said": null,
                "status": status, "connect": null, "took": null}); tries]}))
        .unwrap()
    }

    #[test]
    fn what_an_upstream_answered_is_known_for_a_minute_by_client_and_folder() {
        let mut passed = Passed::default();
        let client = "10.0.0.7:4000";
        passed.told(SECOND, &line(client, "/a/1", 200, 1));
        passed.told(SECOND, &line(client, "/own/1", 200, 0));
        passed.told(SECOND, &line(client, "/failed/1", 503, 1));
        let before = |at, client, path| {
            let line = line(client, path, 503, 0);
            passed.before(at, line.proxy, line.client.as_ref(), line.request.as_ref())
        };
        assert_eq!(before(3 * SECOND, "10.0.0.7:4001", "/a/2"), Some(SECOND));
        assert_eq!(before(62 * SECOND, client, "/a/2"), None);
        assert_eq!(before(3 * SECOND, "10.0.0.8:4000", "/a/1"), None);
        for path in ["/b/1", "/own/1", "/failed/1"] {
            assert_eq!(before(3 * SECOND, client, path), None, "{path}");
        }
    }
}
