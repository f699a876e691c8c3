//! Proxies some of whose clients cannot be read: what led to their failures may be taken for another's.

use serde_json::{Value, json};

use super::{MS, UPSTREAM, asked, confidence, decided_of, ended, response};
use crate::cause::Cause;
use crate::verdict::Confidence;

/// Begun by a thread that had read this last; the line names the connection, as Go's does.
fn told(link: Value, lines: bool) -> Confidence {
    let mut one = ended(1, asked("/a"));
    one["local"] = "10.0.0.1:4100".into();
    one["downstream"] = link;
    let mut signals = vec![
        (1001 * MS, "kernel", one),
        (1001 * MS, "kernel", response(5, "/a")),
    ];
    if lines {
        let said = json!({"said": "closed_or_reset"});
        let one = json!({
            "upstream": UPSTREAM, "said": said, "status": null, "connect": null, "took": null,
            "local": "10.0.0.1:4100",
        });
        let line = json!({
            "kind": "logged", "proxy": "go", "line": "error", "pid": null, "connection": null,
            "client": null, "within": MS, "took": null, "said": null, "status": null,
            "request": null, "tries": [one],
        });
        signals.push((1001 * MS, "log", line));
    }
    let out = decided_of("other", &signals);
    let this = out
        .iter()
        .find(|d| d.response.is_some())
        .expect("a verdict");
    assert_eq!(this.diagnosis.cause, Cause::UpstreamClosedEarly);
    confidence(this).1
}

#[test]
fn of_requests_alike_one_that_cannot_be_read_may_be_meant() {
    let tls = json!({
        "flow": 9, "ordinal": 1, "order": "unclear", "client": "10.0.0.8:4000",
        "proxy_address": null, "request": {"protocol": "tls"}, "state": "open",
        "read_before_ns": null,
    });
    for lines in [false, true] {
        assert_eq!(told(Value::Null, lines), Confidence::Proven, "{lines}");
        assert_eq!(told(tls.clone(), lines), Confidence::Likely, "{lines}");
    }
}
