use super::super::{Counts, Parser, Zone};
use super::*;
use crate::signal::{Fact, LoggedTry, Opening};

mod forged;

/// A request and its fetch as varnishlog 7.1.1 prints them, the headers but Host left out.
const RETRIED: &str = include_str!("tests/retried.txt");
const RESTARTED: &str = include_str!("tests/restarted.txt");

fn parsed(log: &str) -> (Vec<Logged>, Counts) {
    let mut parser = Parser::new(Vec::new().into(), Zone::Fixed(0));
    let mut out = Vec::new();
    for line in log.lines() {
        parser.line(line.as_bytes(), None, &mut out);
    }
    parser.flush(&mut out);
    let logged = |timed: Timed| match timed.fact {
        Fact::Logged(logged) => *logged,
        other => panic!("{other:?}"),
    };
    (out.into_iter().map(logged).collect(), parser.counts())
}

fn told(log: &str) -> Vec<Logged> {
    let (told, counts) = parsed(log);
    assert_eq!((counts.distrusted, counts.not_understood), (0, 0));
    told
}

fn path(logged: &Logged) -> &str {
    match &logged.request {
        Some(Opening::HttpRequest { path, .. }) => path,
        _ => "",
    }
}

/// The request's transaction, and its fetch's with these records in the place of a try's.
fn group(path: &str, fetched: &str, status: u16) -> String {
    let request = format!(
        "*   << Request  >> 2         \n\
         -   Begin          req 1 rxreq\n\
         -   Timestamp      Start: 1795383410.000000 0.000000 0.000000\n\
         -   ReqStart       10.0.0.7 51544 a0\n\
         -   ReqMethod      GET\n\
         -   ReqURL         {path}?token=s3cret\n\
         -   ReqHeader      Host: shop.example\n\
         -   VCL_call       RECV\n\
         -   ReqHeader      Host: other.example\n\
         -   VCL_return     pass\n\
         -   Link           bereq 3 pass\n\
         -   RespStatus     {status}\n\
         -   VCL_call       DELIVER\n\
         -   VCL_return     deliver\n\
         -   Timestamp      Process: 1795383410.500000 0.500000 0.000008\n\
         -   Timestamp      Resp: 1795383411.000000 1.000000 0.000020\n\
         -   End            \n"
    );
    let mut fetch = "**  << BeReq    >> 3         \n\
         --  Begin          bereq 2 pass\n\
         --  Timestamp      Start: 1795383410.000100 0.000000 0.000000\n\
         --  VCL_call       BACKEND_FETCH\n\
         --  VCL_return     fetch\n"
        .to_owned();
    for line in fetched.lines() {
        fetch += &format!("--  {line}\n");
    }
    fetch += "--  End            \n\n";
    request + &fetch
}

const OPEN: &str = "BackendOpen    17 app 10.0.0.2 80 10.0.0.1 4100 connect";
const FAILED: &str = "BackendClose   17 app close Received bad req/resp\n\
                      Timestamp      Beresp: 1795383410.400000 0.399900 0.000015\n\
                      Timestamp      Error: 1795383410.400001 0.399901 0.000001\n\
                      BerespStatus   503";

#[test]
fn who_asked_what_and_which_connection_broke() {
    let log = group(
        "/a",
        &format!("{OPEN}\nFetchError     HTC eof (-1)\n{FAILED}"),
        503,
    );
    let [logged] = &told(&log)[..] else {
        panic!("one exchange");
    };
    assert_eq!(logged.client.as_ref().unwrap().0, "10.0.0.7:51544");
    let asked = Opening::HttpRequest {
        method: "GET".into(),
        path: "/a".into(),
        path_complete: true,
        host: Some("shop.example".into()),
    };
    assert_eq!(logged.request, Some(asked));
    assert_eq!((logged.status, logged.took), (Some(503), Some(500_000_000)));
    let one = LoggedTry {
        upstream: Some(crate::signal::Address("10.0.0.2:80".into())),
        local: Some(crate::signal::Address("10.0.0.1:4100".into())),
        said: Some(Said::ClosedOrReset),
        ..LoggedTry::default()
    };
    assert_eq!(logged.tries, [one]);
    assert_eq!((logged.said, logged.untried), (None, false));
}

