//! What a proxy decides by itself: its log beside a response without an attempt.

use super::*;

/// What is said of it with these lines, of which the last ones come later.
fn said(software: &str, sees: &[&str], lines: &[(Nanos, Value)]) -> (Cause, Confidence) {
    let sees = json!({"kind": "source_started", "sees": sees, "blind": []});
    let answer = changed(response(5, "/a/1"), "/status", 503.into());
    let mut signals = vec![(2, "log", sees), (1001 * MS, "kernel", answer)];
    let source = |line: &Value| match line["kind"] == "process_seen" {
        true => "kernel",
        false => "log",
    };
    signals.extend(
        lines
            .iter()
            .map(|(at, line)| (*at, source(line), line.clone())),
    );
    signals.sort_by_key(|(at, ..)| *at);
    let mut out = decided_of(software, &signals);
    out.retain(|d| d.response.as_ref().is_some_and(|(.., r)| r.downstream == 5));
    assert_eq!(out.len(), 1, "{out:#?}");
    confidence(&out[0])
}

/// An access line about a request that nobody was asked for.
fn untried(proxy: Value, said: Value) -> Value {
    json!({
        "kind": "logged", "proxy": proxy, "line": "access", "pid": null, "connection": null,
        "client": "10.0.0.7:4000", "within": MS, "took": null, "said": said, "status": 503,
        "request": asked("/a/1"), "tries": [], "untried": true,
    })
}

/// The same client's, before, of which an upstream answered one well.
fn passed_on(proxy: &str) -> Value {
    let one = json!({"upstream": UPSTREAM, "said": null, "status": 200, "connect": null,
        "took": null});
    let line = changed(untried(proxy.into(), Value::Null), "/tries", json!([one]));
    let line = changed(line, "/request", asked("/a/0"));
    changed(
        changed(line, "/untried", false.into()),
        "/status",
        200.into(),
    )
}

#[test]
fn caddy_and_apache_have_an_error_for_all_but_what_they_are_told_to_answer() {
    let likely = (Cause::ProxyConfig, Confidence::Likely);
    let unknown = (Cause::Unknown, Confidence::Unknown);
    let caddy = || [(1001 * MS, untried("caddy".into(), Value::Null))];
    assert_eq!(
        said("caddy", &["access_log", "caddy_error_log"], &caddy()),
        likely
    );
    let plain = || [(1001 * MS, untried(Value::Null, Value::Null))];
    let both = ["access_log", "apache_error_log"];
    assert_eq!(said("apache", &both, &plain()), likely);
    // Without that log, and of who does not write each error there.
    let other = ["access_log", "nginx_error_log"];
    assert_eq!(said("apache", &other, &plain()), unknown);
    assert_eq!(said("haproxy", &both, &plain()), unknown);
}

#[test]
fn an_error_of_caddys_is_no_silence_whatever_its_words_are() {
    let line = untried("caddy".into(), Value::Null);
    let error = changed(
        changed(line.clone(), "/line", "error".into()),
        "/status",
        Value::Null,
    );
    let logs = ["access_log", "caddy_error_log"];
    let unknown = (Cause::Unknown, Confidence::Unknown);
    // It writes the error first.
    for (error_at, access_at) in [(1001 * MS, 1001 * MS + 1), (1001 * MS + 1, 1001 * MS)] {
        let lines = [(error_at, error.clone()), (access_at, line.clone())];
        assert_eq!(said("caddy", &logs, &lines), unknown);
    }
}

#[test]
fn apaches_silence_says_nothing_of_http2_upstreams() {
    let with = |settings: Value| {
        let process = json!({
            "kind": "process_seen", "pid": 1, "parent": 0, "name": "apache2", "software": "apache",
            "settings": settings, "started": 0, "netns": 0, "sagemaker": false,
        });
        let lines = [(2, process), (1001 * MS, untried(Value::Null, Value::Null))];
        said("apache", &["access_log", "apache_error_log"], &lines)
    };
    assert_eq!(with(json!([])), (Cause::ProxyConfig, Confidence::Likely));
    let module = json!([["LoadModule proxy_http2_module", "mod_proxy_http2.so"]]);
    assert_eq!(with(module), (Cause::Unknown, Confidence::Unknown));
}

#[test]
fn h2o_says_in_each_line_what_failed() {
    let logs = ["access_log", "proxy_log"];
    let line = |word: Value, tries: Value| {
        let line = changed(untried("h2o".into(), word), "/untried", false.into());
        [(1001 * MS, changed(line, "/tries", tries))]
    };
    let none = || json!([]);
    let not_resolved = line(json!({"said": "not_resolved"}), none());
    let dns = (Cause::DnsFailed, Confidence::Proven);
    assert_eq!(said("h2o", &logs, &not_resolved), dns);
    let config = (Cause::ProxyConfig, Confidence::Likely);
    assert_eq!(said("h2o", &logs, &line(Value::Null, none())), config);
    // In words that are not known, or of another proxy.
    let words =
        json!([{"upstream": null, "said": null, "status": null, "connect": null, "took": null}]);
    let unknown = (Cause::Unknown, Confidence::Unknown);
    assert_eq!(said("h2o", &logs, &line(Value::Null, words)), unknown);
    assert_eq!(said("go", &logs, &line(Value::Null, none())), unknown);
}

