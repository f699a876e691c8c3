use serde_json::{Value, json};

use super::super::{Decided, Tracker};
use crate::signal::{Address, Nanos, Said, Signal};
use crate::track::host::SECOND;
use crate::verdict::Kind;

/// What the proxy does behind TLS in one second, and what its logs say of that second.
struct Scene {
    tracker: Tracker,
    out: Vec<Decided>,
}

impl Scene {
    fn new() -> Scene {
        let mut scene = Scene {
            tracker: Tracker::default(),
            out: Vec::new(),
        };
        let sees = ["access_log", "nginx_error_log", "proxy_log"];
        scene.signal(
            1,
            "log",
            json!({"kind": "source_started", "sees": sees, "blind": []}),
        );
        scene.nginx();
        scene
    }

    fn nginx(&mut self) {
        let process = json!({
            "kind": "process_seen", "pid": 1, "parent": 0, "name": "nginx", "software": "nginx",
            "settings": [], "started": 0, "netns": 0, "sagemaker": false,
        });
        self.signal(1, "kernel", process);
    }

    fn signal(&mut self, at: Nanos, source: &str, fact: Value) {
        let signal = json!({"at": at, "source": source, "fact": fact});
        let signal: Signal = serde_json::from_value(signal).unwrap();
        self.out.extend(self.tracker.observe(&signal));
    }

    /// An attempt for a client whose side cannot be read.
    fn attempt(&mut self, flow: u64, upstream: &str, end: &Value) -> &mut Scene {
        self.ended(flow, upstream, end, false)
    }

    /// The same; `sealed`: with an upstream's side in TLS.
    fn ended(&mut self, flow: u64, upstream: &str, end: &Value, sealed: bool) -> &mut Scene {
        let at = 10 * SECOND + flow;
        let link = json!({
            "flow": 5, "ordinal": 1, "order": "after_read", "client": "10.0.0.7:4000",
            "proxy_address": "10.0.0.1:443", "request": {"protocol": "tls"}, "state": "open",
            "read_before_ns": 1,
        });
        let fact = json!({
            "kind": "attempt_ended", "flow": flow, "proxy": 1, "thread": 1, "downstream": link,
            "retry_of": null, "upstream": upstream, "local": null, "began": at - 1,
            "connected": null, "reused": false, "requests_before": 0, "idle_ns": null,
            "request": null, "received": 0, "response": null, "end": end, "tcp": null,
            "peer": null, "queue": null, "sealed": sealed,
        });
        self.signal(at, "kernel", fact);
        self
    }

    fn refused(&mut self, flow: u64) -> &mut Scene {
        let end = json!({"how": "connect_failed", "errno": 111});
        self.attempt(flow, "10.0.0.2:9009", &end)
    }

    fn line(&mut self, path: &str, fact: Value) -> &mut Scene {
        self.asked("GET", path, fact)
    }

    fn asked(&mut self, method: &str, path: &str, mut fact: Value) -> &mut Scene {
        let rest = json!({
            "kind": "logged", "proxy": null, "pid": null, "connection": null,
            "client": "10.0.0.7", "within": SECOND, "took": null, "said": null,
            "request": {
                "protocol": "http_request", "method": method, "path": path,
                "path_complete": true, "host": null,
            },
        });
        for (name, value) in rest.as_object().unwrap() {
            fact[name] = value.clone();
        }
        self.signal(10 * SECOND, "log", fact);
        self
    }

    fn access(&mut self, path: &str, status: u16) -> &mut Scene {
        self.line(
            path,
            json!({"line": "access", "status": status, "tries": []}),
        )
    }

    fn error(&mut self, path: &str, errno: i32) -> &mut Scene {
        let said = json!({"said": "connect_failed", "errno": errno});
        let one = json!({
            "upstream": "10.0.0.2:9009", "said": said, "status": null, "connect": null,
            "took": null,
        });
        self.line(
            path,
            json!({"line": "error", "status": null, "tries": [one]}),
        )
    }

    /// Status and path of each verdict, in order of their paths.
    fn verdicts(mut self) -> Vec<(Option<u16>, bool)> {
        self.out.extend(self.tracker.finish());
        let failed = self.out.iter().filter(|d| d.kind == Kind::Verdict);
        let status = |d: &Decided| {
            let told = d.told.as_ref().filter(|t| !t.ambiguous);
            (told.and_then(|t| t.status), d.attempts.is_empty())
        };
        let mut all: Vec<_> = failed.map(status).collect();
        all.sort_unstable();
        all
    }
}