/// The words of Varnish 6.0 to 8.0.
#[test]
fn what_an_error_says() {
    let said = |error: &str| {
        let fetched = format!("{OPEN}\n{error}\n{FAILED}");
        let told = told(&group("/a", &fetched, 503));
        told[0].tries[0].said
    };
    let of = |text: &str| said(&format!("FetchError     {text}"));
    for text in [
        "first byte timeout",
        "first byte timeout (reused connection)",
        "timeout",
        "Timed out reusing backend connection",
    ] {
        assert_eq!(of(text), Some(Said::ReadTimedOut), "{text}");
    }
    for text in [
        "HTC eof (-1)",
        "HTC eof (Unexpected end of input)",
        "backend closed",
    ] {
        assert_eq!(of(text), Some(Said::ClosedOrReset), "{text}");
    }
    assert_eq!(of("overflow"), Some(Said::HeadTooBig));
    assert_eq!(of("http format error"), Some(Said::HeadRefused));
    let reset = "backend write error: 104 (Connection reset by peer) (Error transaction";
    assert_eq!(of(reset), Some(Said::SendFailed { errno: 104 }));
    // An error's number that nothing set.
    assert_eq!(
        of("backend write error: 0 (Success) (Error transaction"),
        None
    );
    assert_eq!(of("out of workspace"), None);
    let head = |fault: &str| {
        said(&format!(
            "BogoHeader     {fault}\nFetchError     http format error"
        ))
    };
    assert_eq!(head("Header has ctrl char 0x01"), Some(Said::HeadInvalid));
    assert_eq!(
        head("Header too long: X: aaaaaaaaaaaaaaaaa"),
        Some(Said::HeadTooBig)
    );
    assert_eq!(head("Something else"), Some(Said::HeadRefused));
}

/// Varnish has the same words for both ends; what the client did is in its own transaction.
#[test]
fn whose_end_the_requests_body_broke_at() {
    let reset = "104 (Connection reset by peer)";
    let fetched = format!(
        "{OPEN}\nFetchError     req.body read error: {reset}\n\
         FetchError     backend write error: {reset} (Error transaction\n{FAILED}"
    );
    let log = group("/a", &fetched, 503);
    let said = |log: &str| told(log)[0].tries[0].said;
    assert_eq!(said(&log), Some(Said::SendFailed { errno: 104 }));
    let link = "-   Link           bereq 3 pass\n";
    let client = format!("{link}-   FetchError     straight insufficient bytes\n");
    assert_eq!(said(&log.replace(link, &client)), None);
}

#[test]
fn connects_have_the_backends_name() {
    let of = |why: &str| {
        let told = told(&group(
            "/a",
            &format!("FetchError     backend app: {why}"),
            503,
        ));
        let tries = told[0].tries.iter();
        let tries: Vec<_> = tries
            .map(|t| (t.upstream.clone().unwrap().0, t.said.unwrap()))
            .collect();
        (tries, told[0].said)
    };
    let tried = |said| (vec![("app".to_owned(), said)], None);
    assert_eq!(
        of("fail errno 111 (Connection refused)"),
        tried(Said::ConnectFailed { errno: 111 })
    );
    assert_eq!(
        of("fail errno 110 (Connection timed out)"),
        tried(Said::ConnectTimedOut)
    );
    // One that failed a moment ago is held against it.
    assert_eq!(of("fail errno 0 (Success)"), tried(Said::NotConnected));
    assert_eq!(of("unhealthy"), (Vec::new(), Some(Said::NoLiveUpstreams)));
    assert_eq!(of("busy"), (Vec::new(), Some(Said::Limited)));
    let told = told(&group(
        "/a",
        "FetchError     Director rr returned no backend",
        503,
    ));
    assert_eq!(told[0].said, Some(Said::NoLiveUpstreams));
    assert!(told[0].untried);
}