#[test]
fn apaches_queue_is_told_by_the_thread_that_answered() {
    let waited = |thread: u64| {
        let line = untried("apache".into(), json!({"said": "queue_timed_out"}));
        let line = changed(line, "/line", "error".into());
        let line = changed(line, "/status", Value::Null);
        let line = changed(line, "/client", Value::Null);
        let line = changed(line, "/request", Value::Null);
        changed(
            changed(line, "/pid", 1.into()),
            "/connection",
            thread.into(),
        )
    };
    let with = |at: Nanos, thread| {
        let access = (1001 * MS, untried(Value::Null, Value::Null));
        let lines = [(at, waited(thread)), access];
        said("apache", &["access_log", "apache_error_log"], &lines)
    };
    let waited = (Cause::ProxyQueueTimeout, Confidence::Likely);
    assert_eq!(with(1001 * MS, 7), waited);
    // A number that the C library gives a thread may be this one's; another's is not.
    let config = (Cause::ProxyConfig, Confidence::Likely);
    let unknown = (Cause::Unknown, Confidence::Unknown);
    assert_eq!(with(1001 * MS, 0x7f00_0000_1000), unknown);
    assert_eq!(with(1001 * MS, 8), config);
    assert_eq!(with(500 * MS, 7), config);
}

#[test]
fn a_refusal_of_what_was_passed_on_before_is_a_limit() {
    let denied = |proxy: &str, before: &[(Nanos, Value)]| {
        let line = untried(proxy.into(), json!({"said": "denied"}));
        let lines = [before, &[(1001 * MS, line)]].concat();
        said(proxy, &["access_log"], &lines)
    };
    let unknown = (Cause::Unknown, Confidence::Unknown);
    let limit = (Cause::ProxyLimit, Confidence::Likely);
    assert_eq!(denied("haproxy", &[]), unknown);
    let passed = |proxy| [(500 * MS, passed_on(proxy))];
    assert_eq!(denied("haproxy", &passed("haproxy")), limit);
    let elsewhere = changed(passed_on("haproxy"), "/request", asked("/b/0"));
    assert_eq!(denied("haproxy", &[(500 * MS, elsewhere)]), unknown);
    // Envoy's limits have flags, but for those that let some through.
    let config = (Cause::ProxyConfig, Confidence::Likely);
    assert_eq!(denied("envoy", &[]), config);
    assert_eq!(denied("envoy", &passed("envoy")), unknown);
}

/// Envoy says the same of a cluster whose name was not resolved.
#[test]
fn an_upstream_is_out_where_a_request_like_this_one_failed_before() {
    let none = |proxy: &str, before: &[(Nanos, Value)]| {
        let line = untried(proxy.into(), json!({"said": "no_live_upstreams"}));
        let lines = [before, &[(1001 * MS, line)]].concat();
        said(proxy, &["access_log"], &lines)
    };
    let out = (Cause::NoLiveUpstreams, Confidence::Likely);
    let unknown = (Cause::Unknown, Confidence::Unknown);
    let failed = |proxy: &str, path| {
        let one = json!({"upstream": UPSTREAM, "said": {"said": "connect_failed", "errno": 111},
            "status": null, "connect": null, "took": null});
        let line = changed(passed_on(proxy), "/tries", json!([one]));
        let line = changed(line, "/status", 503.into());
        [(500 * MS, changed(line, "/request", asked(path)))]
    };
    assert_eq!(none("envoy", &[]), unknown);
    assert_eq!(none("envoy", &failed("envoy", "/a/0")), out);
    assert_eq!(none("envoy", &failed("envoy", "/b/0")), unknown);
    assert_eq!(none("nginx", &failed("nginx", "/b/0")), out);
    // HAProxy says so of servers that are down, but for those without an address.
    assert_eq!(none("haproxy", &[]), out);
}

/// Varnish holds back for each backend by itself: which of them a request would have gone to is told by
/// requests like it.
#[test]
fn a_backend_that_refused_another_folders_request_is_not_held_against_this_one() {
    let of = |second: &str, path: &str| {
        let settings = json!([["backend a server", UPSTREAM], ["backend b server", second]]);
        let process = json!({
            "kind": "process_seen", "pid": 1, "parent": 0, "name": "varnish",
            "software": "varnish", "settings": settings, "started": 0, "netns": 0,
            "sagemaker": false,
        });
        let link = json!({
            "flow": 6, "ordinal": 1, "order": "after_read", "client": "10.0.0.7:4001",
            "proxy_address": null, "request": asked("/b/1"), "state": "open",
            "read_before_ns": null,
        });
        let later = changed(response(5, path), "/request_at", (1100 * MS).into());
        let signals = [
            (2, "kernel", process),
            (
                1000 * MS,
                "kernel",
                changed(connect(1, 111), "/downstream", link),
            ),
            (
                1000 * MS,
                "kernel",
                changed(response(6, "/b/1"), "/adjacent", 1.into()),
            ),
            (1100 * MS, "kernel", later),
        ];
        let out = decided_of("varnish", &signals);
        let its = |d: &&Decided| d.response.as_ref().is_some_and(|(.., r)| r.downstream == 5);
        out.iter().find(its).unwrap().diagnosis.cause
    };
    assert_eq!(of("10.0.0.3:80", "/b/2"), Cause::ConnectionRefused);
    assert_eq!(of("10.0.0.3:80", "/a/2"), Cause::Unknown);
    // Of a single one there is no other to go to.
    assert_eq!(of(UPSTREAM, "/a/2"), Cause::ConnectionRefused);
}

/// The C library asks nscd for a name, and there is none.
#[test]
fn who_asks_for_a_name_calls_no_upstream() {
    let of = |upstream: &str| {
        let call = changed(connect(1, 2), "/upstream", upstream.into());
        let signals = [
            (1001 * MS, "kernel", call),
            (
                1001 * MS,
                "kernel",
                changed(response(5, "/a"), "/adjacent", 1.into()),
            ),
        ];
        decided_of("apache", &signals)[0].diagnosis.cause
    };
    assert_eq!(of("unix:/run/app.sock"), Cause::UnixSocketMissing);
    assert_eq!(of("unix:/var/run/nscd/socket"), Cause::Unknown);
}