/// It may have been a tunnel's data that nobody answered.
#[test]
fn what_is_within_tls_on_both_sides_has_failed_if_a_line_says_so() {
    for (sealed, line, verdicts) in [(false, false, 1), (true, false, 0), (true, true, 1)] {
        let mut scene = Scene::new();
        let closed = json!({"how": "peer_closed"});
        scene.ended(1, "10.0.0.2:9009", &closed, sealed);
        if line {
            scene.access("/a", 502);
        }
        scene.out.extend(scene.tracker.finish());
        let failed = scene.out.iter().filter(|d| d.kind == Kind::Verdict);
        assert_eq!(failed.count(), verdicts, "{sealed} {line}: {:?}", scene.out);
    }
}

/// A log is recognised by its first line, which comes when that failure is decided.
#[test]
fn a_failure_is_told_once_where_its_line_is_the_first() {
    let mut scene = Scene::new();
    scene.tracker = Tracker::default();
    scene.nginx();
    scene.refused(1);
    scene.signal(11 * SECOND, "kernel", json!({"kind": "tick"}));
    assert_eq!(scene.out.len(), 1);
    let sees = ["access_log", "proxy_log"];
    scene.signal(
        11 * SECOND,
        "log",
        json!({"kind": "source_started", "sees": sees, "blind": []}),
    );
    scene.error("/a", 111).access("/a", 502);
    assert_eq!(scene.verdicts(), [(None, false)]);
}

/// `return 503` at the same second, its line read before that of the refused one.
#[test]
fn a_line_that_fits_better_comes_later() {
    let mut scene = Scene::new();
    scene.refused(1).access("/own", 503);
    scene.error("/a", 111).access("/a", 502);
    assert_eq!(
        scene.verdicts(),
        [(Some(502), false), (Some(503), true)],
        "each has its own"
    );
}

#[test]
fn a_line_of_no_error_is_none_of_a_failure() {
    let mut scene = Scene::new();
    scene.refused(1).access("/own", 503);
    assert_eq!(scene.verdicts(), [(None, false), (Some(503), true)]);
}

#[test]
fn lines_that_say_the_same_give_the_status_whichever_is_whose() {
    let mut scene = Scene::new();
    scene.refused(1).refused(2);
    scene.error("/a", 111).access("/a", 502);
    scene.error("/b", 111).access("/b", 502);
    assert_eq!(scene.verdicts(), [(Some(502), false), (Some(502), false)]);
}

#[test]
fn lines_that_differ_give_no_status_where_both_fit() {
    let mut scene = Scene::new();
    scene.refused(1).refused(2);
    scene.error("/a", 111).access("/a", 502);
    scene.error("/b", 111).access("/b", 404);
    let statuses = scene.verdicts();
    assert_eq!(statuses, [(None, false), (None, false)]);
}

#[test]
fn one_line_for_two_failures_gives_neither_its_status() {
    let mut scene = Scene::new();
    scene.refused(1).refused(2);
    scene.error("/a", 111).access("/a", 502);
    let statuses = scene.verdicts();
    assert_eq!(statuses[0], (None, false), "{statuses:?}");
}

#[test]
fn what_the_line_says_tells_failures_of_one_upstream_apart() {
    let mut scene = Scene::new();
    let unreachable = json!({"how": "connect_failed", "errno": 113});
    scene.refused(1).attempt(2, "10.0.0.2:9009", &unreachable);
    scene.error("/a", 113).access("/a", 504);
    scene.error("/b", 111).access("/b", 502);
    let statuses = scene.verdicts();
    assert_eq!(statuses, [(Some(502), false), (Some(504), false)]);
}

/// The first attempt's line stands in the log while the second one still waits.
#[test]
fn a_line_of_an_attempt_that_is_tried_again_is_no_failure_yet() {
    let mut scene = Scene::new();
    scene.refused(1).error("/a", 111);
    let retried = json!({"kind": "attempt_retried", "flow": 1});
    scene.signal(10 * SECOND + 2, "kernel", retried);
    for second in 11..250 {
        scene.signal(second * SECOND, "kernel", json!({"kind": "tick"}));
    }
    let kinds: Vec<_> = scene.out.iter().map(|d| d.kind).collect();
    assert_eq!(kinds, [Kind::NearMiss], "it ends, behind TLS unseen");
    assert_eq!(scene.verdicts(), []);
}

