//! Access lines of nginx and Apache: a `log_format` taken apart, and lines read by it. Pure.
//!
//! Values that a client chooses may imitate what stands beside them. So a line is read in every way
//! that its format admits, and is not understood when two of them differ in anything that counts.

use super::text::{client_with_port, request, request_line, status, unescape, upstream};
use super::time::{common, epoch, iso, span};
use super::{Moment, Parsed, Timed};
use crate::signal::{Address, LogLine, Logged, LoggedTry, Nanos, Opening, Said, Software};

/// Steps in one line before it is given up: ways multiply where nothing bounds a value.
const STEPS: u32 = 20_000;

/// nginx's predefined format; Apache's of that name gives the same lines.
pub(super) const COMBINED: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#;

/// Formats that are known without a configuration.
const KNOWN: [(&str, &str); 5] = [
    ("combined", COMBINED),
    (
        "common",
        r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent"#,
    ),
    (
        "main",
        r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" "$http_x_forwarded_for""#,
    ),
    (
        "vhost_combined",
        r#"$host:$server_port $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#,
    ),
    (
        "upstreaminfo",
        r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" $request_length $request_time [$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr $upstream_response_length $upstream_response_time $upstream_status $req_id"#,
    ),
];

/// A `log_format`, ready to read lines with.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    pub name: String,
    pieces: Vec<Piece>,
    escape: Escape,
    /// Only nginx has it.
    of_nginx: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    /// `\x22`, or `\"`: a value holds no bare quote.
    Quotes,
    None,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Literal(String),
    Value(Field, Shape),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Field {
    Client,
    ClientPort,
    TimeLocal,
    TimeIso,
    TimeEpoch,
    RequestLine,
    Method,
    Target,
    Status,
    Host,
    Connection,
    Pid,
    Took,
    Upstreams,
    Statuses,
    Connects,
    Heads,
    Takes,
    Other,
}

/// Which bytes a value can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Exactly so many.
    Bytes(usize),
    /// Digits, a dot, a minus.
    Number,
    /// No space.
    Word,
    /// Words separated by `, ` and ` : `.
    List,
    /// To the next quote that is not escaped.
    Quoted,
    Anything,
}

impl Template {
    /// The formats that are tried when none was given.
    pub fn known() -> Vec<Template> {
        KNOWN
            .iter()
            .filter_map(|(name, format)| Template::new(name, format, "default"))
            .collect()
    }

    /// `None` for one that has no variable for the status or the time, which nothing can be read from.
    pub fn new(name: &str, format: &str, escape: &str) -> Option<Template> {
        let escape = match escape {
            "none" => Escape::None,
            _ => Escape::Quotes,
        };
        let mut pieces: Vec<Piece> = Vec::new();
        let mut literal = String::new();
        let mut rest = format;
        let mut of_nginx = name == "upstreaminfo";
        while let Some(at) = rest.find('$') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let braced = rest.strip_prefix('{');
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let from = braced.unwrap_or(rest);
            let length = from.find(|c| !word(c)).unwrap_or(from.len());
            let variable = &from[..length];
            rest = &from[length..];
            if braced.is_some() {
                rest = rest.strip_prefix('}').unwrap_or(rest);
            }
            if variable.is_empty() {
                literal.push('$');
                continue;
            }
            if !literal.is_empty() || pieces.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            let (field, shape) = field(variable);
            of_nginx |= field >= Field::Upstreams && field != Field::Other;
            pieces.push(Piece::Value(field, shape));
        }
        literal.push_str(rest);
        pieces.push(Piece::Literal(literal));
        let mut template = Template {
            name: name.to_owned(),
            pieces,
            escape,
            of_nginx,
        };
        template.bound_by_quotes();
        let has = |wanted: &[Field]| {
            template
                .pieces
                .iter()
                .any(|p| matches!(p, Piece::Value(f, _) if wanted.contains(f)))
        };
        let timed = has(&[Field::TimeLocal, Field::TimeIso, Field::TimeEpoch]);
        (timed && has(&[Field::Status])).then_some(template)
    }

    /// Where quotes stand around a value, and are escaped within, they bound it.
    fn bound_by_quotes(&mut self) {
        if self.escape == Escape::None {
            return;
        }
        for at in 1..self.pieces.len().saturating_sub(1) {
            let before = matches!(&self.pieces[at - 1], Piece::Literal(l) if l.ends_with('"'));
            let after = matches!(&self.pieces[at + 1], Piece::Literal(l) if l.starts_with('"'));
            if let Piece::Value(_, shape @ (Shape::Anything | Shape::Word | Shape::List)) =
                &mut self.pieces[at]
                && before
                && after
            {
                *shape = Shape::Quoted;
            }
        }
    }

    /// What the line says, and the zone that its time names.
    pub(super) fn parse(&self, line: &str) -> (Parsed, Option<i64>) {
        let mut reading = Reading {
            pieces: &self.pieces,
            line,
            values: Vec::new(),
            found: None,
            ambiguous: false,
            steps: 0,
        };
        reading.from(0, 0);
        let Some(values) = reading.found.filter(|_| !reading.ambiguous) else {
            return (Parsed::NotUnderstood, None);
        };
        self.signal(&values)
    }

    fn signal(&self, values: &[(Field, &str)]) -> (Parsed, Option<i64>) {
        let get = |wanted: Field| {
            let value = values.iter().find(|(field, _)| *field == wanted);
            value.map(|(_, value)| *value).filter(|value| *value != "-")
        };
        let Some((moment, zone)) = time(&get) else {
            return (Parsed::NotUnderstood, None);
        };
        let Some(status) = get(Field::Status).and_then(status) else {
            return (Parsed::Nothing, zone);
        };
        let port = get(Field::ClientPort).and_then(|p| p.parse().ok());
        let raw = |wanted: Field| {
            let value = values.iter().find(|(field, _)| *field == wanted);
            value.map(|(_, value)| *value)
        };
        let tries = tries(&raw);
        let names_upstreams = values.iter().any(|(field, _)| *field == Field::Upstreams);
        let fact = Logged {
            proxy: self.of_nginx.then_some(Software::Nginx),
            line: LogLine::Access,
            pid: get(Field::Pid).and_then(|p| p.parse().ok()),
            connection: get(Field::Connection).and_then(|c| c.parse().ok()),
            client: get(Field::Client).and_then(|c| client_with_port(c, port)),
            request: asked(&get),
            within: moment.within,
            took: get(Field::Took).and_then(span),
            status: Some(status),
            // Of nginx's own making: the client closed.
            said: (status == 499).then_some(Said::ClientLeft),
            untried: names_upstreams && tries.is_empty(),
            tries,
        };
        (Parsed::Signal(Timed::exchange(moment, fact)), zone)
    }
}