/// Varnish says `errno 0` of connects that it does not make.
#[test]
fn a_connect_that_is_held_back_has_the_error_of_the_one_before() {
    let error = |name: &str, why: &str| format!("FetchError     backend {name}: {why}");
    let refused = group(
        "/a",
        &error("app", "fail errno 111 (Connection refused)"),
        503,
    );
    let after_that = |failed: &str, name: &str, seconds: &str| {
        let held = group("/b", &error(name, "fail errno 0 (Success)"), 503);
        let log = failed.to_owned() + &held.replace("1795383410.0001", seconds);
        told(&log)[1].tries[0].said
    };
    let after = |name: &str, seconds: &str| after_that(&refused, name, seconds);
    let said = Some(Said::ConnectFailed { errno: 111 });
    assert_eq!(after("app", "1795383410.2001"), said);
    assert_eq!(after("app", "1795383410.4001"), Some(Said::NotConnected));
    assert_eq!(after("other", "1795383410.2001"), Some(Said::NotConnected));
    // What fails on the proxy's own host is held against the backend for longer.
    let denied = error("app", "fail errno 13 (Permission denied)");
    let denied = group("/a", &denied, 503);
    let said = Some(Said::ConnectFailed { errno: 13 });
    assert_eq!(after_that(&denied, "app", "1795383419.0001"), said);
    let later = after_that(&denied, "app", "1795383421.0001");
    assert_eq!(later, Some(Said::NotConnected));
}

#[test]
fn an_answer_is_the_upstreams_where_the_client_got_it() {
    let answered = |status: u16, client: u16| {
        let fetched = format!(
            "{OPEN}\nTimestamp      Beresp: 1795383410.400000 0.399900 0.000015\n\
             BerespStatus   {status}\nVCL_call       BACKEND_RESPONSE\nBerespStatus   504\n\
             VCL_return     deliver\nBackendClose   17 app recycle"
        );
        let told = told(&group("/a", &fetched, client));
        (told[0].tries[0].status, told[0].tries[0].said)
    };
    assert_eq!(answered(502, 502), (Some(502), Some(Said::Answered)));
    assert_eq!(answered(502, 503), (Some(502), None));
    assert_eq!(answered(200, 503), (Some(200), None));
    assert_eq!(answered(200, 200), (Some(200), None));
    // The body came to its end too early.
    let cut = format!(
        "{OPEN}\nTimestamp      Beresp: 1795383410.400000 0.399900 0.000015\n\
         BerespStatus   200\nFetchError     straight insufficient bytes"
    );
    assert_eq!(told(&group("/a", &cut, 503))[0].tries[0].said, None);
    // Varnish's own word for a head that it refused comes before the error.
    let refused = format!("{OPEN}\nBerespStatus   503\nFetchError     http format error\n{FAILED}");
    let told = told(&group("/a", &refused, 503));
    assert_eq!(
        (told[0].tries[0].status, told[0].tries[0].said),
        (None, Some(Said::HeadRefused))
    );
}

#[test]
fn all_tries_of_a_request_in_their_order() {
    let [logged] = &told(RETRIED)[..] else {
        panic!("one exchange");
    };
    let local = |one: &LoggedTry| one.local.clone().map(|a| a.0);
    let locals: Vec<_> = logged.tries.iter().map(local).collect();
    let port = |port: u16| Some(format!("127.0.0.1:{port}"));
    // A pooled connection, one more for the same fetch, and two fetches more.
    assert_eq!(locals, [port(34154), port(34162), port(34166), port(34172)]);
    assert!(
        logged
            .tries
            .iter()
            .all(|one| one.said == Some(Said::ClosedOrReset))
    );
    let [logged] = &told(RESTARTED)[..] else {
        panic!("one exchange");
    };
    let locals: Vec<_> = logged.tries.iter().map(local).collect();
    assert_eq!(locals, [port(34186), port(34200)]);
    assert_eq!((path(logged), logged.status), ("/restart/eof", Some(503)));
    assert_eq!(logged.took, Some(995_000));
}