/// A line of nginx's error log about a request for one path, on one of its numbered connections.
fn numbered(connection: u64, tries: &Value, said: &Value) -> Value {
    json!({
        "kind": "logged", "proxy": "nginx", "pid": 1, "client": "10.0.0.7", "connection": connection,
        "within": SECOND, "took": null, "said": said, "line": "error", "status": null,
        "tries": tries, "request": {
            "protocol": "http_request", "method": "GET", "path": "/a",
            "path_complete": true, "host": null,
        },
    })
}

fn closed() -> Value {
    json!([{
        "upstream": "10.0.0.2:9009", "said": {"said": "peer_closed"}, "status": null,
        "connect": null, "took": null,
    }])
}

/// nginx tries the same server again where a pooled connection has failed; its access log has one line.
#[test]
fn a_pooled_connection_that_failed_and_the_try_after_it_are_one_failure() {
    let errors = |connections: [u64; 2]| {
        let mut scene = Scene::new();
        for connection in connections {
            let fact = numbered(connection, &closed(), &Value::Null);
            scene.signal(10 * SECOND, "log", fact);
        }
        scene.access("/a", 502);
        scene.verdicts().len()
    };
    assert_eq!(errors([7, 7]), 1);
    assert_eq!(errors([7, 8]), 2, "another client's is another failure");
}

/// Several ask for the same at once and each is tried twice; one says more than the others.
#[test]
fn tries_of_requests_alike_are_as_many_failures_as_access_lines() {
    let mut scene = Scene::new();
    let none_left = json!({"said": "no_live_upstreams"});
    for (connection, tries, said) in [
        (9, closed(), Value::Null),
        (9, closed(), Value::Null),
        (7, closed(), Value::Null),
        (7, closed(), Value::Null),
        (7, json!([]), none_left),
        (8, closed(), Value::Null),
        (8, closed(), Value::Null),
    ] {
        let mut fact = numbered(connection, &tries, &said);
        // Each worker numbers its own.
        fact["pid"] = (connection / 8).into();
        scene.signal(10 * SECOND, "log", fact);
    }
    for status in [502, 502, 502, 499] {
        scene.access("/a", status);
    }
    assert_eq!(scene.verdicts().len(), 3, "one has left");
}

/// The kernel's source has seen both, each with two tries; which line is whose cannot be told.
#[test]
fn lines_left_over_of_requests_alike_that_were_seen_are_none_of_another() {
    let mut scene = Scene::new();
    for client in [5, 6] {
        let request = json!({
            "protocol": "http_request", "method": "GET", "path": "/a", "path_complete": true,
            "host": null,
        });
        let response = json!({
            "kind": "response_sent", "proxy": 1, "thread": 1, "downstream": client, "ordinal": 1,
            "status": 502, "client": format!("10.0.0.7:400{client}"), "proxy_address": null,
            "request": request, "request_at": 10 * SECOND, "adjacent": null, "last_attempt": null,
        });
        scene.signal(10 * SECOND + client, "kernel", response);
    }
    let none_left = json!({"said": "no_live_upstreams"});
    for connection in [7, 7, 8, 8] {
        let fact = numbered(connection, &closed(), &Value::Null);
        scene.signal(10 * SECOND + 9, "log", fact);
    }
    let last = numbered(8, &json!([]), &none_left);
    scene.signal(10 * SECOND + 9, "log", last);
    scene.access("/a", 502).access("/a", 502);
    assert_eq!(scene.verdicts().len(), 2);
}

#[test]
fn of_each_of_nginxs_connections_one_try_has_the_access_line() {
    let mut scene = Scene::new();
    for connection in [7, 7, 8, 8, 9, 9] {
        let fact = numbered(connection, &closed(), &Value::Null);
        scene.signal(10 * SECOND, "log", fact);
    }
    scene.access("/a", 502);
    scene.access("/a", 502).access("/a", 502);
    assert_eq!(scene.verdicts(), vec![(Some(502), false); 3]);
}

