//! Responses without any attempt, of a proxy that has no file descriptor left.

use serde_json::{Value, json};

use super::{MS, changed, confidence, decided, decided_of, line, response};
use crate::cause::Cause;
use crate::track::Decided;
use crate::verdict::Confidence;

#[test]
fn its_own_line_proves_what_its_descriptors_show() {
    let told = |open: u64, line: Option<Value>| {
        let mut failed = response(5, "/a");
        failed["descriptors"] = json!({"at": 1001 * MS, "open": open, "limit": 1024});
        let mut signals = vec![(1001 * MS, "kernel", failed)];
        signals.extend(line.map(|line| (1001 * MS, "log", line)));
        let out = decided(&signals);
        let of = |d: &&Decided| (d.response.as_ref()).is_some_and(|(.., r)| r.downstream == 5);
        confidence(out.iter().find(of).expect("a verdict"))
    };
    let exhausted = |confidence| (Cause::ProxyFdsExhausted, confidence);
    let says = |errno| Some(line("/a", errno));
    assert_eq!(told(1024, None), exhausted(Confidence::Likely));
    assert_eq!(told(1024, says(24)), exhausted(Confidence::Proven));
    // Some were free again when they were counted.
    assert_eq!(told(900, says(24)), exhausted(Confidence::Likely));
    assert_eq!(told(900, None), (Cause::Unknown, Confidence::Unknown));
    // A connect would have been seen: that line is not about it.
    assert_eq!(told(1024, says(111)), exhausted(Confidence::Likely));
}

/// nginx had none for the file of a request's body, of which its log's entry is not believed.
#[test]
fn who_has_no_descriptor_left_was_not_told_so_by_its_configuration() {
    let told = |open: u64| {
        let sees = ["nginx_error_log", "access_log"];
        let follows = json!({"kind": "source_started", "sees": sees, "blind": []});
        let mut failed = changed(response(5, "/a"), "/status", 500.into());
        failed["descriptors"] = json!({"at": 1001 * MS, "open": open, "limit": 1024});
        let access = changed(line("/a", 24), "/proxy", "nginx".into());
        let access = changed(access, "/line", "access".into());
        let access = changed(access, "/tries", json!([]));
        let access = changed(access, "/status", 500.into());
        let signals = [
            (2, "log", follows),
            (1001 * MS, "kernel", failed),
            (1001 * MS, "log", access),
        ];
        confidence(&decided_of("nginx", &signals)[0])
    };
    let likely = |cause| (cause, Confidence::Likely);
    assert_eq!(told(900), likely(Cause::ProxyConfig));
    assert_eq!(told(1024), likely(Cause::ProxyFdsExhausted));
}

/// The C library has none for the question either, and says that the name has no address.
#[test]
fn a_name_that_cannot_be_asked_for_without_a_descriptor() {
    let told = |open: u64| {
        let mut failed = response(5, "/a");
        failed["descriptors"] = json!({"at": 1001 * MS, "open": open, "limit": 1024});
        let line = changed(line("/a", 24), "/tries", json!([]));
        let line = changed(line, "/said", json!({"said": "not_resolved"}));
        let signals = [(1001 * MS, "kernel", failed), (1001 * MS, "log", line)];
        let out = decided(&signals);
        let of = |d: &&Decided| (d.response.as_ref()).is_some_and(|(.., r)| r.downstream == 5);
        confidence(out.iter().find(of).expect("a verdict"))
    };
    assert_eq!(told(900), (Cause::DnsFailed, Confidence::Proven));
    assert_eq!(told(1024), (Cause::ProxyFdsExhausted, Confidence::Likely));
}