/// `-g vxid`: what was fetched comes before the request that it was fetched for, or after.
#[test]
fn transactions_are_put_together_in_whatever_order() {
    let whole = group(
        "/a",
        &format!("{OPEN}\nFetchError     HTC eof (-1)\n{FAILED}"),
        503,
    );
    let (request, fetch) = whole.split_at(whole.find("**").unwrap());
    let alone = fetch.replace("**  <<", "*   <<").replace("--  ", "-   ");
    let expected = told(&whole);
    assert_eq!(told(&format!("{alone}{request}\n")), expected);
    assert_eq!(told(&format!("{request}\n{alone}")), expected);
    // With numbers and sides, as `-v` prints them.
    let verbose = |line: &str| match record(line) {
        Some((tag, text)) if !line.starts_with('*') => {
            format!("--           3 {tag:<14} b {text}\n")
        }
        _ => format!("{line}\n"),
    };
    let verbose: String = whole.lines().map(verbose).collect();
    assert_eq!(told(&verbose), expected);
    // In pieces of a file: nothing is told before its last record is followed by something.
    let mut parser = Parser::new(Vec::new().into(), Zone::Fixed(0));
    let mut out = Vec::new();
    for line in whole.lines() {
        assert!(out.is_empty());
        parser.line(line.as_bytes(), None, &mut out);
        if !line.ends_with("End            ") && !line.is_empty() {
            parser.flush(&mut out);
        }
    }
    parser.flush(&mut out);
    assert_eq!(out.len(), 1);
}

#[test]
fn a_request_whose_fetch_is_not_in_the_log_is_told_without_it() {
    let whole = group("/a", "", 503);
    let request = &whole[..whole.find("**").unwrap()];
    let told = told(request);
    assert_eq!((told.len(), told[0].tries.len()), (1, 0));
    // Many of them take no memory.
    let mut varnish = Varnish::default();
    let mut all = 0;
    for number in 0..3 * KEPT as u64 {
        let id = 10 + 2 * number;
        let one = request.replace(">> 2 ", &format!(">> {id} "));
        let one = one.replace("bereq 3 ", &format!("bereq {} ", id + 1));
        for line in one.lines() {
            all += usize::from(matches!(varnish.parse(line), Parsed::Signal(_)));
        }
        assert!(varnish.whole.len() <= KEPT && varnish.order.len() <= 2 * KEPT);
    }
    let mut rest = Vec::new();
    varnish.flush(&mut rest);
    assert_eq!(all + rest.len(), 3 * KEPT);
    assert!(varnish.whole.is_empty());
}

#[test]
fn what_vcl_answers_is_its_configuration() {
    let whole = group("/a", "", 503);
    let request = &whole[..whole.find("**").unwrap()];
    let own = request.replace("-   Link           bereq 3 pass\n", "");
    let of = |log: &str| told(log)[0].said;
    let synth = own.replace("VCL_return     pass", "VCL_return     synth");
    assert_eq!(of(&synth), Some(Said::Configured));
    assert_eq!(of(&own), None);
    // A hit, or VCL that failed.
    assert_eq!(
        of(&own.replace("VCL_return     pass", "VCL_return     fail")),
        None
    );
}

/// The reader of the shared memory was too slow, or the transaction too long.
#[test]
fn what_is_incomplete_is_not_told() {
    let whole = group(
        "/a",
        &format!("{OPEN}\nFetchError     HTC eof (-1)\n{FAILED}"),
        503,
    );
    for (from, to) in [
        (
            "--  End            \n",
            "--  VSL            store overflow\n--  End            synth\n",
        ),
        (
            "-   End            \n",
            "-   VSL            timeout\n-   End            synth\n",
        ),
    ] {
        let (told, counts) = parsed(&whole.replacen(from, to, 1));
        assert_eq!((told.len(), counts.not_understood), (0, 1));
    }
}

#[test]
fn a_unix_socket_has_no_address() {
    let open = OPEN.replace("10.0.0.2 80 10.0.0.1 4100", "0.0.0.0 0 0.0.0.0 0");
    let log = group(
        "/a",
        &format!("{open}\nFetchError     HTC eof (-1)\n{FAILED}"),
        503,
    );
    let log = log.replace("10.0.0.7 51544 a0", "0.0.0.0 0 a0");
    let [logged] = &told(&log)[..] else {
        panic!("one exchange");
    };
    assert_eq!(logged.client.as_ref().unwrap().0, "unix:");
    let one = &logged.tries[0];
    assert_eq!(
        (one.upstream.as_ref().unwrap().0.as_str(), &one.local),
        ("app", &None)
    );
}