/// Apache's line that says why has the client's port, the next one of that thread the path, and the
/// access line, whose time begins with the second, the path alone.
#[test]
fn apaches_lines_are_joined_by_thread_before_any_moment_is_compared() {
    let mut scene = Scene::new();
    let paths = ["/a", "/b", "/c"];
    for path in paths {
        scene.access(path, 502);
    }
    for (number, path) in paths.iter().enumerate().rev() {
        let error = |tries: Value, request: Value| {
            json!({
                "kind": "logged", "proxy": "apache", "pid": 1, "connection": number,
                "client": format!("10.0.0.7:{}", 4000 + number), "within": 1000, "took": null,
                "said": null, "line": "error", "status": null, "tries": tries, "request": request,
            })
        };
        let why = json!([{
            "upstream": "10.0.0.2:9009", "said": {"said": "peer_closed"}, "status": null,
            "connect": null, "took": null,
        }]);
        let named = json!({
            "protocol": "http_request", "method": "-", "path": path, "path_complete": true,
            "host": null,
        });
        let at = 10 * SECOND + SECOND / 2 + number as u64;
        scene.signal(at, "log", error(why, Value::Null));
        scene.signal(at, "log", error(json!([]), named));
    }
    scene.out.extend(scene.tracker.finish());
    let told: Vec<_> = scene.out.iter().filter_map(|d| d.told.as_ref()).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(
        told.iter()
            .all(|t| t.has_access && t.tries.len() == 1 && !t.ambiguous && !t.guessed)
    );
}

/// Apache: why, with the client's port but for a connect; then the path, without a method.
fn apache(why: &Value, client: &str, number: u64, path: Option<&str>) -> Vec<Value> {
    let line = |tries: &Value, request: Value| {
        json!({
            "kind": "logged", "proxy": "apache", "pid": 1, "connection": number, "client": client,
            "within": 1000, "took": null, "said": null, "line": "error", "status": null,
            "tries": tries, "request": request,
        })
    };
    let named = path.map(|path| {
        let request = json!({
            "protocol": "http_request", "method": "-", "path": path, "path_complete": true,
            "host": null,
        });
        line(&json!([]), request)
    });
    std::iter::once(line(why, Value::Null))
        .chain(named)
        .collect()
}

/// A balancer's other member has answered what one refused: no line names that request.
#[test]
fn a_connect_of_apache_that_was_refused_is_none_of_another_status() {
    let mut scene = Scene::new();
    scene.access("/a", 502);
    let refused = json!([{
        "upstream": "10.0.0.2:9002", "said": {"said": "connect_failed", "errno": 111},
        "status": null, "connect": null, "took": null,
    }]);
    let at = 10 * SECOND + SECOND / 2;
    for fact in apache(&refused, "10.0.0.7:4000", 1, None) {
        scene.signal(at, "log", fact);
    }
    for fact in apache(&closed(), "10.0.0.7:4001", 2, Some("/a")) {
        scene.signal(at + SECOND / 10, "log", fact);
    }
    scene.out.extend(scene.tracker.finish());
    let said = |d: &Decided| {
        let told = d.told.as_ref().filter(|told| told.has_access)?;
        Some(told.why().collect::<Vec<_>>())
    };
    let told: Vec<_> = scene.out.iter().filter_map(said).collect();
    assert_eq!(told, [[Said::PeerClosed]], "{:?}", scene.out);
    let tries = scene.out.iter().filter(|d| d.kind == Kind::NearMiss);
    assert_eq!((scene.out.len(), tries.count()), (2, 1), "{:?}", scene.out);
}

/// Apache, watched by the kernel, has answered `/a` with an upstream's 503.
fn seen_of_apache(request_at: Nanos, at: Nanos) -> Scene {
    let mut scene = Scene::new();
    let process = json!({
        "kind": "process_seen", "pid": 2, "parent": 0, "name": "apache2", "software": "apache",
        "settings": [], "started": 0, "netns": 0, "sagemaker": false,
    });
    let asked = json!({
        "protocol": "http_request", "method": "GET", "path": "/a", "path_complete": true,
        "host": null,
    });
    let answered = json!({
        "flow": 9, "proxy": 2, "thread": 2, "downstream": null,
        "retry_of": null, "upstream": "10.0.0.2:9009", "local": null, "began": at - 1,
        "connected": null, "reused": false, "requests_before": 0, "idle_ns": null,
        "request": {"at": at - 1, "bytes": 50, "opening": asked, "write_errno": null},
        "received": 100, "response": {"protocol": "http_response", "status": 503},
        "end": {"how": "answered"}, "tcp": null, "peer": null, "queue": null,
    });
    let response = json!({
        "kind": "response_sent", "proxy": 2, "thread": 2, "downstream": 5, "ordinal": 1,
        "status": 503, "client": "10.0.0.7:4001", "proxy_address": null, "request": asked,
        "request_at": request_at, "adjacent": 9, "last_attempt": answered,
    });
    let exits = json!({"kind": "source_started", "sees": ["process_exited"], "blind": []});
    scene.signal(1, "kernel", exits);
    scene.signal(1, "kernel", process);
    scene.signal(at, "kernel", response);
    scene
}