fn field(variable: &str) -> (Field, Shape) {
    match variable {
        "remote_addr" | "realip_remote_addr" => (Field::Client, Shape::Word),
        "remote_port" => (Field::ClientPort, Shape::Number),
        "time_local" => (Field::TimeLocal, Shape::Bytes(26)),
        "time_iso8601" => (Field::TimeIso, Shape::Bytes(25)),
        "msec" => (Field::TimeEpoch, Shape::Number),
        "request" => (Field::RequestLine, Shape::Anything),
        "request_method" => (Field::Method, Shape::Word),
        "request_uri" | "uri" | "document_uri" => (Field::Target, Shape::Anything),
        "status" => (Field::Status, Shape::Number),
        "host" | "http_host" => (Field::Host, Shape::Word),
        "connection" => (Field::Connection, Shape::Number),
        "pid" => (Field::Pid, Shape::Number),
        "request_time" => (Field::Took, Shape::Number),
        "upstream_addr" => (Field::Upstreams, Shape::List),
        "upstream_status" => (Field::Statuses, Shape::List),
        "upstream_connect_time" => (Field::Connects, Shape::List),
        "upstream_header_time" => (Field::Heads, Shape::List),
        "upstream_response_time" => (Field::Takes, Shape::List),
        "upstream_response_length" | "upstream_bytes_sent" | "upstream_bytes_received" => {
            (Field::Other, Shape::List)
        }
        "body_bytes_sent"
        | "bytes_sent"
        | "request_length"
        | "server_port"
        | "connection_requests" => (Field::Other, Shape::Number),
        _ => (Field::Other, Shape::Anything),
    }
}

fn time<'a>(get: &impl Fn(Field) -> Option<&'a str>) -> Option<(Moment, Option<i64>)> {
    let local = get(Field::TimeLocal).and_then(common);
    let zone = local.map(|(_, zone)| zone);
    let moment = get(Field::TimeEpoch)
        .and_then(epoch)
        .or_else(|| get(Field::TimeIso).and_then(iso))
        .or(local.map(|(moment, _)| moment))?;
    Some((moment, zone))
}

fn asked<'a>(get: &impl Fn(Field) -> Option<&'a str>) -> Option<Opening> {
    let host = get(Field::Host);
    if let Some(line) = get(Field::RequestLine) {
        return request_line(&unescape(line), host);
    }
    request(get(Field::Method)?, &unescape(get(Field::Target)?), host)
}

fn list(value: Option<&str>) -> Vec<&str> {
    let value = value.unwrap_or_default();
    value
        .split(" : ")
        .flat_map(|group| group.split(", "))
        .collect()
}

/// `get` gives values as they stand, a lone `-` too.
fn tries<'a>(get: &impl Fn(Field) -> Option<&'a str>) -> Vec<LoggedTry> {
    let Some(upstreams) = get(Field::Upstreams).filter(|u| !matches!(*u, "-" | "")) else {
        return Vec::new();
    };
    let (statuses, takes) = (list(get(Field::Statuses)), list(get(Field::Takes)));
    let (connects, heads) = (list(get(Field::Connects)), list(get(Field::Heads)));
    let nth = |values: &[&'a str], n: usize| values.get(n).copied().filter(|v| *v != "-");
    let of = |n: usize, address: &&str| {
        let connect = nth(&connects, n).and_then(span);
        let head = nth(&heads, n).and_then(span);
        let own = nth(&statuses, n).and_then(status);
        let told = get(Field::Connects).is_some() && get(Field::Heads).is_some();
        let named: Option<Address> = upstream(address);
        // Where no server could be chosen, nginx leaves the group's name.
        let group = !address.contains(':');
        LoggedTry {
            said: match group {
                true => Some(Said::NoLiveUpstreams),
                false => told.then(|| said(connect, head, own)).flatten(),
            },
            upstream: named,
            status: own,
            connect,
            took: nth(&takes, n).and_then(span),
            local: None,
        }
    };
    let all = list(Some(upstreams));
    all.iter().enumerate().map(|(n, a)| of(n, a)).collect()
}

/// What nginx's times say: `-` where it came to no connection, or to no head.
fn said(connect: Option<Nanos>, head: Option<Nanos>, status: Option<u16>) -> Option<Said> {
    match (connect, head, status?) {
        (_, Some(_), 500..) => Some(Said::Answered),
        (None, None, 502 | 504) => Some(Said::NotConnected),
        (Some(_), None, 504) => Some(Said::TimedOut),
        _ => None,
    }
}

/// One line, read in every way that its format admits.
struct Reading<'a> {
    pieces: &'a [Piece],
    line: &'a str,
    values: Vec<(Field, &'a str)>,
    found: Option<Vec<(Field, &'a str)>>,
    ambiguous: bool,
    steps: u32,
}

impl<'a> Reading<'a> {
    fn from(&mut self, piece: usize, at: usize) {
        self.steps += 1;
        if self.ambiguous || self.steps > STEPS {
            self.ambiguous = true;
            return;
        }
        let (pieces, line) = (self.pieces, self.line);
        let Some(rest) = line.get(at..) else { return };
        match pieces.get(piece) {
            None if rest.is_empty() => self.complete(),
            None => {}
            Some(Piece::Literal(literal)) if rest.starts_with(literal.as_str()) => {
                self.from(piece + 1, at + literal.len());
            }
            Some(Piece::Literal(_)) => {}
            Some(Piece::Value(field, shape)) => {
                let next = match pieces.get(piece + 1) {
                    Some(Piece::Literal(literal)) => literal.as_str(),
                    _ => "",
                };
                for length in lengths(rest, *shape, next, piece + 2 >= pieces.len()) {
                    let Some(value) = rest.get(..length) else {
                        continue;
                    };
                    self.values.push((*field, value));
                    self.from(piece + 1, at + length);
                    self.values.pop();
                }
            }
        }
    }

    fn complete(&mut self) {
        let mut counts: Vec<(Field, &str)> = self.values.clone();
        counts.retain(|(field, _)| *field != Field::Other);
        match &self.found {
            Some(found) if *found != counts => self.ambiguous = true,
            Some(_) => {}
            None => self.found = Some(counts),
        }
    }
}

/// How long a value at the beginning of `rest` can be, when `next` follows it.
fn lengths(rest: &str, shape: Shape, next: &str, last: bool) -> Vec<usize> {
    let while_ = |fits: fn(u8) -> bool| rest.bytes().take_while(|b| fits(*b)).count();
    match shape {
        Shape::Bytes(length) => vec![length],
        Shape::Number => vec![while_(|b| b.is_ascii_digit() || b == b'.' || b == b'-')],
        Shape::Quoted => {
            let mut escaped = false;
            let end = rest.bytes().position(|b| {
                let ends = b == b'"' && !escaped;
                escaped = b == b'\\' && !escaped;
                ends
            });
            end.into_iter().collect()
        }
        Shape::List => vec![list_length(rest)],
        Shape::Word | Shape::Anything => {
            let bound = match shape {
                Shape::Word => rest.find(' ').unwrap_or(rest.len()),
                _ => rest.len(),
            };
            if next.is_empty() {
                // Nothing bounds it but the end, or the value that follows at once.
                return if last {
                    vec![bound]
                } else {
                    (0..=bound).collect()
                };
            }
            let ends = rest.match_indices(next).map(|(at, _)| at);
            let mut all: Vec<usize> = ends.take_while(|at| *at <= bound).collect();
            if last {
                // The last literal ends the line.
                all.retain(|at| at + next.len() == rest.len());
            }
            all
        }
    }
}

/// Words, and `, ` or ` : ` between them.
fn list_length(rest: &str) -> usize {
    let mut at = 0;
    loop {
        let word = rest[at..]
            .find([' ', ',', '"', ']'])
            .unwrap_or(rest.len() - at);
        at += word;
        let goes_on = [", ", " : "].iter().find(|s| rest[at..].starts_with(**s));
        match goes_on {
            Some(separator) => at += separator.len(),
            None => return at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: &str, line: &str) -> Option<Logged> {
        match Template::new("test", format, "default")?.parse(line).0 {
            Parsed::Signal(timed) => timed.into_logged(),
            _ => None,
        }
    }

    #[test]
    fn the_default_format() {
        let line = r#"10.0.0.7 - - [21/Nov/2026:12:12:16 +0000] "POST /a?x=1 HTTP/1.1" 502 157 "http://r/?s" "agent""#;
        let logged = read(COMBINED, line).unwrap();
        assert_eq!(logged.status, Some(502));
        assert_eq!(logged.client.unwrap().0, "10.0.0.7");
        assert!(matches!(logged.request, Some(Opening::HttpRequest { path, .. }) if path == "/a"));
    }

    #[test]
    fn a_user_that_imitates_what_follows_gains_nothing() {
        let user = r"x [01/Jan/2020:00:00:00 +0000] \x22GET /forged HTTP/1.1\x22 200 1";
        let line = format!(
            r#"10.0.0.7 - {user} [21/Nov/2026:12:12:16 +0000] "GET /true HTTP/1.1" 502 157 "-" "-""#
        );
        let logged = read(COMBINED, &line).unwrap();
        assert!(
            matches!(logged.request, Some(Opening::HttpRequest { path, .. }) if path == "/true")
        );
    }

    #[test]
    fn a_line_that_can_be_read_in_two_ways_is_not_read() {
        let format = "$remote_addr $uri $status $request_method $time_iso8601";
        let line = |uri: &str| format!("10.0.0.7 {uri} 502 GET 2026-11-21T12:12:16+00:00");
        assert!(read(format, &line("/plain")).is_some());
        // The path is written decoded here: a client can write spaces into it.
        let ambiguous = "$remote_addr $http_x $status $http_y $status $time_iso8601";
        let line = "10.0.0.7 a 200 b 502 c 200 2026-11-21T12:12:16+00:00";
        assert_eq!(read(ambiguous, line), None);
    }

    #[test]
    fn lists_of_upstreams() {
        let format = r"$remote_addr:$remote_port $msec $request_time $status $upstream_addr $upstream_status $upstream_connect_time $upstream_header_time $upstream_response_time $host";
        let line = "127.0.0.1:44827 1795263183.851 0.010 502 127.0.0.1:45591, unix:/run/a.sock : app 502, 504 : 502 -, 0.001 : - -, - : - 0.000, 1.000 : 0.000 shop.example";
        let logged = read(format, line).unwrap();
        assert_eq!(logged.client.unwrap().0, "127.0.0.1:44827");
        assert_eq!(logged.took, Some(10_000_000));
        let said: Vec<_> = logged.tries.iter().map(|t| t.said).collect();
        let no_connection = Some(Said::NotConnected);
        let none_chosen = Some(Said::NoLiveUpstreams);
        assert_eq!(said, [no_connection, Some(Said::TimedOut), none_chosen]);
        assert_eq!(
            logged.tries[1].upstream.as_ref().unwrap().0,
            "unix:/run/a.sock"
        );
    }

    #[test]
    fn no_format_makes_a_line_slow() {
        let format = "$a $b $c $d $e $f $g $status $time_iso8601";
        let line = "x ".repeat(3000);
        assert_eq!(read(format, &line), None);
    }

    #[test]
    fn a_format_without_status_or_time_is_none() {
        assert!(Template::new("x", "$remote_addr $request", "default").is_none());
        assert!(Template::new("x", "$status", "default").is_none());
        assert!(Template::new("x", "${time_iso8601}$$ ${status}", "default").is_some());
    }
}