/// A refusal whose request another member has answered.
fn refused_elsewhere() -> Value {
    json!([{
        "upstream": "10.0.0.3:9002", "said": {"said": "connect_failed", "errno": 111},
        "status": null, "connect": null, "took": null,
    }])
}

/// What nobody but the log tells of, where nothing but the moment says that the lines are one's: what was
/// lost may have been that failure.
#[test]
fn a_refusal_without_a_name_is_told_only_where_the_kernel_lost_something() {
    let verdicts = |lost: bool| {
        let at = 10 * SECOND + SECOND / 2;
        let mut scene = seen_of_apache(at - 2, at);
        if lost {
            let lost =
                json!({"kind": "signals_lost", "stage": "kernel", "reason": "r", "count": 1});
            scene.signal(at + 2, "kernel", lost);
        }
        scene.access("/b", 503);
        for fact in apache(&refused_elsewhere(), "10.0.0.7:4000", 1, None) {
            scene.signal(at + 1, "log", fact);
        }
        scene.verdicts().len()
    };
    assert_eq!((verdicts(false), verdicts(true)), (1, 2));
}

/// The refusal may be of a request alike that another member has answered: its port is not told.
#[test]
fn what_the_moment_alone_joins_has_no_port() {
    let mut scene = Scene::new();
    scene.access("/a", 503);
    for fact in apache(&refused_elsewhere(), "10.0.0.7:4000", 1, None) {
        scene.signal(10 * SECOND + SECOND / 2, "log", fact);
    }
    scene.out.extend(scene.tracker.finish());
    let clients: Vec<_> = (scene.out.iter())
        .filter_map(|decided| decided.response.as_ref()?.2.client.clone())
        .collect();
    assert_eq!(clients, [Address("10.0.0.7".into())], "{:?}", scene.out);
}

/// Apache's access line has the second in which the request began, and comes when all is decided.
#[test]
fn a_slow_failure_is_found_by_when_it_was_asked() {
    let (began, at) = (10 * SECOND + SECOND * 9 / 10, 12 * SECOND);
    let mut scene = seen_of_apache(began, at);
    scene.signal(at + SECOND, "kernel", json!({"kind": "tick"}));
    scene.access("/a", 503);
    assert_eq!(scene.verdicts().len(), 1);
}

/// Of a GET and a POST for one path the access lines name no port: the GET's error is joined with either.
#[test]
fn apaches_error_is_its_ports_whatever_method_it_was_given() {
    let at = 10 * SECOND + SECOND / 2;
    let mut scene = seen_of_apache(at - 2, at);
    for fact in apache(&closed(), "10.0.0.7:4001", 1, Some("/a")) {
        scene.signal(at + 1, "log", fact);
    }
    scene.asked(
        "POST",
        "/a",
        json!({"line": "access", "status": 503, "tries": []}),
    );
    assert_eq!(scene.verdicts().len(), 1);
}

/// Which of several access lines is whose port's cannot be told, nor so what was asked from there.
#[test]
fn apaches_ports_are_guessed_where_requests_are_alike() {
    let mut scene = Scene::new();
    scene.access("/a", 502).access("/a", 502);
    let at = 10 * SECOND + SECOND / 2;
    for number in [1, 2] {
        let client = format!("10.0.0.7:{}", 4000 + number);
        for fact in apache(&closed(), &client, number, Some("/a")) {
            scene.signal(at + number, "log", fact);
        }
    }
    scene.out.extend(scene.tracker.finish());
    let told = || scene.out.iter().filter_map(|d| d.told.as_ref());
    assert!(told().any(|t| t.guessed), "{:?}", scene.out);
    assert_eq!(told().count(), 2);
}

mod by_moment;
